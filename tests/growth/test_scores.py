import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tumorcast.growth import scores

LEVELS = scores.dense_levels()


@given(st.floats(-3.0, 3.0), st.floats(0.2, 3.0))
def test_crps_of_a_normal_is_its_closed_form(truth: float, sd: float) -> None:
    """Gneiting & Raftery 2007, eq. 21."""
    z = truth / sd
    exact = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    quantiles = stats.norm.ppf(LEVELS, 0.0, sd)[None, :]
    assert scores.crps(quantiles, LEVELS, np.array([truth]))[0] == pytest.approx(exact, rel=0.01)


def test_crps_is_least_for_the_true_distribution() -> None:
    truth = np.random.default_rng(0).normal(0.0, 1.0, 4000)
    mean = {
        sd: scores.crps(np.tile(stats.norm.ppf(LEVELS, 0.0, sd), (4000, 1)), LEVELS, truth).mean()
        for sd in (0.7, 1.0, 1.4)
    }
    assert mean[1.0] < min(mean[0.7], mean[1.4])


def test_coverage_width_and_error_by_hand() -> None:
    low, high, truth = np.array([0.0, 0.0, 0.0, 0.0]), np.array([1.0, 2.0, 3.0, 9.0]), np.array([1.0, 2.5, -1.0, 4.0])
    assert scores.coverage(low, high, truth) == 0.5
    assert scores.median_width(low, high) == 2.5
    np.testing.assert_array_equal(scores.absolute_errors(low, truth), [1.0, 2.5, 1.0, 4.0])
