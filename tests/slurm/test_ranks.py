"""Ranks on the nodes of a real SLURM cluster."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Cluster

VENV = Path(__file__).parents[2] / ".venv"
JOB = """#!/usr/bin/env bash
export OPAL_PREFIX={venv} PMIX_PREFIX={venv} PMIX_MCA_psec=native
srun --mpi=pmix --nodes=3 --ntasks=3 {venv}/bin/python {script} come
"""


def test_no_rank_goes_on_before_those_of_other_nodes_have_started(cluster: "Cluster", tmp_path: Path) -> None:
    """A barrier of PMIx without data ends, under SLURM, when the ranks of one node have come."""
    script = tmp_path / "job.sh"
    script.write_text(JOB.format(venv=VENV, script=Path(__file__).with_name("late_rank.py")))
    job = cluster.submit("--nodes=3", "--output=told", script, at=tmp_path)
    assert cluster.ended(job, 60).code == 0
    assert (tmp_path / "told").read_text().splitlines() == ["waited"] * 3
