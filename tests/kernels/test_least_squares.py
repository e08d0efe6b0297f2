"""The fit against noise-free truth and against scipy's bounded least squares on the same problem."""

import numpy as np
import pytest
from scipy.optimize import least_squares as scipy_least_squares

from tumorcast.kernels import growth, least_squares

LOWER = np.array([0.001, 0.001, 0.001, 0.001, 0.001, 0.9])
UPPER = np.array([2.0, 100.0, 300.0, 600.0, 0.2, 1.1])
LOG_SCALED = np.array([True] * 6)
DAYS = np.array([0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 190.0, 230.0, 280.0, 340.0])
TRUTH = np.array([0.012, 0.03, 70.0, 0.08, 0.08, 1.0])


def problem_with(days: np.ndarray, lower: np.ndarray = LOWER, upper: np.ndarray = UPPER) -> least_squares.Problem:
    return least_squares.Problem(days, np.array([28.0]), lower, upper, LOG_SCALED, 200)


def fit(problem: least_squares.Problem, observed: np.ndarray, starts: int = 64) -> least_squares.Fits:
    count = len(observed)
    units = np.random.default_rng(7).random((count, starts, growth.PARAMETERS))
    out = least_squares.Fits(np.empty((count, growth.PARAMETERS)), np.empty(count), np.empty(count, dtype=np.int64))
    least_squares.fit_batch(problem, observed, units, out)
    return out


def sizes_of(row: np.ndarray, days: np.ndarray) -> np.ndarray:
    out = np.empty(days.size)
    growth.fill_sizes(days, growth.Timeline(0.0, np.array([28.0])), row, out)
    return out


def noisy(count: int, days: np.ndarray = DAYS) -> np.ndarray:
    return sizes_of(TRUTH, days) * np.exp(np.random.default_rng(3).normal(0, 0.1, (count, days.size)))


def test_noise_free_parameters_are_recovered() -> None:
    out = fit(problem_with(DAYS), sizes_of(TRUTH, DAYS)[None])
    np.testing.assert_allclose(out.rows[0], TRUTH, rtol=1e-3)
    assert out.losses[0] < 1e-10
    assert out.statuses[0] == least_squares.CONVERGED


def test_loss_is_the_sum_of_squares_at_the_row() -> None:
    observed = noisy(3)
    out = fit(problem_with(DAYS), observed, starts=8)
    expected = [np.sum((sizes_of(row, DAYS) - sizes) ** 2) for row, sizes in zip(out.rows, observed, strict=True)]
    np.testing.assert_allclose(out.losses, expected, rtol=1e-12)
    assert np.all((out.rows >= LOWER) & (out.rows <= UPPER))


def test_never_above_scipy_from_many_starts() -> None:
    observed = noisy(4)
    out = fit(problem_with(DAYS), observed)
    rng = np.random.default_rng(11)
    low, high = np.log(LOWER), np.log(UPPER)
    sane = np.log([0.05, 0.3, 300.0, 10.0, 0.2, 1.1])  # from further up, the sizes are too large for scipy to square
    for b, sizes in enumerate(observed):
        costs = []
        for _ in range(12):
            start = low + (sane - low) * rng.random(growth.PARAMETERS)
            reached = scipy_least_squares(
                lambda x, sizes=sizes: sizes_of(np.exp(x), DAYS) - sizes, start, bounds=(low, high), max_nfev=200
            )
            costs.append(2 * reached.cost)
        assert out.losses[b] <= min(costs) * (1 + 1e-6)


def test_equal_bounds_fix_a_parameter() -> None:
    lower, upper = LOWER.copy(), UPPER.copy()
    lower[growth.SURVIVAL] = upper[growth.SURVIVAL] = 0.08
    out = fit(problem_with(DAYS, lower, upper), noisy(2))
    assert out.rows[:, growth.SURVIVAL].tolist() == [0.08, 0.08]


def test_optimum_on_the_wall_is_found_and_told() -> None:
    upper = UPPER.copy()
    upper[growth.RATE] = 0.008
    out = fit(problem_with(DAYS, LOWER, upper), sizes_of(TRUTH, DAYS)[None])
    assert out.rows[0, growth.RATE] == 0.008
    assert out.statuses[0] == least_squares.AT_BOUND


def test_too_few_steps_are_told() -> None:
    problem = problem_with(DAYS)._replace(max_steps=1)
    assert least_squares.NOT_CONVERGED in fit(problem, noisy(8), starts=1).statuses


def test_a_replicate_does_not_depend_on_its_neighbours() -> None:
    observed = noisy(5)
    units = np.random.default_rng(0).random((5, 8, growth.PARAMETERS))
    together = least_squares.Fits(np.empty((5, 6)), np.empty(5), np.empty(5, dtype=np.int64))
    least_squares.fit_batch(problem_with(DAYS), observed, units, together)
    alone = np.empty(6)
    loss, status = least_squares.fit_one(problem_with(DAYS), observed[3], units[3], alone)
    assert (loss, status) == (together.losses[3], together.statuses[3])
    assert alone.tolist() == together.rows[3].tolist()


@pytest.mark.parametrize("sizes", [[1.0, 0.0, 0.0, 0.0], [1.0, 1e6, 1.0, 1e6], [1.0, 1.0, 1.0, 1.0]])
def test_hostile_sizes_end_finite(sizes: list[float]) -> None:
    out = fit(problem_with(DAYS[:4]), np.array([sizes]), starts=16)
    assert np.all(np.isfinite(out.rows)) and np.isfinite(out.losses[0])
