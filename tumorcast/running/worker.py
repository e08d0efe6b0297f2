"""What a rank does with the units it is given: read one ahead, compute, and write the last one meanwhile.

A fault of the engine is no fault of the unit: see `Worker`.

The loop is the same for every run that hands units out (forecasts, experiments); a `UnitJob` says what a unit is.
"""

import logging
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tumorcast.errors import EngineError, StoppedError
from tumorcast.records import PatientOutcome, Status
from tumorcast.running.outcomes import attempt, one_line
from tumorcast.running.ranks import Ranks
from tumorcast.running.stopping import Stopping
from tumorcast.running.work_queue import (
    LATER,
    STOPPED,
    Assignment,
    QueueClient,
    RankProgress,
    Tally,
    UnitSource,
    WorkQueue,
)

log = logging.getLogger(__name__)

LEAST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.01, 0.5  # of a rank that waits for what others may give back

Inputs = TypeVar("Inputs")
Product = TypeVar("Product")


def log_event(event: str, **fields: Any) -> None:
    """What a worker did, for `--debug`; a run that keeps its events gives `EventLog.write` in place of this."""
    log.debug("%s %s", event, fields)


class UnitJob(Protocol[Inputs, Product]):
    """What is done with a unit, by its number. A failure of `read` or `compute` costs this unit alone.

    `read` and `write` may run in a thread beside the `compute` of another unit; a failure of `write` ends the run. An
    EngineError of `compute` is looked into by `try_out`.
    """

    def name(self, unit: int) -> str:
        """The unit in words, for the log of events."""

    def read(self, unit: int) -> Inputs:
        """What the unit is computed from."""

    def compute(self, inputs: Inputs) -> Product:
        """The unit's result; may be dropped by a StoppedError when the grace after a signal is over."""

    def try_out(self) -> None:
        """Compute what is no unit, as `compute` does. Raises EngineError where the engine or its device is at fault."""

    def write(self, inputs: Inputs, product: Product) -> None:
        """Keep the result, whole or not at all."""

    def write_failure(self, unit: int, reason: str) -> None:
        """Keep why the unit failed."""


@dataclass(frozen=True)
class WorkEnd:
    """How the work of the ranks ended. lost: the ranks that left, with machine and reason; rank 0 alone knows them."""

    stopped: bool
    lost: tuple[str, ...] = ()


def work_on_ranks(
    order: npt.NDArray[np.int64],
    job: UnitJob[Inputs, Product],
    ranks: Ranks,
    stopping: Stopping,
    *,
    ahead_of: int | None = None,
    record_event: Callable[..., None] = log_event,
    report: Callable[[Tally], None] = lambda _: None,
    longest_ms: int = 0,
    unable: str | None = None,
) -> WorkEnd:
    """Do the units of `order` on all ranks, each as one becomes free.

    Every rank must call it, with signals handled by `stopping`. ahead_of: see `Worker`; report, longest_ms: see
    `WorkQueue`; of rank 0 alone. unable: why this rank cannot compute, if it cannot. What is done stands, so a run that
    was stopped, or whose ranks died, is resumed by calling it with the units that are left. Raises EngineError if no
    rank is left that can compute.
    """

    def worker(source: UnitSource) -> Worker[Inputs, Product]:
        return Worker(job, source, stopping, record_event, ahead_of, rank=ranks.rank)

    if not ranks.is_root:
        return WorkEnd(worker(QueueClient(ranks)).work(unable))
    with WorkQueue(order, ranks, report, longest_ms=longest_ms) as queue:
        stopped = worker(queue).work(unable)
        queue.wait_for_ranks()
    return WorkEnd(stopped or queue.stopping, tuple(queue.lost))


