"""The fit against noise-free truth, against scipy's on the same problem, and against linear algebra where it is linear.

Everything goes through growth.problem, which says what the kernels are given.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import least_squares as scipy_least_squares

from tumorcast.growth.bootstrap import Noise, latin_hypercube
from tumorcast.growth.laws import Bound, BoundsPreset
from tumorcast.growth.prior import LawPrior, NormalPrior, covariance
from tumorcast.growth.problem import Fits, PatientProblem, Sample, Search, catalogue_of, run, starts_to_search
from tumorcast.records import ChemotherapyCourse, FitStatus, LawName, RadiotherapyCourse, SizeSeries, Treatment

Array = npt.NDArray[np.float64]

DAYS = np.array([0.0, 15.0, 30.0, 60.0, 90.0, 120.0, 150.0, 190.0, 230.0, 280.0, 340.0, 420.0])
COURSE = Treatment((RadiotherapyCourse(20.0, 62.0),))
# λ, λ_decay, delay, slope, S, c, K, A0
TRUTHS = {
    LawName.EXPONENTIAL: (0.012, 0.03, 70.0, 0.08, 0.08, 0.0, 2.0, 1000.0),
    LawName.LOGISTIC: (0.04, 0.03, 70.0, 0.08, 0.08, 0.0, 4.0, 1000.0),
    LawName.GOMPERTZ: (0.03, 0.03, 70.0, 0.08, 0.08, 0.0, 6.0, 1000.0),
}
RATES_TOLD = {
    "rate_per_day": NormalPrior(mean=0.01, sd=0.004, log=False),
    "decay_rate_per_day": NormalPrior(mean=np.log(0.02), sd=0.5, log=True),
    "survival": NormalPrior(mean=np.log(0.1), sd=0.6, log=True),
}


def search_of(starts: int, finalists: int, max_steps: int) -> Search:
    return Search(starts=starts, scouts=starts, finalists=finalists, max_steps=max_steps)


SEARCH = search_of(96, 9, 120)


def prior_of(parameters: dict[str, NormalPrior], departure_sd: float = 0.3) -> LawPrior:
    return LawPrior(
        law=LawName.EXPONENTIAL,
        parameters=parameters,
        measurement_sd=0.1,
        departure_sd=departure_sd,
        departure_days=80.0,
    )


@dataclass(frozen=True)
class Boxed(PatientProblem):
    """A problem with some bounds of its own."""

    box: dict[str, Bound] = field(default_factory=dict)

    @cached_property
    def columns(self) -> tuple[Bound, ...]:
        return tuple(self.box.get(name, bound) for name, bound in zip(self.names, super().columns, strict=True))


def problem_of(
    law: LawName = LawName.EXPONENTIAL,
    noise: Noise = Noise.LOGNORMAL,
    *,
    days: Array = DAYS,
    treatment: Treatment = COURSE,
    row: tuple[float, ...] | None = None,
    **settings: Any,
) -> Boxed:
    """The problem whose sizes are those of the law's truth."""
    settings = {"bounds": BoundsPreset.DEFAULT, **settings}
    bare = Boxed(SizeSeries("P1", "area_mm2", days, np.ones(days.size), treatment), law, noise=noise, **settings)
    sizes = bare.sizes(np.array([row or TRUTHS[law]]))[0]
    return replace(bare, series=replace(bare.series, sizes=sizes))


def noisy(problem: PatientProblem, count: int, spread: float = 0.15) -> Array:
    """(count, T) sizes measured with errors, the first one without, so that it keeps its place in the box."""
    factors = np.exp(np.random.default_rng(3).normal(0.0, spread, (count, problem.series.days.size)))
    factors[:, 0] = 1.0
    return problem.series.sizes * factors


def sample_of(problem: PatientProblem, sizes: Array, weights: Array | None = None) -> Sample:
    centres = np.tile(problem.prior_on_coordinates[0], (len(sizes), 1))
    return Sample(sizes, np.ones_like(sizes) if weights is None else weights, centres)


