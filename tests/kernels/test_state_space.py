"""The filter against what it stands for, written out: integrals of the equations, and sums over what may have been."""

import itertools

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.linalg import expm

from tumorcast.kernels import state_space as kernels

KIND = np.array([0.2, 0.5, 250.0, 0.5, 150.0, 0.8, -1.0])
CURVE = np.array([0.06, 0.15, 150.0, 0.15, 1.0, 0.3, 0.0])
FLOOR = np.log(100.0)
SHARED = np.array([9.5, 1.2, -0.2, 0.3, 0.25, 700.0, 0.2, 0.8, 0.1, -1.0, 0.4, 1.5, 0.06])
B, U, G = kernels.B, kernels.U, kernels.G


def scans(days: list[float], y: list[float], operation: list[float] | None = None) -> kernels.Scans:
    days_ = np.array(days)
    growth = 0.01 * days_[None] + 1e-5 * days_[None] ** 2
    operation = np.full(days_.size, np.inf) if operation is None else np.array(operation)
    excess = np.array([0.5, -0.2, 0.1])[: len(y)]
    then = np.zeros_like(growth)
    return kernels.Scans(days_, np.array(y), excess, operation, growth, 0.9 * days_[None], then, then, FLOOR)


def part(mean: list[float], covariance: np.ndarray) -> np.ndarray:
    row = np.zeros(kernels.COLUMNS)
    row[[B, U, G]] = mean
    row[kernels.BB :] = covariance[np.triu_indices(3)]
    return row


def covariance_of(row: np.ndarray) -> np.ndarray:
    found = np.zeros((3, 3))
    found[np.triu_indices(3)] = row[kernels.BB :]
    return found + np.triu(found, 1).T


DRIFT = np.array([[-1 / 700.0, 0, 1], [0, -1 / 250.0, 0], [0, 0, -1 / 150.0]])
NOISE = np.diag([0, 2 * 0.5**2 / 250.0, 2 * 0.005**2 / 150.0])


def driven(days: float) -> np.ndarray:
    """The covariance that the equations' noise makes in so many days."""
    found, _ = integrate.quad_vec(lambda s: expm(DRIFT * s) @ NOISE @ expm(DRIFT * s).T, 0, days)
    return np.asarray(found)


@pytest.mark.parametrize("days", [3.0, 60.0, 900.0])
def test_a_part_moves_as_its_equations_say(days: float) -> None:
    """Mean and covariance of the linear stochastic equations, integrated numerically."""
    start = np.array([[0.3, 0.05, 1e-4], [0.05, 0.2, 0.0], [1e-4, 0.0, 2e-5]])
    out = np.zeros(kernels.COLUMNS)
    kernels.move(part([10.0, 0.4, 0.004], start), out, KIND, SHARED, days, (0.0, 0.0), 0.25)
    moved = expm(DRIFT * days)
    np.testing.assert_allclose(out[[B, U, G]], moved @ [0.5, 0.4, 0.004] + [9.5 + 0.25, 0, 0], rtol=1e-9)
    np.testing.assert_allclose(covariance_of(out), moved @ start @ moved.T + driven(days), rtol=1e-6, atol=1e-12)


def test_a_curve_moves_a_part_by_its_growth_and_its_rate() -> None:
    out, start = np.zeros(kernels.COLUMNS), np.diag([0.3, 0.2, 2e-6])
    kernels.move(part([10.0, 0.4, 0.001], start), out, CURVE, SHARED, 40.0, (0.5, 36.0), 0.0)
    left = np.exp(-40 / 150)
    np.testing.assert_allclose(out[[B, U, G]], [10.0 + 0.5 + 36.0 * 0.001, 0.4 * left, 0.001])
    wanted = [
        [0.3 + 36.0**2 * 2e-6, 0, 36.0 * 2e-6],
        [0, 0.2 * left**2 + 0.15**2 * (1 - left**2), 0],
        [36.0 * 2e-6, 0, 2e-6],
    ]
    np.testing.assert_allclose(covariance_of(out), wanted, rtol=1e-12)


