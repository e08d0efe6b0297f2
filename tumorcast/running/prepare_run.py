"""Prepare a cohort on any number of ranks: each writes the scans dealt to it, and rank 0 writes the cohort from them.

The file is the same on any number of ranks, to the last byte: a scan's slices depend on its patient's scans alone, and
rank 0 writes what it reads from the shards as it would write what it made itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.data.prepare import CohortPlan, CohortReport, SessionOutcome, write_plan
from tumorcast.data.scan_tasks import FailedScan, Piece, Result, Task, over_processes
from tumorcast.errors import UsageError
from tumorcast.records import Session
from tumorcast.running.outcomes import parts_of
from tumorcast.running.ranks import Ranks

Failures = dict[tuple[str, str], FailedScan]  # by patient and session


def prepare_over_ranks(
    make_plan: Callable[[], CohortPlan],
    out: Path,
    ranks: Ranks,
    *,
    jobs: int = 1,
    on_outcome: Callable[[SessionOutcome], None] | None = None,
) -> CohortReport | None:
    """Prepare what rank 0 plans into the cohort file `out`; see data.prepare.prepare_cohort.

    Every rank must call it. Rank 0 returns the report, and tells `on_outcome` of each scan when all are done; the other
    ranks return None. `jobs` are processes of one rank alone. Raises UsageError for several of both.
    """
    if ranks.size == 1:
        return write_plan(make_plan(), out, partial(over_processes, jobs=jobs), on_outcome=on_outcome)
    if jobs > 1:
        raise UsageError(f"--jobs {jobs}: there are {ranks.size} ranks, each of which is one process; leave it out")
    plan: CohortPlan = ranks.from_root(make_plan() if ranks.is_root else None)
    run = _Run(plan, out, deal([len(piece) for piece in plan.pieces], ranks.size), ranks)
    failures = run.prepare_share()
    if not ranks.is_root:
        return None
    with ExitStack() as stack:
        shards = [stack.enter_context(Cohort.open(run.shard(rank))) for rank in range(ranks.size)]
        report = write_plan(plan, out, partial(run.read, shards, failures), on_outcome=on_outcome)
    run.remove_shards()
    return report


def deal(sizes: Sequence[int], ranks: int) -> list[int]:
    """The rank of each piece: the largest first, each to the rank that has least to do.

    >>> deal([1, 5, 2, 2], 2)
    [1, 0, 1, 1]
    """
    owners, load = [0] * len(sizes), [0] * ranks
    for place in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        owners[place] = load.index(min(load))
        load[owners[place]] += sizes[place]
    return owners


@dataclass(frozen=True)
class _Run:
    """What every rank knows of a run. owners: the rank of each piece of the plan."""

    plan: CohortPlan
    out: Path
    owners: list[int]
    ranks: Ranks

    def shard(self, rank: int) -> Path:
        """Where a rank writes its scans."""
        return parts_of(self.out) / f"rank-{rank}.h5"

    def prepare_share(self) -> Failures:
        """Write the scans of this rank; returns the failures of all ranks, when all are done."""
        failures: Failures = {}
        write_cohort(
            self.shard(self.ranks.rank),
            self._sessions(failures),
            {},
            image_size=self.plan.task.settings.image_size,
            contrasts=self.plan.contrasts,
            config=self.plan.recorded,
        )
        return {name: failure for part in self.ranks.all_of(failures) for name, failure in part.items()}

    def _sessions(self, failures: Failures) -> Iterator[Session]:
        """The scans of this rank that could be prepared; the others fill `failures`."""
        for piece, owner in zip(self.plan.pieces, self.owners, strict=True):
            if owner != self.ranks.rank:
                continue
            for scan, result in zip(piece, self.plan.task.results(piece), strict=True):
                if isinstance(result, FailedScan):
                    failures[scan.patient_id, scan.session_id] = result
                else:
                    yield result

    def read(
        self, shards: Sequence[Cohort], failures: Failures, pieces: Sequence[Piece], task: Task
    ) -> Iterator[list[Result]]:
        """The results of the pieces, as a `Share` of the work."""
        for piece, owner in zip(pieces, self.owners, strict=True):
            names = [(scan.patient_id, scan.session_id) for scan in piece]
            yield [failures.get(name) or shards[owner].session(*name) for name in names]

    def remove_shards(self) -> None:
        """Remove the shards, also those that a run of more ranks has left; a file that is not ours stays."""
        folder = parts_of(self.out)
        for pattern in ("rank-*.h5", ".rank-*.partial"):
            for path in folder.glob(pattern):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
