"""The queue of a run's units: rank 0 hands them to the ranks as they become free, from a thread beside its own work.

Messages go between rank 0 and one other, and no call waits for all ranks: one that is lost holds up none but itself.
What a rank had in hand whose engine failed goes back to the queue, so no rank is through before all units are.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from tumorcast.errors import EngineError, StoppedError
from tumorcast.running.ranks import ANSWER_TAG, LEAVE_TAG, LONGEST_POLL_SECONDS, POLL_SECONDS, PROGRESS_TAG, Ranks

log = logging.getLogger(__name__)

NONE_LEFT, STOPPED, LATER = -1, -2, -3  # LATER: none now, but one may come back; ask again
REASON_BYTES = 400  # of why a rank left; MPI sends so few numbers without waiting for who receives them
SILENCE_SECONDS = 120.0  # of rank 0, whose thread answers at once
LEAST_PATIENCE_SECONDS = 60.0
UNITS_OF_PATIENCE = 10
FIRST_PATIENCE_SECONDS = 4 * 3600.0  # where rank 0 left before any unit told how long one takes


@dataclass(frozen=True)
class RankProgress:
    """What a rank reports when it asks for a unit: units done and failed since it last did, the longest so far.

    stopping: it got a signal to stop, and all shall; waiting: it asked before, and was told LATER; last: it asks for
    no more.
    """

    done: int = 0
    failed: int = 0
    longest_ms: int = 0
    stopping: bool = False
    waiting: bool = False
    last: bool = False

    def to_message(self) -> list[int]:
        """As the whole numbers of a message."""
        return [self.done, self.failed, self.longest_ms, int(self.stopping), int(self.waiting), int(self.last)]

    @classmethod
    def from_message(cls, numbers: list[int]) -> Self:
        """From the whole numbers of a message."""
        done, failed, longest, *flags = numbers
        return cls(done, failed, longest, *map(bool, flags))


PROGRESS_LENGTH = len(RankProgress().to_message())


@dataclass(frozen=True)
class Assignment:
    """A unit's number, or NONE_LEFT, STOPPED or LATER; and how many units were still to be had after it."""

    unit: int
    left: int


