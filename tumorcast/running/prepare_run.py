"""Prepare a cohort on any number of ranks: each writes the scans dealt to it, and rank 0 writes the cohort from them.

The file is the same on any number of ranks, to the last byte: a scan's slices depend on its patient's scans alone, and
rank 0 writes what it reads from the shards as it would write what it made itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.data.prepare import (
    CohortPlan,
    CohortReport,
    FailedScan,
    Piece,
    Result,
    SessionOutcome,
    Task,
    over_processes,
    write_plan,
)
from tumorcast.errors import UsageError
from tumorcast.records import Session
from tumorcast.running.map_over_ranks import RankShards, deal, map_over_ranks
from tumorcast.running.ranks import Ranks

Failures = list[FailedScan | None]  # of the scans of a piece


def prepare_over_ranks(
    make_plan: Callable[[], CohortPlan],
    out: Path,
    ranks: Ranks,
    *,
    jobs: int = 1,
    on_outcome: Callable[[SessionOutcome], None] | None = None,
) -> CohortReport | None:
    """Prepare what rank 0 plans into the cohort file `out`; see data.prepare.prepare_cohort.

    Every rank must call it. Rank 0 returns the report, and calls `on_outcome` with each scan when all are done; the
    other ranks return None. `jobs` are processes of one rank alone. Raises UsageError for several of both.
    """
    if ranks.size == 1:
        return write_plan(make_plan(), out, partial(over_processes, jobs=jobs), on_outcome=on_outcome)
    if jobs > 1:
        raise UsageError(f"--jobs {jobs}: there are {ranks.size} ranks, each of which is one process; leave it out")
    plan: CohortPlan = ranks.from_root(make_plan() if ranks.is_root else None)
    shards, weights = RankShards(out), [len(piece) for piece in plan.pieces]
    write = partial(_write_scans, shards.path(ranks.rank), plan)
    failures = map_over_ranks(plan.pieces, plan.task.results, ranks, keep=write, weights=weights)
    if not ranks.is_root:
        return None
    with ExitStack() as stack:
        files = [stack.enter_context(Cohort.open(shards.path(rank))) for rank in range(ranks.size)]
        holders = [files[owner] for owner in deal(weights, ranks.size)]
        report = write_plan(plan, out, partial(_read_scans, holders, failures), on_outcome=on_outcome)
    shards.remove()
    return report


def _write_scans(shard: Path, plan: CohortPlan, results: Iterator[list[Result]]) -> list[Failures]:
    """Write a rank's scans that could be prepared; returns a piece's failures for each of its pieces."""
    failures: list[Failures] = []

    def sessions() -> Iterator[Session]:
        for piece in results:
            failures.append([result if isinstance(result, FailedScan) else None for result in piece])
            yield from (result for result in piece if not isinstance(result, FailedScan))
            del piece  # before the next one is made

    size, contrasts = plan.task.settings.image_size, plan.contrasts
    write_cohort(shard, sessions(), {}, image_size=size, contrasts=contrasts, config=plan.recorded)
    return failures


def _read_scans(
    holders: Sequence[Cohort], failures: Sequence[Failures], pieces: Sequence[Piece], task: Task
) -> Iterator[list[Result]]:
    """The results of the pieces, as a `Share` of the work. holders: the shard of each piece; failures: of each."""
    for piece, holder, failed in zip(pieces, holders, failures, strict=True):
        yield [
            failure or _whole_session(holder, scan.patient_id, scan.session_id)
            for scan, failure in zip(piece, failed, strict=True)
        ]


def _whole_session(holder: Cohort, patient_id: str, session_id: str) -> Session:
    """A scan with its volume, which Cohort.session leaves where it is."""
    return replace(holder.session(patient_id, session_id), volume=holder.volume(patient_id, session_id))
