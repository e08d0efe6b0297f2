"""The MPI ranks of a run. The only module that imports mpi4py, and only where a launcher started several processes.

    mpirun -n 4 python -m mpi4py -m tumorcast fit …

Without a launcher there is one rank, and MPI need not be installed.
"""

import ctypes
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tumorcast.errors import EngineError

# The variable in which a launcher says how many processes it started. srun comes last: mpirun may start its daemons by
# srun, and then its processes have both. Not SLURM_NTASKS, which a batch script has too, where nothing was launched.
LAUNCHERS = {
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpirun",
    "MV2_COMM_WORLD_SIZE": "MVAPICH's mpirun",
    "PMI_SIZE": "a PMI launcher (mpirun of MPICH, srun --mpi=pmi2)",
    "SLURM_STEP_NUM_TASKS": "srun",
}
DONE_TAG, PROGRESS_TAG, ANSWER_TAG, LEAVE_TAG = 1, 2, 3, 4
POLL_SECONDS = 1e-4  # between two looks for an answer, at first; a blocking call of MPI would keep a core busy
LONGEST_POLL_SECONDS = 5e-3
MOST_CORES = 4096  # of a machine


@dataclass(frozen=True)
class Launch:
    """What the environment says: who started how many processes; None where that is not known."""

    launcher: str
    size: int | None


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    threads_per_rank: the cores it may use, so that no core is used twice; local_rank: its number on its own machine.
    """

    rank: int = 0
    size: int = 1
    threads_per_rank: int = 1
    local_rank: int = 0
    _world: Any = None

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which alone reports, merges and prints."""
        return self.rank == 0

    def all_of(self, value: Any) -> list[Any]:
        """The value of every rank, by rank, on each of them; all must call it, and wait for each other."""
        return [value] if self._world is None else list(self._world.allgather(value))

    def from_root(self, value: Any) -> Any:
        """Rank 0's value, on every rank; all must call it."""
        return value if self._world is None else self._world.bcast(value, root=0)

    def send(self, numbers: Sequence[int], *, to: int, tag: int) -> None:
        """Send a few whole numbers to a rank; does not wait for it to listen."""
        self._world.Send(np.array(numbers, np.int64), dest=to, tag=tag)

    def received(self, count: int, tag: int) -> tuple[int, list[int]] | None:
        """The sender and the `count` numbers of a message that has come; None if none has. Does not wait."""
        if self._world is None or not self._world.Iprobe(tag=tag):
            return None
        numbers, status = np.empty(count, np.int64), self._status()
        self._world.Recv(numbers, tag=tag, status=status)
        return int(status.source), numbers.tolist()

    def await_message(self, count: int, tag: int, patience_seconds: float) -> list[int] | None:
        """The numbers of the next message; None if none comes in time. The core is free meanwhile."""
        deadline, pause = time.monotonic() + patience_seconds, POLL_SECONDS
        while (message := self.received(count, tag)) is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(pause)
            pause = min(1.2 * pause, LONGEST_POLL_SECONDS)
        return message[1]

    def _status(self) -> Any:
        from mpi4py import MPI  # noqa: PLC0415 - there is a world, so MPI runs

        return MPI.Status()

    def report_done(self) -> None:
        """Report to rank 0 that one more piece of work is done; does not wait for it to listen."""
        self.send([], to=0, tag=DONE_TAG)

    def poll(self, *, wait: bool = False) -> int:
        """How many pieces of work the others reported to rank 0 since it last asked; with `wait`, at least one."""
        if self._world is None:
            return 0
        count = 0 if not wait or self.await_message(0, DONE_TAG, math.inf) is None else 1
        while self.received(0, DONE_TAG) is not None:
            count += 1
        return count


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """The ranks of this run, as the launcher started them.

    Where a rank leaves the block by an exception, all ranks are ended with its exit code: the others would wait for it
    for ever. Raises EngineError if a launcher started several processes and MPI is missing or does not see them all.
    """
    launch = launched(os.environ)
    if launch is None or launch.size == 1:
        yield Ranks(threads_per_rank=len(_own_cores()))
        return
    mpi = _load_mpi(launch)
    world = mpi.COMM_WORLD
    _check_all_seen(launch, world.size, mpi.Get_library_version())
    try:
        yield _rank_of(mpi)
    except BaseException as fault:
        _end_all_at_exit(fault)
        raise
    mpi.Finalize()


def mpi_library() -> str | None:
    """The MPI that mpi4py uses, as "Open MPI v5.0.11", without starting it; None where one of the two is missing."""
    try:
        import mpi4py  # noqa: PLC0415 - where there is no launcher, MPI is not needed

        mpi4py.rc.initialize = False  # of no effect where open_ranks has started it
        from mpi4py import MPI  # noqa: PLC0415 - the same
    except (ImportError, RuntimeError):
        return None
    # What follows the comma can name the machine that it was built on.
    name = MPI.Get_library_version().splitlines()[0].partition(",")[0]
    return " ".join(name.split())