def starts_of(problem: PatientProblem, count: int, seed: int = 7) -> Array:
    return latin_hypercube(np.random.default_rng(seed), count, problem.free.size)


def fit(problem: PatientProblem, sizes: Array, weights: Array | None = None, search: Search = SEARCH) -> Fits:
    """Each of sizes: (B, T), searched."""
    catalogue = starts_to_search(starts_of(problem, search.starts), problem.series.days.size)
    return run(problem, search, catalogue, sample_of(problem, sizes, weights))


def statuses(fits: Fits) -> list[FitStatus]:
    return [tuple(FitStatus)[code] for code in fits.statuses]


def residuals_at(problem: PatientProblem, row: Array, sizes: Array, weights: Array) -> Array:
    """(T,) what is squared, written anew."""
    model = problem.sizes(row[None])[0]
    match problem.noise:
        case Noise.LOGNORMAL:
            residuals = np.log(model) - np.log(np.maximum(sizes, problem.limit))
        case Noise.ADDITIVE:
            residuals = (model - sizes) / problem.scale
        case Noise.PAPER:
            residuals = ((model - sizes) / problem.scales(sizes)) ** 2
    weighted = np.sqrt(weights) * residuals
    if problem.prior is None:
        return np.asarray(weighted)
    root = np.linalg.cholesky(covariance(problem.prior.errors, problem.series.days))
    return np.linalg.solve(root, weighted)


def loss_at(problem: PatientProblem, row: Array, sizes: Array, weights: Array) -> float:
    loss = float(np.sum(residuals_at(problem, row, sizes, weights) ** 2))
    free = {problem.names[j] for j in problem.free}
    for name, told in (problem.prior.parameters if problem.prior else {}).items():
        if name in free:
            loss += ((told.transformed(row[problem.names.index(name)]) - told.mean) / told.sd) ** 2
    return loss


# Recovery.


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("law", LawName)
def test_noise_free_parameters_are_recovered(law: LawName, noise: Noise) -> None:
    problem = problem_of(law, noise)
    fits = fit(problem, problem.series.sizes[None])
    # the paper's fourth powers are flat at the end: residuals of 1e-3 are as good as none
    rtol = 0.2 if noise is Noise.PAPER else 1e-3
    np.testing.assert_allclose(fits.rows[0], TRUTHS[law], rtol=rtol)
    assert fits.losses[0] < 1e-9
    assert statuses(fits) == [FitStatus.CONVERGED]


def test_chemotherapy_and_resections_are_recovered() -> None:
    treatment = Treatment(COURSE.radiotherapy, (ChemotherapyCourse(100.0, 200.0),), (250.0,))
    row = (0.012, 0.03, 50.0, 0.08, 0.2, 0.02, 2.0, 1000.0, 0.3)
    problem = problem_of(days=np.arange(0.0, 420.0, 20.0), treatment=treatment, chemotherapy=True, row=row)
    fits = fit(problem, problem.series.sizes[None])
    np.testing.assert_allclose(fits.rows[0], row, rtol=1e-3)


def test_a_point_a_parameter_is_enough_and_so_is_less() -> None:
    problem = problem_of(days=DAYS[::4])
    fits = fit(problem, noisy(problem, 4))
    assert np.all(fits.losses < 1e-3)  # more parameters than scans: the curve goes through nearly every one


# The loss.


@pytest.mark.parametrize("weighting", ["equal", "cases"])
@pytest.mark.parametrize(
    ("noise", "prior"),
    [
        *((noise, None) for noise in Noise),
        (Noise.LOGNORMAL, prior_of({})),
        (Noise.LOGNORMAL, prior_of(RATES_TOLD)),
    ],
    ids=[*Noise, "whitened", "whitened with prior"],
)
def test_loss_is_the_sum_of_squares_at_the_row(noise: Noise, prior: LawPrior | None, weighting: str) -> None:
    problem = problem_of(noise=noise, prior=prior)
    sizes = noisy(problem, 6)
    weights = np.ones_like(sizes)
    if weighting == "cases":
        weights = np.random.default_rng(5).multinomial(DAYS.size, np.full(DAYS.size, 1 / DAYS.size), 6).astype(float)
    fits = fit(problem, sizes, weights, search_of(8, 2, 60))
    expected = [loss_at(problem, *case) for case in zip(fits.rows, sizes, weights, strict=True)]
    np.testing.assert_allclose(fits.losses, expected, rtol=1e-8)
    assert np.all(fits.losses > 0)


