"""Forecasts from fewer and from other scans: which are given, and what the tables compare."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tumorcast.cli.experiment import experiment
from tumorcast.evaluation.experiments.run import run_experiment
from tumorcast.evaluation.experiments.scan_count import (
    DRAWS,
    MOST_GIVEN,
    GivenScans,
    ScanCountExperiment,
    answer_of,
    by_choice,
    by_count,
    by_days,
    by_spacing,
    figures_of,
    given_sets,
    scores_of,
    tables_of,
)
from tumorcast.evaluation.experiments.size_methods import SizeData, SizeMethod
from tumorcast.growth.heldout import forecast_scan
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, SizeSeries

QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
MODEL = GrowthModel(QUICK, Forecaster.COMBINED, fixed_prior(shipped_prior()))
SIZES, COMPANION = np.array([9000.0, 12_000, 7000, 14_000, 15_000]), np.array([30_000.0, 40_000, np.nan, 50_000, 1.0])
SERIES = SizeSeries("P", "enhancing_mm3", np.array([0.0, 60.0, 130.0, 180.0, 300.0]), SIZES, companion=COMPANION)


@pytest.mark.parametrize("scans", [2, 3, 5, 9])
def test_which_scans_are_given(scans: int) -> None:
    sets = list(given_sets(scans, "P", 0))
    lasts = [places for kind, places in sets if kind is GivenScans.LAST]
    counts = sorted({*range(1, min(scans, MOST_GIVEN) + 1), scans})
    assert lasts == [tuple(range(scans - count, scans)) for count in counts]
    others = [places for kind, places in sets if kind is not GivenScans.LAST]
    assert len(set(others)) == len(others) and not set(others) & set(lasts)
    for kind, places in sets:
        assert list(places) == sorted(set(places)) and places[0] >= 0 and places[-1] < scans
        assert (places[-1] == scans - 1) == (kind is not GivenScans.OLDER)
    for count in counts[:-1]:
        assert 1 <= sum(len(places) == count for places in others) <= DRAWS


def test_they_are_drawn_by_the_patients_own_key() -> None:
    one, again, other, later = (list(given_sets(6, *key)) for key in (("P", 0), ("P", 0), ("Q", 0), ("P", 1)))
    assert one == again
    assert one not in (other, later)


def test_scans_that_are_not_given_are_not_seen(tmp_path: Path) -> None:
    row = ScanCountExperiment(SizeData([SERIES], {}), MODEL).measure("P", tmp_path)
    (all_given,) = (one for one in row["forecasts"] if one["given"] == 4)
    assert all_given["methods"]["combined"]["median"] == forecast_scan(MODEL, SERIES, 4).quantiles(np.array([0.5]))[0]
    (two,) = (one for one in row["forecasts"] if one["kind"] == "last" and one["given"] == 2)
    assert two["methods"]["combined"]["median"] == forecast_scan(MODEL, SERIES, 4, 2).quantiles(np.array([0.5]))[0]
    assert (two["horizon_days"], two["longest_gap_days"]) == (120.0, 50.0)
    (one,) = (one for one in row["forecasts"] if one["kind"] == "last" and one["given"] == 1)
    assert (one["longest_gap_days"], one["irregularity"]) == (None, None)
    persisted = [one["methods"]["persistence"] for one in row["forecasts"] if one["kind"] != "older"]
    assert all(told == persisted[0] for told in persisted)  # the latest scan is given in all of them
    older = next(one for one in row["forecasts"] if one["kind"] == "older")
    assert older["horizon_days"] == 300.0 - older["days"][-1] > 120.0


def made(kind: str, given: int, crps: float, **told: Any) -> dict[str, Any]:
    figures = {"error": -crps, "crps": crps, "covered": 1.0, "width": 2.0}
    methods = {str(method): figures for method in (SizeMethod.COMBINED, SizeMethod.MECHANISTIC, SizeMethod.PERSISTENCE)}
    plain = {"horizon_days": 50.0, "longest_gap_days": None, "irregularity": None}
    return plain | told | {"kind": kind, "given": given, "methods": methods}


PATIENTS = [
    [
        made("last", 1, 1.0),
        made("last", 2, 0.5, longest_gap_days=60.0, irregularity=0.3),
        made("older", 1, 3.0, horizon_days=240.0),
        made("older", 1, 2.0, horizon_days=100.0),
    ],
    [
        made("last", 1, 0.4),
        made("last", 2, 0.2),
        made("last", 3, 0.3),
        made("thinned", 2, 0.6, irregularity=0.1),
    ],
]


def test_a_patients_forecasts_are_averaged_first() -> None:
    older = by_choice(PATIENTS)[GivenScans.OLDER, 1]
    np.testing.assert_array_equal(scores_of(PATIENTS, older, SizeMethod.COMBINED, "crps"), [2.5, np.nan])
    np.testing.assert_array_equal(scores_of(PATIENTS, older, SizeMethod.COMBINED, "error"), [2.5, np.nan])
    two = by_count(PATIENTS)[2]
    np.testing.assert_array_equal(scores_of(PATIENTS, two, SizeMethod.COMBINED, "crps"), [0.5, 0.2])


def test_fewer_scans_are_compared_with_all_of_the_same_patient() -> None:
    """From one scan: 1.0 - 0.5 and 0.4 - 0.3. From two only the patient who has three counts: 0.2 - 0.3."""
    lasts = figures_of(PATIENTS)["last"]
    one, two, three = (lasts[count]["crps_less_that_from_all"].estimate for count in "123")
    assert (one.value, one.patients) == (pytest.approx(0.3), 2)
    assert (two.value, two.patients) == (pytest.approx(-0.1), 1)
    assert three.patients == 0
    assert lasts["3"]["forecasts"] == 1


def test_groups_meet_without_a_gap() -> None:
    days = by_days("horizon_days")
    assert list(days) == ["0 to 60", "60 to 120", "120 to 240", "240 and more"]
    counts = [sum(group(one) for patient in PATIENTS for one in patient) for group in days.values()]
    assert counts == [6, 1, 0, 1]
    assert [sum(group(one) for one in PATIENTS[0]) for group in by_days("longest_gap_days").values()] == [0, 1, 0, 0]
    spacing = {label: sum(group(one) for one in chain(*PATIENTS)) for label, group in by_spacing().items()}
    assert spacing == {"regular": 1, "uneven": 1, "irregular": 0}


def test_the_tables_and_the_answer() -> None:
    count, choice, horizon, _, _ = tables_of(PATIENTS)
    assert [row[:3] for row in count.rows] == [("1", "2", "2"), ("2", "2", "2"), ("3", "1", "1")]
    assert [row[:4] for row in choice.rows] == [
        ("others, the latest kept", "2", "1", "1"),
        ("others, without the latest", "1", "2", "1"),
    ]
    assert choice.rows[0][-1].startswith("+0.400") and choice.rows[1][-1].startswith("+1.500")
    assert horizon.rows[2][1:3] == ("0", "0") and set(horizon.rows[2][3:]) == {"–"}
    answer = answer_of(PATIENTS)
    assert "1: 0.700 (2 patients), 2: 0.350 (2 patients), 3: 0.300 (1 patient)" in answer
    assert "+0.400 (p 1) where the latest is kept, +1.500 (p 1) where it is not" in answer


def test_a_report_of_real_forecasts(tmp_path: Path) -> None:
    data = SizeData([SERIES, SizeSeries("Q", "enhancing_mm3", SERIES.days[:3], SIZES[:3])], {"source_sha256": "f00"})
    result = run_experiment(ScanCountExperiment(data, MODEL), tmp_path / "out")
    assert result.findings is not None and result.done == 2
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())["figures"]
    assert figures["last"]["1"]["crps_combined"]["patients"] == 2
    assert figures["last"]["4"]["crps_combined"]["patients"] == 1
    for name in ("scans.png", "horizon.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_the_command_reads_a_cohort(blob_cohort: Path, tmp_path: Path) -> None:
    asked = ["timepoints", str(blob_cohort), "--out", str(tmp_path / "out"), "--replicates", "10", "--patients", "1"]
    result = CliRunner().invoke(experiment, [*asked, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.stdout.splitlines()[-1])["units"] == {"ok": 1, "failed": 0}
    assert "| C | fewer than 3 scans with a known size |" in (tmp_path / "out" / "README.md").read_text()
    made_of = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert (made_of["columns"]["size"], made_of["settings"]["replicates"]) == ("volume_mm3", 10)
