"""One piece of work for every item of a cohort, shared by the ranks in equal parts, with the results in order on each.

For what takes seconds to minutes an item and is written as one file at the end (fits, prepared scans, pages). What is
kept unit by unit and resumed goes through the work queue (worker.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from tumorcast.archive.unmerged import parts_of
from tumorcast.running.ranks import Ranks

Item = TypeVar("Item")
Result = TypeVar("Result")
Kept = TypeVar("Kept")
Report = Callable[[int, int], None]
LEFT_BY_RANKS = ("rank-*.h5", "rank-*.status.tsv", ".rank-*.partial")  # the tables: of a version that wrote them


@overload
def map_over_ranks(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    ranks: Ranks,
    *,
    weights: Sequence[int] | None = None,
    report: Report = ...,
) -> list[Result]: ...


@overload
def map_over_ranks(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    ranks: Ranks,
    *,
    keep: Callable[[Iterator[Result]], Sequence[Kept]],
    weights: Sequence[int] | None = None,
    report: Report = ...,
) -> list[Kept]: ...


def map_over_ranks(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    ranks: Ranks,
    *,
    keep: Callable[[Iterator[Result]], Sequence[Any]] = list,
    weights: Sequence[int] | None = None,
    report: Report = lambda done, total: None,
) -> list[Any]:
    """What is kept of `work(item)` for every item, in the order of the items, on every rank.

    Every rank must call it, with the same items. Each takes those that `deal` gives it, by weight (none: all alike).
    keep: takes the rank's results as they are made, one at a time, and gives as many things that are sent to the other
    ranks: by default the results themselves. A shard of the rank is written there, and what is large stays in it; no
    result is held after the next one is asked for. The function returns when every rank is through.
    report: on rank 0, how many items of all ranks are done, of how many.

    Failures: what `work` or `keep` raises ends the run, on all ranks; `work` is guarded by `outcomes.attempt` where an
    item that fails shall not stop the others. Stopping: nothing is resumed, and a result whose run was stopped is made
    again in full.

    >>> map_over_ranks([3, 1, 2], lambda days: days * 24, Ranks())
    [72, 24, 48]
    """
    owners = deal([1] * len(items) if weights is None else weights, ranks.size)
    mine = [number for number, owner in enumerate(owners) if owner == ranks.rank]
    progress = _SharedProgress(ranks, len(items), report)
    kept = keep(_counted(map(work, (items[number] for number in mine)), progress))
    progress.wait_for_ranks()
    every = [pair for part in ranks.all_of(list(zip(mine, kept, strict=True))) for pair in part]
    return [value for _, value in sorted(every, key=lambda pair: pair[0])]


def deal(weights: Sequence[int], ranks: int) -> list[int]:
    """The rank of each item: the heaviest first, each to the rank that has least to do.

    >>> deal([1, 5, 2, 2], 2)
    [1, 0, 1, 1]
    """
    owners, load = [0] * len(weights), [0] * ranks
    for number in sorted(range(len(weights)), key=lambda number: -weights[number]):
        owners[number] = load.index(min(load))
        load[owners[number]] += weights[number]
    return owners


@dataclass(frozen=True)
class RankShards:
    """Where each rank writes its share of the result `out`, until rank 0 has put them together."""

    out: Path

    def path(self, rank: int) -> Path:
        """Where a rank writes.

        >>> RankShards(Path("growth.h5")).path(2).as_posix()
        'growth.h5.parts/rank-2.h5'
        """
        return parts_of(self.out) / f"rank-{rank}.h5"

    def remove(self) -> None:
        """Remove the shards, also those that a run of more ranks has left; a file that is not ours stays."""
        folder = parts_of(self.out)
        for pattern in LEFT_BY_RANKS:
            for path in folder.glob(pattern):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


@dataclass
class _SharedProgress:
    """Counts the items that are done, on rank 0 those of all ranks."""

    ranks: Ranks
    total: int
    report: Report
    done: int = 0

    def item_done(self) -> None:
        """An item of this rank is done."""
        if self.ranks.is_root:
            self._count(1 + self.ranks.poll())
        else:
            self.ranks.report_done()

    def wait_for_ranks(self) -> None:
        """On rank 0, report until every item is done."""
        while self.ranks.is_root and self.done < self.total:
            self._count(self.ranks.poll(wait=True))

    def _count(self, items: int) -> None:
        self.done += items
        self.report(self.done, self.total)


def _counted(results: Iterator[Result], progress: _SharedProgress) -> Iterator[Result]:
    """The results, each counted once it was taken in: when the next is asked for."""
    for result in results:
        yield result
        del result  # else it would be held while the next one is made
        progress.item_done()
