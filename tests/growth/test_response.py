"""RANO from courses of sizes that are made by hand, and days gained on exact laws."""

from dataclasses import replace

import numpy as np
import pytest

from tumorcast.growth.answers import PatientAnswers
from tumorcast.growth.days_gained import DaysGained, days_gained, untreated_days
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.laws import (
    UNTREATED,
    Exponential,
    Gompertz,
    GrowthLaw,
    Logistic,
    Response,
    name_of,
    parameter_names,
    row_of,
)
from tumorcast.growth.laws import size_after as untreated_size
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.response import (
    Reference,
    TimeToProgression,
    baseline_scan,
    first_passage,
    outlook_of,
    outlooks,
    reference_of,
    time_quantiles,
    visits,
)
from tumorcast.growth.settings import FitSettings
from tumorcast.records import FitStatus, Forecaster, GrowthFit, RadiotherapyCourse, SizeSeries, Treatment

COURSE = RadiotherapyCourse(10.0, 52.0)


def series(sizes: list[float], name: str = "volume_mm3", treatment: Treatment = UNTREATED) -> SizeSeries:
    return SizeSeries("P", name, 60.0 * np.arange(len(sizes)), np.array(sizes), treatment)


def of(*sizes: float) -> np.ndarray:
    return np.array(sizes)


@pytest.mark.parametrize(("name", "least", "most"), [("volume_mm3", 1400.0, 700.0), ("area_mm2", 1250.0, 1000.0)])
def test_a_threshold_is_reached_at_equality(name: str, least: float, most: float) -> None:
    """Nadir 1000; baseline 2000. At 25 or 40 % more it has progressed, at 50 or 65 % less responded, and not before."""
    reference = Reference.of(series([2000.0, 1000.0], name))
    assert reference.progressed(of(least * 0.999, least, least * 1.001)).tolist() == [False, True, True]
    assert reference.responded(of(most * 0.999, most, most * 1.001)).tolist() == [True, True, False]


def test_a_threshold_is_reached_at_equality_whatever_the_rounding() -> None:
    """In floating point 1.4 times a nadir may be a little over the threshold, 0.35 times a baseline a little under."""
    assert 1.4 * 1039.9 > 1455.86 and Reference.of(series([1039.9])).progressed(of(1455.86)).all()
    assert 0.35 * 2600.0 < 910.0 and Reference.of(series([2600.0])).responded(of(910.0)).all()


def test_progression_over_the_nadir_is_no_response_however_small() -> None:
    reference = Reference.of(series([9000.0, 1000.0]))
    assert reference.progressed(of(1500.0)).all() and 1500.0 < 0.35 * 9000.0
    assert not reference.responded(of(1500.0)).any() and reference.responded(of(1300.0)).all()


def test_after_nothing_what_is_not_measurable_is_no_progression() -> None:
    """A nadir of 0 times 1.4 is 0, and 0 has not grown; a sphere of 10 mm has."""
    reference = Reference.of(series([8000.0, 0.0]))
    assert reference.progressed(of(0.0, 500.0, 524.0)).tolist() == [False, False, True]
    assert reference.complete(of(0.0, 99.0, 100.0)).tolist() == [True, True, False]


def test_of_a_baseline_that_was_not_measurable_there_is_no_response() -> None:
    reference = Reference.of(series([300.0, 200.0]))
    assert not reference.responded(of(0.0, 50.0)).any() and not reference.complete(of(0.0)).any()
    assert reference.nothing_left(of(0.0)).all()


def test_sizes_in_another_unit_are_compared_with_what_was_seen() -> None:
    """A hundredth of the largest takes the place of 10 mm."""
    reference = Reference.of(series([500.0, 0.0], "voxels"))
    assert reference.progressed(of(4.0, 5.0)).tolist() == [False, True] and reference.complete(of(4.0)).all()


@pytest.mark.parametrize(
    ("treatment", "scan"),
    [
        (Treatment(), 0),
        (Treatment((COURSE,)), 1),  # ends on day 52; scans on days 0, 60, 120, 180
        (Treatment((RadiotherapyCourse(80.0, 120.0),)), 2),  # a scan on its last day is after it
        (Treatment(resection_days=(60.0,)), 2),  # one on the day of the operation is before it
        (Treatment((COURSE,), resection_days=(130.0,)), 3),
        (Treatment((COURSE, RadiotherapyCourse(170.0, 210.0))), 1),  # no scan follows the second yet
        (Treatment(resection_days=(500.0,)), 0),
    ],
)
def test_the_baseline_follows_the_last_course_or_resection(treatment: Treatment, scan: int) -> None:
    sizes = [9000.0, 4000.0, 3000.0, 2000.0]
    assert baseline_scan(series(sizes, treatment=treatment)) == scan
    assert Reference.of(series(sizes, treatment=treatment)).baseline == sizes[scan]


