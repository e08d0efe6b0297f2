"""Work shared in equal parts. Real MPI is in tests/mpi; here ranks are threads whose messages go through queues."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tumorcast.running.map_over_ranks import RankShards, deal, map_over_ranks
from tumorcast.running.ranks import Ranks

SIZE = 3
WEIGHTS = [1, 5, 2, 2, 9, 1, 3]


@dataclass
class Exchange:
    """What the ranks of a test share."""

    done: "queue.SimpleQueue[None]" = field(default_factory=queue.SimpleQueue)
    values: dict[int, Any] = field(default_factory=dict)
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(SIZE, timeout=30))


@dataclass(frozen=True)
class ThreadRank(Ranks):
    """A rank that is a thread."""

    exchange: Exchange = field(default_factory=Exchange)

    def all_of(self, value: Any) -> list[Any]:
        self.exchange.values[self.rank] = value
        self.exchange.meeting.wait()
        return [self.exchange.values[rank] for rank in range(self.size)]

    def report_done(self) -> None:
        self.exchange.done.put(None)

    def poll(self, *, wait: bool = False) -> int:
        if wait:
            self.exchange.done.get(timeout=30)
        return int(wait)


def on_every_rank(run: Callable[[Ranks], Any]) -> list[Any]:
    exchange, results = Exchange(), [None] * SIZE

    def one(rank: int) -> None:
        results[rank] = run(ThreadRank(rank, SIZE, exchange=exchange))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(SIZE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_every_rank_has_all_results_in_order(weights: list[int] | None) -> None:
    made: list[int] = []
    reports: list[tuple[int, int]] = []

    def work(item: int) -> int:
        made.append(item)
        return item * item

    def run(ranks: Ranks) -> list[int]:
        return map_over_ranks(WEIGHTS, work, ranks, weights=weights, report=lambda *done: reports.append(done))

    assert on_every_rank(run) == [[item * item for item in WEIGHTS]] * SIZE
    assert sorted(made) == sorted(WEIGHTS)
    assert reports == [(done, len(WEIGHTS)) for done in range(1, len(WEIGHTS) + 1)]


def test_each_rank_keeps_its_own_share_and_sends_what_it_keeps_alone() -> None:
    shares: dict[int, list[int]] = {}

    def run(ranks: Ranks) -> list[str]:
        def keep(results: Iterator[int]) -> list[str]:
            shares[ranks.rank] = list(results)
            return [f"rank {ranks.rank}"] * len(shares[ranks.rank])

        return map_over_ranks(WEIGHTS, lambda item: item, ranks, keep=keep, weights=WEIGHTS)

    owners = deal(WEIGHTS, SIZE)
    assert on_every_rank(run) == [[f"rank {owner}" for owner in owners]] * SIZE
    assert shares == {
        rank: [weight for weight, owner in zip(WEIGHTS, owners, strict=True) if owner == rank] for rank in range(SIZE)
    }


def test_nothing_to_do_is_done() -> None:
    assert on_every_rank(lambda ranks: map_over_ranks([], abs, ranks)) == [[]] * SIZE


def test_a_failure_ends_the_work() -> None:
    with pytest.raises(ZeroDivisionError):
        map_over_ranks([1, 0], lambda item: 1 / item, Ranks())


def test_the_heaviest_goes_to_the_rank_with_least_to_do() -> None:
    assert deal([2, 9, 4, 3], 2) == [1, 0, 1, 1]
    assert deal([2, 9, 4, 3], 1) == [0] * 4
    assert sorted(deal([2, 9, 4, 3], 6)) == [0, 1, 2, 3]
    assert deal([1] * 5, 2) == [0, 1, 0, 1, 0]


def test_shards_go_and_other_files_stay(tmp_path: Path) -> None:
    shards = RankShards(tmp_path / "growth.h5")
    shards.path(0).parent.mkdir()
    for path in (shards.path(0), shards.path(7), shards.path(0).with_name("mine.h5")):
        path.touch()
    shards.remove()
    assert [path.name for path in shards.path(0).parent.iterdir()] == ["mine.h5"]
    shards.path(0).with_name("mine.h5").unlink()
    shards.remove()
    assert not shards.path(0).parent.exists()