def spelled_out(y: list[float], days: float, operated: float | None) -> float:
    """Log density of two sizes: of a sum over redraw and outliers of normal densities in two dimensions."""
    f, begun = np.exp(-0.2 * np.clip(y[0] - 9.5, -2.5, 2.5)), 1 - np.exp(-days / 60)
    stays = np.exp(-0.8 * days / 365.25) * (1 - 0.06 * (1 - np.exp(-days / 10))) * (1 - 0.25 * begun)
    # By what may have happened: chance, day of a jump, kept, mean of what is drawn, its sd, added on the last day.
    add = (0.3 - 0.2 + 0.1 * 0.5) * begun
    events = [(stays, days, 1.0, 0.0, 0.0, add), (1 - stays, days, 0.6, 9.5, f * 1.5, 0.6 * add)]
    if operated is not None:
        events = [(1.0, operated, 0.4, 9.5 - 1.0 / 0.6, 1.5, (0.3 - 0.2) * (1 - np.exp(-(days - operated) / 60)))]
    start = np.diag([1.2**2, 0.5**2, 0.005**2])
    first_seen, second_seen = np.array([1, 1, 0, 0, 0, 0.0]), np.array([0, 0, 0, 1, f, 0.0])
    total = 0.0
    for (chance, day, kept, drawn, sd, added), *outliers in itertools.product(events, [False, True], [False, True]):
        jump, before, after = np.diag([kept, 1.0, 1.0]), expm(DRIFT * day), expm(DRIFT * (days - day))
        jumped = jump @ (before @ start @ before.T + driven(day)) @ jump.T + np.diag([sd**2, 0, 0])
        later = after @ jumped @ after.T + driven(days - day)
        across = start @ before.T @ jump.T @ after.T
        both = np.block([[start, across], [across.T, later]])
        level = kept * 9.5 + (1 - kept) * drawn
        mean = np.array([9.5, 0, 0, 9.5 + after[0, 0] * (level - 9.5) + added, 0, 0])
        density = chance * np.prod([0.05 if outlier else 0.95 for outlier in outliers])
        for size, seen, scale, outlier in zip(y, (first_seen, second_seen), (1.0, f), outliers, strict=True):
            expected = seen @ mean
            small = 0.8 * np.exp(-max(expected - FLOOR, 0.0))
            noise = (scale * 0.2) ** 2 + small**2 + outlier * (scale * 1.5) ** 2
            normal = stats.norm(expected, np.sqrt(seen @ both @ seen + noise))
            density *= normal.pdf(size) if size > FLOOR else normal.cdf(FLOOR)
            gain = both @ seen / normal.var()
            mean, both = mean + gain * (size - expected), both - np.outer(gain, gain) * normal.var()
        total += density
    return float(np.log(total))


@pytest.mark.parametrize("operated", [None, 0.0, 30.0])
@pytest.mark.parametrize("y", [[10.0, 10.4], [8.0, 11.0], [9.0, FLOOR]])
def test_two_scans_have_the_density_of_all_that_may_have_been(y: list[float], operated: float | None) -> None:
    log_densities = np.empty((1, 2))
    kernels.fill_log_densities(
        KIND[None], SHARED, scans([0.0, 70.0], y, None if operated is None else [np.inf, operated]), log_densities
    )
    assert log_densities.sum() == pytest.approx(spelled_out(y, 70.0, operated), abs=1e-6)


def test_parts_are_merged_with_their_weight_mean_and_covariance() -> None:
    rng = np.random.default_rng(0)
    parts = np.zeros((16, kernels.COLUMNS))
    parts[:, kernels.WEIGHT] = np.log(rng.dirichlet(np.ones(12), 1)[0].tolist() + [1e-9] * 4)
    for row in parts:
        root = rng.standard_normal((3, 3))
        row[kernels.B :] = part(rng.standard_normal(3).tolist(), root @ root.T)[kernels.B :]

    def moments(rows: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        weights = np.exp(rows[:, 0])
        mean = weights @ rows[:, [B, U, G]] / weights.sum()
        spread = sum(
            w * (covariance_of(r) + np.outer(r[[B, U, G]], r[[B, U, G]])) for w, r in zip(weights, rows, strict=True)
        )
        return float(weights.sum()), mean, spread / weights.sum()

    before = moments(parts[:12])
    heaviest = np.sort(parts[:12, 0])[::-1][:3]
    assert kernels.reduce_parts(parts, 12) == kernels.PARTS
    np.testing.assert_allclose(parts[:3, 0], heaviest)
    for found, wanted in zip(moments(parts[:4]), before, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def chances(normals: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The distribution function of a sum of normals."""
    return np.sum(normals[:, 0] * stats.norm.cdf((x[:, None] - normals[:, 1]) / normals[:, 2]), axis=1)


def test_normals_that_are_alike_are_merged_without_a_change() -> None:
    rng = np.random.default_rng(0)
    normals = np.stack([rng.dirichlet(np.ones(5000)), rng.normal(9, 2, 5000), rng.uniform(0.05, 2, 5000)], axis=1)
    fewer = kernels.condense(normals, 5000)
    assert len(fewer) < 2000 and fewer[:, 0].sum() == pytest.approx(1.0)
    grid = np.linspace(2, 16, 50)
    exact, found = (
        np.sum(n[:, 0] * stats.norm.cdf((grid[:, None] - n[:, 1]) / n[:, 2]), axis=1) for n in (normals, fewer)
    )
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_quantiles_are_those_of_the_sum() -> None:
    normals = np.array([[0.7, 9.0, 0.3], [0.3, 11.0, 1.0]])
    levels, out = np.array([0.01, 0.05, 0.5, 0.9, 0.99]), np.empty(5)
    kernels.fill_quantiles(normals, levels, np.empty(2000), out)
    np.testing.assert_allclose(chances(normals, out), levels, atol=1e-4)


@pytest.mark.parametrize("z", [-30.0, -8.0, -6.01, -5.99, 0.0, 3.0])
def test_the_chance_of_nothing_seen_is_right_far_out(z: float) -> None:
    assert kernels.log_chance_below(z) == pytest.approx(stats.norm.logcdf(z), rel=2e-3)
