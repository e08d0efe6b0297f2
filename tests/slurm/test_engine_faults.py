"""A rank whose engine fails on a node of a real SLURM cluster: its unit goes to another node, and the job is done."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import rank
from tumorcast.archive.verify import digest
from tumorcast.errors import EngineError
from tumorcast.running import forecast_run
from tumorcast.running.status import run_status

if TYPE_CHECKING:
    from conftest import Cluster, Job

VENV = Path(__file__).parents[2] / ".venv"
JOB = """#!/usr/bin/env bash
export OPAL_PREFIX={venv} PMIX_PREFIX={venv} PMIX_MCA_psec=native
srun --mpi=pmix --kill-on-bad-exit=0 --nodes=3 --ntasks=3 {venv}/bin/python -m mpi4py {words}
"""
PATIENTS = 3


@pytest.fixture(scope="module")
def cohort(one_scan_cohort: Callable[[int], Path]) -> Path:
    return one_scan_cohort(PATIENTS)


@pytest.fixture
def undisturbed(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The digest of a run whose engine is well."""
    monkeypatch.setattr(forecast_run, "open_engine", None)
    assert not rank.run(tmp_path / "alone.h5", cohort).stopped
    return digest(tmp_path / "alone.h5")


def run_job(cluster: "Cluster", at: Path, cohort: Path, **behaviour: Any) -> "tuple[Job, str]":
    """How a job on three nodes ended, a rank each, and what it said."""
    words = f"{rank.__file__} {at / 'maps.h5'} {cohort} '{json.dumps({'sleep_seconds': 0.02} | behaviour)}'"
    script = at / "job.sh"
    script.write_text(JOB.format(venv=VENV, words=words))
    job = cluster.submit("--nodes=3", "--output=told", script, at=at)
    return cluster.ended(job, 120), (at / "told").read_text(encoding="utf-8")


def test_a_failing_node_leaves_and_the_others_finish(
    cluster: "Cluster", cohort: Path, undisturbed: str, tmp_path: Path
) -> None:
    ended, told = run_job(cluster, tmp_path, cohort, fails={"1": {"fails_at": 3}})
    assert ended.code == 0, told
    assert "lost: rank 1 on n2: guided.onnx: failed on cuda:0: CUDA failure 719" in told
    assert digest(tmp_path / "maps.h5") == undisturbed
    assert run_status(tmp_path / "maps.h5").patients == {"ok": PATIENTS, "failed": 0, "skipped": 0}


def test_where_every_node_fails_the_job_ends_with_4_and_the_next_one_goes_on(
    cluster: "Cluster", cohort: Path, undisturbed: str, tmp_path: Path
) -> None:
    """Not with 75, by which it would be requeued for ever."""
    ended, told = run_job(cluster, tmp_path, cohort, fails={str(each): {"fails_at": 3} for each in range(3)})
    assert ended.code == EngineError.exit_code, told
    assert all(f"rank {each} on n{each + 1}: " in told for each in range(3))
    assert run_status(tmp_path / "maps.h5").failed == 0
    ended, told = run_job(cluster, tmp_path, cohort)
    assert ended.code == 0, told
    assert digest(tmp_path / "maps.h5") == undisturbed
