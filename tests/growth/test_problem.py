"""What the kernels are asked: free parameters, bounds, units, priors. tests/kernels/test_least_squares.py has fits."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tumorcast.growth.bootstrap import Noise, latin_hypercube
from tumorcast.growth.laws import CHEMO_RATE, SATURATING_CAPACITY, BoundsPreset
from tumorcast.growth.prior import LawPrior, NormalPrior
from tumorcast.growth.problem import (
    DEPARTED,
    LEAST_OWN_SCALE,
    STATUS_CODES,
    UNDETECTED,
    Fits,
    PatientProblem,
    Sample,
    Search,
    catalogue_of,
    detection_limit,
    run,
)
from tumorcast.records import ChemotherapyCourse, FitStatus, LawName, RadiotherapyCourse, SizeSeries, Treatment

Array = npt.NDArray[np.float64]

DAYS = np.array([0.0, 30.0, 60.0, 100.0, 150.0, 230.0, 300.0])
SIZES = np.array([500.0, 550.0, 700.0, 900.0, 700.0, 600.0, 800.0])
COURSE = RadiotherapyCourse(20.0, 62.0, dose_gy=40.0, fractions=15)
RADIATED_ONCE = Treatment((COURSE,))
RADIATED = ("decay_rate_per_day", "delay_days", "slope_per_day", "survival")
SEARCH = Search(starts=24, scouts=24, finalists=4, max_steps=80)


def problem_of(
    sizes: Array = SIZES,
    *,
    law: LawName = LawName.EXPONENTIAL,
    noise: Noise = Noise.LOGNORMAL,
    bounds: BoundsPreset = BoundsPreset.DEFAULT,
    treatment: Treatment = RADIATED_ONCE,
    days: Array = DAYS,
    name: str = "area_mm2",
    **settings: Any,
) -> PatientProblem:
    return PatientProblem(SizeSeries("P1", name, days, sizes, treatment), law, bounds, noise, **settings)


def fit(problem: PatientProblem, sizes: Array) -> Fits:
    starts = latin_hypercube(np.random.default_rng(0), SEARCH.starts, problem.free.size)
    centres = np.tile(problem.prior_on_coordinates[0], (len(sizes), 1))
    return run(problem, SEARCH, catalogue_of(problem, starts), Sample(sizes, np.ones_like(sizes), centres))


def noisy(count: int, sizes: Array = SIZES) -> Array:
    return sizes * np.exp(np.random.default_rng(1).normal(0.0, 0.1, (count, sizes.size)))


# What is fitted.


def free_names(problem: PatientProblem) -> tuple[str, ...]:
    return tuple(problem.names[j] for j in problem.free)


LATER, UNSEEN = Treatment((RadiotherapyCourse(100.0, 142.0),)), Treatment((RadiotherapyCourse(300.0, 342.0),))
MEDICATED = Treatment(chemotherapy=(ChemotherapyCourse(10.0, 50.0),))


@pytest.mark.parametrize(
    ("settings", "free"),
    [
        ({"treatment": Treatment()}, ("rate_per_day",)),
        ({}, ("rate_per_day", *RADIATED)),
        ({"treatment": LATER}, ("rate_per_day", *RADIATED)),
        ({"treatment": UNSEEN}, ("rate_per_day",)),  # it starts on the day of the last scan
        ({"treatment": MEDICATED}, ("rate_per_day",)),
        ({"treatment": MEDICATED, "chemotherapy": True}, ("rate_per_day", "chemo_rate_per_day")),
        ({"treatment": Treatment(), "chemotherapy": True}, ("rate_per_day",)),
        ({"treatment": Treatment(), "law": LawName.LOGISTIC}, ("rate_per_day", "capacity_ratio")),
        ({"law": LawName.GOMPERTZ}, ("rate_per_day", *RADIATED, "capacity_ratio")),
        ({"treatment": Treatment(resection_days=(40.0, 200.0))}, ("rate_per_day", "residual_1", "residual_2")),
    ],
    ids=str,
)
@pytest.mark.parametrize("bounds", BoundsPreset)
def test_what_no_scan_informs_is_fixed(bounds: BoundsPreset, settings: dict[str, Any], free: tuple[str, ...]) -> None:
    problem = problem_of(bounds=bounds, **settings)
    assert free_names(problem) == (*free, "initial_size")  # A0 last: the kernels solve for it
    assert len(problem.columns) == len(problem.names)


def test_fixed_parameters_keep_their_value_in_a_fit() -> None:
    problem = problem_of(treatment=UNSEEN)
    rows = fit(problem, noisy(3)).rows
    for j in np.setdiff1d(np.arange(len(problem.names)), problem.free):
        assert set(rows[:, j]) == {problem.columns[j].lower}


def test_an_untreated_tumour_has_no_survivors_to_tell() -> None:
    assert problem_of(treatment=Treatment()).columns[4] == (1.0, 1.0)


def test_bounds_are_the_presets() -> None:
    problem = problem_of(
        law=LawName.LOGISTIC, treatment=Treatment((COURSE,), MEDICATED.chemotherapy), chemotherapy=True
    )
    columns = dict(zip(problem.names, problem.columns, strict=True))
    measured = BoundsPreset.DEFAULT.of(LawName.LOGISTIC)
    assert all(columns[name] == getattr(measured, name) for name in ("rate_per_day", *RADIATED))
    assert (columns["capacity_ratio"], columns["chemo_rate_per_day"]) == (SATURATING_CAPACITY, CHEMO_RATE)


# A0.


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("bounds", BoundsPreset)
def test_the_first_size_bounds_the_initial_one(bounds: BoundsPreset, noise: Noise) -> None:
    bound = problem_of(bounds=bounds, noise=noise).columns[7]
    np.testing.assert_allclose(bound, bounds.of(LawName.EXPONENTIAL).initial_size, rtol=1e-15)


def test_where_nothing_was_seen_at_first_the_initial_size_is_below_the_first_positive_one() -> None:
    sizes = np.array([0.0, 0.0, 200.0, 300.0, 400.0, 500.0, 600.0])
    for noise in (Noise.ADDITIVE, Noise.PAPER):
        problem = problem_of(sizes, noise=noise)
        assert problem.scale == 200.0 and problem.columns[7] == UNDETECTED
    measured = BoundsPreset.DEFAULT.of(LawName.EXPONENTIAL).initial_size  # of logarithms round the detection limit
    np.testing.assert_allclose(problem_of(sizes).columns[7], np.array(measured) * 20.0 / 200.0)


def test_where_sizes_may_depart_from_the_law_the_first_may_too() -> None:
    np.testing.assert_allclose(problem_of(prior=prior_of({})).columns[7], DEPARTED)


def test_scale_of_no_tumour_at_all_is_one() -> None:
    assert problem_of(np.zeros(7)).scale == 1.0


# Days.


def test_sizes_count_from_the_first_scan_and_in_the_papers_code_from_radiotherapy() -> None:
    before = Treatment((RadiotherapyCourse(-50.0, -8.0),))
    assert problem_of(treatment=before).origin_day == 0.0
    assert problem_of(treatment=before, bounds=BoundsPreset.PAPER).origin_day == -50.0
    assert problem_of(bounds=BoundsPreset.PAPER, days=DAYS + 3.0).origin_day == 3.0
    assert problem_of(days=DAYS + 3.0).origin_day == 3.0


def test_the_papers_code_knows_no_doses() -> None:
    weights = {bounds: problem_of(bounds=bounds).timeline.values for bounds in BoundsPreset}
    assert set(weights[BoundsPreset.PAPER]) == {1.0}
    assert min(weights[BoundsPreset.DEFAULT]) == pytest.approx(0.704, abs=1e-3)


# Sizes.


@pytest.mark.parametrize(
    ("name", "limit"), [("volume_mm3", 100.0), ("area_mm2", 20.0), ("diameter_cm", 9.0), ("size", 9.0)]
)
def test_detection_limit_is_that_of_the_unit(name: str, limit: float) -> None:
    assert detection_limit(SizeSeries("P1", name, DAYS, SIZES)) == pytest.approx(limit)


def test_detection_limit_of_nothing_is_positive() -> None:
    assert detection_limit(SizeSeries("P1", "diameter_cm", DAYS[:2], np.zeros(2))) == 1.0


def test_logarithms_are_of_no_size_below_the_limit() -> None:
    sizes = np.array([[500.0, 0.0, 1e-9, 20.0, 19.0, 1000.0, 500.0]])
    seen = np.exp(problem_of().observed(sizes)) * 500.0
    np.testing.assert_allclose(seen, [[500.0, 20.0, 20.0, 20.0, 20.0, 1000.0, 500.0]])


def test_differences_are_of_sizes_over_the_first_and_the_papers_over_its_own_first() -> None:
    sizes = np.array([[500.0, 0.0, 50.0], [400.0, 800.0, 40.0], [1.0, 50.0, 100.0]])
    additive, paper = (problem_of(SIZES[:3], days=DAYS[:3], noise=noise) for noise in (Noise.ADDITIVE, Noise.PAPER))
    np.testing.assert_allclose(additive.observed(sizes), sizes / 500.0)
    least = LEAST_OWN_SCALE * 500.0  # a first size of almost nothing would make the others vast
    np.testing.assert_allclose(paper.observed(sizes), sizes / np.array([[500.0], [400.0], [least]]))


# Coordinates.


@pytest.mark.parametrize("law", LawName)
def test_coordinates_go_from_bound_to_bound(law: LawName) -> None:
    problem = problem_of(law=law)
    lower, upper = np.array(problem.columns).T
    lower[7], upper[7] = lower[7] * 500.0, upper[7] * 500.0
    positive = lower > 0
    middle = np.where(positive, np.sqrt(np.where(positive, lower, 0.0) * upper), (lower + upper) / 2)
    units = problem.coordinates(np.array([lower, middle, upper, lower - 0.5 * abs(lower), upper * 2.0]))
    np.testing.assert_allclose(units, np.repeat([[0.0], [0.5], [1.0], [0.0], [1.0]], problem.free.size, 1), atol=1e-12)


@pytest.mark.parametrize("law", LawName)
def test_a_start_at_the_coordinates_of_a_fit_is_as_good_at_once(law: LawName) -> None:
    problem = problem_of(law=law)
    fits = fit(problem, noisy(4))
    starts = catalogue_of(problem, problem.coordinates(fits.rows))
    sample = Sample(noisy(4), np.ones((4, 7)), np.tile(problem.prior_on_coordinates[0], (4, 1)))
    again = run(problem, replace(SEARCH, max_steps=0), starts, sample)
    assert np.all(again.losses <= fits.losses * (1 + 1e-9))


# Priors.


def prior_of(parameters: dict[str, NormalPrior]) -> LawPrior:
    return LawPrior(
        law=LawName.EXPONENTIAL, parameters=parameters, measurement_sd=0.1, departure_sd=0.2, departure_days=60.0
    )


def test_a_prior_is_told_in_coordinates() -> None:
    measured = {
        "rate_per_day": NormalPrior(mean=0.01, sd=0.002, log=False),
        "survival": NormalPrior(mean=np.log(0.1), sd=0.7, log=True),
    }
    problem = problem_of(prior=prior_of(measured))
    centre, precision = (dict(zip(free_names(problem), values, strict=True)) for values in problem.prior_on_coordinates)
    width = np.log(0.95 / 0.001)
    assert centre["rate_per_day"] == pytest.approx(0.03 / 0.22)
    assert precision["rate_per_day"] == pytest.approx((0.22 / 0.002) ** 2)
    assert centre["survival"] == pytest.approx(np.log(0.1 / 0.001) / width)
    assert precision["survival"] == pytest.approx((width / 0.7) ** 2)
    assert [precision[name] for name in ("delay_days", "slope_per_day", "initial_size")] == [0.0] * 3


def test_a_prior_of_what_is_not_fitted_is_not_asked() -> None:
    measured = {"survival": NormalPrior(mean=np.log(0.1), sd=0.7, log=True)}
    assert not np.any(problem_of(treatment=Treatment(), prior=prior_of(measured)).prior_on_coordinates[1])


def test_without_a_prior_nothing_is_drawn_anywhere() -> None:
    centre, precision = problem_of().prior_on_coordinates
    assert centre.tolist() == [0.5] * 6 and precision.tolist() == [0.0] * 6


# What a fit does not depend on.


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("law", LawName)
def test_the_unit_of_size_only_scales_the_initial_size(law: LawName, noise: Noise) -> None:
    here = fit(problem_of(law=law, noise=noise), noisy(4))
    there = fit(problem_of(SIZES * 16.0, law=law, noise=noise), noisy(4) * 16.0)  # a power of 2 rounds nothing
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-4)
    np.testing.assert_allclose(there.rows[:, 7], 16.0 * here.rows[:, 7], rtol=1e-3)


@pytest.mark.parametrize("law", LawName)
def test_days_may_count_from_any_zero(law: LawName) -> None:
    moved = Treatment((RadiotherapyCourse(20.0 + 1024.0, 62.0 + 1024.0, 40.0, 15),))
    here = fit(problem_of(law=law), noisy(4))
    there = fit(problem_of(law=law, days=DAYS + 1024.0, treatment=moved), noisy(4))
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-6)


@pytest.mark.parametrize("noise", Noise)
def test_rows_are_in_the_unit_of_the_sizes(noise: Noise) -> None:
    problem = problem_of(noise=noise)
    sizes = np.array([[0.8], [1.0], [1.7]]) * SIZES
    rows = fit(problem, sizes).rows
    assert np.all(np.abs(np.log(problem.sizes(rows) / sizes)) < 0.6)
    np.testing.assert_allclose(problem.sizes(rows)[:, 0], rows[:, 7], rtol=1e-12)  # A0 is the size on the first day


def test_no_replicates_make_no_fits() -> None:
    fits = fit(problem_of(), np.empty((0, 7)))
    assert fits.rows.shape == (0, 8) and fits.losses.shape == fits.statuses.shape == (0,)


def test_statuses_are_places_in_fit_status() -> None:
    assert [tuple(FitStatus)[code] for code in STATUS_CODES.values()] == list(STATUS_CODES)
    fits = fit(problem_of(), noisy(20))
    assert fits.statuses.dtype == np.uint8
    assert {tuple(FitStatus)[code] for code in fits.statuses} <= {*FitStatus} - {FitStatus.TOO_FEW_POINTS}