@dataclass
class Worker(Generic[Inputs, Product]):
    """One rank at work. ahead_of: how many units must be left for the next one to be taken before this one is done.

    Where a unit ends in an EngineError, `UnitJob.try_out` tells whose fault it is: if that fails too, this rank leaves
    and gives the unit back; if not, the unit is done again, and has failed if it does so twice.

    A unit taken ahead waits for this rank even if another is idle, so near the end none is. None: none ever is, and
    each is written before the next one begins, as suits units of minutes and more.
    """

    job: UnitJob[Inputs, Product]
    source: UnitSource
    stopping: Stopping
    record_event: Callable[..., None] = log_event
    ahead_of: int | None = None
    rank: int = 0

    def __post_init__(self) -> None:
        """Nothing is done."""
        self._done = self._failed = 0
        self._longest = 0.0
        self._stopped = False
        self._writing: tuple[int, Future[None]] | None = None

    def work(self, unable: str | None = None) -> bool:
        """Units until none is left, or until it shall stop; returns whether it was stopped. unable: why it cannot."""
        with ThreadPoolExecutor(1, "files") as files:
            try:
                if unable is None:
                    self._units(files)
            except StoppedError as dropped:
                self.record_event("dropped", reason=str(dropped))
            except EngineError as fault:
                unable = str(fault)
            self._finish_writing()
        if unable is not None:
            return self._leave(unable)
        stopped = self._stopped or self.stopping.requested
        self.source.take(self._progress(last=True))
        self.record_event("stopped" if stopped else "through")
        return stopped

    def _leave(self, reason: str) -> bool:
        """Tell why this rank works no more; returns that it was not stopped."""
        self.record_event("left", node=node_name(), reason=one_line(reason))
        self.source.leave(self._progress(), f"rank {self.rank} on {node_name()}: {one_line(reason)}")
        return False

    def _units(self, files: ThreadPoolExecutor) -> None:
        taken = self._take(files)
        while taken is not None and self.stopping.may_begin(self._longest):
            unit, reading, left = taken
            taken = self._take(files) if self.ahead_of is not None and left > self.ahead_of else None
            self._do(unit, reading, files)
            taken = taken or self._take(files)

    def _take(self, files: ThreadPoolExecutor) -> tuple[int, Future[Inputs | PatientOutcome], int] | None:
        """The next unit, which is being read, and how many are left after it."""
        assignment = self.source.take(self._progress())
        if assignment.unit == LATER:
            assignment = self._await()
        self._stopped = self._stopped or assignment.unit == STOPPED
        if assignment.unit < 0:
            return None
        unit = assignment.unit
        return unit, files.submit(attempt, self.job.name(unit), partial(self.job.read, unit)), assignment.left

    def _await(self) -> Assignment:
        """What comes when another rank has ended its units, or given them back."""
        self._finish_writing()
        assignment, pause = self.source.take(self._progress()), LEAST_PAUSE_SECONDS
        while assignment.unit == LATER and self.stopping.may_begin(self._longest):
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)
            assignment = self.source.take(self._progress(waiting=True))
        return assignment

    def _do(self, unit: int, reading: Future[Inputs | PatientOutcome], files: ThreadPoolExecutor) -> None:
        """Compute a unit; then wait for the one before to be written, and have this one written."""
        inputs, name = reading.result(), self.job.name(unit)
        began = time.monotonic()
        self.record_event("begun", unit=name)
        product = inputs if isinstance(inputs, PatientOutcome) else self._compute(name, inputs)
        seconds = time.monotonic() - began
        self._longest = max(self._longest, seconds)
        self._finish_writing()
        if isinstance(product, PatientOutcome):
            self.job.write_failure(unit, product.reason)
            self._failed += 1
            self.record_event("failed", unit=name, seconds=round(seconds, 3), reason=product.reason)
            return
        assert not isinstance(inputs, PatientOutcome), "else there were no product"
        self._writing = unit, files.submit(self.job.write, inputs, product)
        self.record_event("forecast", unit=name, seconds=round(seconds, 3))
        if self.ahead_of is None:
            self._finish_writing()

    def _compute(self, name: str, inputs: Inputs) -> Product | PatientOutcome:
        with self.stopping.unit_in_hand():
            try:
                return attempt(name, partial(self.job.compute, inputs))
            except EngineError as fault:
                return self._again(name, inputs, fault)

    def _again(self, name: str, inputs: Inputs, fault: EngineError) -> Product | PatientOutcome:
        """A unit once more after a fault of the engine. Raises it where the engine works no longer."""
        self.record_event("tried out", unit=name, reason=str(fault))
        try:
            self.job.try_out()
            return attempt(name, partial(self.job.compute, inputs))
        except EngineError as second:
            log.debug("after a fault of the engine", exc_info=True)
            if not self._works():
                raise fault from second
            return PatientOutcome(name, Status.FAILED, one_line(str(second)))

    def _works(self) -> bool:
        try:
            self.job.try_out()
        except EngineError:
            return False
        return True

    def _finish_writing(self) -> None:
        """Wait until the unit before this one is written. Raises StorageError if it could not be."""
        if self._writing is None:
            return
        (unit, written), self._writing = self._writing, None
        written.result()
        self._done += 1
        self.record_event("written", unit=self.job.name(unit))

    def _progress(self, *, waiting: bool = False, last: bool = False) -> RankProgress:
        """What was done since the last time."""
        stopping = self.stopping.requested
        longest_ms = round(1000 * self._longest)
        progress = RankProgress(self._done, self._failed, longest_ms, stopping=stopping, waiting=waiting, last=last)
        self._done = self._failed = 0
        return progress


def node_name() -> str:
    """This machine, as the scheduler calls it.

    >>> bool(node_name())
    True
    """
    return os.environ.get("SLURMD_NODENAME") or platform.node()
