"""Fit a cohort on any number of ranks: each writes the patients dealt to it, and rank 0 puts them together.

The result is the same on any number of ranks, to the last bit: a patient's numbers depend on nothing but the patient.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tumorcast.archive.growth_file import growth_writer, merge_growth
from tumorcast.records import GrowthFit, PatientOutcome, SizeSeries, Status
from tumorcast.running.outcomes import attempt, parts_of, read_outcomes, status_table_of, write_outcomes
from tumorcast.running.ranks import Ranks

FitPatient = Callable[[SizeSeries], GrowthFit]
Report = Callable[[int, int], None]


def fit_cohort_to(
    out: Path,
    patients: Sequence[SizeSeries],
    fit_patient: FitPatient,
    provenance: Mapping[str, Any],
    ranks: Ranks,
    *,
    forecaster: str = "mechanistic",
    prior: str | None = None,
    left_out: Sequence[PatientOutcome] = (),
    report: Report = lambda done, total: None,
) -> list[PatientOutcome]:
    """Fit every patient and write growth.h5 at `out`, with the table of how each fared beside it.

    Every rank must call it, with the same arguments. Rank 0 returns the outcomes, in the order of `patients`, with
    `left_out` after them (patients that could not be read); the other ranks return none, since they have nothing to
    tell. A patient whose fit raises has failed, and the others go on; a full disk ends the run.
    `report` is called on rank 0 with how many patients of all ranks are done. One fit is held in memory at a time.
    """
    header = {"provenance": provenance, "forecaster": forecaster, "prior": prior}
    run = _Run(out, patients, deal(patients, ranks.size), header, ranks)
    run.fit_share(fit_patient, report)
    ranks.barrier()
    return run.merge(left_out) if ranks.is_root else []


def deal(patients: Sequence[SizeSeries], ranks: int) -> list[int]:
    """The rank of each patient: most scans first, each to the rank that has least to do."""
    owners, load = [0] * len(patients), [0] * ranks
    for place in sorted(range(len(patients)), key=lambda k: -patients[k].days.size):
        owners[place] = load.index(min(load))
        load[owners[place]] += patients[place].days.size
    return owners


@dataclass(frozen=True)
class _Run:
    """What every rank knows of a run. owners: the rank of each patient; header: what the file says of itself."""

    out: Path
    patients: Sequence[SizeSeries]
    owners: list[int]
    header: dict[str, Any]
    ranks: Ranks

    def shard(self, rank: int) -> Path:
        """Where a rank writes its patients."""
        return parts_of(self.out) / f"rank-{rank}.h5"

    def fit_share(self, fit_patient: FitPatient, report: Report) -> None:
        """Fit and write the patients of this rank, and on rank 0 report those of all."""
        shard, progress = self.shard(self.ranks.rank), _Progress(self.ranks, len(self.patients), report)
        outcomes = []
        with growth_writer(shard, **self.header) as add:
            for series, owner in zip(self.patients, self.owners, strict=True):
                if owner == self.ranks.rank:
                    outcomes.append(_fit_one(series, fit_patient, add))
                    progress.one_done()
        write_outcomes(status_table_of(shard), outcomes)
        progress.wait_for_the_others()

    def merge(self, left_out: Sequence[PatientOutcome]) -> list[PatientOutcome]:
        """Put the shards together, in the order of the patients, and write how each fared."""
        tables = [read_outcomes(status_table_of(self.shard(rank))) for rank in range(self.ranks.size)]
        fates = {outcome.patient_id: outcome for table in tables for outcome in table}
        outcomes = [fates[series.patient_id] for series in self.patients]
        fitted = [
            (outcome.patient_id, self.shard(owner))
            for outcome, owner in zip(outcomes, self.owners, strict=True)
            if outcome.status is Status.OK
        ]
        merge_growth(self.out, fitted, **self.header)
        outcomes += left_out
        write_outcomes(status_table_of(self.out), outcomes)
        self._remove_shards()
        return outcomes

    def _remove_shards(self) -> None:
        """Remove the shards, also those that a run of more ranks has left; a file that is not ours stays."""
        folder = parts_of(self.out)
        for pattern in ("rank-*.h5", "rank-*.status.tsv", ".rank-*.partial"):
            for path in folder.glob(pattern):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _fit_one(series: SizeSeries, fit_patient: FitPatient, add: Callable[[GrowthFit], None]) -> PatientOutcome:
    """Fit and write a patient, of whom nothing stays in memory."""
    fit = attempt(series.patient_id, partial(fit_patient, series))
    if isinstance(fit, PatientOutcome):
        return fit
    add(fit)
    return PatientOutcome(series.patient_id, Status.OK, "; ".join(fit.notes))


@dataclass
class _Progress:
    """Counts the patients that are done, on rank 0 those of all ranks."""

    ranks: Ranks
    total: int
    report: Report
    done: int = 0

    def one_done(self) -> None:
        """A patient of this rank is done."""
        if self.ranks.is_root:
            self._count(1 + self.ranks.heard())
        else:
            self.ranks.tell_root()

    def wait_for_the_others(self) -> None:
        """On rank 0, report until every patient is done."""
        while self.ranks.is_root and self.done < self.total:
            self._count(self.ranks.heard(wait=True))

    def _count(self, patients: int) -> None:
        self.done += patients
        self.report(self.done, self.total)
