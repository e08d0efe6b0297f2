"""Settings for a patient: the figures by hand, the search, its files, and the command with an engine that is known."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.archive.conftest import images_of, slice_of
from tests.fakes import ThresholdEngine
from tumorcast.archive.maps import SliceForecast
from tumorcast.cli.forecast import forecast_settings
from tumorcast.cli.main import app
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.engines.protocol import ModelInfo
from tumorcast.errors import InputError, TumorcastError, UsageError
from tumorcast.forecasting.plan import plan_patient
from tumorcast.forecasting.select import (
    WEIGHTS,
    PatientCase,
    Point,
    Scores,
    SelectGrid,
    TrialStore,
    agreement,
    past_likelihood,
    preservation,
    select,
    size_score,
    table_of_scores,
    toml_of,
)
from tumorcast.settings import ForecastSettings, Guidance, NetworkKind, SamplerSettings

SIDE, PIXEL_MM = 40, 2.0
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
BASE = ForecastSettings(relative_change=0.4, batch=4, sampler=SamplerSettings(steps=2))
EVEN = Scores(0.5, 0.5, 0.5, 0.5)


def forecast_of(**changes: Any) -> SliceForecast:
    """A tumour of 3 × 3 pixels in a brain of 40 × 40, forecast without any change."""
    present = (np.abs(ROWS - 20) < 2) & (np.abs(COLUMNS - 5) < 2)
    plain = slice_of(images_of(0, 2, SIDE))
    given: dict[str, Any] = dict(
        labels=present.astype(np.uint8),
        brain=np.ones((SIDE, SIDE), bool),
        affine=np.diag([-PIXEL_MM, -PIXEL_MM, 5.0, 1.0]),
        mean=plain.image,
        std=np.zeros_like(plain.image),
        tumour=present.astype(np.float32),
        present_mm2=100.0,
        present_segmented_mm2=110.0,
        aimed_mm2=np.full(3, 150.0),
    )
    return replace(plain, **(given | changes))


@pytest.mark.parametrize(
    ("reached", "aimed", "score"),
    [
        (160.0, 150.0, 1.0),
        (135.0, 150.0, 0.5),
        (185.0, 150.0, 0.5),
        (110.0, 150.0, 0.0),
        (90.0, 150.0, 0.0),
        (110.0, 100.0, 1.0),
        (112.5, 100.0, 0.5),  # nothing wanted: counted in 5 mm²
    ],
)
def test_size_is_the_share_of_the_change_that_was_reached(reached: float, aimed: float, score: float) -> None:
    forecast = forecast_of(reached_mm2=np.full(3, reached), aimed_mm2=np.full(3, aimed))
    assert size_score(forecast) == pytest.approx(score)


def test_preservation_is_of_the_members_far_from_the_tumour() -> None:
    strip, far = (np.abs(COLUMNS - 5) < 2).astype(np.uint8), COLUMNS > 6 + 20 / PIXEL_MM
    plain = forecast_of(labels=strip)
    image, beyond = plain.image, far.astype(np.float32)
    assert preservation(plain) == 1.0
    assert preservation(replace(plain, mean=image + (1 - beyond))) == 1.0
    assert preservation(replace(plain, mean=image + 0.1 * beyond)) == pytest.approx(0.5, rel=1e-4)
    both = replace(plain, mean=image + 0.06 * beyond, std=np.full_like(image, 0.08))
    assert preservation(both) == pytest.approx(0.5, rel=1e-4)  # √(.06² + .08²) = .1
    assert preservation(replace(plain, mean=image + 1)) == 0.0
    assert preservation(replace(plain, mean=image + 1, brain=~far)) == 1.0


def test_agreement_is_of_the_maps_outside_the_present_outline() -> None:
    a, b = np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.float32)
    a[20, 20:22], b[20, 21:23] = 0.5, 1.0
    a[20, 5] = 1.0  # in the present tumour
    assert agreement(forecast_of(tumour=a), forecast_of(tumour=b)) == pytest.approx(2 * 0.5 / 3)
    assert agreement(forecast_of(tumour=a), forecast_of(tumour=a)) == 1.0
    assert agreement(forecast_of(), forecast_of()) == 1.0  # nothing outside


def test_likelihood_of_the_past_is_the_mean_probability_of_what_came() -> None:
    near = np.zeros((SIDE, SIDE), bool)
    near[20, 7:11] = True
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[20, 7:9] = 3
    forecast = forecast_of(tumour=np.full((SIDE, SIDE), 0.8, np.float32), brain=near)
    now = CohortSlice(forecast.image, labels, near, forecast.affine, 1.0, 1.0, 7)
    assert past_likelihood(forecast, now) == pytest.approx((0.8 * 0.8 * 0.2 * 0.2) ** 0.25)
    sure = replace(forecast, tumour=np.ones((SIDE, SIDE), np.float32))
    assert past_likelihood(sure, now) == pytest.approx((0.999**2 * 0.001**2) ** 0.25)


def test_a_total_is_the_weighted_mean_of_what_is_known() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert Scores(1.0, 0.0, 0.0, 0.0).total == pytest.approx(0.3)
    assert Scores(0.5, 0.5, 0.5, None).total == pytest.approx(0.5)


def test_the_grid_is_of_the_guidance_in_use() -> None:
    plain, paper = SamplerSettings(), SamplerSettings.paper()
    assert [point.strength for point in SelectGrid(noise_level=(200,)).points(plain)] == [0.25, 0.5, 1.0]
    assert {point.guidance for point in SelectGrid().points(paper)} == {Guidance.PAPER}
    (point,) = SelectGrid(noise_level=(50,), scale=(9.0,), members=(8, 2)).points(plain)
    assert point == Point(50, Guidance.PAPER, 9.0, 2)
    settings = point.settings(BASE)
    assert (settings.members, settings.sampler.noise_level, settings.sampler.scale) == (2, 50, 9.0)
    with pytest.raises(UsageError, match="not both"):
        SelectGrid.of({"gain": [1.0], "scale": [1.0]}, "grid.toml")


class Told:
    """A case whose scores are told: by noise level, and the agreement by members."""

    engine = type("Engine", (), {"info": ModelInfo(("t1n",), 64, 350, NetworkKind.SEGMENTER, "")})

    def __init__(self, sizes: dict[int, float], agreements: dict[int, float], fails_at: int = 99) -> None:
        self.sizes, self.agreements, self.fails_at = sizes, agreements, fails_at
        self.asked: list[tuple[int, int]] = []

    def scores(self, settings: ForecastSettings) -> Scores:
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append((settings.sampler.noise_level, settings.members))
        return replace(EVEN, size=self.sizes[settings.sampler.noise_level], agreement=self.agreements[settings.members])


GRID = SelectGrid(noise_level=(100, 200, 300), gain=(0.5,), members=(2, 4, 8))
SIZES = {100: 0.2, 200: 0.9, 300: 0.9}


@pytest.mark.parametrize(
    ("agreements", "members"),
    [
        ({2: 0.95, 4: 0.97, 8: 0.99}, 2),
        ({2: 0.5, 4: 0.9, 8: 0.99}, 4),
        ({2: 0.5, 4: 0.6, 8: 0.7}, 8),
    ],
)
def test_the_first_best_wins_with_the_fewest_members_that_agree(
    agreements: dict[int, float], members: int, tmp_path: Path
) -> None:
    case, told = Told(SIZES, agreements), []
    store = TrialStore.open(tmp_path / "scores.json", {})
    found = select(case, BASE, GRID, store, lambda done, total: told.append((done, total)))  # type: ignore[arg-type]
    assert found.chosen == Point(200, Guidance.NORMALISED, 0.5, members)
    assert case.asked == [(100, 2), (200, 2), (300, 2), (200, 4), (200, 8)]
    assert told == [(k, 5) for k in range(1, 6)]
    chosen = [row for row in table_of_scores(found) if row["chosen"]]
    assert [(row["noise_level"], row["gain"], row["members"]) for row in chosen] == [(200, 0.5, members)]


def test_a_stopped_search_goes_on_with_what_it_has(tmp_path: Path) -> None:
    path, agreements = tmp_path / "scores.json", {2: 0.5, 4: 0.6, 8: 0.7}
    stopped = Told(SIZES, agreements, fails_at=2)
    with pytest.raises(KeyboardInterrupt):
        select(stopped, BASE, GRID, TrialStore.open(path, {"seed": 1}), lambda *_: None)  # type: ignore[arg-type]
    resumed = Told(SIZES, agreements)
    found = select(resumed, BASE, GRID, TrialStore.open(path, {"seed": 1}), lambda *_: None)  # type: ignore[arg-type]
    assert stopped.asked + resumed.asked == [(100, 2), (200, 2), (300, 2), (200, 4), (200, 8)]
    assert len(found.tried) == 5
    with pytest.raises(UsageError, match="seed = 1 there, but 2 now"):
        TrialStore.open(path, {"seed": 2})
    path.write_text("[]")
    with pytest.raises(InputError, match=r"not the scores of `tumorcast select`"):
        TrialStore.open(path, {"seed": 1})


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (SelectGrid(noise_level=(100, 400)), "noise_level = 400 in the grid exceeds the 350 levels"),
        (SelectGrid(noise_level=(2,)), "NL 2, gain 0.25, 4 members: sampler.noise_level = 2"),
        (SelectGrid(gain=(9.0,)), "sampler.gain = 9.0"),
        (SelectGrid(members=(4, 0)), "members = 0"),
    ],
)
def test_settings_that_are_not_allowed_are_told_before_any_is_tried(
    grid: SelectGrid, message: str, tmp_path: Path
) -> None:
    case = Told(SIZES, {4: 1.0})
    with pytest.raises(UsageError, match=message):
        select(case, BASE, grid, TrialStore.open(tmp_path / "s.json", {}), lambda *_: None)  # type: ignore[arg-type]
    assert case.asked == []


def test_scores_of_a_patient_with_and_without_a_past(blob_cohort: Path) -> None:
    quiet = Point(100, Guidance.NORMALISED, 0.5, 2).settings(BASE)
    weak = Point(100, Guidance.NORMALISED, 0.25, 2).settings(BASE)
    loud = Point(300, Guidance.NORMALISED, 0.5, 2).settings(BASE)
    with Cohort.open(blob_cohort) as cohort:
        case = PatientCase(cohort, ThresholdEngine(), None, plan_patient(cohort, "A", 2))
        assert [(one.session_id, one.place.index) for one in case.earlier] == [("001", 0), ("001", 1)]
        good, small, bright = (case.scores(settings) for settings in (quiet, weak, loud))
        (first,) = (info for info in cohort.sessions("C"))
        alone = PatientCase(cohort, ThresholdEngine(), None, replace(plan_patient(cohort, "A", 1), patient_id="C"))
        assert first.n_slices and alone.earlier == []
    assert good.size > 0.8 and small.size == 0.0
    assert good.preservation == pytest.approx(0.95, abs=0.01)  # the noise of σ = 0.01 alone
    assert bright.preservation < good.preservation
    assert good.agreement == small.agreement == 1.0
    assert good.past is not None and small.past is not None and good.past > small.past
    assert good.total > max(small.total, bright.total)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ThresholdEngine:
    made = ThresholdEngine()
    monkeypatch.setattr("tumorcast.engines.opening.open_engine", lambda choice: made)
    return made


def run(cohort: Path, out: Path, *options: object) -> Result:
    words = ["select", cohort, "--model", "none", "--out", out, "--steps", 2, "--json", *options]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_writes_settings_that_forecast_reads(
    blob_cohort: Path, tmp_path: Path, engine: ThresholdEngine
) -> None:
    (tmp_path / "grid.toml").write_text("noise_level = [100, 300]\ngain = [0.25, 0.5]\nmembers = [2, 3]\n")
    wanted = ("--patient", "A", "--relative-change", 0.4, "--grid", tmp_path / "grid.toml")
    result = run(blob_cohort, tmp_path / "out", *wanted)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["chosen"] == {"noise_level": 100, "gain": 0.5, "members": 2}
    assert told["tried"] == 5
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert [row["chosen"] for row in rows] == ["0", "1", "0", "0", "0"]
    assert float(rows[1]["score"]) == told["scores"]["score"] > float(rows[0]["score"])
    settings = forecast_settings({"config": tmp_path / "out" / "forecast.toml"})
    assert settings == Point(100, Guidance.NORMALISED, 0.5, 2).settings(BASE.model_copy(update={"batch": 16}))
    assert settings.max_slices is None  # those tried were for the choice alone
    images = len(engine.batches)
    assert run(blob_cohort, tmp_path / "out", *wanted).stdout == result.stdout
    assert len(engine.batches) == images
    other = run(blob_cohort, tmp_path / "out", *wanted, "--seed", 1)
    assert "settings.seed = 0 there, but 1 now" in str(other.exception)


def test_settings_of_the_paper_survive_their_file(tmp_path: Path) -> None:
    paper = ForecastSettings(horizon_days=90, sampler=SamplerSettings.paper(100, 7e4))
    (tmp_path / "forecast.toml").write_text(toml_of(paper))
    assert forecast_settings({"config": tmp_path / "forecast.toml"}) == paper


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--patient", "A"), 2, "exactly one of horizon_days"),
        (("--patient", "A", "--horizon-days", 30), 2, "--horizon-days needs --growth"),
        (("--patient", "Z", "--relative-change", 0.2), 3, "no patient Z"),
        (("--patient", "C", "--relative-change", 0.2), 3, "the last scan of C shows no tumour"),
        (("--patient", "A", "--relative-change", 0.2, "--grid", "none.toml"), 2, "none.toml: cannot be read"),
    ],
)
@pytest.mark.usefixtures("engine")
def test_a_mistake_is_told_and_leaves_nothing(
    options: tuple[object, ...], code: int, message: str, blob_cohort: Path, tmp_path: Path
) -> None:
    fault = run(blob_cohort, tmp_path / "out", *options).exception
    assert isinstance(fault, TumorcastError)
    assert fault.exit_code == code
    assert message in str(fault)
    assert not (tmp_path / "out").exists()


def test_a_model_for_other_images_is_refused(blob_cohort: Path, tmp_path: Path, engine: ThresholdEngine) -> None:
    engine.info = ModelInfo(("t1c",), 128, 350, NetworkKind.SEGMENTER, "f00")
    fault = run(blob_cohort, tmp_path / "out", "--patient", "A", "--relative-change", 0.2).exception
    assert isinstance(fault, InputError)
    assert "t1n, t1c, t2w, t2f at 64 px, but the model takes t1c at 128 px" in str(fault)