@pytest.mark.parametrize("noise", Noise)
def test_a_weight_of_two_is_a_scan_taken_twice(noise: Noise) -> None:
    twice = problem_of(noise=noise, days=np.sort(np.append(DAYS, DAYS[3])))
    once = problem_of(noise=noise)
    sizes, weights = noisy(once, 3), np.ones((3, DAYS.size))
    weights[:, 3] = 2.0
    together, apart = fit(once, sizes, weights), fit(twice, np.insert(sizes, 3, sizes[:, 3], axis=1))
    np.testing.assert_allclose(together.losses, apart.losses, rtol=1e-4)


def test_a_weight_of_zero_is_no_scan() -> None:
    problem = problem_of()
    sizes = noisy(problem, 1)
    weights = np.ones_like(sizes)
    weights[:, 5] = 0.0
    absurd = sizes.copy()
    absurd[:, 5] *= 1e3
    here, there = fit(problem, sizes, weights), fit(problem, absurd, weights)
    assert here.losses.tolist() == there.losses.tolist() and here.rows.tolist() == there.rows.tolist()


# The minimum.


def best_of_scipy(problem: PatientProblem, sizes: Array, starts: Array) -> float:
    """The least loss that scipy's bounded least squares reaches from starts: (K, F) in [0, 1]."""
    columns = np.array(problem.columns)[problem.free] * np.where(problem.free == 7, problem.scale, 1.0)[:, None]
    row = np.array([bound.middle for bound in problem.columns])
    logarithmic = columns[:, 0] > 0
    low = np.where(logarithmic, np.log(np.where(logarithmic, columns[:, 0], 1.0)), columns[:, 0])
    high = np.where(logarithmic, np.log(columns[:, 1]), columns[:, 1])

    def residuals(unit: Array) -> Array:
        place = low + (high - low) * unit
        row[problem.free] = np.where(logarithmic, np.exp(np.where(logarithmic, place, 0.0)), place)
        return residuals_at(problem, row, sizes, np.ones_like(sizes))

    ends = [scipy_least_squares(residuals, start, bounds=(0.0, 1.0), max_nfev=100) for start in starts]
    return min(2 * end.cost for end in ends)


@pytest.mark.slow
@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("law", LawName)
def test_never_above_scipy_from_many_starts(law: LawName, noise: Noise) -> None:
    problem = problem_of(law, noise)
    sizes = noisy(problem, 3)
    starts = 0.2 + 0.6 * starts_of(problem, 8, seed=11)
    found = fit(problem, sizes).losses
    expected = [best_of_scipy(problem, replicate, starts) for replicate in sizes]
    assert np.all(found <= np.array(expected) * (1 + 1e-3))


