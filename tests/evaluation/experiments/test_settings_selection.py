"""The hidden last scan, settings chosen without it and judged by it, and what the rows of several patients say."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fakes import StrengthEngine
from tumorcast.cli.experiment import experiment as commands
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.errors import UsageError
from tumorcast.evaluation.experiments.forecast_scores import METRICS, score_forecast
from tumorcast.evaluation.experiments.settings_selection import SettingsSelectionExperiment, TrialSettings
from tumorcast.evaluation.experiments.settings_selection_report import (
    BEST,
    BLIND,
    DEFAULT,
    OTHERS,
    PAPER,
    RANDOM,
    WITH_MEMBERS,
    Choices,
    findings,
    true_score,
)
from tumorcast.evaluation.experiments.slice_plots import SliceExample
from tumorcast.evaluation.followup import TargetSize, forecast_followups, last_followups
from tumorcast.evaluation.score import size_error
from tumorcast.evaluation.targets import TargetSource
from tumorcast.forecasting.plan import PatientPlan
from tumorcast.forecasting.select import SelectGrid, select
from tumorcast.forecasting.selection_scores import PatientCase
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Contrast, Forecaster, Session, Treatment
from tumorcast.settings import ForecastSettings, SamplerSettings

GROWTH = GrowthModel(FitSettings(replicates=4), Forecaster.MECHANISTIC, fixed_prior(None))
BASE = ForecastSettings(relative_change=0, batch=4, sampler=SamplerSettings(steps=2, noise_level=100))
GRID = SelectGrid(noise_level=(100, 300), gain=(0.25, 0.5), members=(2, 3))
NAN = float("nan")


@pytest.fixture
def cohort(blob_cohort: Path) -> Iterator[Cohort]:
    with Cohort.open(blob_cohort) as opened:
        yield opened


def experiment(cohort: Cohort, target: TargetSize = TargetSize.FORECAST, **changes: Any) -> SettingsSelectionExperiment:
    settings = TrialSettings(BASE, GRID, **({"paper_members": 0} | changes))
    return SettingsSelectionExperiment(cohort, StrengthEngine(), TargetSource(target, GROWTH), settings)


def test_units_are_the_patients_with_a_later_scan(cohort: Cohort) -> None:
    assert experiment(cohort).units() == ["A", "B"]  # C has one scan
    assert replace(experiment(cohort), patients=1).units() == ["A"]


def test_a_forecast_is_measured_against_the_later_scan(cohort: Cohort) -> None:
    followups, engine = last_followups(cohort, "A", 1), StrengthEngine()
    targets = TargetSource(TargetSize.TRUE, GROWTH).of(cohort, followups, BASE)
    settings = targets.settings.model_copy(update={"keep_members": True, "members": 2})
    (made,), (pair,) = forecast_followups(followups, targets.draw(settings), engine, settings), followups
    figures = score_forecast(pair, made, engine, batch=2)
    assert set(figures) == {metric.name for metric in METRICS}
    assert figures["ap"] == figures["ap_images"]  # there is no progression network
    gained = float(np.median(made.reached_mm2)) - made.present_segmented_mm2
    assert size_error(pair, made) == pytest.approx(abs(pair.now.area_mm2 + gained - pair.later.area_mm2) / 1744.0)
    one = score_forecast(pair, made, engine, batch=1, channels=[1])
    assert one["ssim_outside"] == pytest.approx(figures["ssim_outside"], abs=0.01)  # all four contrasts are alike
    assert one["ssim_outside"] != figures["ssim_outside"]  # but for their noise


def test_what_was_forecast_for_the_choice_is_judged_and_not_made_twice(cohort: Cohort, tmp_path: Path) -> None:
    asked = experiment(cohort, TargetSize.TRUE)
    row = asked.measure("A", tmp_path)
    assert isinstance(asked.engine, StrengthEngine)
    (followup,), alone = last_followups(cohort, "A", 1), StrengthEngine()
    base = TargetSource(TargetSize.TRUE, GROWTH).of(cohort, [followup], BASE).settings
    plan = PatientPlan("A", followup.session_id, (followup.planned,))
    case = PatientCase.of(cohort.before_last_scan(), alone, None, plan)
    found = select(lambda point: case.scores(point.settings(base)), base, GRID, lambda *_: None, noise_levels=350)
    assert asked.engine.images == alone.images
    assert row["chosen"] == found.chosen.name
    assert [one["point"] for one in row["grid"] + row["more_members"]] == [point.name for point, _ in found.tried]
    assert [one["blind"]["score"] for one in row["grid"] + row["more_members"]] == [one.total for _, one in found.tried]
    assert row["default"] == row["grid"][1]["true"]  # NL 100, gain 0.5
    assert len({one["true"]["score"] for one in row["grid"]}) > 1
    json.dumps(row)


def test_the_choice_does_not_depend_on_the_later_scan(
    cohort: Cohort, blob: Callable[..., Session], tmp_path: Path
) -> None:
    sessions = [blob("A", f"{k:03d}", 60.0 * k, radius) for k, radius in enumerate((4.0, 5.0, 9.0))]
    path = tmp_path / "other.h5"
    write_cohort(path, sessions, {"A": Treatment()}, image_size=64, contrasts=tuple(Contrast), config={})
    with Cohort.open(path) as later:
        other = experiment(later).measure("A", tmp_path / "other")
    row = experiment(cohort).measure("A", tmp_path / "first")
    points, others = row["grid"] + row["more_members"], other["grid"] + other["more_members"]
    assert [one["blind"] for one in points] == [one["blind"] for one in others]
    assert row["chosen"] == other["chosen"]
    assert [one["true"]["dice"] for one in points] != [one["true"]["dice"] for one in others]


def test_the_papers_settings_stand_beside_the_grid(cohort: Cohort, tmp_path: Path) -> None:
    row = experiment(cohort, paper_members=1).measure("B", tmp_path)
    assert set(row["paper"]) == {"score", *(one.name for one in METRICS)}
    assert row["paper"] != row["default"]
    shown = SliceExample.read(tmp_path)
    assert shown.names.tolist() == [BEST, BLIND, DEFAULT, PAPER]
    assert shown.images.shape == shown.maps.shape == (4, 64, 64)


def test_worth_by_hand() -> None:
    figures = {"ap_images": 0.8, "size_error": 1.5, "ssim_outside": 0.9, "ssim_changed": -0.1}
    assert true_score(figures) == pytest.approx((0.8 + 0 + 0.9 + 0) / 4)
    assert true_score(figures | {"ap_images": NAN}) == pytest.approx(0.9 / 3)
    assert np.isnan(true_score(dict.fromkeys(figures, NAN)))


def row_of(worth: list[float], blind: list[float], *, more: float, paper: float | None = None) -> dict[str, Any]:
    """A patient with three points. more: what the blind choice is worth with more members."""

    def true(score: float) -> dict[str, float | None]:
        return {one.name: None for one in METRICS} | {"score": score, "ap_images": None if more == 0.5 else 1 - score}

    def point(name: str, score: float, told: float) -> dict[str, Any]:
        parts = dict.fromkeys(("size", "preservation", "agreement"), told)
        return {"point": name, "blind": parts | {"score": told, "past": None}, "true": true(score)}

    return {
        "ratio": 1.2,
        "grid": [point(name, *two) for name, *two in zip("abc", worth, blind, strict=True)],
        "more_members": [point("more", more, 1.0)],
        "chosen": "more",
        "default": true(worth[1]),
        "paper": None if paper is None else true(paper),
    }


ROWS = {
    "P1": row_of([0.5, 0.7, 0.9], [0.1, 0.3, 0.2], more=0.8, paper=0.4),
    "P2": row_of([0.6, 0.8, 0.7], [0.1, 0.2, 0.3], more=0.9),
    "P3": row_of([0.9, 0.8, 0.1], [0.9, 0.8, 0.1], more=0.5),
}


def test_regrets_by_hand() -> None:
    choices = Choices(ROWS)
    values = choices.values()
    regret = {name: (values[BEST]["score"] - found["score"]).round(6).tolist() for name, found in values.items()}
    assert regret[BEST] == [0.0, 0.0, 0.0]
    assert regret[BLIND] == [0.2, 0.1, 0.0]
    assert regret[WITH_MEMBERS] == [0.1, -0.1, 0.4]
    assert regret[DEFAULT] == [0.2, 0.0, 0.1]
    assert regret[RANDOM] == [0.2, 0.1, 0.3]
    assert regret[OTHERS] == [0.2, 0.0, 0.8]  # b, b and c are best for the others
    assert regret[PAPER][0] == 0.5 and np.isnan(regret[PAPER][1:]).all()
    assert choices.correlations()["score"]["score"].tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert "past" not in choices.correlations()


def test_the_report_tells_them(tmp_path: Path) -> None:
    found = findings(ROWS, tmp_path, TargetSize.FORECAST)
    assert "Its choice loses 0.100" in found.answer and "a random point loses 0.200" in found.answer
    precision = found.figures["regret_of_ap_images"][BLIND]
    assert (precision.patients, precision.value) == (2, pytest.approx(0.15))  # P1 .5 − .3, P2 .4 − .3
    assert found.figures["near_the_best"][BLIND]["0.01"].value == pytest.approx(1 / 3)
    tables = {table.title: table for table in found.tables}
    (better,) = (row[-2] for row in tables["What is lost"].rows if row[0] == BLIND)
    assert better.startswith("0.33")  # of two other points: one, one and none
    assert [row[1:3] for row in tables["The points"].rows] == [("1", "1"), ("1", "1"), ("1", "1")]
    assert all(len(row) == len(table.head) for table in found.tables for row in table.rows)
    for picture in found.pictures[:2]:
        picture.draw(tmp_path / f"{picture.name}.png")
        assert (tmp_path / f"{picture.name}.png").stat().st_size > 5000


def test_one_patient_has_no_others(tmp_path: Path) -> None:
    found = findings({"P2": ROWS["P2"]}, tmp_path, TargetSize.TRUE)
    assert OTHERS not in found.figures["choices"]
    assert "best for the other" not in found.answer
    assert "All forecasts aim at the true size." in found.answer


def run(*words: object) -> Any:
    return CliRunner().invoke(commands, ["hindsight", *(str(word) for word in words)])


def test_the_command_ends_in_a_page(blob_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tumorcast.engines.opening.open_engine", lambda choice: StrengthEngine())
    (tmp_path / "grid.toml").write_text("noise_level = [100]\ngain = [0.25, 0.5]\nmembers = [2]\n")
    words = [blob_cohort, "--model", "none", "--out", tmp_path / "out", "--steps", 2, "--target", "truth"]
    result = run(*words, "--grid", tmp_path / "grid.toml", "--paper-members", 0, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["units"] == {"ok": 2, "failed": 0}
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| best with hindsight |" in page and "![slices](slices.png)" in page
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["figures"]["regret"][BEST]["value"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "tomorrow"), "--target tomorrow: allowed are truth, ode"),
        (("--grid", "levels = [1]"), "unknown key 'levels'"),
        (("--grid", "noise_level = [400]"), "noise_level = 400 exceeds the 350"),
        (("--grid", "members = [0, 2]"), "members = 0"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(
    options: tuple[str, str], message: str, blob_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tumorcast.engines.opening.open_engine", lambda choice: StrengthEngine())
    (tmp_path / "grid.toml").write_text(options[1])
    given = (options[0], tmp_path / "grid.toml") if options[0] == "--grid" else options
    fault = run(blob_cohort, "--model", "none", "--out", tmp_path / "out", *given).exception
    assert isinstance(fault, UsageError) and message in str(fault)
    assert not (tmp_path / "out").exists()
