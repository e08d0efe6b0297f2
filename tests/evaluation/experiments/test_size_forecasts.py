"""The last scan forecast without it: nothing of it is seen, and the figures are what they are called."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import r2_score
from typer.testing import CliRunner

from tumorcast.cli.experiment import experiment
from tumorcast.durable import sha256_of
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.experiments.run import run_experiment
from tumorcast.evaluation.experiments.size_forecasts import SizeForecastExperiment, summary_of
from tumorcast.evaluation.experiments.size_methods import (
    SizeData,
    SizeForecasts,
    SizeMethod,
    forecast_by,
    scored,
    straight_line,
)
from tumorcast.growth.forecast import LEVELS
from tumorcast.growth.heldout import HeldOutForecast, forecast_scan
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.population.history import to_log
from tumorcast.growth.prior import PopulationPrior, shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import FitStatus, Forecaster, PatientOutcome, SizeSeries, Status

QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
MODEL = GrowthModel(QUICK, Forecaster.COMBINED, fixed_prior(shipped_prior()))
DAYS = np.array([0.0, 60.0, 130.0, 180.0])


def series(name: str, sizes: list[float], size_name: str = "volume_mm3") -> SizeSeries:
    return SizeSeries(name, size_name, DAYS[: len(sizes)], np.array(sizes))


PATIENTS = [
    series("P 1", [9000.0, 12_000, 14_000, 15_000]),
    series("P2", [4000.0, 4500, 5000]),
    series("P3", [30_000.0, 20_000, 22_000, 41_000]),
    series("P4", [700.0, 900]),
]
DATA = SizeData(PATIENTS, {"source_sha256": "f00"}, [PatientOutcome("P5", Status.FAILED, "line 7: bad")])


def held_out(observed: float, size_name: str = "volume_mm3") -> HeldOutForecast:
    nothing = np.zeros(200)
    return HeldOutForecast("P", 90.0, size_name, observed, 1.0, FitStatus.CONVERGED, 2, 0.0, nothing, nothing)


def test_scores_are_those_of_the_definitions() -> None:
    """Of a uniform distribution of y on [8, 10]: its CRPS is (x - 9)² / 2 + 1/6 inside (half-width 1)."""
    said, y = 8.0 + 2.0 * LEVELS, 9.5
    observed = float(np.exp(y) - 100.0)
    (inside,) = scored(SizeForecasts(held_out(observed), {SizeMethod.COMBINED: said})).values()
    assert inside["error"] == pytest.approx(-0.5)
    assert inside["width"] == inside["interval_score"] == pytest.approx(1.8)
    assert inside["crps"] == pytest.approx(0.5**2 / 2 + 1 / 6, abs=1e-4)
    assert (inside["covered"], inside["median"]) == (1.0, pytest.approx(np.exp(9.0) - 100.0))
    above = scored(SizeForecasts(held_out(float(np.exp(10.4) - 100.0)), {SizeMethod.COMBINED: said}))["combined"]
    assert above["covered"] == 0.0
    assert above["interval_score"] == pytest.approx(1.8 + 20 * (10.4 - 9.9))
    assert inside["low"] < inside["median"] < inside["high"]


def test_a_point_has_no_interval_and_its_crps_is_its_error() -> None:
    truth = held_out(400.0, "area_mm2")
    told = scored(SizeForecasts(truth, {SizeMethod.LINE: np.array([truth.truth + 0.3])}))["line"]
    assert set(told) == {"median", "error", "crps"}
    assert (told["error"], told["crps"]) == (pytest.approx(0.3), pytest.approx(0.3))
    assert float(to_log(np.array(told["median"]), "area_mm2")) == pytest.approx(truth.truth + 0.3)


def test_the_straight_line_follows_the_last_two_scans_within_a_brain() -> None:
    growing = series("P", [5.0, 1000.0, 3000.0])
    y = np.log(np.array([1100.0, 3100.0]))
    assert straight_line(growing, 140.0) == pytest.approx(y[1] + (y[1] - y[0]) / 70 * 10)
    assert straight_line(growing, 1e6) == pytest.approx(np.log(1.5e6 + 100))
    assert straight_line(series("P", [5.0, 3000.0, 1000.0]), 1e6) == pytest.approx(np.log(100.0))
    assert straight_line(series("P", [1000.0]), 500.0) == pytest.approx(np.log(1100.0))


def test_methods_are_the_forecasters_of_fit() -> None:
    told, place = PATIENTS[0], 3
    found = forecast_by((*tuple(SizeMethod)[:4], SizeMethod.PERSISTENCE), MODEL, told, place)
    combined = forecast_scan(MODEL, told, place)
    pooled = forecast_scan(replace(MODEL, forecaster=Forecaster.POOLED), told, place)
    law = forecast_scan(replace(MODEL, forecaster=Forecaster.MECHANISTIC), told, place)
    alone = forecast_scan(GrowthModel(QUICK, Forecaster.MECHANISTIC, fixed_prior(None)), told, place)
    expected = {
        "combined": combined.log_quantiles,
        "pooled": pooled.log_quantiles,
        "mechanistic": law.log_quantiles,
        "alone": alone.log_quantiles,
        "persistence": pooled.persistence_log_quantiles,
    }
    assert {str(method) for method in found.quantiles} == set(expected)
    for method, said in found.quantiles.items():
        np.testing.assert_array_equal(said, expected[str(method)])
    assert found.scan.observed == 15_000.0


def test_no_method_is_scored_for_less_than_nothing() -> None:
    """A tumour that has vanished, forecast by all: what a forecast holds below 0 mm³ costs it nothing."""
    gone = series("P", [9000.0, 300, 0, 0], "enhancing_mm3")
    told = forecast_by((*tuple(SizeMethod)[:4], SizeMethod.PERSISTENCE, SizeMethod.LINE), MODEL, gone, 3)
    floor = np.log(100.0)
    assert all(rows.min() >= floor for rows in told.quantiles.values())
    for method in ("combined", "pooled", "persistence"):
        assert told.quantiles[SizeMethod(method)].min() == floor
        above = told.quantiles[SizeMethod(method)] - floor
        assert scored(told)[method]["crps"] == pytest.approx(2 * np.mean((1 - LEVELS) * above))


def test_the_last_scan_is_not_seen(tmp_path: Path) -> None:
    told = []
    for last in (15_000.0, 150.0):
        one = SizeData([series("P", [9000.0, 12_000, 14_000, last])], {})
        row = SizeForecastExperiment(one, MODEL).measure("P", tmp_path)
        told.append({name: figures["median"] for name, figures in row["methods"].items()})
        assert (row["observed"], row["last"], row["scans"], row["days_ahead"]) == (last, 14_000.0, 3, 50.0)
    assert told[0] == told[1]
    with np.load(tmp_path / "curve.npz") as curve:
        assert curve["observed_sizes"].tolist() == [9000.0, 12_000, 14_000]


def test_summaries_are_over_patients() -> None:
    observed, medians = [100.0, 4000.0, 9000.0], [300.0, 4000.0, 6000.0]
    rows = [
        {
            "observed": true,
            "size_name": "volume_mm3",
            "methods": {
                "combined": {"median": told, "error": e, "covered": c, "width": w, "interval_score": s, "crps": s}
            },
        }
        for true, told, e, c, w, s in zip(
            observed, medians, (0.7, 0.0, -0.4), (0.0, 1.0, 1.0), (1.0, 2.0, 6.0), (9.0, 2.0, 6.0), strict=True
        )
    ]
    found = summary_of(rows, SizeMethod.COMBINED)
    assert found["r2"].value == pytest.approx(r2_score(observed, medians))
    logs = np.log(np.array([observed, medians]) + 100)
    assert found["r2_log"].value == pytest.approx(r2_score(*logs))
    assert found["nrmse"].value == pytest.approx(np.sqrt((200**2 + 3000**2) / 3) / np.mean(observed))
    assert found["median_relative_error"].value == pytest.approx(1 / 3)
    assert found["error"].value == pytest.approx(1.1 / 3)
    assert (found["coverage90"].value, found["width90"].value) == (pytest.approx(2 / 3), 2.0)
    assert found["r2"].patients == 3 and found["error"].low < 1.1 / 3 < found["error"].high


def test_a_report_tells_methods_pairs_and_who_is_left_out(tmp_path: Path) -> None:
    methods = (SizeMethod.COMBINED, SizeMethod.PERSISTENCE, SizeMethod.LINE)
    result = run_experiment(SizeForecastExperiment(DATA, MODEL, methods), tmp_path / "out")
    assert result.findings is not None and result.done == 3
    near, sure, paired, left_out = result.findings.tables
    assert [row[0] for row in near.rows] == [method.label for method in methods]
    assert sure.rows[2][1:4] == ("–", "–", "–")  # a line has no interval
    assert len(paired.rows) == 3 and "minus" in paired.rows[0][0]
    assert left_out.rows == [("P5", "line 7: bad"), ("P4", "fewer than 3 scans with a known size")]
    assert "In 3 patients" in result.findings.answer
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["figures"]["methods"]["combined"]["crps"]["patients"] == 3
    assert set(figures["units"]) == {"P_201", "P2", "P3"}
    for name in ("told.png", "curves.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_patients_are_limited_evenly_and_some_must_have_three_scans() -> None:
    assert list(replace(DATA, most=2).units()) == ["P_201", "P3"]
    with pytest.raises(InputError, match="none of 1 patient has"):
        SizeData(PATIENTS[3:], {}).units()


TABLE = "patient_id,day,volume_mm3\n" + "".join(
    f"{one.patient_id},{day},{size}\n" for one in PATIENTS for day, size in zip(one.days, one.sizes, strict=True)
)


def test_the_command_reads_a_table(tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    table.write_text(TABLE)
    asked = ["ode", str(table), "--out", str(tmp_path / "out"), "--replicates", "10", "--patients", "1", "--json"]
    result = CliRunner().invoke(experiment, asked)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["units"] == {"ok": 1, "failed": 0}
    other = CliRunner().invoke(experiment, [*asked, "--seed", "5"])
    assert isinstance(other.exception, UsageError) and "settings.seed = 0 there" in str(other.exception)


def test_a_prior_that_knows_the_future_is_refused(tmp_path: Path) -> None:
    table, prior = tmp_path / "sizes.csv", tmp_path / "prior.json"
    table.write_text(TABLE)
    told = shipped_prior().model_copy(update={"source": f"sizes.csv (SHA-256 {sha256_of(table)})"})
    PopulationPrior.write(told, prior)
    for name, why in ((str(prior), "leave-one-out"), ("none", "the patient alone")):
        result = CliRunner().invoke(experiment, ["ode", str(table), "--out", str(tmp_path / "out"), "--prior", name])
        assert isinstance(result.exception, UsageError) and why in str(result.exception)
    assert not (tmp_path / "out").exists()
