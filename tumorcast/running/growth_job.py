"""What `tumorcast fit` does, over ranks: fit a cohort, answer what is asked, forecast what was held out, study how many
scans it takes.

growth.h5 is the same on any number of ranks, to the last bit: a patient's numbers depend on nothing but the patient.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tumorcast.archive.growth_file import growth_writer, merge_growth, read_growth
from tumorcast.durable import sha256_of
from tumorcast.growth.answers import Questions, answer, write_answers
from tumorcast.growth.heldout import HeldOut, HeldOutForecast, forecast_held_out, scores, write_forecasts
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.prior import SizePrior
from tumorcast.growth.scan_count import Table, forecast_from_fewer, scan_count_tables, write_scan_counts
from tumorcast.growth.unlike import Surprise, surprise_of
from tumorcast.provenance import commit, is_made_already
from tumorcast.records import FitStatus, GrowthFit, PatientOutcome, SizeSeries, Status
from tumorcast.running.map_over_ranks import RankShards, Report, deal, map_over_ranks
from tumorcast.running.outcomes import attempt, read_outcomes, status_table_of, write_outcomes
from tumorcast.running.ranks import Ranks
from tumorcast.version import VERSION

log = logging.getLogger(__name__)
FitPatient = Callable[[SizeSeries], GrowthFit]
Forecasts = list[HeldOutForecast]
Part = TypeVar("Part")


@dataclass(frozen=True)
class GrowthJob:
    """What is asked for.

    prior: the text of the model's prior file; left_out: patients who could not be read; draw: a patient's picture;
    columns: what of the source is read; answers: where what `questions` ask is written. compared_with: the prior that
    the cohort may be unlike; None where it is learnt from the cohort itself, or is none.
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
    answers: Path | None = None
    questions: Questions = Questions()
    columns: Mapping[str, Any] = field(default_factory=dict)
    compared_with: SizePrior | None = None

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
class GrowthJobResult:
    """How each patient fared, the figures to print, and the tables of the study. Of rank 0; the others know less.

    surprise: how much the cohort surprises the prior; None where that is not known.
    """

    outcomes: Sequence[PatientOutcome]
    figures: dict[str, Any]
    tables: dict[str, Table]
    surprise: Surprise | None = None


def run_growth_job(job: GrowthJob, ranks: Ranks, report: Report) -> GrowthJobResult:
    """Do all that is asked for, each part over all ranks. Every rank must call it."""
    fates: dict[str, PatientOutcome] = {}
    figures: dict[str, Any] = {}
    tables: dict[str, Table] = {}
    if job.out is not None:
        figures |= _fit(job, job.out, ranks, report, fates)
    if job.answers is not None:
        answers = _forecasts(job, ranks, partial(answer, job.model, job.questions), fates, report)
        if ranks.is_root:
            write_answers(job.answers, answers)
        figures |= {"answers": str(job.answers)}
    if job.held_out is not None:
        figures |= _hold_out(job, job.held_out, ranks, fates, report)
    if job.min_scans is not None:
        tables = scan_count_tables(_forecasts(job, ranks, partial(forecast_from_fewer, job.model), fates, report))
        if ranks.is_root:
            write_scan_counts(job.min_scans, tables)
    if job.draw is not None:
        _forecasts(job, ranks, partial(_drawn, job.draw), fates, report)
    compared = None if job.compared_with is None or not ranks.is_root else surprise_of(job.patients, job.compared_with)
    return replace(_closing(job, fates, figures, tables), surprise=compared)


