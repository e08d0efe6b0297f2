import numpy as np
import pytest
from scipy.stats import t as student_t

from tumorcast.growth.lmfit_backend import LmfitResult, fit_with_lmfit

NAMES = ("initial_size", "rate_per_day")
LOWER, UPPER = np.array([0.1, -0.1]), np.array([10.0, 0.1])
START = np.array([1.0, 0.0])
DAYS = np.array([0.0, 20.0, 50.0, 90.0, 140.0, 200.0])
TRUTH = np.array([2.0, 0.01])


def growth(row: np.ndarray, days: np.ndarray = DAYS) -> np.ndarray:
    return row[0] * np.exp(row[1] * days)


def fitted(sizes: np.ndarray, days: np.ndarray = DAYS, *, intervals: bool = True) -> LmfitResult:
    return fit_with_lmfit(lambda row: growth(row, days) - sizes, NAMES, LOWER, UPPER, START, intervals=intervals)


def noisy(seed: int) -> np.ndarray:
    return growth(TRUTH) + np.random.default_rng(seed).normal(0, 0.3, DAYS.size)


def test_noise_free_parameters_are_recovered() -> None:
    result = fitted(growth(TRUTH), intervals=False)
    np.testing.assert_allclose(result.parameters, TRUTH, rtol=1e-6)
    assert result.converged and result.loss < 1e-12 and result.intervals == {}


def test_a_perfect_fit_may_lack_intervals_but_never_raises() -> None:
    result = fitted(growth(TRUTH))
    np.testing.assert_allclose(result.parameters, TRUTH, rtol=1e-6)
    assert result.converged


def test_loss_is_that_of_the_parameters() -> None:
    result = fitted(noisy(0))
    assert result.loss == pytest.approx(np.sum((growth(result.parameters) - noisy(0)) ** 2), rel=1e-12)


def test_intervals_of_a_linear_model_are_those_of_the_textbook() -> None:
    sizes = 1.0 + 0.02 * DAYS + np.random.default_rng(1).normal(0, 0.1, DAYS.size)
    result = fit_with_lmfit(
        lambda row: row[0] + row[1] * DAYS - sizes, ("a", "b"), np.full(2, -9.0), np.full(2, 9.0), START, intervals=True
    )
    design = np.column_stack([np.ones_like(DAYS), DAYS])
    variance = result.loss / 4 * np.linalg.inv(design.T @ design).diagonal()
    reach = student_t.ppf(0.975, 4) * np.sqrt(variance)
    for name, value, width in zip(("a", "b"), np.linalg.lstsq(design, sizes)[0], reach, strict=True):
        np.testing.assert_allclose(result.intervals[name], (value - width, value + width), rtol=2e-3)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = [np.prod(np.array(fitted(noisy(seed)).intervals["rate_per_day"]) - TRUTH[1]) < 0 for seed in range(60)]
    assert np.mean(inside) > 0.85


def test_equal_bounds_fix_a_parameter() -> None:
    low, high = np.array([0.1, 0.01]), np.array([10.0, 0.01])
    result = fit_with_lmfit(lambda row: growth(row) - noisy(2), NAMES, low, high, START, intervals=True)
    assert result.parameters[1] == 0.01 and set(result.intervals) == {"initial_size"}
    low, high = result.intervals["initial_size"]
    assert low < result.parameters[0] < high


def test_all_fixed_is_a_message() -> None:
    result = fit_with_lmfit(lambda row: growth(row) - 1.0, NAMES, TRUTH, TRUTH, TRUTH, intervals=True)
    assert np.array_equal(result.parameters, TRUTH) and "nothing was fitted" in result.message
    assert result.loss == pytest.approx(np.sum((growth(TRUTH) - 1.0) ** 2))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_points_are_fitted_without_intervals(count: int) -> None:
    result = fitted(growth(TRUTH)[:count], DAYS[:count])
    assert result.loss < 1e-10 and result.intervals == {}
    assert f"{count} residuals for 2 free parameters" in result.message


def test_a_parameter_without_effect_is_no_exception() -> None:
    result = fit_with_lmfit(
        lambda row: row[0] - noisy(3), ("mean", "idle"), LOWER, UPPER, np.array([1.0, 0.05]), intervals=True
    )
    assert result.parameters[0] == pytest.approx(noisy(3).mean(), rel=1e-6)
    assert "idle" not in result.intervals or result.intervals["idle"] == (-0.1, 0.1)


def test_a_minimum_beyond_the_bounds_ends_at_the_bound() -> None:
    result = fitted(2.0 * np.exp(-0.3 * DAYS))
    assert result.parameters[1] == pytest.approx(-0.1, abs=1e-4)
    for name, least, greatest in zip(NAMES, LOWER, UPPER, strict=True):
        low, high = result.intervals.get(name, (least, greatest))
        assert least <= low <= high <= greatest


def test_a_start_on_a_bound_leaves_it() -> None:
    sizes = growth(TRUTH)
    result = fit_with_lmfit(lambda row: growth(row) - sizes, NAMES, LOWER, UPPER, LOWER, intervals=False)
    np.testing.assert_allclose(result.parameters, TRUTH, rtol=1e-5)


def test_residuals_that_are_not_finite_are_walked_around() -> None:
    def residuals(row: np.ndarray) -> np.ndarray:
        if row[0] > 5:
            return np.full(DAYS.size, np.nan)
        return np.where(row[1] > 0.05, np.inf, growth(row) - growth(TRUTH))

    result = fit_with_lmfit(residuals, NAMES, LOWER, UPPER, START, intervals=True)
    np.testing.assert_allclose(result.parameters, TRUTH, rtol=1e-4)


def test_misuse_is_an_exception() -> None:
    def broken(row: np.ndarray) -> np.ndarray:
        raise ValueError("no such law")

    with pytest.raises(ValueError, match="no such law"):
        fit_with_lmfit(broken, NAMES, LOWER, UPPER, START, intervals=False)
