"""The hidden last scan, settings chosen without it and judged by it, and what the rows of several patients say."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fakes import StrengthEngine
from tumorcast.cli.experiment_models import experiment as commands
from tumorcast.data.cohort import Cohort, SizeMeasure, write_cohort
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.comparison import TargetMode
from tumorcast.evaluation.experiments.hindsight import Hindsight, HindsightSettings
from tumorcast.evaluation.experiments.hindsight_report import (
    BEST,
    BLIND,
    DEFAULT,
    OTHERS,
    PAPER,
    RANDOM,
    WITH_MEMBERS,
    Choices,
    findings,
    truth_score,
)
from tumorcast.evaluation.experiments.judged import MEASURES, judged, size_error
from tumorcast.evaluation.experiments.later import FollowedCohort, KnownCohort, SizeSource
from tumorcast.evaluation.experiments.shown import Shown
from tumorcast.forecasting.select import SelectGrid, select
from tumorcast.forecasting.selection_scores import PatientCase
from tumorcast.growth.model import GrowthModel, fixed
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Contrast, Forecaster, Session, Treatment
from tumorcast.settings import ForecastSettings, SamplerSettings

GROWTH = GrowthModel(FitSettings(replicates=4), Forecaster.MECHANISTIC, fixed(None))
BASE = ForecastSettings(relative_change=0, batch=4, sampler=SamplerSettings(steps=2, noise_level=100))
GRID = SelectGrid(noise_level=(100, 300), gain=(0.25, 0.5), members=(2, 3))
NAN = float("nan")


@pytest.fixture
def cohort(blob_cohort: Path) -> Iterator[FollowedCohort]:
    with ExitStack() as stack:
        yield FollowedCohort.open(blob_cohort, stack)


def experiment(cohort: FollowedCohort, mode: TargetMode = TargetMode.ODE, **changes: Any) -> Hindsight:
    settings = HindsightSettings(BASE, GRID, **({"paper_members": 0} | changes))
    return Hindsight(cohort, StrengthEngine(), SizeSource(mode, GROWTH), settings)


def test_nothing_of_the_last_scan_can_be_read(blob_cohort: Path) -> None:
    with KnownCohort.open(blob_cohort) as known, Cohort.open(blob_cohort) as whole:
        assert [info.id for info in known.sessions("A")] == ["000", "001"]
        assert known.size_series("A", SizeMeasure.VOLUME_MM3).days.tolist() == [0.0, 60.0]
        assert known.slice("A", "001", 0).area_mm2 == whole.slice("A", "001", 0).area_mm2
        readings: list[Callable[..., object]] = [
            lambda: known.slice("A", "002", 0),
            lambda: known.session("A", "002"),
            lambda: known.source("A", "002"),
        ]
        for reading in readings:
            with pytest.raises(ValueError, match="A, session 002: not known before the last scan"):
                reading()


def test_a_patient_is_followed_from_the_last_scan_but_one(cohort: FollowedCohort) -> None:
    assert cohort.units(None) == {"A": "A", "B": "B"}  # C has one scan
    assert list(cohort.units(1)) == ["A"]
    followed = cohort.follow("A", 2)
    assert [(pair.session_id, pair.later_id, pair.planned.source_slice) for pair in followed.pairs] == [
        ("001", "002", 10),
        ("001", "002", 11),
    ]
    assert (followed.day, followed.later_day) == (60.0, 120.0)
    assert followed.ratio == followed.pairs[0].ratio > 1.1
    aim = SizeSource(TargetMode.TRUTH, GROWTH).aim(cohort.known, followed, BASE)
    np.testing.assert_allclose(aim.draw(aim.settings).target_ratio, followed.ratio)
    ahead = SizeSource(TargetMode.ODE, GROWTH).aim(cohort.known, followed, BASE).settings
    assert (ahead.horizon_days, ahead.relative_change) == (60.0, None)


def test_what_cannot_be_followed_is_told(blob: Callable[..., Session], tmp_path: Path) -> None:
    sessions = [
        *(blob("bare", f"{k}", 9.0 * k, 0.0) for k in range(2)),
        *(blob("gone", f"{k}", 9.0 * k, 6.0 * (k == 0)) for k in range(2)),
        blob("one", "0", 0.0, 4.0),
    ]
    path, config = tmp_path / "x.h5", {"dated": False}
    write_cohort(path, sessions, {}, image_size=64, contrasts=tuple(Contrast), config=config)
    with ExitStack() as stack:
        cohort = FollowedCohort.open(path, stack)
        with pytest.raises(InputError, match="the last scan but one of bare shows no tumour"):
            cohort.follow("bare", 1)
        truth = SizeSource(TargetMode.TRUTH, GROWTH)
        with pytest.raises(InputError, match="gone: the tumour's area comes to 0 times"):
            truth.aim(cohort.known, cohort.follow("gone", 1), BASE)
        with pytest.raises(InputError, match="no dates, so sizes cannot be forecast"):
            SizeSource(TargetMode.ODE, GROWTH).check(cohort.truth)
        truth.check(cohort.truth)
    flat = [replace(blob("flat", f"{k}", 9.0 * k, 4.0 + k), volume_mm3=NAN) for k in range(2)]
    write_cohort(path, flat, {}, image_size=64, contrasts=tuple(Contrast), config={})
    with ExitStack() as stack:
        cohort = FollowedCohort.open(path, stack)
        with pytest.raises(InputError, match="flat has no known volume_mm3 before the last scan"):
            SizeSource(TargetMode.ODE, GROWTH).aim(cohort.known, cohort.follow("flat", 1), BASE)
    write_cohort(path, sessions[-1:], {}, image_size=64, contrasts=tuple(Contrast), config=config)
    with ExitStack() as stack, pytest.raises(InputError, match="no patient has two scans"):
        FollowedCohort.open(path, stack)


def test_a_forecast_is_judged_by_what_it_became(cohort: FollowedCohort) -> None:
    followed, engine = cohort.follow("A", 1), StrengthEngine()
    aim = SizeSource(TargetMode.TRUTH, GROWTH).aim(cohort.known, followed, BASE)
    settings = aim.settings.model_copy(update={"keep_members": True, "members": 2})
    (made,), (pair,) = followed.forecast(engine, aim.draw(settings), settings), followed.pairs
    figures = judged(pair, made, engine, batch=2)
    assert set(figures) == {one.name for one in MEASURES}
    assert figures["ap"] == figures["ap_images"]  # there is no progression network
    gained = float(np.median(made.reached_mm2)) - made.present_segmented_mm2
    assert size_error(pair, made) == pytest.approx(abs(pair.now.area_mm2 + gained - pair.later.area_mm2) / 1744.0)
    one = judged(pair, made, engine, batch=1, channels=[1])
    assert one["ssim_outside"] == pytest.approx(figures["ssim_outside"], abs=0.01)  # all four contrasts are alike
    assert one["ssim_outside"] != figures["ssim_outside"]  # but for their noise


def test_what_was_forecast_for_the_choice_is_judged_and_not_made_twice(cohort: FollowedCohort, tmp_path: Path) -> None:
    asked = experiment(cohort, TargetMode.TRUTH)
    row = asked.measure("A", tmp_path)
    assert isinstance(asked.engine, StrengthEngine)
    followed, alone = cohort.follow("A", 1), StrengthEngine()
    base = SizeSource(TargetMode.TRUTH, GROWTH).aim(cohort.known, followed, BASE).settings
    case = PatientCase.of(cohort.known, alone, None, followed.plan)
    found = select(lambda point: case.scores(point.settings(base)), base, GRID, lambda *_: None, noise_levels=350)
    assert asked.engine.images == alone.images
    assert row["chosen"] == found.chosen.name
    assert [one["point"] for one in row["grid"] + row["more_members"]] == [point.name for point, _ in found.tried]
    assert [one["blind"]["score"] for one in row["grid"] + row["more_members"]] == [one.total for _, one in found.tried]
    assert row["default"] == row["grid"][1]["true"]  # NL 100, gain 0.5
    assert len({one["true"]["score"] for one in row["grid"]}) > 1
    json.dumps(row)


def test_the_choice_does_not_depend_on_the_later_scan(
    cohort: FollowedCohort, blob: Callable[..., Session], tmp_path: Path
) -> None:
    sessions = [blob("A", f"{k:03d}", 60.0 * k, radius) for k, radius in enumerate((4.0, 5.0, 9.0))]
    path = tmp_path / "other.h5"
    write_cohort(path, sessions, {"A": Treatment()}, image_size=64, contrasts=tuple(Contrast), config={})
    with ExitStack() as stack:
        other = experiment(FollowedCohort.open(path, stack)).measure("A", tmp_path / "other")
    row = experiment(cohort).measure("A", tmp_path / "first")
    points, others = row["grid"] + row["more_members"], other["grid"] + other["more_members"]
    assert [one["blind"] for one in points] == [one["blind"] for one in others]
    assert row["chosen"] == other["chosen"]
    assert [one["true"]["dice"] for one in points] != [one["true"]["dice"] for one in others]


def test_the_papers_settings_stand_beside_the_grid(cohort: FollowedCohort, tmp_path: Path) -> None:
    row = experiment(cohort, paper_members=1).measure("B", tmp_path)
    assert set(row["paper"]) == {"score", *(one.name for one in MEASURES)}
    assert row["paper"] != row["default"]
    shown = Shown.read(tmp_path)
    assert shown.names.tolist() == [BEST, BLIND, DEFAULT, PAPER]
    assert shown.images.shape == shown.maps.shape == (4, 64, 64)


def test_worth_by_hand() -> None:
    figures = {"ap_images": 0.8, "size_error": 1.5, "ssim_outside": 0.9, "ssim_changed": -0.1}
    assert truth_score(figures) == pytest.approx((0.8 + 0 + 0.9 + 0) / 4)
    assert truth_score(figures | {"ap_images": NAN}) == pytest.approx(0.9 / 3)
    assert np.isnan(truth_score(dict.fromkeys(figures, NAN)))


def row_of(worth: list[float], blind: list[float], *, more: float, paper: float | None = None) -> dict[str, Any]:
    """A patient with three points. more: what the blind choice is worth with more members."""

    def true(score: float) -> dict[str, float | None]:
        return {one.name: None for one in MEASURES} | {"score": score, "ap_images": None if more == 0.5 else 1 - score}

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
    found = findings(ROWS, tmp_path, TargetMode.ODE)
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
    found = findings({"P2": ROWS["P2"]}, tmp_path, TargetMode.TRUTH)
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
        (("--grid", "noise_level = [400]"), "noise_level = 400 exceeds the 350 levels that the model was trained for"),
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