def _fit(job: GrowthJob, out: Path, ranks: Ranks, report: Report, fates: dict[str, PatientOutcome]) -> dict[str, Any]:
    provenance = job.provenance
    outcomes = ranks.from_root(_made_before(out, provenance) if ranks.is_root else None)
    outcomes = outcomes or fit_cohort_to(
        out,
        job.patients,
        job.model.fit,
        provenance | {"commit": commit()},
        ranks,
        forecaster=str(job.model.forecaster),
        prior=job.prior,
        left_out=job.left_out,
        report=report,
    )
    if not ranks.is_root:
        return {}
    fates |= {outcome.patient_id: outcome for outcome in outcomes}
    statuses = list(read_growth(out).statuses().values())
    return {"out": str(out), "status": {str(status): statuses.count(status) for status in FitStatus}}


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
    report. A patient whose fit raises has failed, and the others go on; a full disk ends the run.
    `report` is called on rank 0 with how many patients of all ranks are done. One fit is held in memory at a time.
    """
    header: dict[str, Any] = {"provenance": provenance, "forecaster": forecaster, "prior": prior}
    shards, weights = RankShards(out), [series.days.size for series in patients]

    def fit(series: SizeSeries) -> GrowthFit | PatientOutcome:
        return attempt(series.patient_id, partial(fit_patient, series))

    keep = partial(_write_fits, shards.path(ranks.rank), header)
    outcomes = map_over_ranks(patients, fit, ranks, keep=keep, weights=weights, report=report)
    if not ranks.is_root:
        return []
    owners = deal(weights, ranks.size)
    fitted = [
        (outcome.patient_id, shards.path(owner))
        for outcome, owner in zip(outcomes, owners, strict=True)
        if outcome.status is Status.OK
    ]
    merge_growth(out, fitted, **header)
    outcomes += left_out
    write_outcomes(status_table_of(out), outcomes)
    shards.remove()
    return outcomes


def _write_fits(
    shard: Path, header: dict[str, Any], fits: Iterator[GrowthFit | PatientOutcome]
) -> list[PatientOutcome]:
    """Write a rank's fits, of which none stays in memory; returns how each patient fared."""
    outcomes = []
    with growth_writer(shard, **header) as add:
        for fit in fits:
            if isinstance(fit, PatientOutcome):
                outcomes.append(fit)
                continue
            add(fit)
            outcomes.append(PatientOutcome(fit.series.patient_id, Status.OK, "; ".join(fit.notes)))
            del fit  # else it would be held while the next one is made
    return outcomes


def _made_before(out: Path, provenance: dict[str, Any]) -> list[PatientOutcome] | None:
    """How each patient fared when this very growth file was made, which is left as it is; None if it is to be made.

    Raises UsageError for a file of other settings or of another table, and for one that is no growth file.
    """
    table = status_table_of(out)
    if not is_made_already(out, lambda path: read_growth(path).provenance, provenance) or not table.exists():
        return None
    log.warning("%s: already made with these settings and inputs, and left as it is", out)
    return read_outcomes(table)


def _hold_out(
    job: GrowthJob, which: HeldOut, ranks: Ranks, fates: dict[str, PatientOutcome], report: Report
) -> dict[str, Any]:
    def work(series: SizeSeries) -> Forecasts:
        return forecast_held_out(job.model, series, which)

    forecasts = _forecasts(job, ranks, work, fates, report)
    if ranks.is_root and job.held_out_csv is not None:
        write_forecasts(job.held_out_csv, forecasts)
    return {"held_out": str(which)} | scores(forecasts)


def _drawn(draw: Callable[[SizeSeries], object], series: SizeSeries) -> Forecasts:
    draw(series)
    return []


def _forecasts(
    job: GrowthJob,
    ranks: Ranks,
    work: Callable[[SizeSeries], list[Part]],
    fates: dict[str, PatientOutcome],
    report: Report,
) -> list[Part]:
    """What is made of all patients, in their order, on every rank; why a patient failed is put into `fates`."""

    def guarded(series: SizeSeries) -> list[Part] | PatientOutcome:
        return attempt(series.patient_id, partial(work, series))

    forecasts: list[Part] = []
    for result in map_over_ranks(job.patients, guarded, ranks, report=report):
        if isinstance(result, PatientOutcome):
            fates[result.patient_id] = result
        else:
            forecasts += result
    return forecasts


def _closing(
    job: GrowthJob, fates: dict[str, PatientOutcome], figures: dict[str, Any], tables: dict[str, Table]
) -> GrowthJobResult:
    """Every patient's fate, and the figures with their counts first."""
    outcomes = [fates.get(series.patient_id, PatientOutcome(series.patient_id, Status.OK)) for series in job.patients]
    outcomes += job.left_out
    failed = sum(outcome.status is Status.FAILED for outcome in outcomes)
    done = sum(outcome.status is Status.OK for outcome in outcomes)
    counts = {"patients": len(outcomes), "ok": done, "failed": failed, "forecaster": str(job.model.forecaster)}
    return GrowthJobResult(outcomes, counts | figures, tables)
