"""slurm/train.sh on a real SLURM cluster: two nodes, a process each, train as one process would."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.job import Device
from tumorcast.training.train import train

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sh"
STEPS, BATCH = 2, 4


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_two_nodes_train_one_network(cluster: "Cluster", blob_cohort: Path, tmp_path: Path) -> None:
    """On CPUs: the cluster's GPUs are stand-ins."""
    resources = ("--nodes=2", "--gres=gpu:1", "--cpus-per-task=1")
    options = ("--out", tmp_path / "run", "--steps", str(STEPS), "--batch", str(BATCH), "--device", "cpu")
    where = ("--cache", tmp_path / "slices")
    job = cluster.submit(*resources, SCRIPT, "segmenter", blob_cohort, *options, *where, at=tmp_path)
    log = tmp_path / f"tumorcast-train-{job}.out"
    assert cluster.ended(job, 240).code == 0, log.read_text(encoding="utf-8")
    settings = TrainSettings(steps=STEPS, batch=BATCH)
    train(
        NetworkKind.SEGMENTER, blob_cohort, tmp_path / "alone", settings, device=Device.CPU, cache=tmp_path / "slices"
    )
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
