"""The queue of rank 0 and those who ask it, with messages that go through queues in place of MPI."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tumorcast.errors import EngineError, StoppedError
from tumorcast.running import work_queue
from tumorcast.running.ranks import ANSWER_TAG, PROGRESS_TAG, Ranks
from tumorcast.running.work_queue import LATER, NONE_LEFT, STOPPED, QueueClient, RankProgress, Tally, WorkQueue

Mail = dict[tuple[int, int], "queue.SimpleQueue[tuple[int, list[int]]]"]


@dataclass(frozen=True)
class Posted(Ranks):
    """A rank whose messages lie in queues, one a receiver and tag."""

    mail: Mail = field(default_factory=lambda: defaultdict(queue.SimpleQueue))

    def send(self, numbers: Sequence[int], *, to: int, tag: int) -> None:
        self.mail[to, tag].put((self.rank, list(numbers)))

    def received(self, count: int, tag: int) -> tuple[int, list[int]] | None:
        try:
            return self.mail[self.rank, tag].get_nowait()
        except queue.Empty:
            return None


def ranks(size: int) -> list[Posted]:
    mail: Mail = defaultdict(queue.SimpleQueue)
    return [Posted(rank, size, mail=mail) for rank in range(size)]


def work(source: Any, done: list[int], *, stop_after: int | None = None, unit_seconds: float = 0.0) -> int:
    """Take units until there are none; returns the last answer."""
    progress = RankProgress()
    while True:
        assignment = source.take(progress)
        while assignment.unit == LATER:
            time.sleep(0.001)
            assignment = source.take(RankProgress(waiting=True))
        if assignment.unit < 0:
            source.take(RankProgress(last=True))
            return int(assignment.unit)
        time.sleep(unit_seconds)
        done.append(assignment.unit)
        progress = RankProgress(done=1, longest_ms=7, stopping=len(done) == stop_after)


def test_every_unit_is_given_once_and_all_are_counted() -> None:
    tallies: list[Tally] = []
    everyone = ranks(3)
    done: list[list[int]] = [[], [], []]
    order = np.arange(200)[::-1].copy()
    with WorkQueue(order, everyone[0], lambda tally: tallies.append(Tally(tally.total, tally.done))) as units:
        others = [threading.Thread(target=work, args=(QueueClient(everyone[k]), done[k])) for k in (1, 2)]
        for thread in others:
            thread.start()
        assert work(units, done[0]) == NONE_LEFT
        units.wait_for_ranks()
    assert sorted(unit for part in done for unit in part) == list(range(200))
    assert tallies[-1].done == 200 == tallies[-1].total
    assert [tally.done for tally in tallies] == sorted(tally.done for tally in tallies)
    assert units.longest_ms == 7
    for part in done:
        assert part == sorted(part, reverse=True)  # in the order of the queue


def test_one_rank_alone_needs_no_messages() -> None:
    done: list[int] = []
    with WorkQueue(np.arange(3), Ranks()) as units:
        assert work(units, done) == NONE_LEFT
        units.wait_for_ranks()
    assert done == [0, 1, 2]
    assert units.tally == Tally(3, 3)


def test_one_that_is_told_to_stop_stops_all() -> None:
    everyone = ranks(2)
    done: list[list[int]] = [[], []]
    answers: list[int] = []
    with WorkQueue(np.arange(10_000), everyone[0]) as units:
        other = threading.Thread(target=lambda: answers.append(work(QueueClient(everyone[1]), done[1], stop_after=3)))
        other.start()
        assert work(units, done[0], unit_seconds=0.01) == STOPPED
        units.wait_for_ranks()
        other.join()
    assert units.stopping
    assert answers == [STOPPED]
    assert len(done[1]) == 3


def test_a_rank_that_is_lost_is_told_and_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "LEAST_PATIENCE_SECONDS", 0.05)
    everyone = ranks(3)
    with WorkQueue(np.arange(4), everyone[0]) as units:
        other = threading.Thread(target=work, args=(QueueClient(everyone[2]), []))
        other.start()
        assert work(units, []) == NONE_LEFT
        with pytest.raises(StoppedError, match="rank 1 "):
            units.wait_for_ranks()
        other.join()


def test_a_silent_rank_0_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "SILENCE_SECONDS", 0.05)
    with pytest.raises(StoppedError, match="rank 0 has not answered"):
        QueueClient(ranks(2)[1]).take(RankProgress())


def test_a_fault_of_the_queue_is_raised_where_rank_0_waits() -> None:
    def broken(tally: Tally) -> None:
        raise RuntimeError("no room for a line")

    everyone = ranks(2)
    for progress in (RankProgress(), RankProgress(done=1)):
        everyone[1].send(progress.to_message(), to=0, tag=PROGRESS_TAG)
    with (
        WorkQueue(np.arange(4), everyone[0], broken) as units,
        pytest.raises(RuntimeError, match="no room for a line"),
    ):
        units.wait_for_ranks()


def test_what_a_rank_had_in_hand_that_leaves_is_done_by_those_that_waited() -> None:
    everyone = ranks(3)
    done: list[list[int]] = [[], []]
    with WorkQueue(np.arange(6), everyone[0]) as units:
        leaving = QueueClient(everyone[2])
        leaving.take(RankProgress())
        taken = [leaving.take(RankProgress(done=done)).unit for done in (0, 1)]
        other = threading.Thread(target=work, args=(QueueClient(everyone[1]), done[1]))
        other.start()
        assert work_until(units, done[0], LATER) == RankProgress(done=1, longest_ms=7)
        leaving.leave(RankProgress(), "rank 2 on n2: the device is lost")
        assert work(units, done[0]) == NONE_LEFT
        units.wait_for_ranks()
        other.join()
    assert sorted(done[0] + done[1]) == [1, 2, 3, 4, 5]
    assert {*taken} <= {*done[0], *done[1]}
    assert units.lost == ["rank 2 on n2: the device is lost"]
    assert units.tally == Tally(6, 6)


def test_where_the_last_rank_leaves_it_is_told_what_is_not_done() -> None:
    everyone = ranks(2)
    with WorkQueue(np.arange(5), everyone[0]) as units:
        client = QueueClient(everyone[1])
        client.take(RankProgress())
        client.leave(RankProgress(done=1), "rank 1 on n2: no device")
        units.take(RankProgress())
        units.leave(RankProgress(), "rank 0 on n1: no library")
        with pytest.raises(EngineError, match=r"rank [01] on n\d: no .*; rank .*; 4 of 5 units are not done"):
            units.wait_for_ranks()


def test_rank_0_that_left_at_its_first_unit_waits_for_the_first_units_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody knows by then how long a unit takes."""
    monkeypatch.setattr(work_queue, "LEAST_PATIENCE_SECONDS", 0.01)
    everyone = ranks(2)
    done: list[int] = []

    def one_long_unit(client: QueueClient) -> None:
        done.append(client.take(RankProgress()).unit)
        time.sleep(0.2)
        client.take(RankProgress(done=1, longest_ms=60_000))
        client.take(RankProgress(last=True))

    with WorkQueue(np.arange(1), everyone[0]) as units:
        units.take(RankProgress())
        units.leave(RankProgress(), "rank 0 on n1: no device")
        other = threading.Thread(target=one_long_unit, args=(QueueClient(everyone[1]),))
        other.start()
        units.wait_for_ranks()
        other.join()
    assert done == [0]