class UnitSource(Protocol):
    """Where a rank gets its units: the queue itself on rank 0, a client of it on the others."""

    def take(self, progress: RankProgress) -> Assignment:
        """Report what was done, and take the next unit."""

    def leave(self, progress: RankProgress, reason: str) -> None:
        """Report what was done, and ask for no more, since this rank cannot work; what it has in hand goes back."""


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
    a unit, as far as is known; rank 0 waits for silent ranks some units long. lost: why ranks left.
    """

    order: npt.NDArray[np.int64]
    ranks: Ranks
    report: Callable[[Tally], None] = lambda _: None
    stopping: bool = False
    longest_ms: int = 0
    lost: list[str] = field(default_factory=list)
    _working: set[int] = field(default_factory=set)
    _in_hand: dict[int, deque[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)
    _fault: BaseException | None = None

    def __post_init__(self) -> None:
        """Nothing is done, and every other rank is at work."""
        self.tally = Tally(len(self.order))
        self._left = deque(self.order.tolist())
        self._in_hand = {rank: deque() for rank in range(self.ranks.size)}
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
        """Count rank 0's progress; the next unit. Raises StoppedError where those it waits for are silent too long."""
        assignment = self._answer(0, progress)
        if assignment.unit == LATER:
            self._check_heard()
        return assignment

    def leave(self, progress: RankProgress, reason: str) -> None:
        """Rank 0 works no more; it still hands out units."""
        self._lose(0, progress, reason)

    def wait_for_ranks(self) -> None:
        """Wait until every other rank is through. Raises StoppedError for one that is silent for too long.

        Raises EngineError if units are left that no rank is there to do.
        """
        while self._working and self._fault is None:
            self._check_heard()
            time.sleep(LONGEST_POLL_SECONDS)
        if self._fault is not None:
            raise self._fault
        if self.lost and self._left and not self.stopping:
            raise EngineError(
                f"no rank is left that can compute: {'; '.join(self.lost)}; {len(self._left)} of {self.tally.total} "
                "units are not done, and none is counted as failed: mend that, or leave those machines out (sbatch "
                "--exclude=NODE), and start the same command again, which goes on"
            )

    def _check_heard(self) -> None:
        if self._fault is not None:
            raise self._fault
        patience = max(LEAST_PATIENCE_SECONDS, UNITS_OF_PATIENCE * self.longest_ms / 1000)
        if self.lost and not self.longest_ms:
            patience = FIRST_PATIENCE_SECONDS
        if time.monotonic() - self._last_message > patience:
            busy = {rank for rank in self._working if self._in_hand[rank]}
            missing = ", ".join(map(str, sorted(busy or self._working)))
            raise StoppedError(
                f"nothing heard of rank {missing} for {patience:.0f} s; what is finished is kept: start it again"
            )

    def _answer(self, rank: int, progress: RankProgress) -> Assignment:
        with self._lock:
            self._count(rank, progress)
            if progress.last:
                self._leave(rank)
                return Assignment(NONE_LEFT, 0)
            if self.stopping:
                return Assignment(STOPPED, 0)
            if self._left:
                self._in_hand[rank].append(self._left.popleft())
                return Assignment(self._in_hand[rank][-1], len(self._left))
            awaited = any(units for other, units in self._in_hand.items() if other != rank)
            return Assignment(LATER if awaited else NONE_LEFT, 0)

    def _count(self, rank: int, progress: RankProgress) -> None:
        """A rank ends its units in the order in which it got them."""
        for _ in range(progress.done + progress.failed):
            self._in_hand[rank].popleft()
        self.tally.done += progress.done
        self.tally.failed += progress.failed
        self.longest_ms = max(self.longest_ms, progress.longest_ms)
        self.stopping = self.stopping or progress.stopping
        if progress.done or progress.failed:
            self.report(self.tally)

    def _leave(self, rank: int) -> None:
        """A rank asks for no more; the units that it did not end go to the end of the queue."""
        self._working.discard(rank)
        self._left.extend(self._in_hand[rank])
        self._in_hand[rank].clear()

    def _lose(self, rank: int, progress: RankProgress, reason: str) -> None:
        with self._lock:
            self._count(rank, progress)
            self._leave(rank)
            self.lost.append(reason)
        log.warning("%s: it leaves the run, and what it had in hand goes back to the queue", reason)

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
        leaving = self.ranks.received(PROGRESS_LENGTH + REASON_BYTES, LEAVE_TAG)
        if leaving is not None:
            rank, numbers = leaving
            self._lose(rank, RankProgress.from_message(numbers[:PROGRESS_LENGTH]), text_of(numbers[PROGRESS_LENGTH:]))
            self._last_message = time.monotonic()
            return True
        message = self.ranks.received(PROGRESS_LENGTH, PROGRESS_TAG)
        if message is None:
            return False
        rank, progress = message[0], RankProgress.from_message(message[1])
        if not progress.waiting:  # of those that work is heard
            self._last_message = time.monotonic()
        assignment = self._answer(rank, progress)
        self.ranks.send([assignment.unit, assignment.left], to=rank, tag=ANSWER_TAG)
        return True


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

    def leave(self, progress: RankProgress, reason: str) -> None:
        """Send rank 0 the progress and the reason; it does not answer."""
        self.ranks.send([*progress.to_message(), *numbers_of(reason)], to=0, tag=LEAVE_TAG)


def numbers_of(text: str) -> list[int]:
    """A text as the REASON_BYTES numbers of a message; what is longer is cut.

    >>> text_of(numbers_of("no CUDA-capable device, 5 µs"))
    'no CUDA-capable device, 5 µs'
    """
    return list(text.encode()[:REASON_BYTES].ljust(REASON_BYTES, b"\0"))


def text_of(numbers: list[int]) -> str:
    """The text that `numbers_of` made numbers of."""
    return bytes(numbers).rstrip(b"\0").decode(errors="ignore")
