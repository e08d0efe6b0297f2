"""Forecasts of scans that were held out: made from the past alone, and scored as told."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorcast.growth.equivalents import to_log
from tumorcast.growth.forecast import LEVELS
from tumorcast.growth.heldout import HeldOut, forecast_held_out, forecast_scan, scores, write_forecasts
from tumorcast.growth.model import GrowthModel, fixed
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.growth.study import forecast_from_fewer, study_tables, write_study
from tumorcast.records import Forecaster, RadiotherapyCourse, SizeSeries, Treatment

QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
DAYS = np.array([0.0, 60.0, 130.0, 180.0, 300.0])
TREATED = Treatment((RadiotherapyCourse(-60.0, -20.0), RadiotherapyCourse(170.0, 190.0)))


def model(forecaster: Forecaster = Forecaster.POOLED) -> GrowthModel:
    return GrowthModel(QUICK, forecaster, fixed(shipped_prior()))


def series(sizes: list[float], companion: list[float] | None = None) -> SizeSeries:
    told = None if companion is None else np.array(companion)
    return SizeSeries("P", "enhancing_mm3", DAYS[: len(sizes)], np.array(sizes), TREATED, told)


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
    first, second = (forecast_scan(model(forecaster), told, 3) for told in (one, other))
    np.testing.assert_array_equal(first.said, second.said)
    np.testing.assert_array_equal(first.persisted, second.persisted)
    assert (first.observed, second.observed, first.persistence) == (8000.0, 500.0, 7000.0)
    assert (first.given, first.day) == (3, 180.0)


def test_a_companion_is_looked_at() -> None:
    plain = forecast_scan(model(), series([9000.0, 12_000, 7000]), 2)
    swollen = forecast_scan(model(), series([9000.0, 12_000, 7000], [9000.0, 90_000, 1.0]), 2)
    assert np.median(swollen.said) > np.median(plain.said)


def test_scores_are_what_they_are_called() -> None:
    forecasts = forecast_held_out(model(), series([9000.0, 12_000, 7000, 8000, 20_000]), HeldOut.ROLLING)
    figures = scores(forecasts)
    truth = to_log(np.array([7000.0, 8000, 20_000]), "enhancing_mm3")
    errors = truth[:, None] - np.stack([one.said for one in forecasts])
    crps = 2 * np.mean(np.maximum(LEVELS * errors, (LEVELS - 1) * errors))
    assert figures["scans_scored"] == 3 and figures["crps"] == pytest.approx(crps)
    last = to_log(np.array([12_000.0, 7000, 8000]), "enhancing_mm3")
    assert figures["mae_persistence"] == pytest.approx(np.abs(truth - last).mean(), abs=1e-6)
    inside = [one.quantiles(np.array([0.05, 0.95])) for one in forecasts]
    held = [low <= size <= high for (low, high), size in zip(inside, [7000, 8000, 20_000], strict=True)]
    assert figures["coverage90"] == pytest.approx(np.mean(held))


def test_nothing_to_score() -> None:
    figures = scores([])
    assert figures["scans_scored"] == 0 and figures["crps"] is None and figures["coverage90"] is None


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


def test_the_study_forecasts_from_fewer_scans(tmp_path: Path) -> None:
    told = series([9000.0, 12_000, 7000, 8000, 20_000])
    forecasts = forecast_from_fewer(model(Forecaster.PERSISTENCE), told)
    assert [(one.day, one.given) for one in forecasts] == [
        (day, given) for place, day in enumerate(DAYS) for given in range(1, place + 1)
    ]
    alone = forecast_scan(model(Forecaster.PERSISTENCE), replace(told.part(2, 5)), 1)
    same = next(one for one in forecasts if one.day == 180.0 and one.given == 1)
    np.testing.assert_array_equal(same.said, alone.said)
    tables = study_tables(forecasts)
    assert [row["scans_given"] for row in tables["all targets"]] == [1, 2, 3, 4]
    assert [row["scans_scored"] for row in tables["all targets"]] == [4, 3, 2, 1]
    assert [row["scans_scored"] for row in tables["targets with 3 scans before them"]] == [2, 2, 2]
    write_study(tmp_path, tables)
    with (tmp_path / "min_scans.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(table) for table in tables.values()) and {row["table"] for row in rows} == set(tables)