def test_never_above_scipy_with_a_prior() -> None:
    problem = problem_of(prior=prior_of({}))
    sizes = noisy(problem, 3)
    expected = [best_of_scipy(problem, replicate, starts_of(problem, 8, seed=11)) for replicate in sizes]
    assert np.all(fit(problem, sizes).losses <= np.array(expected) * (1 + 1e-3))


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("law", LawName)
def test_no_point_near_the_minimum_is_lower(law: LawName, noise: Noise) -> None:
    problem = problem_of(law, noise)
    sizes = noisy(problem, 2)
    fits = fit(problem, sizes)
    rng, columns = np.random.default_rng(0), np.array(problem.columns)
    columns[7] *= problem.scale
    for row, loss, replicate in zip(fits.rows, fits.losses, sizes, strict=True):
        for _ in range(200):
            near = row * (1.0 + rng.choice([1e-4, 1e-3, 1e-2]) * rng.standard_normal(row.size))
            near[problem.free] = np.clip(near, *columns.T)[problem.free]
            fixed = np.setdiff1d(np.arange(row.size), problem.free)
            near[fixed] = row[fixed]
            assert loss_at(problem, near, replicate, np.ones_like(replicate)) >= loss * (1 - 1e-4)


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("law", LawName)
def test_catalogue_and_search_reach_the_same_loss(law: LawName, noise: Noise) -> None:
    problem = problem_of(law, noise)
    sizes = noisy(problem, 8)
    pilots = fit(problem, noisy(problem, 24)[8:])
    units = np.vstack([problem.coordinates(pilots.rows), starts_of(problem, SEARCH.starts)])
    chosen = run(problem, SEARCH, catalogue_of(problem, units), sample_of(problem, sizes))
    np.testing.assert_allclose(chosen.losses, fit(problem, sizes).losses, rtol=1e-3)


# Bounds.


@pytest.mark.parametrize("preset", BoundsPreset)
@pytest.mark.parametrize("law", LawName)
def test_rows_stay_within_their_bounds(law: LawName, preset: BoundsPreset) -> None:
    problem = problem_of(law, bounds=preset)
    fits = fit(problem, noisy(problem, 20, spread=1.0), search=search_of(16, 3, 60))
    relative = fits.rows.copy()
    relative[:, 7] /= problem.scale
    lower, upper = np.array(problem.columns).T
    assert np.all(relative >= lower * (1 - 1e-15)) and np.all(relative <= upper * (1 + 1e-15))


@pytest.mark.parametrize("noise", Noise)
def test_equal_bounds_fix_a_parameter(noise: Noise) -> None:
    problem = problem_of(noise=noise, box={"survival": Bound(0.08, 0.08), "delay_days": Bound(70.0, 70.0)})
    fits = fit(problem, noisy(problem, 2))
    assert fits.rows[:, [4, 2]].tolist() == [[0.08, 70.0]] * 2
    assert np.all(fits.losses >= fit(problem_of(noise=noise), noisy(problem, 2)).losses * (1 - 1e-6))


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize(("name", "wall"), [("rate_per_day", 0.008), ("survival", 0.03), ("initial_size", 0.9)])
def test_optimum_on_the_wall_is_found_and_told(name: str, wall: float, noise: Noise) -> None:
    bound = {"rate_per_day": Bound(-0.02, wall), "survival": Bound(0.001, wall), "initial_size": Bound(0.5, wall)}
    problem = problem_of(noise=noise, box={name: bound[name]})
    fits = fit(problem, problem.series.sizes[None])
    place = problem.names.index(name)
    assert fits.rows[0, place] == pytest.approx(wall * (problem.scale if name == "initial_size" else 1.0), rel=1e-12)
    assert statuses(fits) == [FitStatus.AT_BOUND]
    held = replace(problem, box={name: Bound(wall, wall)}) if name != "initial_size" else problem
    assert fits.losses[0] == pytest.approx(fit(held, problem.series.sizes[None]).losses[0], rel=1e-3)


def test_too_few_steps_are_told() -> None:
    problem = problem_of()
    assert FitStatus.NOT_CONVERGED in statuses(fit(problem, noisy(problem, 8), search=search_of(1, 1, 1)))


def test_more_steps_are_never_worse() -> None:
    problem = problem_of(LawName.GOMPERTZ, box={"delay_days": Bound(30.0, 30.0)})  # so that one descent is all
    sizes = noisy(problem, 4)
    catalogue = catalogue_of(problem, starts_of(problem, 1))
    losses = [run(problem, search_of(1, 1, steps), catalogue, sample_of(problem, sizes)).losses for steps in range(30)]
    assert np.all(np.diff(losses, axis=0) <= 0) and np.all(losses[-1] < losses[0])