def test_a_resection_that_was_inferred_makes_no_baseline() -> None:
    operated = Treatment(resection_days=(30.0, 90.0))
    fit = exact_fit(LAWS[0], [0.0, 60.0, 120.0], [9000.0, 5000.0, 700.0], operated)
    assert reference_of(fit).baseline == 700.0
    assert reference_of(replace(fit, inferred_resections=(90.0,))).baseline == 5000.0


def test_the_nadir_is_the_least_since_the_baseline() -> None:
    """What was smaller before the baseline does not count."""
    treated = Treatment((RadiotherapyCourse(61.0, 100.0),))
    reference = Reference.of(series([600.0, 700.0, 5000.0, 6000.0], treatment=treated))
    assert (reference.baseline, reference.baseline_day, reference.nadir) == (5000.0, 120.0, 5000.0)


def test_without_a_scan_there_is_no_reference() -> None:
    with pytest.raises(ValueError, match="no scan is known"):
        Reference.of(series([]))


def test_first_passage_is_over_the_least_size_seen_on_the_way() -> None:
    """3000 is not 40 % over the known nadir of 3000; after a visit at 2000 it is."""
    reference, days = Reference.of(series([3000.0])), of(30.0, 60.0, 90.0)
    paths = np.array(
        [
            [3000.0, 3000.0, 3000.0],
            [2000.0, 3000.0, 3000.0],
            [4200.0, 0.0, 0.0],
            [0.0, 0.0, 600.0],
            [3500.0, 4199.0, 9e9],
        ]
    )
    assert first_passage(paths, days, reference).tolist() == [np.inf, 60.0, 30.0, 90.0, 90.0]


def test_an_outlook_counts_courses() -> None:
    reference, days = Reference.of(series([3000.0])), of(30.0, 60.0)
    paths = np.array([[5000.0, 3000.0], [3000.0, 5000.0], [2000.0, 1000.0], [3000.0, 0.0]])
    found = outlook_of(paths, days, reference, exceeds=3000.0)
    assert (found.horizon_days, found.progression_by, found.progression_at) == (60.0, 0.5, 0.25)
    assert (found.response, found.complete, found.nothing_left) == (0.5, 0.25, 0.25)
    assert (found.exceeds_by, found.exceeds_at) == (0.5, 0.25)
    assert found.sizes[1] == 2000.0 and outlook_of(paths, days, reference).exceeds_at is None


def test_a_time_beyond_the_horizon_is_censored() -> None:
    """Half of the courses progress: the median is known, the upper end is not."""
    times = of(30.0, 60.0, np.inf, np.inf)
    found = TimeToProgression.of(times, 180.0)
    assert (found.median, found.interval_90, found.never) == (60.0, (30.0, np.inf), 0.5)
    assert [found.told(day) for day in found.interval_90] == ["30", ">180"]
    assert time_quantiles(of(np.inf, np.inf), [0.05]) == (np.inf,)


def test_visits_end_with_the_horizon_and_name_no_day_twice() -> None:
    assert visits(60.0).tolist() == [30.0, 60.0] and visits(61.0).tolist() == [30.0, 60.0, 61.0]


def real_forecast(forecaster: Forecaster) -> GrowthForecast:
    known = series([9000.0, 4000.0, 5000.0], "enhancing_mm3", Treatment((COURSE,)))
    prior, settings = shipped_prior().for_size("enhancing_mm3"), FitSettings(replicates=50)
    return GrowthForecast(fit_growth(known, settings, prior.law_for(settings.law, known.size_name)), prior, forecaster)


@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_a_forecast_answers_for_every_horizon_alike(forecaster: Forecaster) -> None:
    """Probabilities are consistent with one another, and those at a day with the forecaster's own distribution."""
    forecast = real_forecast(forecaster)
    found, time = outlooks(forecast, [45.0, 180.0], exceeds=5600.0)
    for outlook in found:
        assert outlook.progression_by >= outlook.progression_at and outlook.response >= outlook.complete
        assert outlook.exceeds_at is not None and outlook.exceeds_by is not None
        assert outlook.exceeds_by >= outlook.exceeds_at == pytest.approx(outlook.progression_at, abs=1e-9)  # 1.4 × 4000
    assert found[0].progression_by <= found[1].progression_by == pytest.approx(1 - time.never)
    if forecaster is not Forecaster.MECHANISTIC:  # whose quantiles hold errors of measurement, and its courses none
        levels = np.array([0.05, 0.5, 0.95])
        np.testing.assert_allclose(found[1].sizes, forecast.predicted(120.0 + 180.0, levels), rtol=0.1)


