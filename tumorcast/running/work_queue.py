"""The queue of a run's units: rank 0 hands them to the ranks as they become free, from a thread beside its own work.

Messages go between rank 0 and one other, and no call waits for all ranks: one that is lost holds up none but itself.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from tumorcast.errors import StoppedError
from tumorcast.running.ranks import ANSWER_TAG, LONGEST_POLL_SECONDS, POLL_SECONDS, PROGRESS_TAG, Ranks

log = logging.getLogger(__name__)

NONE_LEFT, STOPPED = -1, -2
SILENCE_SECONDS = 120.0  # of rank 0, whose thread answers at once
LEAST_PATIENCE_SECONDS = 60.0
UNITS_OF_PATIENCE = 10


@dataclass(frozen=True)
class RankProgress:
    """What a rank reports when it asks for a unit: units done and failed since it last did, the longest so far.

    stopping: it got a signal to stop, and all shall; last: it asks for no more.
    """

    done: int = 0
    failed: int = 0
    longest_ms: int = 0
    stopping: bool = False
    last: bool = False

    def to_message(self) -> list[int]:
        """As the whole numbers of a message."""
        return [self.done, self.failed, self.longest_ms, int(self.stopping), int(self.last)]

    @classmethod
    def from_message(cls, numbers: list[int]) -> Self:
        """From the whole numbers of a message."""
        done, failed, longest, stopping, last = numbers
        return cls(done, failed, longest, bool(stopping), bool(last))


@dataclass(frozen=True)
class Assignment:
    """A unit's number, or NONE_LEFT or STOPPED; and how many units were still to be had after it."""

    unit: int
    left: int


class UnitSource(Protocol):
    """Where a rank gets its units: the queue itself on rank 0, a client of it on the others."""

    def take(self, progress: RankProgress) -> Assignment:
        """Report what was done, and take the next unit."""


@dataclass
class Tally:
    """How far the run is."""

    total: int
    done: int = 0
    failed: int = 0


@dataclass
class WorkQueue:
    """The queue on rank 0, which counts what was handed out and done; the `UnitSource` of rank 0. Use it as a context.

    order: the units to do, in order. report: called after a rank's progress, by the thread that got it. longest_ms: of
    a unit, as far as is known; rank 0 waits for silent ranks some units long.
    """

    order: npt.NDArray[np.int64]
    ranks: Ranks
    report: Callable[[Tally], None] = lambda _: None
    stopping: bool = False
    longest_ms: int = 0
    _next: int = 0
    _working: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)
    _fault: BaseException | None = None

    def __post_init__(self) -> None:
        """Nothing is done, and every other rank is at work."""
        self.tally = Tally(len(self.order))
        self._working = set(range(1, self.ranks.size))
        self._last_message = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="work queue", daemon=True)

    def __enter__(self) -> Self:
        """Begin to answer the others."""
        if self._working:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer no more."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self, progress: RankProgress) -> Assignment:
        """Count a rank's progress; the next unit."""
        with self._lock:
            self._count(progress)
            if self.stopping:
                return Assignment(STOPPED, 0)
            if self._next == len(self.order):
                return Assignment(NONE_LEFT, 0)
            unit = int(self.order[self._next])
            self._next += 1
            return Assignment(unit, len(self.order) - self._next)

    def wait_for_ranks(self) -> None:
        """Wait until every other rank is through. Raises StoppedError for one that is silent for too long."""
        while self._working and self._fault is None:
            patience = max(LEAST_PATIENCE_SECONDS, UNITS_OF_PATIENCE * self.longest_ms / 1000)
            if time.monotonic() - self._last_message > patience:
                missing = ", ".join(map(str, sorted(self._working)))
                raise StoppedError(
                    f"nothing heard of rank {missing} for {patience:.0f} s; what is finished is kept: start it again"
                )
            time.sleep(LONGEST_POLL_SECONDS)
        if self._fault is not None:
            raise self._fault

    def _count(self, progress: RankProgress) -> None:
        self.tally.done += progress.done
        self.tally.failed += progress.failed
        self.longest_ms = max(self.longest_ms, progress.longest_ms)
        self.stopping = self.stopping or progress.stopping
        if progress.done or progress.failed:
            self.report(self.tally)

    def _serve(self) -> None:
        """Answer until closed; looks seldom while nobody asks. No other thread of rank 0 calls MPI meanwhile."""
        pause = POLL_SECONDS
        try:
            while not self._closing.is_set():
                if self._answer_message():
                    pause = POLL_SECONDS
                else:
                    time.sleep(pause)
                    pause = min(1.2 * pause, LONGEST_POLL_SECONDS)
        except BaseException as fault:  # it is raised where rank 0 waits
            log.debug("the work queue", exc_info=True)
            self._fault = fault

    def _answer_message(self) -> bool:
        message = self.ranks.received(len(RankProgress().to_message()), PROGRESS_TAG)
        if message is None:
            return False
        rank, progress = message[0], RankProgress.from_message(message[1])
        self._last_message = time.monotonic()
        assignment = self.take(progress) if not progress.last else self._rank_finished(rank, progress)
        self.ranks.send([assignment.unit, assignment.left], to=rank, tag=ANSWER_TAG)
        return True

    def _rank_finished(self, rank: int, progress: RankProgress) -> Assignment:
        with self._lock:
            self._count(progress)
            self._working.discard(rank)
        return Assignment(NONE_LEFT, 0)


@dataclass(frozen=True)
class QueueClient:
    """The `UnitSource` of every rank but 0: it asks the queue on rank 0."""

    ranks: Ranks

    def take(self, progress: RankProgress) -> Assignment:
        """Send rank 0 the progress; the next unit. Raises StoppedError if it does not answer."""
        self.ranks.send(progress.to_message(), to=0, tag=PROGRESS_TAG)
        answer = self.ranks.await_message(2, ANSWER_TAG, SILENCE_SECONDS)
        if answer is None:
            raise StoppedError(f"rank 0 has not answered for {SILENCE_SECONDS:.0f} s; start it again")
        return Assignment(*answer)
