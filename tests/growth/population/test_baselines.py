"""What a forecast must beat: each does what its name says, and none forecasts less than nothing."""

import logging

import numpy as np
import pytest
from scipy import stats

from tumorcast.growth.population.autoregression import Persistence
from tumorcast.growth.population.baselines import CohortSteps, Line, LinearRegression
from tumorcast.growth.population.history import History
from tumorcast.growth.population.kinds import FLOOR
from tumorcast.growth.scores import dense_levels

LEVELS = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
KINDS = (CohortSteps, LinearRegression, Line)


def walks(patients: int, scans: int = 5, seed: int = 0) -> list[History]:
    rng = np.random.default_rng(seed)
    return [
        History(np.cumsum(rng.uniform(20, 90, scans)), 9 + np.cumsum(rng.normal(0, 0.5, scans)))
        for _ in range(patients)
    ]


def history(*sizes: float) -> History:
    return History(30.0 * np.arange(len(sizes)), np.array(sizes))


def vanishing(patients: int) -> list[History]:
    """Nothing is seen on the second scan; from there sizes are again those of the first, plus a little."""
    return [history(8.0 + 0.01 * k, FLOOR, 8.5 + 0.01 * k) for k in range(patients)]


def test_steps_after_nothing_was_seen_are_drawn_apart() -> None:
    steps = CohortSteps.fitted(vanishing(10))
    assert (len(steps.after_zero), len(steps.after_others)) == (10, 10)
    again = 8.5 + 0.01 * np.arange(10)
    np.testing.assert_allclose(steps.quantiles(history(9.0, FLOOR), 30.0, (np.arange(10) + 0.5) / 10), again)
    fallen = steps.quantiles(history(9.0), 30.0, (np.arange(10) + 0.5) / 10)
    np.testing.assert_allclose(fallen, 9.0 + FLOOR - (8.0 + 0.01 * np.arange(10)[::-1]))


def test_few_steps_of_either_kind_are_drawn_together_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert CohortSteps.fitted(vanishing(9)).after_zero == CohortSteps.fitted(vanishing(9)).after_others
    assert "9 steps after a size of zero" in caplog.text
    caplog.clear()
    assert CohortSteps.fitted(vanishing(10)).after_zero != CohortSteps.fitted(vanishing(10)).after_others
    assert caplog.text == ""


def test_three_coefficients_are_recovered_and_the_interval_holds() -> None:
    rng, histories = np.random.default_rng(1), []
    for _ in range(1500):
        y = [rng.normal(9.0, 1.0)]
        for _ in range(4):
            y.append(1.8 + 0.8 * y[-1] + 0.3 * (y[-1] - y[-2:][0]) + 0.4 * rng.standard_t(5))
        histories.append(history(*y))
    model = LinearRegression.fitted(histories[:1000])
    assert [model.intercept, model.by_size, model.by_step] == pytest.approx([1.8, 0.8, 0.3], abs=0.1)
    assert [np.exp(model.log_scale), np.exp(model.log_dof)] == pytest.approx([0.4, 5.0], rel=0.15)
    bounds = [model.quantiles(one.first(4), 30.0, np.array([0.05, 0.95])) for one in histories[1000:]]
    held = [low <= one.log_sizes[4] <= high for (low, high), one in zip(bounds, histories[1000:], strict=True)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def test_one_scan_has_made_no_step() -> None:
    model = LinearRegression(intercept=1.0, by_size=0.9, by_step=0.5, log_scale=-1.0, log_dof=1.0)
    median = np.array([0.5])
    assert model.quantiles(history(9.0), 30.0, median)[0] == pytest.approx(9.1)
    assert model.quantiles(history(8.0, 9.0), 30.0, median)[0] == pytest.approx(9.6)


def test_the_line_has_the_prediction_interval_of_textbooks() -> None:
    rng = np.random.default_rng(2)
    days, line = np.array([0.0, 20.0, 70.0, 90.0, 160.0]), Line.fitted(walks(10))
    y = 9.0 + 0.004 * days + 0.2 * rng.normal(size=5)
    (slope, level), covariance = np.polyfit(days, y, 1, cov="unscaled")
    at = np.array([190.0, 1.0])
    variance = np.sum((y - level - slope * days) ** 2) / 3 * (1 + at @ covariance @ at)
    expected = stats.t.ppf(LEVELS, 3, level + slope * 190.0, np.sqrt(variance))
    np.testing.assert_allclose(line.quantiles(History(days, y), 30.0, LEVELS), expected.clip(FLOOR, np.log(1.5001e6)))
    assert expected[1] > FLOOR and expected[-2] < np.log(1.5e6)  # most of it is within the bounds


def test_a_line_through_two_scans_has_the_spread_of_persistence_and_one_scan_persists() -> None:
    cohort = walks(20)
    line, persistence = Line.fitted(cohort), Persistence.fitted(cohort)
    known = persistence.quantiles(history(9.0), 30.0, LEVELS)
    np.testing.assert_allclose(line.quantiles(history(9.0), 45.0, LEVELS), known)
    np.testing.assert_allclose(line.quantiles(history(8.0, 9.0), 45.0, LEVELS), known + 1.5)


def test_a_line_ends_at_a_brain() -> None:
    line = Line.fitted(walks(10))
    far = line.quantiles(history(8.0, 9.0, 10.1), 3000.0, LEVELS)
    assert far.max() == pytest.approx(np.log(1.5e6 + 100)) and far.min() >= FLOOR


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_forecast_below_nothing(kind: type[CohortSteps | LinearRegression | Line]) -> None:
    model, levels = kind.fitted(walks(12)), dense_levels()
    for sizes in ((FLOOR + 0.1,), (6.0, 5.0), (9.0, 7.0, 5.0), (9.0, FLOOR)):
        quantiles = model.quantiles(history(*sizes), 60.0, levels)
        assert quantiles.min() == FLOOR and quantiles.shape == levels.shape
        assert np.all(np.diff(quantiles) >= 0)


@pytest.mark.parametrize("kind", KINDS)
def test_nine_changes_are_too_few(kind: type[CohortSteps | LinearRegression | Line]) -> None:
    with pytest.raises(ValueError, match="at least 10"):
        kind.fitted([history(9.0, *np.linspace(8.0, 9.0, 9))])