@pytest.mark.parametrize("horizons", [[], [0.0], [30.0, np.inf], [-1.0]])
def test_horizons_that_cannot_be(horizons: list[float]) -> None:
    with pytest.raises(ValueError, match="each positive and finite"):
        outlooks(real_forecast(Forecaster.MECHANISTIC), horizons)


KILLED = Response(decay_rate_per_day=0.05, delay_days=20.0, slope_per_day=0.1, survival=0.2)
LAWS = [Exponential(0.01, KILLED), Logistic(0.02, 20.0, KILLED), Gompertz(0.02, 30.0, KILLED)]


def exact_fit(law: GrowthLaw, days: list[float], sizes: list[float], treatment: Treatment) -> GrowthFit:
    """A fit whose three replicates are the law itself."""
    row = row_of(law, sizes[0])
    return GrowthFit(
        series=SizeSeries("P", "volume_mm3", np.array(days), np.array(sizes), treatment),
        law=name_of(law),
        parameter_names=parameter_names(0),
        parameters=row,
        replicates=np.tile(row, (3, 1)),
        replicate_status=np.zeros(3, dtype=np.uint8),
        loss=0.0,
        loss_name="log_squares",
        status=FitStatus.CONVERGED,
        origin_day=days[0],
        deviations=np.zeros(3),
    )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("untreated_day", [-15.0, 25.0, 90.0])
def test_days_gained_are_those_by_which_the_untreated_law_was_earlier(law: GrowthLaw, untreated_day: float) -> None:
    """Measured on day 120: the size that the law, never treated, has on another day; also one before the scan at 20."""
    days = [0.0, 20.0, 120.0]
    before, later = (float(untreated_size(law, np.array([day]), 1000.0)[0]) for day in (20.0, untreated_day))
    treated = Treatment((RadiotherapyCourse(30.0, 72.0),))
    found = days_gained(exact_fit(law, days, [1000.0, before, later], treated))
    np.testing.assert_allclose(found.values, 120.0 - untreated_day, rtol=1e-6)
    assert found.quantiles([0.5]) == pytest.approx((120.0 - untreated_day,)) and found.reason == ""


def test_a_course_without_effect_gains_nothing() -> None:
    """The scans are the untreated law's own."""
    law, days = LAWS[1], [0.0, 100.0]
    sizes = untreated_size(law, np.array(days), 500.0).tolist()
    found = days_gained(exact_fit(law, days, sizes, Treatment((COURSE,))))
    np.testing.assert_allclose(found.values, 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("days", "sizes", "treatment", "reason"),
    [
        ([0.0, 90.0], [100.0, 200.0], Treatment(), "no course"),
        ([20.0, 90.0], [100.0, 200.0], Treatment((COURSE,)), "no scan before"),
        ([0.0, 50.0], [100.0, 200.0], Treatment((COURSE,)), "no scan after"),
        ([0.0, 90.0], [100.0, 0.0], Treatment((COURSE,)), "nothing was seen"),
    ],
)
def test_why_days_gained_are_not_known(
    days: list[float], sizes: list[float], treatment: Treatment, reason: str
) -> None:
    found = days_gained(exact_fit(LAWS[0], days, sizes, treatment))
    assert found.quantiles([0.5]) is None and reason in found.reason


def test_replicates_that_never_reach_the_size_have_no_days() -> None:
    """One of three does not grow: two tell. Two do not: nothing is known. Past its capacity a law never comes."""
    fit = exact_fit(LAWS[0], [0.0, 90.0], [100.0, 200.0], Treatment((COURSE,)))
    slow = fit.replicates.copy()
    slow[0, 0] = -0.001
    found = days_gained(replace(fit, replicates=slow))
    assert (found.values.size, found.replicates) == (2, 3)
    slow[1, 0] = 0.0
    assert "hardly grows" in days_gained(replace(fit, replicates=slow)).reason
    for law in LAWS[1:]:
        saturating = exact_fit(law, [0.0, 90.0], [100.0, 200.0], Treatment((COURSE,)))
        assert not np.isfinite(untreated_days(saturating, 0.0, 50.0)).any()


def test_a_row_tells_what_is_not_known_by_an_empty_cell() -> None:
    reference, days = Reference.of(series([3000.0])), of(30.0)
    outlook = outlook_of(of(3000.0, 9000.0)[:, None], days, reference)
    time = TimeToProgression.of(of(30.0, np.inf), 30.0)
    answers = PatientAnswers("P", reference, (outlook,), time, DaysGained(np.zeros(0), 3, "no course"))
    (row,) = answers.rows()
    assert row[:9] == ["P", "30", "0.5", "0.5", "0", "0", "0", "", ""]
    assert row[12:] == ["30", "30", "30", ">30", ">30", "0.5", "", "", "", "no course", "0", "3000", "3000"]
