"""The command select as a user starts it, with an engine that is known."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.fakes import ThresholdEngine
from tumorcast.cli.forecast_options import forecast_settings
from tumorcast.cli.main import app
from tumorcast.engines.protocol import ModelInfo
from tumorcast.errors import InputError, TumorcastError
from tumorcast.forecasting.select import Point
from tumorcast.settings import ForecastSettings, Guidance, NetworkKind, SamplerSettings

BASE = ForecastSettings(relative_change=0.4, batch=4, sampler=SamplerSettings(steps=2))


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
