"""The commands `experiment NAME` as a user starts them, on networks good for nothing but running the code."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tumorcast.cli.experiment.grid import numbers_of, whole_numbers_of
from tumorcast.cli.experiment.launch import launch
from tumorcast.cli.main import app
from tumorcast.errors import EngineError, InputError, StoppedError, UsageError
from tumorcast.evaluation.experiments.base import Findings

ROOT = Path(__file__).parents[2]
FEW = ("--patients", "1", "--steps", "2", "--batch", "3")


@dataclass
class Halves:
    """Two units, of which one fails or stops the run, as asked."""

    stop: bool = False
    name: str = "halves"

    def provenance(self) -> dict[str, Any]:
        return {}

    def units(self) -> Sequence[str]:
        return ["good", "bad"]

    def measure(self, unit: str, pictures: Path) -> dict[str, Any]:
        if self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        if unit == "bad":
            raise InputError("of no use")
        return {}

    def report(self, rows: dict[str, dict[str, Any]], pictures: Path) -> Findings:
        return Findings("Half of it.", {})


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, ["experiment", *map(str, words)])


def run(*words: object) -> dict[str, Any]:
    """The object that a command prints with --json."""
    result = invoke(*words, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout.splitlines()[-1])


def test_units_that_fail_are_told_and_end_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        launch(Halves(), tmp_path / "out", True, so_far=False)
    assert ended.value.exit_code == 1
    told = capsys.readouterr()
    assert json.loads(told.out) == {
        "out": str(tmp_path / "out"),
        "experiment": "halves",
        "units": {"ok": 1, "failed": 1},
        "answer": "Half of it.",
    }
    assert "bad: failed: of no use" in told.err and "2 of 2 units (1 failed)" in told.err


def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="finished units are kept"):
        launch(Halves(stop=True), tmp_path / "out", True, so_far=False)
    assert (tmp_path / "out" / "rows" / "good.json").exists()


@pytest.mark.slow
def test_grid(blob_cohort: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = ("--model", tiny_model, "--noise-level", "10", "--members", "1", *FEW, "--out", tmp_path / "grid")
    told = run("grid", blob_cohort, *options, "--gain", "1,0.5,1", "--provider", "torch", "--device", "cpu")
    assert (told["experiment"], told["units"]) == ("grid", {"ok": 2, "failed": 0})
    assert (tmp_path / "grid" / "sheet-A.png").stat().st_size > 1000
    record = json.loads((tmp_path / "grid" / "experiment.json").read_text())
    assert (record["settings"]["members"], record["settings"]["batch"], record["engine"]) == (1, 3, "torch")
    assert record["settings"]["relative_change"] == 0.25
    assert run("grid", blob_cohort, *options, "--gain", "1")["units"] == {"ok": 1, "failed": 0}
    so_far = run("grid", blob_cohort, *options, "--gain", "0.25,0.5", "--so-far")
    assert (so_far["out"], so_far["units"]) == (str(tmp_path / "grid" / "so-far"), {"ok": 1, "failed": 0})
    changed = invoke("grid", blob_cohort, *options, "--gain", "1", "--relative-change", "0.5")
    assert isinstance(changed.exception, UsageError)
    assert "settings.relative_change = 0.25 there" in str(changed.exception)


@pytest.mark.slow
def test_the_papers_grid_takes_a_step_a_noise_level(blob_cohort: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = (
        "--noise-level",
        "4",
        "--scale",
        "50000",
        "--members",
        "1",
        "--patients",
        "1",
        "--out",
        tmp_path / "grid",
    )
    assert run("grid", blob_cohort, "--model", tiny_model, *options)["units"] == {"ok": 1, "failed": 0}
    assert (tmp_path / "grid" / "rows" / "A.NL4-s50000.json").exists()


@pytest.mark.slow
def test_consistency(blob_cohort: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text("relative_change = 0.5\n[sampler]\nnoise_level = 20\n")
    options = ("--members", "4", "--seeds", "2", "--target", "truth", "--config", tmp_path / "more.toml", *FEW)
    told = run("consistency", blob_cohort, "--model", tiny_model, *options, "--out", tmp_path / "out")
    assert told["units"] == {"ok": 1, "failed": 0} and "2 seeds of one target" in told["answer"]
    record = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert record["settings"]["relative_change"] == 0.5 and record["settings"]["sampler"]["noise_level"] == 20


@pytest.mark.parametrize("name", ["grid", "hindsight"])
def test_a_horizon_of_the_config_is_refused(name: str, blob_cohort: Path, tmp_path: Path) -> None:
    config = tmp_path / "more.toml"
    config.write_text("horizon_days = 90\n")
    result = invoke(name, blob_cohort, "--model", "none", "--config", config, "--out", tmp_path / "out")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).startswith(f"{config}: horizon_days = 90 is for `tumorcast forecast`")


def test_what_measures_is_looked_for_before_the_model(
    blob_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tumorcast.extra.find_spec", lambda name: None)
    result = invoke("grid", blob_cohort, "--model", "none", "--out", tmp_path / "out")
    assert isinstance(result.exception, EngineError)
    assert "tumorcast[evaluate]" in str(result.exception)
    with pytest.raises(typer.Exit):  # sizes need none of it
        launch(Halves(), tmp_path / "out", True, so_far=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("grid", "--scale", "1", "--gain", "1"), "--scale (the paper's guidance) or --gain"),
        (("grid", "--scale", "1e5", "--steps", "3"), "leave out --steps"),
        (("grid", "--gain", "0"), "--gain 0: "),
        (("grid", "--noise-level", "10,x"), "--noise-level 10,x: "),
        (("grid", "--noise-level", "400"), "noise level 400"),
        (("consistency", "--target", "fate"), "--target fate: allowed are truth, ode"),
        (("consistency", "--members", "1"), "--members 1, --seeds 10"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], message: str, blob_cohort: Path, tiny_model: Path, tmp_path: Path) -> None:
    name, *options = words
    result = invoke(name, blob_cohort, "--model", tiny_model, "--out", tmp_path / "out", *options)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_cohort_of_other_images_is_refused(blob_cohort: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = invoke("grid", blob_cohort, "--model", "demo128", "--out", tmp_path / "out")
    assert isinstance(result.exception, InputError)
    assert "t1n, t1c, t2w, t2f at 128 px" in str(result.exception)


def test_numbers() -> None:
    assert numbers_of("--gain", "1,0.5,1") == (1.0, 0.5)
    assert whole_numbers_of("--noise-level", "100,2e2") == (100, 200)
    with pytest.raises(UsageError, match=r"--noise-level 1\.5"):
        whole_numbers_of("--noise-level", "1.5")


def test_the_job_of_a_cluster_is_the_command(tmp_path: Path) -> None:
    script = ROOT / "slurm" / "experiment.sh"
    there = {"PATH": "/usr/bin:/bin", "TUMORCAST_PYTHON": "python3"}
    words = [str(script), "--dry-run", "grid", "my cohort.h5", "--out", "found"]
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
        "SLURM_GPUS_ON_NODE": "4",
    }
    done = subprocess.run(words, cwd=tmp_path, env=there | job, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (
        0,
        "srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=2 --kill-on-bad-exit=0 --mpi=pmix "
        "python3 -m mpi4py -m tumorcast experiment grid my\\ cohort.h5 --out found --json\n",
    )
    for rest, message in (([], "give an experiment and a cohort"), (["ode", "c.h5"], "there is no SLURM job here")):
        done = subprocess.run([str(script), *rest], env=there, capture_output=True, text=True, check=False)
        assert (done.returncode, message in done.stderr) == (2, True)
    shellcheck = str(Path(sys.executable).parent / "shellcheck")
    checked = [shellcheck, "--external-sources", "--check-sourced", str(script)]
    assert subprocess.run(checked, cwd=ROOT, check=False).returncode == 0
