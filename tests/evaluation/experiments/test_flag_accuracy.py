"""Provoked failures: what is planted is there, what is wrong is told without detectors, and the shares are right."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tumorcast.archive.maps import SliceForecast
from tumorcast.cli.experiment import experiment
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError
from tumorcast.evaluation.experiments.failure_rules import JUDGED, FailureRules
from tumorcast.evaluation.experiments.flag_accuracy import (
    FlagAccuracyExperiment,
    Outcome,
    answer_of,
    judge,
    summaries_of,
    summary_of,
    tables_of,
)
from tumorcast.evaluation.experiments.followup_source import LatestFollowUps, forecast_ratios
from tumorcast.evaluation.experiments.induced_failures import (
    CONTROL,
    LABELS,
    PlantedFault,
    WrongSetting,
    induce_failures,
    mirrored,
    plant,
    reduce_again,
)
from tumorcast.evaluation.experiments.run import run_experiment
from tumorcast.evaluation.failure_flags import Failure, Signs
from tumorcast.evaluation.followup import FollowUp
from tumorcast.evaluation.score import members_of
from tumorcast.records import Contrast, Session
from tumorcast.settings import ForecastSettings, Guidance, NetworkKind, SamplerSettings

SETTINGS = ForecastSettings(
    relative_change=0, members=4, batch=3, keep_members=True, sampler=SamplerSettings(steps=2, noise_level=10)
)
PIXEL_MM = 4.0


@pytest.fixture
def foretelling(engine: Any) -> Any:
    """The known engine, with a progression network."""
    engine.info = replace(engine.info, progression=NetworkKind.SLICE_PROGRESSION)
    return engine


@pytest.fixture
def control(followup: FollowUp, foretelling: Any) -> SliceForecast:
    return forecast_ratios(followup, np.full(4, followup.ratio), foretelling, SETTINGS)


def test_mirrored_is_about_the_middle_of_the_brain() -> None:
    brain = np.zeros((2, 10), bool)
    brain[:, 1:8] = True
    values = np.arange(20.0).reshape(2, 10)
    found = mirrored(values, brain)
    assert found[0, 1:8].tolist() == [7, 6, 5, 4, 3, 2, 1]
    assert found[1, 8] == 10.0 and found[0, 9] == 0.0  # nothing comes from beyond the image
    np.testing.assert_array_equal(mirrored(found, brain)[:, 1:8], values[:, 1:8])


def test_members_seen_again_are_the_forecast_they_came_from(
    followup: FollowUp, control: SliceForecast, foretelling: Any
) -> None:
    again = reduce_again(followup, control, members_of(control), foretelling, SETTINGS)
    for one in fields(SliceForecast):
        np.testing.assert_allclose(
            getattr(again, one.name), getattr(control, one.name), rtol=1e-5, atol=1e-6, err_msg=one.name
        )


def test_a_planted_band_is_at_the_rim_alone(followup: FollowUp, control: SliceForecast, foretelling: Any) -> None:
    depth = PIXEL_MM * (24 - np.hypot(*(np.mgrid[:64, :64] - 32)))
    shares = []
    for clear in (False, True):
        found = plant(PlantedFault.RING, followup, control, foretelling, SETTINGS, clear=clear)
        assert found is not None
        added = members_of(found) - members_of(control)
        assert np.abs(added[:, :, depth > 20]).max() < 1e-3
        assert np.abs(added[:, :, ~control.brain]).max() == 0.0
        shares.append((np.abs(added).max(axis=(1, 2, 3)) > 0.1).mean())
        assert Failure.RIM_CHANGE in Signs.of(found).flags()
    assert shares == [0.75, 1.0]
    assert Failure.RIM_CHANGE not in Signs.of(control).flags()


def test_a_planted_patch_is_far_from_tumour_and_as_bright_as_it(
    followup: FollowUp, control: SliceForecast, foretelling: Any
) -> None:
    found = plant(PlantedFault.BLOB, followup, control, foretelling, SETTINGS, clear=True)
    assert found is not None
    added = np.abs(members_of(found) - members_of(control)).max(axis=(0, 1)) > 0.3
    rows, columns = np.nonzero(added)
    assert 0.5 * np.pi * 8**2 < added.sum() * PIXEL_MM**2 < 2 * np.pi * 8**2
    assert np.hypot(rows - 32, columns - 40).min() * PIXEL_MM > 6 * PIXEL_MM + 10  # the later tumour has six pixels
    assert Failure.SEPARATE_BLOB in Signs.of(found).flags()
    again, other = (
        plant(PlantedFault.BLOB, followup, control, foretelling, SETTINGS.model_copy(update={"seed": seed}), clear=True)
        for seed in (0, 1)
    )
    assert again is not None and other is not None
    np.testing.assert_array_equal(members_of(again), members_of(found))
    assert not np.array_equal(members_of(other), members_of(found))


def test_a_turned_map_is_all_that_is_turned(followup: FollowUp, control: SliceForecast, foretelling: Any) -> None:
    growth = np.zeros((64, 64), np.float32)
    growth[27:38, 35:46] = (control.labels > 0)[27:38, 35:46]
    growth[30:35, 46:50] = 0.9  # to the right of the tumour, whose centre is column 40
    told = replace(control, growth=growth)
    opposite, elsewhere = (
        plant(PlantedFault.TURNED, followup, told, foretelling, SETTINGS, clear=clear) for clear in (False, True)
    )
    for found, columns in ((opposite, slice(31, 35)), (elsewhere, slice(15, 19))):
        assert found is not None and found.growth is not None
        assert (found.growth[30:35, columns] > 0).mean() > 0.7
        assert found.growth[30:35, 46:50].max() == 0.0
        np.testing.assert_array_equal(found.growth[control.labels > 0], growth[control.labels > 0])
        assert found.members is told.members
    without = replace(control, growth=None)
    assert plant(PlantedFault.TURNED, followup, without, foretelling, SETTINGS, clear=True) is None


@dataclass(frozen=True)
class Noting:
    """Notes what it was asked to forecast with, and answers with one and the same forecast."""

    answer: SliceForecast
    asked: list[tuple[Engine, ForecastSettings, float, bool]] = field(default_factory=list)

    def __call__(self, followup: FollowUp, ratios: Any, engine: Engine, settings: ForecastSettings) -> SliceForecast:
        left = np.argwhere(followup.now.labels)[:, 1].mean() < 32
        self.asked.append((engine, settings, float(ratios[0]), bool(left)))
        return replace(self.answer, aimed_mm2=ratios, labels=followup.now.labels)


def test_failures_are_induced_as_named(
    followup: FollowUp, control: SliceForecast, foretelling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting = Noting(control)
    monkeypatch.setattr("tumorcast.evaluation.experiments.induced_failures.forecast_ratios", noting)
    made = list(induce_failures(followup, foretelling, SETTINGS))
    planted = [str(fault) for fault in PlantedFault for _ in range(2)]
    assert [one.how for one in made] == [CONTROL, *WrongSetting, *planted]
    assert [one.clear for one in made[6:]] == [False, True] * 3
    assert [one.planted for one in made[6:]] == [Failure.RIM_CHANGE] * 2 + [Failure.SEPARATE_BLOB] * 2 + [None] * 2
    for one in made:  # what a reader is told is the aim and the outline of the control
        np.testing.assert_array_equal(one.forecast.aimed_mm2, np.full(4, followup.ratio))
        np.testing.assert_array_equal(one.forecast.labels, followup.now.labels)
    told = dict(zip((CONTROL, *WrongSetting), noting.asked, strict=True))
    assert told[CONTROL] == (foretelling, SETTINGS, followup.ratio, False)
    assert told[WrongSetting.STRONG][1].sampler.guidance is Guidance.PAPER
    assert told[WrongSetting.STRAY][2] == 4 * followup.ratio
    assert told[WrongSetting.NOISY][1].sampler.noise_level == 600
    assert [told[how][3] for how in WrongSetting] == [False, False, False, True, False]
    assert told[WrongSetting.BACKWARDS][2] < 1 < followup.ratio


def test_guidance_everywhere_acts_in_the_whole_brain(followup: FollowUp, foretelling: Any) -> None:
    control, strong = (
        next(one.forecast for one in induce_failures(followup, foretelling, SETTINGS) if one.how == how)
        for how in (CONTROL, WrongSetting.STRONG)
    )
    far = followup.now.brain & (np.hypot(*(np.mgrid[:64, :64] - np.array([32, 40])[:, None, None])) > 12)
    moved = [np.abs(one.mean - followup.now.image)[:, far].mean() for one in (control, strong)]
    assert moved[0] < 0.05 and moved[1] > 0.4


def sound(followup: FollowUp, control: SliceForecast) -> SliceForecast:
    """A forecast that shows the later scan, and whose map is its outline."""
    growth = (followup.later.labels > 0).astype(np.float32)
    return replace(control, mean=followup.later.image.astype(np.float32), growth=growth)


def test_what_is_wrong_is_told_by_what_came(followup: FollowUp, control: SliceForecast) -> None:
    good = sound(followup, control)
    truth = FailureRules(followup, good)
    rows, columns = np.mgrid[:64, :64]
    depth_mm = PIXEL_MM * (24 - np.hypot(rows - 32, columns - 32))
    bright = np.where((depth_mm > 0) & (depth_mm < 8) & (columns < 32), 0.25, 0).astype(np.float32)
    far, near = (np.hypot(rows - 32, columns - column) < 3 for column in (20, 48))
    gone = np.where(np.hypot(rows - 32, columns - 40) < 8, 0, good.mean).astype(np.float32)
    assert good.growth is not None
    cases = {
        "good": (good, set()),
        "rim": (replace(good, mean=good.mean + bright), {Failure.RIM_CHANGE}),
        "far patch": (replace(good, mean=np.where(far, 0.8, good.mean)), {Failure.SEPARATE_BLOB}),
        "near patch": (replace(good, mean=np.where(near, 0.8, good.mean)), set()),
        "gone": (replace(good, mean=gone), {Failure.WRONG_WAY, Failure.MAP_APART}),
        "map": (replace(good, growth=mirrored(good.growth, good.brain)), {Failure.MAP_APART}),
        "no map": (replace(good, growth=None), set()),
    }
    for name, (forecast, wrong) in cases.items():
        found = truth.of(forecast)
        assert set(found) == set(JUDGED)
        assert {failure for failure, is_so in found.items() if is_so} == wrong, name


def told(how: str, wrong: str, *, clear: bool = False, rim: float = 0.0, blob: float = 0.0) -> dict[str, Any]:
    signs = {"rim_mm2": rim, "blob_mm2": blob, "deep_mm2": 0.0, "reach": 1.0, "overlap": None}
    return {"how": how, "clear": clear, "wrong": wrong.split(), "signs": signs}


ROWS = {  # patches of 40 mm² and more are flagged
    "A": {
        "cases": [
            told(CONTROL, "", blob=50.0),
            told("strong", "separate_blob", blob=60.0),
            told("blob", "separate_blob", blob=30.0),
            told("blob", "separate_blob", clear=True, blob=90.0),
        ]
    },
    "B": {"cases": [told(CONTROL, "", rim=41.0), told("noisy", "rim_change separate_blob", rim=2000.0)]},
}


def test_shares_are_of_the_cases_they_name() -> None:
    found = summary_of(ROWS, Failure.SEPARATE_BLOB)
    assert (found.cases, found.wrong, found.flagged) == (6, 4, 3)
    shares = {
        "precision": (2 / 3, 1),
        "recall": (2 / 4, 2),
        "recall_astray": (1 / 2, 2),
        "recall_clear": (1.0, 1),
        "recall_faint": (0.0, 1),
        "false_alarms": (1 / 2, 2),
        "false_alarms_of_controls": (1 / 2, 2),
    }
    for name, (value, patients) in shares.items():
        estimate = getattr(found, name)
        assert (estimate.value, estimate.patients) == (pytest.approx(value), patients), name
    assert found.auc == pytest.approx(5.5 / 8)  # 60, 30, 90 and 0 against 50 and 0
    assert np.isnan(summary_of(ROWS, Failure.WRONG_WAY).precision.value)
    outcomes = [one.outcome for one in judge(ROWS, Failure.SEPARATE_BLOB)]
    assert outcomes == [Outcome.FALSE_ALARM, Outcome.HIT, Outcome.MISSED, Outcome.HIT, Outcome.QUIET, Outcome.MISSED]


def test_the_tables_count_by_provocation() -> None:
    summaries = summaries_of(ROWS)
    flags, provocations = tables_of(ROWS, summaries)
    assert [row[0] for row in flags.rows] == [*map(str, JUDGED), "any flag"]
    assert (summaries["any flag"].wrong, summaries["any flag"].flagged) == (4, 5)
    assert summaries["any flag"].precision.value == pytest.approx(3 / 5)
    lines = {row[0]: row[1:] for row in provocations.rows}
    assert lines[LABELS["blob"]] == ("2", "0 / 0 / 0", "2 / 1 / 1", "0 / 0 / 0", "0 / 0 / 0")
    assert lines[LABELS["noisy"]][1:3] == ("1 / 1 / 1", "1 / 0 / 0")
    assert "In 6 cases of 2 patients" in answer_of(ROWS, summaries)


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longest."""
    monkeypatch.setattr("tumorcast.evaluation.experiments.flag_accuracy.EXAMPLES", 1)


