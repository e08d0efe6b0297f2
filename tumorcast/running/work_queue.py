"""Units handed out to ranks as they become free. Rank 0 counts, in a thread beside its own work; nobody only manages.

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
from tumorcast.running.ranks import ANSWER_TAG, LONGEST_POLL_SECONDS, NEWS_TAG, POLL_SECONDS, Ranks

log = logging.getLogger(__name__)

NONE_LEFT, STOPPED = -1, -2
SILENCE_SECONDS = 120.0  # of rank 0, whose thread answers at once
LEAST_PATIENCE_SECONDS = 60.0
UNITS_OF_PATIENCE = 10


@dataclass(frozen=True)
class News:
    """What a rank tells when it asks for a unit: units done and failed since it last did, the longest so far.

    stopping: it was told to stop, and all shall; last: it asks for no more.
    """

    done: int = 0
    failed: int = 0
    longest_ms: int = 0
    stopping: bool = False
    last: bool = False

    def numbers(self) -> list[int]:
        """As a message."""
        return [self.done, self.failed, self.longest_ms, int(self.stopping), int(self.last)]

    @classmethod
    def of(cls, numbers: list[int]) -> Self:
        """From a message."""
        done, failed, longest, stopping, last = numbers
        return cls(done, failed, longest, bool(stopping), bool(last))


@dataclass(frozen=True)
class Ticket:
    """A unit's number, or NONE_LEFT or STOPPED; and how many units were still to be had after it."""

    unit: int
    left: int


class Tickets(Protocol):
    """Where a rank gets its units."""

    def take(self, news: News) -> Ticket:
        """Tell what was done, and take the next unit."""


@dataclass
class Tally:
    """How far the run is."""

    total: int
    done: int = 0
    failed: int = 0


@dataclass
class Desk:
    """Rank 0's count of what was handed out and done; itself the `Tickets` of rank 0. Use it as a context.

    order: the units to do, in order. report: called after news, by the thread that got it.
    """

    order: npt.NDArray[np.int64]
    ranks: Ranks
    report: Callable[[Tally], None] = lambda _: None
    stopping: bool = False
    longest_ms: int = 0
    _next: int = 0
    _away: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)
    _fault: BaseException | None = None

    def __post_init__(self) -> None:
        """Nothing is done, and every other rank is away."""
        self.tally = Tally(len(self.order))
        self._away = set(range(1, self.ranks.size))
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="desk", daemon=True)

    def __enter__(self) -> Self:
        """Begin to answer the others."""
        if self._away:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer no more."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self, news: News) -> Ticket:
        """Count the news; the next unit."""
        with self._lock:
            self._count(news)
            if self.stopping:
                return Ticket(STOPPED, 0)
            if self._next == len(self.order):
                return Ticket(NONE_LEFT, 0)
            unit = int(self.order[self._next])
            self._next += 1
            return Ticket(unit, len(self.order) - self._next)

    def wait_for_the_others(self) -> None:
        """Until every rank has said that it is through. Raises StoppedError for one that is silent for too long."""
        while self._away and self._fault is None:
            patience = max(LEAST_PATIENCE_SECONDS, UNITS_OF_PATIENCE * self.longest_ms / 1000)
            if time.monotonic() - self._heard > patience:
                missing = ", ".join(map(str, sorted(self._away)))
                raise StoppedError(
                    f"nothing heard of rank {missing} for {patience:.0f} s; what is finished is kept: start it again"
                )
            time.sleep(LONGEST_POLL_SECONDS)
        if self._fault is not None:
            raise self._fault

    def _count(self, news: News) -> None:
        self.tally.done += news.done
        self.tally.failed += news.failed
        self.longest_ms = max(self.longest_ms, news.longest_ms)
        self.stopping = self.stopping or news.stopping
        if news.done or news.failed:
            self.report(self.tally)

    def _serve(self) -> None:
        """Answer until closed; looks seldom while nobody asks. No other thread of rank 0 calls MPI meanwhile."""
        pause = POLL_SECONDS
        try:
            while not self._closing.is_set():
                if self._answer_one():
                    pause = POLL_SECONDS
                else:
                    time.sleep(pause)
                    pause = min(1.2 * pause, LONGEST_POLL_SECONDS)
        except BaseException as fault:  # it is raised where rank 0 waits
            log.debug("the desk", exc_info=True)
            self._fault = fault

    def _answer_one(self) -> bool:
        message = self.ranks.received(len(News().numbers()), NEWS_TAG)
        if message is None:
            return False
        rank, news = message[0], News.of(message[1])
        self._heard = time.monotonic()
        ticket = self.take(news) if not news.last else self._through(rank, news)
        self.ranks.send([ticket.unit, ticket.left], to=rank, tag=ANSWER_TAG)
        return True

    def _through(self, rank: int, news: News) -> Ticket:
        with self._lock:
            self._count(news)
            self._away.discard(rank)
        return Ticket(NONE_LEFT, 0)


@dataclass(frozen=True)
class Counter:
    """The `Tickets` of every rank but 0, which it asks."""

    ranks: Ranks

    def take(self, news: News) -> Ticket:
        """Tell rank 0 the news; the next unit. Raises StoppedError if it does not answer."""
        self.ranks.send(news.numbers(), to=0, tag=NEWS_TAG)
        answer = self.ranks.await_message(2, ANSWER_TAG, SILENCE_SECONDS)
        if answer is None:
            raise StoppedError(f"rank 0 has not answered for {SILENCE_SECONDS:.0f} s; start it again")
        return Ticket(*answer)
