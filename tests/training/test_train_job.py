"""slurm/train.sh and the command it runs, without a cluster: programs of SLURM's names stand in for it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tumorcast.cli import main as cli
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.checkpoint import checkpoint_step, what_is_kept
from tumorcast.training.job import Device
from tumorcast.training.log import read_log
from tumorcast.training.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
    [[ $1 != --ntasks=* ]] || ntasks=${1#*=}
    shift
done
for ((k = 0; k < ntasks; k++)); do
    SLURM_PROCID=$k SLURM_LOCALID=$k SLURM_STEP_NUM_TASKS=$ntasks "$@" &
done
wait -n
"""
TOOLS = {
    "srun": SRUN,
    "scontrol": '#!/usr/bin/env bash\n[[ $1 == show ]] && echo node7 || echo "$@" >>"$TOLD"\n',
    "squeue": "#!/usr/bin/env bash\necho RUNNING\n",
    "python": '#!/usr/bin/env bash\necho "$SLURM_PROCID $MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS $*"\nexit "$CODE"\n',
}
JOB = {
    "SLURM_JOB_ID": "20007",
    "SLURM_JOB_NODELIST": "node7",
    "SLURM_JOB_CPUS_PER_NODE": "8",
    "SLURM_GPUS_ON_NODE": "2",
}


def submit(at: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    for name, text in TOOLS.items():
        (at / name).write_text(text)
        (at / name).chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TUMORCAST_"))}
    path = f"{at}{os.pathsep}{os.environ['PATH']}"
    environment = clean | {"PATH": path, "TOLD": str(at / "told"), "TUMORCAST_PYTHON": "python"} | variables
    command = [str(ROOT / "slurm" / "train.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_job_starts_a_process_a_gpu_that_can_find_each_other(tmp_path: Path) -> None:
    result = submit(tmp_path, "denoiser", "my cohort.h5", "--out", "run", CODE="0", **JOB)
    assert result.returncode == 0, result.stderr
    told = "node7 20007 4 -m tumorcast train denoiser my cohort.h5 --out run"
    assert sorted(result.stdout.splitlines()) == [f"{rank} {told}" for rank in (0, 1)]


def test_a_dry_run_prints_the_one_line(tmp_path: Path) -> None:
    result = submit(tmp_path, "--dry-run", "denoiser", "c.h5", "--out", "run", SLURM_JOB_NUM_NODES="3", **JOB)
    assert result.stdout == (
        "srun --nodes=3 --ntasks=6 --ntasks-per-node=2 --cpus-per-task=4 --kill-on-bad-exit=1 --mpi=none "
        "python -m tumorcast train denoiser c.h5 --out run\n"
    )


@pytest.mark.parametrize(("code", "restarts", "requeued"), [(75, 3, True), (75, 20, False), (4, 0, False)])
def test_what_was_stopped_is_requeued_and_a_fault_is_not(
    code: int, restarts: int, requeued: bool, tmp_path: Path
) -> None:
    result = submit(tmp_path, "denoiser", "c.h5", CODE=str(code), SLURM_RESTART_COUNT=str(restarts), **JOB)
    assert result.returncode == code
    assert (tmp_path / "told").exists() is requeued
    assert not requeued or (tmp_path / "told").read_text() == "requeue 20007\n"


def test_outside_of_a_job_it_says_how_to_submit(tmp_path: Path) -> None:
    result = submit(tmp_path, "denoiser", "c.h5")
    assert (result.returncode, "submit with sbatch" in result.stderr) == (2, True)


def test_it_finds_the_project_as_the_other_scripts_do() -> None:
    ours, other = ((ROOT / "slurm" / f"{name}.sh").read_text(encoding="utf-8") for name in ("train", "forecast"))
    block = other.split("set -euo pipefail\n")[1].split("run_script")[0].replace("forecast", "train")
    assert block in ours


def test_shellcheck_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is missing on this machine; tests/slurm fails for it in CI")
    command = [shellcheck, "--external-sources", "--check-sourced", "slurm/train.sh"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")


def test_a_signal_to_stop_saves_the_step_reached(small_slices: Path, tmp_path: Path) -> None:
    """Long before a checkpoint is due; and the weights at the end are those of a run that nothing disturbed."""
    config = tmp_path / "t.toml"
    config.write_text("batch = 2\ncheckpoint_every = 1000\nnoise_levels = 20\n[architecture]\nchannel_mult = [1]\n")
    words = ("segmenter", small_slices, "--config", config, "--steps", 100, "--device", "cpu")
    command = [sys.executable, "-m", "tumorcast", "train", *map(str, words), "--out"]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    run, log = tmp_path / "run", tmp_path / "run" / "log.jsonl"
    process = subprocess.Popen([*command, run], env=variables, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 75, told
    step = checkpoint_step(run / "checkpoint.safetensors")
    assert step is not None and 5 <= step < 100
    assert f"the checkpoint of step {step} is kept" in told
    for out in (run, tmp_path / "whole"):
        subprocess.run([*command, out], env=variables, capture_output=True, check=True)
    stopped, whole = (load_file(out / "weights.safetensors") for out in (run, tmp_path / "whole"))
    assert all(torch.equal(stopped[name], whole[name]) for name in whole)
    assert [row["step"] for row in read_log(log) if "loss" in row] == [*range(1, 101)]


def test_a_signal_before_the_first_step_says_that_nothing_is_saved(
    small_slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    words = ("segmenter", small_slices, "--out", tmp_path / "run", "--steps", 1, "--batch", 2, "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tumorcast.training.train.Pools.open", interrupted)
        assert ended(monkeypatch, *words) == 75
    assert "no step is saved yet" in capsys.readouterr().err
    assert ended(monkeypatch, *words) == 0


def test_a_second_interrupt_does_not_wait_for_the_step(small_slices: Path, tmp_path: Path) -> None:
    def impatient(_: object) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    settings = TrainSettings(steps=2, batch=2)
    with pytest.raises(KeyboardInterrupt):
        train(NetworkKind.SEGMENTER, small_slices, tmp_path, settings, device=Device.CPU, report=impatient)
    assert what_is_kept(tmp_path).startswith("no step is saved")


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tumorcast", "train", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_trains_progression_on_slices_and_names_what_it_does_not_know(
    small_slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.toml").write_text('schedule = "constant"\n[architecture]\nchannel_mult = [1]\n')
    options = ("--config", tmp_path / "t.toml", "--steps", 2, "--batch", 2, "--device", "cpu", "--json")
    assert ended(monkeypatch, "slice-progression", small_slices, "--out", tmp_path / "run", *options) == 0
    assert '"steps_now": 2' in capsys.readouterr().out.splitlines()[-1]
    unknown = ("slice-progression", small_slices, "--out", tmp_path / "run", "--device", "tpu")
    assert ended(monkeypatch, *unknown) == 2
    assert "--device tpu: allowed are auto, cpu, cuda" in capsys.readouterr().err
    assert ended(monkeypatch, "oracle", small_slices, "--out", tmp_path / "run") == 2
    assert "networks are denoiser, segmenter, progression, slice-progression, and regressor" in capsys.readouterr().err
