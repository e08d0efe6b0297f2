"""The command `fit`: parse, call, print."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tumorcast.cli.option_groups import grouped_options
from tumorcast.cli.options import Json, check_outputs, choice, exit_if_failed, only_given, print_result, progress
from tumorcast.cli.size_options import (
    ColumnOptions,
    Companion,
    Law,
    Prior,
    Replicates,
    Seed,
    Source,
    hints_of,
    is_table,
    option,
    read_size_source,
    tell_hints,
    tell_patients,
)
from tumorcast.errors import UsageError
from tumorcast.version import VERSION

if TYPE_CHECKING:
    from tumorcast.growth.answers import Questions
    from tumorcast.growth.model import GrowthModelSpec
    from tumorcast.growth.settings import FitSettings
    from tumorcast.growth.size_table import SizeTable
    from tumorcast.running.growth_job import GrowthJob


Chemotherapy = Annotated[bool | None, option("Fit a rate that chemotherapy takes off growth.", "--chemotherapy")]
DropRatio = Annotated[float | None, option("A fall below this share of the last size is a resection; 0: never.")]
BeforeLastScan = Annotated[
    bool, option("Of a cohort: as if each patient's last scan were yet to come, as in forecast.", "--before-last-scan")
]
Answers = Annotated[Path | None, option("CSV of what is probable by some days: RANO progression and response, sizes.")]
ByDays = Annotated[str | None, option("With --answers: days after the last scan; 30,90,180 unless told.")]
Exceeds = Annotated[float | None, option("With --answers: a size that may be exceeded, in the column's unit.")]
MinScans = Annotated[Path | None, option("Folder for a study of how many scans are needed: a table and a figure.")]


@dataclass(frozen=True)
class FitOptions:
    """How growth is fitted: fields of FitSettings, a preset and the effort of the search; None where not given."""

    law: Law = None
    preset: Annotated[str | None, option("paper: the paper's fit, with its faults.")] = None
    method: Annotated[str | None, option("native, or lmfit: slow, with confidence intervals.")] = None
    bounds: Annotated[str | None, option("default or paper.")] = None
    noise: Annotated[str | None, option("How measured sizes err: lognormal, additive or paper.")] = None
    spread: Annotated[float | None, option("Standard deviation of the logarithm of a measured size.")] = None
    bootstrap: Annotated[str | None, option("measurement, parametric, residual or cases.")] = None
    replicates: Replicates = None
    search: Annotated[str | None, option("thorough (default), or quick for a million replicates.")] = None
    chemotherapy: Chemotherapy = None
    drop_ratio: DropRatio = None
    seed: Seed = None

    def settings(self) -> "FitSettings":
        """The settings of the preset, overruled by the options. Raises UsageError for what is not allowed."""
        from tumorcast.growth.settings import FitSettings, SearchEffort
        from tumorcast.settings import Preset

        preset = choice(Preset, "--preset", self.preset or Preset.DEFAULT)
        values = only_given({name: value for name, value in vars(self).items() if name not in {"preset", "search"}})
        settings = FitSettings.of_preset(preset, values, "tumorcast fit")
        return settings if self.search is None else settings.searched(choice(SearchEffort, "--search", self.search))


@dataclass(frozen=True)
class Tasks:
    """What is to be done with the fits; None for what is not asked for."""

    held_out: Annotated[str | None, option("Forecast and score known scans: rolling (with two before) or last.")] = None
    held_out_csv: Annotated[Path | None, option("Where the held-out forecasts go, a row each.")] = None
    answers: Answers = None
    by_days: ByDays = None
    exceeds: Exceeds = None
    min_scans: MinScans = None
    plots: Annotated[Path | None, option("Folder for a plot a patient.")] = None

    def check(self, out: Path | None, source: Path, prior: str | None) -> None:
        """Raises UsageError where there is nothing to do, or where a file that is read would be written."""
        from tumorcast.growth.heldout import HeldOut
        from tumorcast.growth.model import PriorSource

        if all(task is None for task in (out, self.answers, self.held_out, self.min_scans, self.plots)):
            raise UsageError(
                "tumorcast fit: nothing to do; give --out growth.h5, --answers, --held-out, --min-scans or --plots"
            )
        if self.held_out_csv is not None and self.held_out is None:
            raise UsageError("--held-out-csv needs --held-out rolling or --held-out last")
        inputs = [source] if prior is None or prior in tuple(PriorSource) else [source, Path(prior)]
        check_outputs({"--out": out, "--answers": self.answers, "--held-out-csv": self.held_out_csv}, inputs)
        if self.held_out is not None:
            choice(HeldOut, "--held-out", self.held_out)
        self.questions()

    def questions(self) -> "Questions":
        """What --answers is to tell. Raises UsageError for days or a size that cannot be, or without --answers."""
        from tumorcast.growth.answers import Questions

        if self.answers is None and not (self.by_days is None and self.exceeds is None):
            raise UsageError(f"--{'exceeds' if self.by_days is None else 'by-days'} needs --answers FILE.csv")
        if self.exceeds is not None and not (math.isfinite(self.exceeds) and self.exceeds >= 0):
            raise UsageError(f"--exceeds {self.exceeds:g}: give a size, zero or more, in the unit of the column")
        usual = Questions(exceeds=self.exceeds)
        return usual if self.by_days is None else replace(usual, horizons_days=days_ahead(self.by_days))


def days_ahead(text: str) -> tuple[float, ...]:
    """The days that `--by-days 30,90` names, in order. Raises UsageError for what is none.

    >>> days_ahead("90, 30,90")
    (30.0, 90.0)
    """
    from tumorcast.growth.answers import FARTHEST_DAYS

    try:
        days = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(f"--by-days {text}: give days after the last scan, as 30,90,180") from None
    wrong = [day for day in days if not 0 < day <= FARTHEST_DAYS]
    if wrong:
        raise UsageError(f"--by-days {text}: {wrong[0]:g} is not over 0 and at most {FARTHEST_DAYS:g} days")
    return tuple(days)


@grouped_options
def fit(
    *,
    source: Source,
    out: Annotated[
        Path | None, option("growth.h5; not needed with --answers, --held-out, --min-scans or --plots.")
    ] = None,
    size_column: Annotated[str, option("area_mm2 or volume_mm3 of a cohort; any column of a table.")] = "area_mm2",
    companion_column: Companion = None,
    before_last_scan: BeforeLastScan = False,
    fitting: FitOptions,
    prior: Prior = None,
    forecaster: Annotated[str | None, option("combined, state-space, pooled, mechanistic or persistence.")] = None,
    tasks: Tasks,
    columns: ColumnOptions,
    as_json: Json = False,
) -> None:
    """Fit a growth law under treatment to each patient's sizes, with a bootstrap, and forecast the next ones.

    Over MPI ranks: mpirun -n 4 python -m mpi4py -m tumorcast fit …
    """
    from tumorcast.growth.model import GrowthModelSpec
    from tumorcast.records import Forecaster

    tasks.check(out, source, prior)
    spec = GrowthModelSpec.of(
        fitting.settings(),
        size_column,
        prior=prior,
        forecaster=None if forecaster is None else choice(Forecaster, "--forecaster", forecaster),
        companion=companion_column,
    )
    if spec.leave_one_out and not (out is None and tasks.plots is None and tasks.answers is None):
        raise UsageError(
            "--prior leave-one-out is for --held-out and --min-scans; leave out --out, --plots and --answers"
        )
    named = columns.of_size(size_column, spec.companion)
    table = read_size_source(source, named, before_last_scan=before_last_scan)
    read = vars(named) if is_table(source) else {"size": size_column, "before_last_scan": before_last_scan or None}
    job = _job(source, out, spec, tasks, table, read)
    hints = hints_of(table, named, columns) + _hints_of_prior(source, size_column, spec, tasks)
    _run(job, table, hints, as_json=as_json)


def _hints_of_prior(source: Path, size_column: str, spec: "GrowthModelSpec", tasks: Tasks) -> list[str]:
    """What makes a forecast by a population, or its scores, wrong without a sign."""
    from tumorcast.durable import sha256_of

    if spec.prior is None:
        return []
    hints = []
    if size_column.rpartition("_")[2] not in {"mm2", "mm3"}:
        hints.append(f"'{size_column}' ends in neither _mm2 nor _mm3 and is taken for mm³, the unit of the prior")
    if tasks.held_out is not None and sha256_of(source) in spec.prior.source:
        hints.append("the prior was learnt from this very table: scores of patients whom it knows are flattering")
    return hints


def _job(
    source: Path, out: Path | None, spec: "GrowthModelSpec", tasks: Tasks, table: "SizeTable", columns: dict[str, Any]
) -> "GrowthJob":
    from tumorcast.growth.heldout import HeldOut
    from tumorcast.running.growth_job import GrowthJob

    model, draw = spec.model(table.series), None
    if tasks.plots is not None:
        from tumorcast.report.plots import draw_patient

        draw = partial(draw_patient, model, tasks.plots)
    return GrowthJob(
        source=source,
        out=out,
        patients=table.series,
        left_out=table.outcomes,
        model=model,
        prior=None if spec.prior is None else spec.prior.to_json(),
        held_out=None if tasks.held_out is None else HeldOut(tasks.held_out),
        held_out_csv=tasks.held_out_csv,
        min_scans=tasks.min_scans,
        answers=tasks.answers,
        questions=tasks.questions(),
        draw=draw,
        columns=columns,
        compared_with=None if spec.prior is None else spec.prior.for_size(columns["size"]),
    )


def _run(job: "GrowthJob", table: "SizeTable", hints: list[str], *, as_json: bool) -> None:
    from tumorcast.growth.size_table import SizeBalance
    from tumorcast.running.growth_job import run_growth_job
    from tumorcast.running.ranks import limit_threads, open_ranks

    with open_ranks() as ranks:
        limit_threads(ranks)
        tell_hints(job.source, hints if ranks.is_root else [])
        with progress("patients", "nothing was written; start it again", silent=not ranks.is_root) as tell:
            result = run_growth_job(job, ranks, tell)
    if not ranks.is_root:
        return
    if job.min_scans is not None:
        from tumorcast.report.plots import draw_study

        draw_study(result.tables, job.min_scans / "min_scans.png")
    balance = SizeBalance.of(table, result.outcomes, hints)
    tell_patients(job.source, result.outcomes, balance)
    surprise = result.surprise
    if surprise is not None and surprise.looks_unlike:
        told = surprise.warning(job.source.name, job.columns["size"], job.columns.get("companion", ""))
        tell_hints(job.source, [told])
    record = {"version": VERSION, "size": job.columns["size"]} | result.figures
    more = {"surprise": surprise and surprise.record(), "balance": balance.record()}
    print_result(as_json, record | (more if as_json else {}))
    exit_if_failed(result.figures["failed"])