@pytest.fixture(scope="module")
def textured(blob: Callable[..., Session], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients whose blobs grow, and one whose does not, with some texture in the brain."""
    rng, sessions = np.random.default_rng(0), []
    for name, radii in (("A 1", (4.0, 5.0)), ("B", (6.0, 7.0)), ("C", (6.0, 6.0))):
        for number, radius in enumerate(radii):
            plain = blob(name, f"{number:03d}", 60.0 * number, radius)
            noise = 0.1 * rng.standard_normal(plain.images.shape) * plain.brain[:, None]
            sessions.append(replace(plain, images=np.clip(plain.images + noise, -1, 1).astype(np.float32)))
    path = tmp_path_factory.mktemp("textured") / "cohort.h5"
    write_cohort(path, sessions, {}, image_size=64, contrasts=tuple(Contrast), config={})
    return path


@pytest.fixture
def source(textured: Path, foretelling: Any) -> Iterator[LatestFollowUps]:
    with Cohort.open(textured) as cohort:
        yield LatestFollowUps(cohort, foretelling, SETTINGS)


@pytest.mark.usefixtures("few_pictures")
def test_a_run_over_patients_who_grew(source: LatestFollowUps, tmp_path: Path) -> None:
    asked = FlagAccuracyExperiment(source)
    assert asked.units() == ["A_201", "B"]
    result = run_experiment(asked, tmp_path / "out")
    assert result.findings is not None and result.failed == {}
    record = json.loads((tmp_path / "out" / "figures.json").read_text())
    cases = record["units"]["B"]["cases"]
    assert [one["how"] for one in cases] == [CONTROL, *WrongSetting, "ring", "ring", "blob", "blob", "turned", "turned"]
    assert [one["wrong"] for one in cases[6:10]] == [["rim_change"]] * 2 + [["separate_blob"]] * 2
    assert "rim_change" in cases[1]["wrong"]
    assert record["figures"]["rim_change"]["recall_clear"]["value"] == 1.0
    for failure in JUDGED:
        assert (tmp_path / "out" / f"{failure}.png").read_bytes().startswith(b"\x89PNG")


def test_a_cohort_without_growth_is_refused(
    source: LatestFollowUps, blob: Callable[..., Session], tmp_path: Path
) -> None:
    sessions = [blob("C", f"{number:03d}", 60.0 * number, 6.0) for number in range(2)]
    write_cohort(tmp_path / "still.h5", sessions, {}, image_size=64, contrasts=tuple(Contrast), config={})
    with Cohort.open(tmp_path / "still.h5") as cohort, pytest.raises(InputError, match=r"still\.h5: no patient"):
        FlagAccuracyExperiment(replace(source, cohort=cohort)).units()


@pytest.mark.slow
@pytest.mark.usefixtures("few_pictures")
def test_the_command_runs_a_real_model(textured: Path, tiny_model: Path, tmp_path: Path) -> None:
    asked = ["failures", str(textured), "--model", str(tiny_model), "--out", str(tmp_path / "out"), "--patients", "1"]
    result = CliRunner().invoke(experiment, [*asked, "--members", "1", "--steps", "2", "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.stdout.splitlines()[-1])["units"] == {"ok": 1, "failed": 0}
    assert len(json.loads((tmp_path / "out" / "rows" / "A_201.json").read_text())["cases"]) == 10  # no map to turn
