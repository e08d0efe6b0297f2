"""Forecasts from fewer scans than there are, and their tables."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorcast.growth.forecast import LEVELS
from tumorcast.growth.heldout import forecast_scan, scores
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.scan_count import forecast_from_fewer, scan_count_tables, write_scan_counts
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, RadiotherapyCourse, SizeSeries, Treatment

QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
DAYS = np.array([0.0, 60.0, 130.0, 180.0, 300.0])
TREATED = Treatment((RadiotherapyCourse(-60.0, -20.0), RadiotherapyCourse(170.0, 190.0)))
PERSISTENCE = GrowthModel(QUICK, Forecaster.PERSISTENCE, fixed_prior(shipped_prior()))


def series(sizes: list[float]) -> SizeSeries:
    return SizeSeries("P", "enhancing_mm3", DAYS[: len(sizes)], np.array(sizes), TREATED)


def test_the_study_forecasts_from_fewer_scans(tmp_path: Path) -> None:
    measured = series([9000.0, 12_000, 7000, 8000, 20_000])
    forecasts = forecast_from_fewer(PERSISTENCE, measured)
    assert [(one.day, one.scans_given) for one in forecasts] == [
        (day, given) for place, day in enumerate(DAYS) for given in range(1, place + 1)
    ]
    alone = forecast_scan(PERSISTENCE, replace(measured.part(2, 5)), 1)
    same = next(one for one in forecasts if one.day == 180.0 and one.scans_given == 1)
    np.testing.assert_array_equal(same.log_quantiles, alone.log_quantiles)
    tables = scan_count_tables(forecasts)
    assert [row["scans_given"] for row in tables["all targets"]] == [1, 2, 3, 4]
    assert [row["scans_scored"] for row in tables["all targets"]] == [4, 3, 2, 1]
    assert [row["scans_scored"] for row in tables["targets with 3 scans before them"]] == [2, 2, 2]
    write_scan_counts(tmp_path, tables)
    with (tmp_path / "min_scans.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = next(row for row in tables["all targets"] if row["scans_given"] == 1)
    from_one = [one for one in forecasts if one.scans_given == 1]
    assert first["crps"] == scores(from_one)["crps"]
    errors = [abs(np.interp(0.5, LEVELS, one.log_quantiles) - one.truth) for one in from_one]
    assert first["median_error"] == pytest.approx(np.median(errors))
    assert len(rows) == sum(len(table) for table in tables.values()) and {row["table"] for row in rows} == set(tables)


def test_a_study_of_nothing(tmp_path: Path) -> None:
    write_scan_counts(tmp_path, scan_count_tables([]))
    (header,) = (tmp_path / "min_scans.csv").read_text().splitlines()
    assert header.startswith("table,scans_given,spacing,scans_scored,crps,") and header.endswith(",median_error")


def test_spacing_is_told_by_its_irregularity() -> None:
    uneven = replace(series([9000.0] * 4), days=np.array([0.0, 10.0, 100.0, 300.0]))
    regular = replace(uneven, patient_id="R", days=np.array([0.0, 50.0, 100.0, 150.0]))
    forecasts = [forecast for one in (uneven, regular) for forecast in forecast_from_fewer(PERSISTENCE, one)]
    rows = scan_count_tables(forecasts)["spacing"]
    assert [(row["spacing"], row["scans_scored"]) for row in rows] == [("regular", 2), ("irregular", 2)]
