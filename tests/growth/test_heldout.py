"""Forecasts of scans that were held out: made from the past alone, and scored as defined."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorcast.growth.forecast import LEVELS
from tumorcast.growth.heldout import HeldOut, forecast_held_out, forecast_scan, scores, write_forecasts
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.population.history import History, to_log
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, RadiotherapyCourse, SizeSeries, Treatment

QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
DAYS = np.array([0.0, 60.0, 130.0, 180.0, 300.0])
TREATED = Treatment((RadiotherapyCourse(-60.0, -20.0), RadiotherapyCourse(170.0, 190.0)))


def model(forecaster: Forecaster = Forecaster.POOLED) -> GrowthModel:
    return GrowthModel(QUICK, forecaster, fixed_prior(shipped_prior()))


def series(sizes: list[float], companion: list[float] | None = None) -> SizeSeries:
    measured = None if companion is None else np.array(companion)
    return SizeSeries("P", "enhancing_mm3", DAYS[: len(sizes)], np.array(sizes), TREATED, measured)


@pytest.mark.parametrize(
    ("which", "scans", "targets"),
    [("rolling", 5, [2, 3, 4]), ("rolling", 2, []), ("last", 5, [4]), ("last", 2, [1]), ("last", 1, [])],
)
def test_which_scans_are_held_out(which: str, scans: int, targets: list[int]) -> None:
    assert list(HeldOut(which).counts(scans)) == targets


@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_a_forecast_knows_nothing_of_what_came_later(forecaster: Forecaster) -> None:
    one = series([9000.0, 12_000, 7000, 8000, 20_000], [30_000.0, 40_000, 50_000, 20_000, np.nan])
    other = series([9000.0, 12_000, 7000, 500, 90_000], [30_000.0, 40_000, 50_000, 9.0, 7.0])
    first, second = (forecast_scan(model(forecaster), measured, 3) for measured in (one, other))
    np.testing.assert_array_equal(first.log_quantiles, second.log_quantiles)
    np.testing.assert_array_equal(first.persistence_log_quantiles, second.persistence_log_quantiles)
    assert (first.observed, second.observed, first.persistence) == (8000.0, 500.0, 7000.0)
    assert (first.scans_given, first.day) == (3, 180.0)


def test_what_is_planned_after_the_last_scan_is_known() -> None:
    """A course to come is part of what is given: the law foresees it, and others see what was begun."""
    measured = series([9000.0, 12_000, 14_000, 15_000])
    planned, not_planned = (
        replace(measured, treatment=Treatment(courses)) for courses in ((RadiotherapyCourse(135.0, 140.0),), ())
    )
    first, second = (forecast_scan(model(Forecaster.MECHANISTIC), one, 3) for one in (planned, not_planned))
    assert not np.array_equal(first.log_quantiles, second.log_quantiles)
    np.testing.assert_array_equal(first.persistence_log_quantiles, second.persistence_log_quantiles)


def test_sudden_drops_to_come_are_not_seen() -> None:
    one, other = series([9000.0, 12_000, 13_000, 100.0]), series([9000.0, 12_000, 13_000, 13_000.0])
    first, second = (forecast_scan(model(Forecaster.MECHANISTIC), measured, 3) for measured in (one, other))
    np.testing.assert_array_equal(first.log_quantiles, second.log_quantiles)


@pytest.mark.parametrize("forecaster", list(Forecaster))
@pytest.mark.parametrize("shift", [-1000.0, 700.0])
def test_the_zero_of_days_changes_nothing(forecaster: Forecaster, shift: float) -> None:
    measured = series([9000.0, 12_000, 1000, 8000], [30_000.0, 40_000, 50_000, 20_000])
    courses = tuple(
        RadiotherapyCourse(course.start_days + shift, course.end_days + shift) for course in TREATED.radiotherapy
    )
    moved = replace(measured, days=measured.days + shift, treatment=Treatment(courses))
    here, there = (forecast_scan(model(forecaster), one, 3) for one in (measured, moved))
    np.testing.assert_allclose(there.log_quantiles, here.log_quantiles, rtol=1e-7)
    assert (there.scans_given, there.irregularity, there.day) == (3, pytest.approx(here.irregularity), here.day + shift)


def test_a_companion_is_looked_at() -> None:
    plain = forecast_scan(model(), series([9000.0, 12_000, 7000]), 2)
    swollen = forecast_scan(model(), series([9000.0, 12_000, 7000], [9000.0, 900_000, 1.0]), 2)
    assert np.median(swollen.log_quantiles) > np.median(plain.log_quantiles)


def test_scores_are_what_they_are_called() -> None:
    forecasts = forecast_held_out(model(), series([9000.0, 12_000, 7000, 8000, 20_000]), HeldOut.ROLLING)
    figures = scores(forecasts)
    truth = to_log(np.array([7000.0, 8000, 20_000]), "enhancing_mm3")
    errors = truth[:, None] - np.stack([one.log_quantiles for one in forecasts])
    crps = 2 * np.mean(np.maximum(LEVELS * errors, (LEVELS - 1) * errors))
    assert figures["scans_scored"] == 3 and figures["crps"] == pytest.approx(crps)
    last = to_log(np.array([12_000.0, 7000, 8000]), "enhancing_mm3")
    assert figures["mae_persistence"] == pytest.approx(np.abs(truth - last).mean(), abs=1e-6)
    inside = [one.quantiles(np.array([0.05, 0.95])) for one in forecasts]
    held = [low <= size <= high for (low, high), size in zip(inside, [7000, 8000, 20_000], strict=True)]
    assert figures["coverage90"] == pytest.approx(np.mean(held))


@pytest.mark.parametrize("forecaster", [Forecaster.POOLED, Forecaster.COMBINED, Forecaster.PERSISTENCE])
def test_neither_side_is_scored_for_less_than_nothing(forecaster: Forecaster) -> None:
    """No scan can measure less than 0 mm³, so quantiles below it must not cost a forecast anything."""
    measured = series([9000.0, 300, 0, 0])
    forecasts = forecast_held_out(model(forecaster), measured, HeldOut.ROLLING)
    figures, prior = scores(forecasts), shipped_prior().for_size("enhancing_mm3")
    sides = [np.stack([one.log_quantiles for one in forecasts])]
    sides.append(
        np.stack([one.persistence_log_quantiles for one in forecasts if one.persistence_log_quantiles is not None])
    )
    floor = to_log(np.array(0.0), "enhancing_mm3")
    assert [side.min() for side in sides] == [floor, floor]
    raw = [prior.persistence.quantiles(History.of(measured.part(0, scan)), 50.0, LEVELS) for scan in (2, 3)]
    assert np.min(raw) < floor - 1
    np.testing.assert_allclose(sides[1], np.maximum(raw, floor))
    excess = np.stack([sides[1], sides[0]]) - floor  # truth is the floor: the score of what lies above it
    persistence, own = (2 * np.mean((1 - LEVELS) * side) for side in excess)
    assert (figures["crps_persistence"], figures["crps"]) == pytest.approx((persistence, own))


def test_nothing_to_score() -> None:
    figures = scores([])
    assert figures.pop("scans_scored") == 0 and len(figures) == 8 and set(figures.values()) == {None}


def test_without_a_prior_persistence_is_not_calibrated() -> None:
    alone = GrowthModel(QUICK, Forecaster.MECHANISTIC, fixed_prior(None))
    figures = scores(forecast_held_out(alone, series([9000.0, 12_000, 7000, 8000]), HeldOut.ROLLING))
    assert figures["crps"] > 0 and figures["scans_scored"] == 2
    assert all(value is None for name, value in figures.items() if name.endswith("_persistence"))
    json.dumps(figures, allow_nan=False)


def test_the_table_has_a_row_a_forecast(tmp_path: Path) -> None:
    forecasts = forecast_held_out(model(), series([9000.0, 12_000, 0.0, 8000]), HeldOut.ROLLING)
    write_forecasts(tmp_path / "forecasts.csv", forecasts)
    with (tmp_path / "forecasts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    quantiles = [f"q{level:02d}" for level in range(5, 100, 5)]
    assert list(rows[0]) == ["patient_id", "day", "observed", "persistence", "status", *quantiles]
    assert [(row["patient_id"], row["day"], row["observed"], row["persistence"]) for row in rows] == [
        ("P", "130", "0", "12000"),
        ("P", "180", "8000", "0"),
    ]
    for row in rows:
        values = [float(row[name]) for name in quantiles]
        assert values == sorted(values) and values[0] >= 0
