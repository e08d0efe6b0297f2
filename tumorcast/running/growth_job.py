"""What `tumorcast fit` does, over ranks: fit a cohort, forecast what was held out, study how many scans it takes."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tumorcast.archive.growth_file import read_growth
from tumorcast.durable import sha256_of
from tumorcast.growth.heldout import HeldOut, HeldOutForecast, forecast_held_out, scores, write_forecasts
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.scan_count import Table, forecast_from_fewer, scan_count_tables, write_scan_counts
from tumorcast.provenance import commit, is_made_already
from tumorcast.records import FitStatus, PatientOutcome, SizeSeries, Status
from tumorcast.running.growth_run import fit_cohort_to
from tumorcast.running.outcomes import attempt, read_outcomes, status_table_of
from tumorcast.running.ranks import Ranks
from tumorcast.version import VERSION

log = logging.getLogger(__name__)
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class GrowthJob:
    """What is asked for.

    prior: the text of the model's prior file; left_out: patients who could not be read; draw: a patient's picture;
    columns: what of the source is read.
    """

    source: Path
    out: Path | None
    patients: Sequence[SizeSeries]
    left_out: Sequence[PatientOutcome]
    model: GrowthModel
    prior: str | None
    held_out: HeldOut | None = None
    held_out_csv: Path | None = None
    min_scans: Path | None = None
    draw: Callable[[SizeSeries], object] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the fits are made of."""
        return {
            "version": VERSION,
            "settings": self.model.settings.model_dump(mode="json"),
            "forecaster": str(self.model.forecaster),
            "columns": dict(self.columns),
            "source_sha256": sha256_of(self.source),
            "prior_sha256": None if self.prior is None else hashlib.sha256(self.prior.encode()).hexdigest(),
        }


@dataclass(frozen=True)
class JobResult:
    """How each patient fared, the figures to print, and the tables of the study. Of rank 0; the others know less."""

    outcomes: Sequence[PatientOutcome]
    figures: dict[str, Any]
    tables: dict[str, Table]


def run_growth_job(job: GrowthJob, ranks: Ranks, report: Report) -> JobResult:
    """Do all that is asked for, each part over all ranks. Every rank must call it."""
    fates: dict[str, PatientOutcome] = {}
    figures: dict[str, Any] = {}
    tables: dict[str, Table] = {}
    if job.out is not None:
        figures |= _fit(job, job.out, ranks, report, fates)
    if job.held_out is not None:
        figures |= _hold_out(job, job.held_out, ranks, fates)
    if job.min_scans is not None:
        tables = scan_count_tables(_over_ranks(job, ranks, partial(forecast_from_fewer, job.model), fates))
        if ranks.is_root:
            write_scan_counts(job.min_scans, tables)
    if job.draw is not None:
        _over_ranks(job, ranks, partial(_drawn, job.draw), fates)
    return _closing(job, fates, figures, tables)


def _fit(job: GrowthJob, out: Path, ranks: Ranks, report: Report, fates: dict[str, PatientOutcome]) -> dict[str, Any]:
    made_of = job.provenance
    told = ranks.from_root(_made_before(out, made_of) if ranks.is_root else None)
    told = told or fit_cohort_to(
        out,
        job.patients,
        job.model.fit,
        made_of | {"commit": commit()},
        ranks,
        forecaster=str(job.model.forecaster),
        prior=job.prior,
        left_out=job.left_out,
        report=report,
    )
    if not ranks.is_root:
        return {}
    fates |= {outcome.patient_id: outcome for outcome in told}
    found = list(read_growth(out).statuses().values())
    return {"out": str(out), "status": {str(status): found.count(status) for status in FitStatus}}


def _made_before(out: Path, made_of: dict[str, Any]) -> list[PatientOutcome] | None:
    """How each patient fared when this very growth file was made, which is left as it is; None if it is to be made.

    Raises UsageError for a file of other settings or of another table, and for one that is no growth file.
    """
    table = status_table_of(out)
    if not is_made_already(out, lambda path: read_growth(path).provenance, made_of) or not table.exists():
        return None
    log.warning("%s: already made with these settings and inputs, and left as it is", out)
    return read_outcomes(table)


def _hold_out(job: GrowthJob, which: HeldOut, ranks: Ranks, fates: dict[str, PatientOutcome]) -> dict[str, Any]:
    def work(series: SizeSeries) -> list[HeldOutForecast]:
        return forecast_held_out(job.model, series, which)

    forecasts = _over_ranks(job, ranks, work, fates)
    if ranks.is_root and job.held_out_csv is not None:
        write_forecasts(job.held_out_csv, forecasts)
    return {"held_out": str(which)} | scores(forecasts)


def _drawn(draw: Callable[[SizeSeries], object], series: SizeSeries) -> list[HeldOutForecast]:
    draw(series)
    return []


def _over_ranks(
    job: GrowthJob,
    ranks: Ranks,
    work: Callable[[SizeSeries], list[HeldOutForecast]],
    fates: dict[str, PatientOutcome],
) -> list[HeldOutForecast]:
    """The forecasts of all patients, in their order, on every rank; one who fails is told in `fates`."""
    mine = {}
    for place in range(ranks.rank, len(job.patients), ranks.size):
        series = job.patients[place]
        mine[place] = attempt(series.patient_id, partial(work, series))
    every = {place: found for part in ranks.all_of(mine) for place, found in part.items()}
    forecasts = []
    for place in range(len(job.patients)):
        if isinstance(every[place], PatientOutcome):
            fates[job.patients[place].patient_id] = every[place]
        else:
            forecasts += every[place]
    return forecasts


def _closing(
    job: GrowthJob, fates: dict[str, PatientOutcome], figures: dict[str, Any], tables: dict[str, Table]
) -> JobResult:
    """Every patient's fate, and the figures with their counts first."""
    told = [fates.get(series.patient_id, PatientOutcome(series.patient_id, Status.OK)) for series in job.patients]
    outcomes = [*told, *job.left_out]
    failed = sum(outcome.status is Status.FAILED for outcome in outcomes)
    done = sum(outcome.status is Status.OK for outcome in outcomes)
    counts = {"patients": len(outcomes), "ok": done, "failed": failed, "forecaster": str(job.model.forecaster)}
    return JobResult(outcomes, counts | figures, tables)