def limit_threads(ranks: Ranks) -> None:
    """Let numba use no more threads than this rank has cores."""
    import numba  # noqa: PLC0415 - heavy, and not needed to know the ranks

    numba.set_num_threads(min(ranks.threads_per_rank, numba.get_num_threads()))


def pin_threads(ranks: Ranks) -> None:
    """Keep this rank to cores of its own where the launcher left all to everyone, and libraries to as many threads.

    To be called before torch or ONNX Runtime are loaded: they count cores then. Of one rank nothing changes.
    """
    if ranks.size == 1:
        return
    share, cores = ranks.threads_per_rank, sorted(_own_cores())
    if len(cores) > share and (ranks.local_rank + 1) * share <= len(cores):
        os.sched_setaffinity(0, cores[ranks.local_rank * share : (ranks.local_rank + 1) * share])
    limit = os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(share, int(limit)) if limit.isdecimal() and int(limit) > 0 else share)


def launched(environment: Mapping[str, str]) -> Launch | None:
    """Who started this process together with others; None where it was started alone.

    >>> launched({"OMPI_COMM_WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "2"}).size
    4
    >>> launched({"SLURM_NTASKS": "8"}) is None
    True
    """
    for variable, launcher in LAUNCHERS.items():
        if variable in environment:
            return Launch(launcher, int(environment[variable]))
    return Launch("a PMIx launcher", None) if "PMIX_RANK" in environment else None


def _load_mpi(launch: Launch) -> ModuleType:
    try:
        from mpi4py import MPI  # noqa: PLC0415 - where there is no launcher, MPI is not started
    except (ImportError, RuntimeError) as fault:  # the latter where there is no MPI library
        raise EngineError(
            f"started as {launch.size or 'several'} processes by {launch.launcher}, but mpi4py cannot be used "
            f"({fault}); install tumorcast[mpi], or start one process"
        ) from None
    await_all_started(MPI)
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:  # rank 0 answers the others from a thread
        raise EngineError(f"{mpi_library()} is built without threads; use one with them, or start one process")
    return MPI


class _PmixValue(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint16), ("data", ctypes.c_uint64 * 4))


class _PmixInfo(ctypes.Structure):
    """pmix_info_t of PMIx 3 to 5."""

    _fields_ = (("key", ctypes.c_char * 512), ("flags", ctypes.c_uint32), ("value", _PmixValue))


PMIX_BOOL = 1
COLLECT_DATA = _PmixInfo(b"pmix.collect", 0, _PmixValue(PMIX_BOOL, (1, 0, 0, 0)))


def await_all_started(mpi: ModuleType) -> None:
    """Send nothing before every rank has left MPI_Init, by a barrier of PMIx, which sends no MPI message.

    Open MPI 5 leaves MPI_Init when all have come to its last barrier, and sets COMM_WORLD up only then: a message that
    a faster rank sends meanwhile kills the slower one (segmentation fault; issue 12495 of open-mpi/ompi). SLURM waits
    for the ranks of one node alone, there too, unless a barrier asks for the data of all: so this one does.
    """
    fence = getattr(ctypes.CDLL(mpi.__file__), "PMIx_Fence", None)
    if fence is not None and mpi.COMM_WORLD.size > 1:
        fence(None, ctypes.c_size_t(0), ctypes.byref(COLLECT_DATA), ctypes.c_size_t(1))


def _check_all_seen(launch: Launch, size: int, library: str) -> None:
    """Else every process would do the whole work and write the same files."""
    alone = launch.size is None and size == 1 and os.environ["PMIX_RANK"] != "0"
    if alone or launch.size not in (None, size):
        raise EngineError(
            f"{launch.launcher} started {launch.size or 'several'} processes, but MPI sees {size}: mpi4py uses "
            f"{library.partition(',')[0]}, which does not know this launcher; use the mpirun of that MPI "
            "(of tumorcast[mpi]: .venv/bin/mpirun), or srun --mpi=pmix"
        )


def _own_cores() -> set[int]:
    """The cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _rank_of(mpi: ModuleType) -> Ranks:
    """This rank, and the cores that the ranks of this machine have together, shared equally.

    The launcher may have bound each to some. Every rank must call it.
    """
    mine = np.zeros(MOST_CORES, dtype=np.uint8)
    mine[list(_own_cores())] = 1
    node = mpi.COMM_WORLD.Split_type(mpi.COMM_TYPE_SHARED)
    together = np.empty_like(mine)
    node.Allreduce(mine, together, op=mpi.MAX)
    share, local_rank = int(together.sum()) // int(node.size), int(node.rank)
    node.Free()
    threads = max(1, min(share, int(mine.sum())))
    return Ranks(mpi.COMM_WORLD.rank, mpi.COMM_WORLD.size, threads, local_rank, mpi.COMM_WORLD)


def _end_all_at_exit(fault: BaseException) -> None:
    """Have MPI end every rank when this process exits, so that the command can still say why."""
    from mpi4py.run import set_abort_status  # noqa: PLC0415 - MPI runs, so mpi4py is there

    code = getattr(fault, "exit_code", None)
    set_abort_status(fault if code is None else code)
