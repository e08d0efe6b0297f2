"""Intervals and paired comparisons over patients."""

import math

import numpy as np
import pytest

from tumorcast.evaluation.statistics import difference, mean_of, median_of


def test_the_interval_is_that_of_resampled_patients() -> None:
    """Against a plain loop with numbers of its own."""
    values = np.random.default_rng(3).normal(2.0, 1.0, 25)
    found = mean_of(values)
    rng = np.random.default_rng(99)
    means = [rng.choice(values, values.size).mean() for _ in range(4000)]
    assert found.value == pytest.approx(values.mean())
    np.testing.assert_allclose([found.low, found.high], np.percentile(means, [2.5, 97.5]), atol=0.03)
    assert found.excludes_zero and not mean_of(values - 2.0).excludes_zero
    assert mean_of(values) == found


def test_patients_without_a_value_are_left_out() -> None:
    found = mean_of(np.array([1.0, np.nan, 3.0]))
    assert (found.value, found.patients) == (2.0, 2)
    alone = median_of(np.array([np.nan, 5.0]))
    assert (alone.value, alone.patients, alone.excludes_zero) == (5.0, 1, False)
    assert math.isnan(alone.low)
    assert (mean_of(np.array([np.nan])).patients, math.isnan(mean_of(np.array([])).value)) == (0, True)


def test_a_difference_is_paired() -> None:
    """Patients differ by far more than the methods do, and the difference is clear all the same."""
    other = np.arange(20.0) * 10
    ours = other + np.linspace(0.5, 1.5, 20)
    found = difference(ours, other)
    assert found.estimate.value == pytest.approx(1.0)
    assert found.estimate.low > 0.8
    assert found.p == pytest.approx(2 * 0.5**20, rel=1e-6)  # every sign is the same: exactly two of 2^20 cases


def test_a_patient_that_one_method_lacks_is_in_no_difference() -> None:
    found = difference(np.array([1.0, 2.0, np.nan]), np.array([np.nan, 1.0, 1.0]))
    assert (found.estimate.value, found.estimate.patients) == (1.0, 1)


def test_equal_methods_differ_by_nothing() -> None:
    same = np.array([0.1, 0.2, 0.3])
    found = difference(same, same)
    assert (found.estimate.value, found.p, found.estimate.excludes_zero) == (0.0, 1.0, False)
    assert math.isnan(difference(np.array([np.nan]), same[:1]).p)