def test_descent_is_not_caught_where_dying_cells_vanish_from_the_day_of_a_scan_on() -> None:
    days = np.array([60.0, 80.0, 155.0, 210.0])
    sharp = {"noise": Noise.ADDITIVE, "bounds": BoundsPreset.PAPER, "days": days}
    course = Treatment((RadiotherapyCourse(0.0, 42.0),))
    row = (0.0254, 0.0062, 155.0, 300.0, 0.0121, 0.0, 2.0, 0.9)
    problem = problem_of(treatment=course, row=row, **sharp)
    sizes = problem.series.sizes * np.array([[0.9, 0.8, 1.1, 0.95], [0.8, 0.9, 1.1, 0.9], [0.9, 0.75, 1.05, 0.9]])
    few = replace(search_of(24, 1, 60), promise=4.0)
    on_the_day = replace(problem, box={"delay_days": Bound(155.0, 155.0)})
    floor = fit(on_the_day, sizes, search=search_of(96, 20, 300)).losses
    assert np.all(fit(problem, sizes, search=few).losses <= 1.002 * floor)


# One replicate and the others.


@pytest.fixture
def threads():  # type: ignore[no-untyped-def]
    """Sets numba's number of threads, and puts it back."""
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="numba has one thread here")
@pytest.mark.parametrize("searched", [True, False], ids=["search", "catalogue"])
def test_a_replicate_depends_on_no_neighbour_and_no_number_of_threads(threads, searched: bool) -> None:  # type: ignore[no-untyped-def]
    problem, search = problem_of(), search_of(6, 2, 20)
    sizes, starts = noisy(problem, 300), starts_of(problem, 6)
    catalogue = starts_to_search(starts, DAYS.size) if searched else catalogue_of(problem, starts)

    def told(chosen: Array) -> tuple[list[float], list[list[float]], list[int]]:
        fits = run(problem, search, catalogue, sample_of(problem, chosen))
        return fits.losses.tolist(), fits.rows.tolist(), fits.statuses.tolist()

    threads(1)
    alone = told(sizes)
    threads(2)
    assert told(sizes) == alone
    assert [column[0] for column in told(sizes[201:202])] == [column[201] for column in alone]
    assert told(sizes[::-1].copy()) == tuple(column[::-1] for column in alone)


HOSTILE = {
    "gone": [1000.0, 0.0, 0.0, 0.0],
    "nothing at first": [0.0, 0.0, 500.0, 900.0],
    "up and down": [1.0, 1e6, 1.0, 1e6],
    "from one cell": [1e-6, 1e6, 1e6, 1e6],
    "constant": [1000.0, 1000.0, 1000.0, 1000.0],
    "vast": [1e12, 1e3, 1e-3, 1e12],
}


