"""The commands of tumour size: fit and fit-prior. Parse, call, print."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tumorcast.cli.options import (
    Json,
    Out,
    check_outputs,
    choice,
    exit_if_failed,
    only_given,
    print_result,
    progress,
    tell_fate,
)
from tumorcast.cli.size_options import hints_of, is_table, read_size_source, size_columns, tell_balance, tell_hints
from tumorcast.errors import UsageError
from tumorcast.version import VERSION

SHIPPED, NO_PRIOR, LEAVE_ONE_OUT = "shipped", "none", "leave-one-out"
NO_COMPANION = "none"
FIT_SETTINGS = (
    "law", "method", "bounds", "noise", "spread", "bootstrap", "replicates", "chemotherapy", "drop_ratio", "seed",
)  # fmt: skip


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help)


Source = Annotated[Path, typer.Argument(help="A cohort file, or a CSV table with a row a scan.")]
GrowthOut = Annotated[Path | None, _option("growth.h5; not needed with --held-out, --min-scans or --plots.", "--out")]
Size = Annotated[str, _option("area_mm2 or volume_mm3 of a cohort; any column of a table.", "--size-column")]
Companion = Annotated[
    str | None, _option("Of a table: another compartment's size; by default the prior's, where it is there; or none.")
]
Law = Annotated[str | None, _option("exponential (the paper's), logistic or gompertz.")]
Preset = Annotated[str | None, _option("paper: the paper's fit, with its faults.")]
Method = Annotated[str | None, _option("native, or lmfit: slow, with confidence intervals.")]
Bounds = Annotated[str | None, _option("default or paper.")]
Noise = Annotated[str | None, _option("How measured sizes err: lognormal, additive or paper.")]
Spread = Annotated[float | None, _option("Standard deviation of the logarithm of a measured size.")]
Bootstrap = Annotated[str | None, _option("measurement, parametric, residual or cases.")]
Replicates = Annotated[int | None, _option("Bootstrap replicates.")]
SearchName = Annotated[str | None, _option("thorough (default), or quick for a million replicates.", "--search")]
Chemotherapy = Annotated[bool | None, _option("Fit a rate that chemotherapy takes off growth.", "--chemotherapy")]
DropRatio = Annotated[float | None, _option("A fall below this share of the last size is a resection; 0: never.")]
Seed = Annotated[int | None, _option("A patient's numbers depend on it and the patient alone.")]
Prior = Annotated[str | None, _option("A file of fit-prior, shipped, none, or leave-one-out (with --held-out).")]
ForecasterName = Annotated[str | None, _option("pooled, mechanistic or persistence.", "--forecaster")]
HeldOutName = Annotated[str | None, _option("Forecast and score known scans: rolling (with two before) or last.")]
HeldOutTable = Annotated[Path | None, _option("Where the held-out forecasts go, a row each.")]
MinScans = Annotated[Path | None, _option("Folder for a study of how many scans are needed: a table and a figure.")]
Plots = Annotated[Path | None, _option("Folder for a plot a patient.")]
IdColumn = Annotated[str, _option("Of a table: the patient.")]
DayColumn = Annotated[str, _option("Of a table: the day of the scan, from any zero.")]
RtStart = Annotated[str, _option("Of a table: first day of radiotherapy.")]
RtEnd = Annotated[str, _option("Of a table: last day of radiotherapy.")]
RtDose = Annotated[str, _option("Of a table: its dose, in Gy.")]
RtFractions = Annotated[str, _option("Of a table: its fractions.")]
ChemoStart = Annotated[str, _option("Of a table: first day of chemotherapy.")]
ChemoEnd = Annotated[str, _option("Of a table: its last day.")]
Resection = Annotated[str, _option("Of a table: the day of a resection.")]


def fit(
    context: typer.Context,
    source: Source,
    out: GrowthOut = None,
    size_column: Size = "area_mm2",
    companion_column: Companion = None,
    law: Law = None,
    preset: Preset = None,
    method: Method = None,
    bounds: Bounds = None,
    noise: Noise = None,
    spread: Spread = None,
    bootstrap: Bootstrap = None,
    replicates: Replicates = None,
    search: SearchName = None,
    chemotherapy: Chemotherapy = None,
    drop_ratio: DropRatio = None,
    seed: Seed = None,
    prior: Prior = None,
    forecaster: ForecasterName = None,
    held_out: HeldOutName = None,
    held_out_csv: HeldOutTable = None,
    min_scans: MinScans = None,
    plots: Plots = None,
    id_column: IdColumn = "patient_id",
    day_column: DayColumn = "day",
    rt_start_column: RtStart = "rt_start_day",
    rt_end_column: RtEnd = "rt_end_day",
    rt_dose_column: RtDose = "dose",
    rt_fractions_column: RtFractions = "fractions",
    chemo_start_column: ChemoStart = "chemo_start_day",
    chemo_end_column: ChemoEnd = "chemo_end_day",
    resection_column: Resection = "resection_day",
    as_json: Json = False,
) -> None:
    """Fit a growth law under treatment to each patient's sizes, with a bootstrap, and forecast the next ones.

    Over MPI ranks: mpirun -n 4 python -m mpi4py -m tumorcast fit …
    """
    from tumorcast.growth.size_table import SizeBalance
    from tumorcast.running.growth_job import run_growth_job
    from tumorcast.running.ranks import limit_threads, open_ranks

    job, table, hints = _growth_job(context.params)
    with open_ranks() as ranks:
        limit_threads(ranks)
        tell_hints(source, hints if ranks.is_root else [])
        with progress("patients", "nothing was written; start it again", silent=not ranks.is_root) as tell:
            result = run_growth_job(job, ranks, tell)
    if ranks.is_root:
        if min_scans is not None:
            from tumorcast.report.plots import draw_study

            draw_study(result.tables, min_scans / "min_scans.png")
        balance = SizeBalance.of(table, result.outcomes, hints)
        _tell_patients(source, result.outcomes, balance)
        told = {"version": VERSION, "size": size_column} | result.figures
        print_result(as_json, told | ({"balance": balance.record()} if as_json else {}))
        exit_if_failed(result.figures["failed"])


def _tell_patients(source: Path, outcomes: Sequence[Any], balance: Any) -> None:
    for outcome in outcomes:
        tell_fate(outcome.patient_id, None, outcome.status, outcome.reason)
    tell_balance(source, balance)


def _growth_job(told: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """What the options ask for, the sizes that were read, and hints on columns that were not.

    Raises UsageError where options contradict each other.
    """
    from tumorcast.growth.heldout import HeldOut
    from tumorcast.growth.settings import FitSettings
    from tumorcast.running.growth_job import GrowthJob

    if all(told[name] is None for name in ("out", "held_out", "min_scans", "plots")):
        raise UsageError("tumorcast fit: nothing to do; give --out growth.h5, --held-out, --min-scans or --plots")
    if told["held_out_csv"] is not None and told["held_out"] is None:
        raise UsageError("--held-out-csv needs --held-out rolling or --held-out last")
    check_outputs({"--out": told["out"], "--held-out-csv": told["held_out_csv"]}, _inputs(told))
    which = None if told["held_out"] is None else choice(HeldOut, "--held-out", told["held_out"])
    settings = _fit_settings(FitSettings, told["preset"], only_given({name: told[name] for name in FIT_SETTINGS}))
    if told["search"] not in {None, "thorough", "quick"}:
        raise UsageError(f"--search {told['search']}: allowed are thorough, quick")
    if told["search"] is not None and settings.method == "lmfit":
        raise UsageError("--search is of --method native: lmfit has one start; leave one of them out")
    settings = settings.quick if told["search"] == "quick" else settings
    model_of, prior, companion = growth_model_of(settings, told)
    columns = size_columns(told | {"companion_column": companion})
    table = read_size_source(told["source"], columns)
    model = model_of(table.series)
    job = GrowthJob(
        source=told["source"],
        out=told["out"],
        patients=table.series,
        left_out=table.outcomes,
        model=model,
        prior=None if prior is None else prior.to_json(),
        held_out=which,
        held_out_csv=told["held_out_csv"],
        min_scans=told["min_scans"],
        draw=_drawing(model, told["plots"]),
        columns=vars(columns) if is_table(told["source"]) else {"size": columns.size},
    )
    return job, table, hints_of(table, columns, told)


def fit_prior(
    context: typer.Context,
    source: Source,
    out: Out,
    size_column: Annotated[list[str], _option("A column of sizes; repeat for several. The last stands in for others.")],
    companion: Annotated[
        list[str] | None, _option("SIZE=COLUMN: another compartment to look at in forecasts of SIZE; repeat.")
    ] = None,
    seed: Annotated[int, _option("Of the draws of the estimation.")] = 0,
    id_column: IdColumn = "patient_id",
    day_column: DayColumn = "day",
    rt_start_column: RtStart = "rt_start_day",
    rt_end_column: RtEnd = "rt_end_day",
    rt_dose_column: RtDose = "dose",
    rt_fractions_column: RtFractions = "fractions",
    resection_column: Resection = "resection_day",
    as_json: Json = False,
) -> None:
    """Estimate from a cohort what it tells of the next patient: growth laws, members that share information."""
    from tumorcast.durable import sha256_of
    from tumorcast.growth.estimate_prior import estimate_prior
    from tumorcast.growth.prior import PopulationPrior
    from tumorcast.growth.size_table import SizeBalance

    check_outputs({"--out": out}, [source])
    sizes, failed, companions = {}, 0, _companions(companion or [], size_column)
    with progress("columns of sizes", "nothing was written; start it again") as tell:
        for number, name in enumerate(size_column):
            names = {"size_column": name, "companion_column": companions.get(name, "")}
            columns = size_columns(context.params | names)
            table = read_size_source(source, columns)
            tell_hints(source, hints_of(table, columns, context.params))
            _tell_patients(source, table.outcomes, SizeBalance.of(table, table.outcomes))
            failed = max(failed, sum(outcome.status == "failed" for outcome in table.outcomes))
            sizes[name] = estimate_prior(table.series, companion=companions.get(name), seed=seed)
            tell(number + 1, len(size_column))
    told = f"{source.name} (SHA-256 {sha256_of(source)}), tumorcast {VERSION}, seed {seed}"
    PopulationPrior(source=told, default_size=size_column[-1], sizes=sizes).write(out)
    counts = {
        name: {"patients": one.patients, "scans": one.scans, "mechanistic_weights": one.mechanistic_weights}
        for name, one in sizes.items()
    }
    print_result(as_json, {"out": str(out), "failed": failed, "sizes": counts})
    exit_if_failed(failed)


def _companions(told: list[str], sizes: list[str]) -> dict[str, str]:
    """The companion of each size. Raises UsageError for what is not SIZE=COLUMN."""
    pairs = [one.partition("=") for one in told]
    for (size, _, column), one in zip(pairs, told, strict=True):
        if size not in sizes or not column:
            raise UsageError(f"--companion {one}: give SIZE=COLUMN, SIZE being one of {', '.join(sizes)}")
    return {size: column for size, _, column in pairs}


def _drawing(model: Any, plots: Path | None) -> Callable[[Any], Any] | None:
    """What draws a patient, where plots are asked for."""
    if plots is None:
        return None
    from tumorcast.report.plots import draw_patient

    return partial(draw_patient, model, plots)


def _fit_settings(settings: Any, preset: str | None, told: dict[str, Any]) -> Any:
    """The settings of the preset, overruled by the options."""
    if preset not in {None, "default", "paper"}:
        raise UsageError(f"--preset {preset}: allowed are default, paper")
    if told.get("drop_ratio") == 0:
        told["drop_ratio"] = None
    below = settings.paper().model_dump() if preset == "paper" else {}
    return settings.of(below | told, "tumorcast fit")


def _inputs(told: dict[str, Any]) -> list[Path]:
    """The files that are read."""
    named = told["prior"] not in {None, SHIPPED, NO_PRIOR, LEAVE_ONE_OUT}
    return [told["source"], *([Path(told["prior"])] if named else [])]


def growth_model_of(settings: Any, told: dict[str, Any]) -> tuple[Callable[[Sequence[Any]], Any], Any, str]:
    """What makes the model of a cohort, the prior that goes into the growth file, and the column of companions.

    Without options it is the shipped prior and the pooled forecaster; fits that take no prior forecast by themselves.
    """
    from tumorcast.growth.model import GrowthModel, check_forecaster, fixed_prior, leave_one_out_prior
    from tumorcast.growth.prior import read_prior, shipped_prior
    from tumorcast.records import Forecaster

    default = SHIPPED if settings.takes_prior or told["forecaster"] is not None else NO_PRIOR
    source = told["prior"] or default
    named = told["forecaster"] or ("mechanistic" if source == NO_PRIOR else "pooled")
    forecaster = choice(Forecaster, "--forecaster", named)
    check_forecaster(forecaster, has_prior=source != NO_PRIOR)
    if source == LEAVE_ONE_OUT and (told["out"] is not None or told["plots"] is not None):
        raise UsageError("--prior leave-one-out is for --held-out and --min-scans; leave out --out and --plots")
    prior = shipped_prior() if source in (SHIPPED, LEAVE_ONE_OUT) else None
    if source not in (SHIPPED, LEAVE_ONE_OUT, NO_PRIOR):
        prior = read_prior(Path(source))
        prior.for_size(told["size_column"]).law_for(settings.law, told["size_column"])
    companion = told["companion_column"]
    if companion is None:
        companion = prior.companion_of(told["size_column"]) if prior else ""
    companion = "" if companion == NO_COMPANION else companion
    if source == LEAVE_ONE_OUT:
        return lambda cohort: GrowthModel(settings, forecaster, leave_one_out_prior(cohort, settings)), None, companion
    return lambda cohort: GrowthModel(settings, forecaster, fixed_prior(prior)), prior, companion
