"""The commands as a user calls them: exit codes, messages on stderr, and one JSON object on stdout."""

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumorcast.archive.merge import merge
from tumorcast.cli.main import main


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: object) -> Ended:
    """The command as `tumorcast` starts it, in this process."""
    stdout, stderr = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["tumorcast", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Ended(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())


def run_apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tumorcast.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def last_json(result: Ended) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    record: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return record


def refused(code: int, *arguments: object) -> str:
    result = run(*arguments)
    assert result.returncode == code, (result.returncode, result.stderr)
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.slow
def test_the_main_job_end_to_end(tiny_model: Path, tmp_path: Path) -> None:
    scans, cohort, growth, maps = (tmp_path / name for name in ("scans", "cohort.h5", "growth.h5", "maps.h5"))
    last_json(run("simulate", scans, "--patients", 1, "--seed", 1, "--sessions", 3, "--voxel-mm", 4, "--json"))
    prepared = last_json(
        run("prepare", scans, "--clinical", scans / "clinical.csv", "--image-size", 64, "--out", cohort, "--json")
    )
    assert prepared["sessions"] == {"ok": 3, "failed": 0, "skipped": 0}
    fitted = last_json(run("fit", cohort, "--out", growth, "--replicates", 10, "--json"))
    assert fitted["patients"] == 1
    options = ("--model", tiny_model, "--growth", growth, "--horizon-days", 60, "--members", 2)
    sampler = ("--steps", 2, "--noise-level", 10, "--max-slices", 1)
    forecast = last_json(run("forecast", cohort, *options, *sampler, "--out", maps, "--json"))
    assert forecast["patients"] == {"ok": 1, "failed": 0, "skipped": 0}
    shown = last_json(run("show", maps, "--out", tmp_path / "pictures", "--json"))
    assert shown["pictures"] == len(list((tmp_path / "pictures").glob("*.png"))) == 2
    (record,) = shown["slices"]
    gained = record["reached_mm2"] - record["present_segmented_mm2"]
    assert record["reach"] * (record["aimed_mm2"] - record["present_mm2"]) == pytest.approx(gained, abs=1e-6)


@pytest.mark.slow
def test_train_resumes_from_the_command_line(blob_cohort: Path, tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    config.write_text("steps = 2\nbatch = 2\n[architecture]\nchannel_mult = [1, 1]\nres_blocks = 1\n")
    for until in (1, 2):
        command = ("train", "segmenter", blob_cohort, "--out", tmp_path / "run", "--config", config, "--until", until)
        last_json(run(*command, "--json"))
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_an_unknown_configuration_key_is_refused(blob_cohort: Path, tmp_path: Path) -> None:
    config = tmp_path / "forecast.toml"
    config.write_text("relative_change = 0.25\nmembres = 3\n")
    command = ("forecast", blob_cohort, "--model", tmp_path, "--out", tmp_path / "m.h5", "--config", config)
    message = refused(2, *command)
    assert f"{config}: unknown key 'membres'; known keys: " in message
    config.write_text("relative_change = 0.25\n[sampler]\nsteps = 'many'\n")
    assert "sampler.steps = 'many'" in refused(2, *command)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("frobnicate",), 2, "No such command"),
        (("prepare", "nowhere", "--out", "c.h5"), 3, "nowhere"),
        (("prepare", ".", "--out", "c.h5", "--slices", "some"), 2, "--slices some: allowed are tumour, all, largest"),
        (("prepare", ".", "--out", "c.h5", "--contrasts", "t3"), 2, "--contrasts t3: allowed are t1n, t1c, t2w, t2f"),
        (("simulate", "s", "--patients", 0), 2, "--patients 0"),
        (("simulate", "s", "--sessions", "few"), 2, "--sessions few: give a number"),
        (("fit", "none.csv", "--out", "g.h5"), 3, "none.csv"),
        (("forecast", "none.h5", "--model", ".", "--out", "m.h5"), 2, "exactly one of horizon_days"),
        (("forecast", "none.h5", "--model", ".", "--out", "m.h5", "--relative-change", 1), 3, "no RUN (run.json)"),
        (("train", "painter", "none.h5", "--out", "r"), 2, "networks are denoiser"),
        (("import-adm", "--out", "r"), 2, "nothing to do; give --denoiser, --regressor or both"),
        (("import-adm", "--denoiser", "none.pt", "--out", "r"), 2, "none.pt: a denoiser's weights fit any size"),
        (("import-adm", "--regressor", "none.pt", "--out", "r"), 3, "none.pt: cannot be read"),
        (("import-adm", "--regressor", "none.pt", "--out", "r", "--contrasts", "t3"), 2, "--contrasts t3: allowed are"),
        (("show", "none.h5", "--out", "p"), 3, "none.h5: no such file; give a maps.h5"),
        (("show", ".", "--out", "p"), 3, "is a folder, and a file is needed; give a maps.h5"),
    ],
)
def test_a_mistake_gets_one_message_and_its_code(
    arguments: tuple[object, ...], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(code, *arguments)
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = ("show", tmp_path / "none.h5", "--out", tmp_path)
    assert "Traceback" in run_apart("--debug", *command).stderr
    plain = run_apart(*command)
    assert plain.returncode == 3 and "none.h5: no such file" in plain.stderr and "Traceback" not in plain.stderr


@pytest.mark.slow
def test_a_patient_that_fails_makes_the_exit_code_1(blob_cohort: Path, tiny_model: Path, tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    table.write_text("patient_id,day,area_mm2\nB,0,900\nB,60,1200\nB,120,1500\n")
    last_json(run("fit", table, "--out", tmp_path / "growth.h5", "--replicates", 5, "--json"))
    options = ("--model", tiny_model, "--growth", tmp_path / "growth.h5", "--horizon-days", 30, "--members", 1)
    result = run("forecast", blob_cohort, *options, "--steps", 2, "--out", tmp_path / "maps.h5", "--max-slices", 1)
    assert result.returncode == 1
    assert "A: failed: A: not in the growth file" in result.stderr


@pytest.mark.slow
def test_a_scan_that_fails_makes_prepare_end_with_1(tmp_path: Path) -> None:
    run("simulate", tmp_path / "scans", "--patients", 1, "--sessions", 2, "--voxel-mm", 6)
    next((tmp_path / "scans").glob("*-001/*-t1c.nii.gz")).write_bytes(b"damaged")
    result = run("prepare", tmp_path / "scans", "--image-size", 64, "--out", tmp_path / "cohort.h5", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout.splitlines()[-1])["sessions"] == {"ok": 1, "failed": 1, "skipped": 0}
    assert "SIM-00001 001: failed: " in result.stderr


def test_a_device_that_is_not_there_ends_with_4(blob_cohort: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = ("--model", tiny_model, "--relative-change", 0.1, "--device", "cuda:99", "--out", tmp_path / "m.h5")
    assert "device cuda:99: not available" in refused(4, "forecast", blob_cohort, *options)


def test_an_unwritable_output_is_told(blob_cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    table = tmp_path / "sizes.csv"
    table.write_text("patient_id,day,area_mm2\nB,0,900\n")
    assert "cannot be written" in refused(3, "fit", table, "--out", tmp_path / "file" / "growth.h5")
    merge(tmp_path / "maps.h5", [], {"contrasts": []}, [])
    assert "cannot be made" in refused(3, "show", tmp_path / "maps.h5", "--out", tmp_path / "file" / "pictures")


def test_a_patient_with_a_fault_in_a_table_is_told_and_the_others_are_fitted(tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    table.write_text("patient_id,day,area_mm2\nA,0,-9\nB,0,900\nB,60,1200\nB,120,1500\nC,0,\n")
    result = run("fit", table, "--out", tmp_path / "growth.h5", "--replicates", 5, "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout.splitlines()[-1])["failed"] == 1
    assert f"A: failed: {table}, line 2: 'area_mm2' is -9; a size is zero or more" in result.stderr
    assert "C: skipped: no scan has a value in column 'area_mm2'" in result.stderr


def test_sizes_of_the_published_patient_are_fitted(shared_data: Path, tmp_path: Path) -> None:
    fitted = last_json(run("fit", shared_data / "dmg_pid1.csv", "--out", tmp_path / "growth.h5", "--json"))
    assert fitted["patients"] == 1
    from tumorcast.archive.growth_file import read_growth

    (fit,) = read_growth(tmp_path / "growth.h5").values()
    assert len(fit.series.days) == 7
    assert np.isfinite(fit.replicates).all()
