"""Two processes train as one does with the whole batch; and they end together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tumorcast.errors import UsageError
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.arrays import open_arrays
from tumorcast.training.checkpoint import TrainingState, load_checkpoint
from tumorcast.training.job import Draws, generator_of
from tumorcast.training.log import read_log
from tumorcast.training.networks import build
from tumorcast.training.parallel import Team
from tumorcast.training.run_info import read_run_info
from tumorcast.training.train import train

pytestmark = pytest.mark.slow

TINY = {"channel_mult": (1, 1), "res_blocks": 1, "attention_resolutions": ()}
SETTINGS = TrainSettings(steps=4, batch=6, warmup_steps=1, checkpoint_every=2, learning_rate=1e-3, validate_every=2)
KINDS = (NetworkKind.DENOISER, NetworkKind.SEGMENTER, NetworkKind.SLICE_PROGRESSION)
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_parallel import KINDS, SETTINGS, TINY
from tumorcast.errors import StoppedError
from tumorcast.training.parallel import Team, connected
from tumorcast.training.train import train

def fail(progress):
    if progress.step == 3 and os.environ["RANK"] == "1":
        raise MemoryError("as if the second process were out of memory")

def stop(progress):
    if progress.step == 1 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)

folder, out = Path(sys.argv[2]), Path(sys.argv[3])
with connected(Team.from_environment(), torch.device("cpu")):
    for kind in KINDS:
        train(kind, folder, out / kind, SETTINGS, architecture=TINY)
    try:
        train(KINDS[1], folder, out / "stopped", SETTINGS, architecture=TINY, report=stop)
    except StoppedError as stopped:
        print(os.environ["RANK"], stopped)
    train(KINDS[1], folder, out / "stopped", SETTINGS, architecture=TINY)
    train(KINDS[0], folder, out / "failing", SETTINGS, architecture=TINY, report=fail)
"""


@pytest.fixture(scope="module")
def by_two(
    small_slices: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """What two processes of torchrun made: a run of each kind, and one in which the second process fails."""
    out = tmp_path_factory.mktemp("two")
    (out / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", out / "script.py"]
    command = [*launch, Path(__file__).parent, small_slices, out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return out, told


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_losses_of_one_with_the_whole_batch(
    kind: NetworkKind, by_two: tuple[Path, subprocess.CompletedProcess[str]], small_slices: Path, tmp_path: Path
) -> None:
    """Denoiser: a mean over rows. Segmenter: soft Dice, which is none. Progression: a weighted mean besides."""
    train(kind, small_slices, tmp_path, SETTINGS, architecture=TINY)
    two, one = read_log(by_two[0] / kind / "log.jsonl"), read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in two] == [row["step"] for row in one] == [1, 2, 2, 3, 4, 4]
    for ours, theirs in zip(one, two, strict=True):
        if "loss" in ours:
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
            assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-4)
        else:
            assert theirs["validation"] == pytest.approx(ours["validation"], rel=1e-5)
    assert read_run_info(by_two[0] / kind).provenance["device"] == "2 x cpu"


def test_when_one_process_fails_all_end_and_the_checkpoint_stands(
    by_two: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, told = by_two
    assert told.returncode != 0
    assert "as if the second process were out of memory" in told.stderr
    info = read_run_info(out / "failing")
    state = TrainingState.fresh(build(info.kind, info.architecture), 1e-3, 0.0)
    load_checkpoint(out / "failing" / "checkpoint.safetensors", state)
    assert state.step == 2


def test_a_signal_to_one_process_stops_all_after_the_same_step(
    by_two: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, told = by_two
    for rank in "01":
        assert f"{rank} {out / 'stopped'}: stopped: the checkpoint of step 2 is kept" in told.stdout
    stopped, whole = (load_file(out / name / "weights.safetensors") for name in ("stopped", KINDS[1]))
    assert all(torch.equal(stopped[name], whole[name]) for name in whole)


def test_shares_of_a_batch_are_its_rows() -> None:
    """Whatever is drawn, the processes together have what one has alone."""

    def numbers(team: Team) -> list[torch.Tensor]:
        draws = Draws(generator_of(torch.device("cpu"), 3), 6, team)
        pools = [torch.arange(5), torch.arange(50, 60)]
        return [draws.members(pools, [4, 2]), draws.uniform(0, 1, 2), draws.integers(0, 9), draws.normal(3)]

    parts = [numbers(Team(rank, 3)) for rank in range(3)]
    for whole, *shares in zip(numbers(Team()), *parts, strict=True):
        assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), whole)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(
    small_slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"batch = 6 .* 4 or 8 \(--batch"):
        train(NetworkKind.DENOISER, small_slices, tmp_path, SETTINGS)


def test_the_launcher_tells_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    for name in (*names, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Team.from_environment() == Team(0, 1, 0)
    for name, value in zip(names[3:], "581", strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="SLURM_STEP_NUM_TASKS = 8"):
        Team.from_environment()
    monkeypatch.setenv("MASTER_ADDR", "node1")
    monkeypatch.setenv("MASTER_PORT", "29400")
    assert Team.from_environment() == Team(5, 8, 1)
    for name, value in zip(names[:3], "120", strict=True):
        monkeypatch.setenv(name, value)
    assert Team.from_environment() == Team(1, 2, 0)


def test_the_folder_is_unpacked_by_one_process_of_a_node(blob_cohort: Path, tmp_path: Path) -> None:
    """Two that do it at once, as on two nodes with one disk, do not harm each other."""
    from tumorcast.training.arrays import _unpack

    folder = open_arrays(blob_cohort).origin
    before = (folder / "images.npy").read_bytes()
    _unpack(blob_cohort, folder, open_arrays(blob_cohort).cohort_sha256)
    assert (folder / "images.npy").read_bytes() == before
    assert not list(folder.parent.glob(".*partial"))
