"""Ranks without MPI, and what is refused. tests/mpi has the real ones."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from tumorcast.errors import EngineError
from tumorcast.running.ranks import LAUNCHERS, Launch, Ranks, launched, limit_threads, open_ranks, pin_threads

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def unlaunched(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [*LAUNCHERS, "PMIX_RANK"]:
        monkeypatch.delenv(variable, raising=False)


def test_one_process_is_one_rank_and_mpi_is_not_loaded() -> None:
    script = (
        "import sys\n"
        "from tumorcast.running.ranks import open_ranks\n"
        "with open_ranks() as ranks: ranks.all_of(None); print(ranks.rank, ranks.size, ranks.is_root, ranks.poll())\n"
        "print([name for name in ('mpi4py', 'numba') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == "0 1 True 0\n[]\n"


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # a batch script: nothing was launched yet
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, Launch("srun", 8)),
        ({"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "8"}, Launch("Open MPI's mpirun", 8)),
        ({"PMI_SIZE": "3"}, Launch(LAUNCHERS["PMI_SIZE"], 3)),
        ({"PMIX_RANK": "0"}, Launch("a PMIx launcher", None)),
    ],
)
def test_a_launcher_is_known_by_its_environment(environment: dict[str, str], launch: Launch | None) -> None:
    assert launched(environment) == launch


def test_a_launcher_of_one_process_needs_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with open_ranks() as ranks:
        assert ranks.size == 1


def test_several_processes_without_mpi4py_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    message = r"started as 4 processes by Open MPI's mpirun, but mpi4py cannot be used .*install tumorcast\[mpi\]"
    with pytest.raises(EngineError, match=message), open_ranks():
        pass


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}, "srun started 3 processes, but MPI sees 1"),
        ({"PMIX_RANK": "2"}, "a PMIx launcher started several processes, but MPI sees 1"),
    ],
)
def test_processes_that_do_not_see_each_other_are_refused(environment: dict[str, str], message: str) -> None:
    """As srun starts an MPI that does not know it: each process would do the whole work."""
    pytest.importorskip("mpi4py")
    script = (
        "import os, sys\n"
        "from mpi4py import MPI\n"  # before the environment lies, so that it starts alone
        "os.environ.update(dict(pair.split('=') for pair in sys.argv[1:]))\n"
        "from tumorcast.errors import EngineError\n"
        "from tumorcast.running.ranks import open_ranks\n"
        "try:\n"
        "    with open_ranks(): print('opened')\n"
        "except EngineError as fault: print(fault)"
    )
    command = [sys.executable, "-c", script, *(f"{name}={value}" for name, value in environment.items())]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert message in ended.stdout, ended.stderr
    assert "srun --mpi=pmix" in ended.stdout


def test_threads_are_limited_to_the_ranks_cores() -> None:
    before, most = numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS
    numba.set_num_threads(most)
    try:
        limit_threads(Ranks(threads_per_rank=10_000))
        assert numba.get_num_threads() == most
        limit_threads(Ranks(threads_per_rank=1))
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)
    with open_ranks() as ranks:
        assert ranks.threads_per_rank == len(os.sched_getaffinity(0))


def test_only_ranks_imports_mpi4py() -> None:
    sources = [path for folder in ("tumorcast", "kernels", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    users = {path.name for path in sources if "import mpi4py" in (text := path.read_text()) or "from mpi4py" in text}
    assert users == {"ranks.py"}


def test_the_package_is_run_as_a_module() -> None:
    command = [sys.executable, "-m", "tumorcast", "--version"]
    assert subprocess.run(command, capture_output=True, check=True).stdout.strip()


@pytest.mark.parametrize(("limit", "threads"), [("", 1), ("8", 1), ("nonsense", 1)])
def test_ranks_of_a_machine_keep_to_cores_of_their_own(limit: str, threads: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    script = (
        "import os\n"
        "from tumorcast.running.ranks import Ranks, pin_threads\n"
        "pin_threads(Ranks(rank=1, size=2, threads_per_rank=1, local_rank=1))\n"
        "print(os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'])"
    )
    environment = os.environ | {"OMP_NUM_THREADS": limit}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == f"{{{cores[1]}}} {threads}\n"


def test_one_rank_alone_keeps_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = os.sched_getaffinity(0)
    pin_threads(Ranks(threads_per_rank=1))
    assert os.sched_getaffinity(0) == cores
    assert "OMP_NUM_THREADS" not in os.environ