def test_a_rank_that_waits_does_not_hide_that_another_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "LEAST_PATIENCE_SECONDS", 0.3)
    everyone = ranks(3)
    with WorkQueue(np.arange(2), everyone[0]) as units:
        QueueClient(everyone[1]).take(RankProgress())
        waiting = threading.Thread(target=wait_until_closed, args=(QueueClient(everyone[2]), units), daemon=True)
        waiting.start()
        with pytest.raises(StoppedError, match="nothing heard of rank 1 "):
            work(units, [])
    waiting.join()


def wait_until_closed(client: QueueClient, units: WorkQueue) -> None:
    while not units._closing.is_set():
        client.ranks.send(RankProgress(waiting=True).to_message(), to=0, tag=PROGRESS_TAG)
        client.ranks.await_message(2, ANSWER_TAG, 0.1)


def work_until(source: Any, done: list[int], answer: int) -> RankProgress:
    """Take units until this is answered; returns what was reported last."""
    progress = RankProgress()
    while (assignment := source.take(progress)).unit != answer:
        done.append(assignment.unit)
        progress = RankProgress(done=1, longest_ms=7)
    return progress


def test_news_come_as_they_were_sent() -> None:
    progress = RankProgress(3, 1, 250, stopping=True, waiting=True, last=False)
    assert RankProgress.from_message(progress.to_message()) == progress