@pytest.mark.parametrize("sizes", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("preset", BoundsPreset)
@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("law", LawName)
def test_hostile_sizes_end_finite(law: LawName, noise: Noise, preset: BoundsPreset, sizes: list[float]) -> None:
    series = SizeSeries("P1", "area_mm2", DAYS[:8:2], np.array(sizes), COURSE)
    problem = PatientProblem(series, law, preset, noise)
    search = search_of(16, 3, 60)
    starts = starts_of(problem, 16)
    for catalogue in (starts_to_search(starts, 4), catalogue_of(problem, starts)):
        fits = run(problem, search, catalogue, sample_of(problem, series.sizes[None]))
        assert np.all(np.isfinite(fits.rows)) and np.all(np.isfinite(fits.losses))
        expected = loss_at(problem, fits.rows[0], series.sizes, np.ones(4))
        assert fits.losses[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("noise", Noise)
def test_a_start_beyond_all_sizes_does_no_harm(noise: Noise) -> None:
    """The paper's bounds hold growth by e^840 in these days, whose curve has the shape of one last high peak."""
    sizes = np.array([100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9e5])
    series = SizeSeries("P1", "volume_mm3", DAYS, sizes)
    problem = PatientProblem(series, LawName.EXPONENTIAL, BoundsPreset.PAPER, noise)
    far, near = np.array([[1.0, 0.5]]), np.array([[0.4, 0.5]])

    def fitted(starts: Array, *, searched: bool, finalists: int) -> Fits:
        catalogue = starts_to_search(starts, DAYS.size) if searched else catalogue_of(problem, starts)
        return run(problem, search_of(2, finalists, 300), catalogue, sample_of(problem, sizes[None]))

    alone = fitted(near, searched=False, finalists=1)
    for both in (
        fitted(np.vstack([far, near]), searched=False, finalists=2),
        fitted(np.vstack([far, near]), searched=True, finalists=1),
    ):
        np.testing.assert_allclose(both.losses, alone.losses, rtol=1e-3)
        np.testing.assert_allclose(both.rows, alone.rows, rtol=1e-2)
    beyond = fitted(far, searched=False, finalists=1)
    assert beyond.losses[0] == pytest.approx(loss_at(problem, beyond.rows[0], sizes, np.ones(DAYS.size)), rel=1e-6)


# Priors.


def test_a_strong_prior_holds_parameters_at_its_mean() -> None:
    sure = {
        "rate_per_day": NormalPrior(mean=0.02, sd=1e-7, log=False),
        "delay_days": NormalPrior(mean=np.log(33.0), sd=1e-5, log=True),
        "survival": NormalPrior(mean=np.log(0.3), sd=1e-5, log=True),
    }
    problem = problem_of(prior=prior_of(sure))
    row = fit(problem, noisy(problem, 1)).rows[0]
    np.testing.assert_allclose(row[[0, 2, 4]], [0.02, 33.0, 0.3], rtol=1e-4)


def test_a_prior_alone_decides_where_no_scan_tells() -> None:
    problem = problem_of(days=np.array([0.0, 25.0]), prior=prior_of(RATES_TOLD))
    row = fit(problem, problem.series.sizes[:1] * np.ones((1, 2))).rows[0]
    assert row[1] == pytest.approx(0.02, rel=0.05)  # λ_decay, five days into the course


@pytest.mark.parametrize("rate", [None, NormalPrior(mean=0.004, sd=0.001, log=False)], ids=["flat", "prior"])
def test_exponential_growth_with_correlated_errors_is_generalised_least_squares(rate: NormalPrior | None) -> None:
    """log size = log A0 + λ t: the posterior mean has a formula."""
    prior = prior_of({"rate_per_day": rate} if rate else {})
    problem = problem_of(treatment=Treatment(), prior=prior)
    sizes, row = noisy(problem, 5, spread=0.3), np.array(TRUTHS[LawName.EXPONENTIAL])
    design = np.column_stack([np.ones(DAYS.size), DAYS])
    inverse = np.linalg.inv(covariance(prior.errors, DAYS))
    ridge = np.diag([0.0, rate.sd**-2 if rate else 0.0])
    pulled = ridge @ np.array([0.0, rate.mean if rate else 0.0])
    fits = fit(problem, sizes, search=search_of(8, 2, 60))
    for b in range(5):
        log_size, row[0] = np.linalg.solve(
            design.T @ inverse @ design + ridge, design.T @ inverse @ np.log(sizes[b]) + pulled
        )
        assert fits.rows[b, 0] == pytest.approx(row[0], rel=1e-5)
        assert fits.rows[b, 7] == pytest.approx(np.exp(log_size), rel=1e-5)


@pytest.mark.parametrize("weights", [None, np.array([[3.0, 1.0, 1.0, 0.0] * 3])], ids=["equal", "cases"])
def test_exponential_growth_is_linear_regression_of_logarithms(weights: Array | None) -> None:
    problem = problem_of(treatment=Treatment(), box={"initial_size": Bound(0.01, 100.0)})
    sizes = noisy(problem, 1)
    fits = fit(problem, sizes, weights, search_of(8, 2, 60))
    root = np.sqrt(np.ones(DAYS.size) if weights is None else weights[0])
    slope, intercept = np.polyfit(DAYS, np.log(sizes[0]), 1, w=root)
    np.testing.assert_allclose(fits.rows[0, [0, 7]], [slope, np.exp(intercept)], rtol=1e-6)
