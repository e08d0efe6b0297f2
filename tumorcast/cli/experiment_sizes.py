"""The commands `experiment ode`, `timepoints` and `failures`: parse, call, print."""

from typing import Annotated, Any

import typer

from tumorcast.cli.experiment import (
    Batch,
    CohortFile,
    Members,
    Model,
    Patients,
    SoFar,
    Steps,
    experiment,
    launch,
    launch_opened,
    of_cases,
)
from tumorcast.cli.experiment import Seed as ImageSeed
from tumorcast.cli.fit import (
    FIT_SETTINGS,
    LEAVE_ONE_OUT,
    NO_PRIOR,
    ChemoEnd,
    ChemoStart,
    Companion,
    DayColumn,
    IdColumn,
    Law,
    Prior,
    Replicates,
    Resection,
    RtDose,
    RtEnd,
    RtFractions,
    RtStart,
    Seed,
    Source,
    growth_model_of,
)
from tumorcast.cli.forecast_options import Device, EngineCache, ProviderName
from tumorcast.cli.options import ConfigFile, Json, Out, exit_if_failed, only_given
from tumorcast.cli.size_options import hints_of, read_size_source, size_columns, tell_balance, tell_hints
from tumorcast.errors import UsageError

Size = Annotated[str, typer.Option("--size-column", help="volume_mm3 or area_mm2 of a cohort; any column of a table.")]


@experiment.command("ode")
def ode(
    context: typer.Context,
    source: Source,
    out: Out,
    size_column: Size = "volume_mm3",
    companion_column: Companion = None,
    law: Law = None,
    prior: Prior = None,
    replicates: Replicates = None,
    seed: Seed = None,
    patients: Patients = None,
    paper_fit: Annotated[
        bool, typer.Option("--paper-fit", help="The paper's own fit too, faults included; by lmfit.")
    ] = False,
    id_column: IdColumn = "patient_id",
    day_column: DayColumn = "day",
    rt_start_column: RtStart = "rt_start_day",
    rt_end_column: RtEnd = "rt_end_day",
    rt_dose_column: RtDose = "dose",
    rt_fractions_column: RtFractions = "fractions",
    chemo_start_column: ChemoStart = "chemo_start_day",
    chemo_end_column: ChemoEnd = "chemo_end_day",
    resection_column: Resection = "resection_day",
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How near do forecasts come to each patient's last scan, fitted without it? Forecasters side by side."""
    from tumorcast.evaluation.experiments.ode import METHODS, LastScan
    from tumorcast.evaluation.experiments.size_methods import SizeMethod

    data, model = _sizes(context.params)
    methods = tuple(SizeMethod) if paper_fit else METHODS
    launch(LastScan(data, model, methods), out, as_json, so_far=so_far)
    exit_if_failed(sum(one.status == "failed" for one in data.left_out))


@experiment.command("timepoints")
def timepoints(
    context: typer.Context,
    source: Source,
    out: Out,
    size_column: Size = "volume_mm3",
    companion_column: Companion = None,
    law: Law = None,
    prior: Prior = None,
    replicates: Replicates = None,
    seed: Seed = None,
    patients: Patients = None,
    id_column: IdColumn = "patient_id",
    day_column: DayColumn = "day",
    rt_start_column: RtStart = "rt_start_day",
    rt_end_column: RtEnd = "rt_end_day",
    rt_dose_column: RtDose = "dose",
    rt_fractions_column: RtFractions = "fractions",
    chemo_start_column: ChemoStart = "chemo_start_day",
    chemo_end_column: ChemoEnd = "chemo_end_day",
    resection_column: Resection = "resection_day",
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How do forecasts fare with few or irregular scans? Each patient's last scan, forecast from fewer earlier ones."""
    from tumorcast.evaluation.experiments.timepoints import Timepoints

    data, model = _sizes(context.params)
    launch(Timepoints(data, model), out, as_json, so_far=so_far)
    exit_if_failed(sum(one.status == "failed" for one in data.left_out))


@experiment.command("failures")
def failures(
    context: typer.Context,
    cohort: CohortFile,
    model: Model,
    out: Out,
    members: Members = 4,
    patients: Patients = None,
    seed: ImageSeed = None,
    noise_level: Annotated[int | None, typer.Option(help="NL: the diffusion time encoded up to.")] = None,
    steps: Steps = None,
    batch: Batch = None,
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    config: ConfigFile = None,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How far can the flags of failure be trusted? Precision and recall on failures provoked in known ways."""
    from tumorcast.evaluation.experiments.failures import Failures

    launch_opened(of_cases(context.params, Failures), out, as_json, so_far=so_far)


def _sizes(told: dict[str, Any]) -> tuple[Any, Any]:
    """The patients' sizes, and the growth model that forecasts them.

    Raises UsageError for a prior that knows their future, or for none, without which there is no population to pool.
    """
    import hashlib

    from tumorcast.durable import sha256_of
    from tumorcast.evaluation.experiments.size_scores import SizeData
    from tumorcast.growth.balance import Balance
    from tumorcast.growth.settings import FitSettings

    if told["prior"] == NO_PRIOR:
        raise UsageError(
            "--prior none: forecasters of a population are compared, and the growth law of the patient alone stands "
            "among them anyway; give shipped, leave-one-out or a file"
        )
    settings = FitSettings.of(only_given({name: told.get(name) for name in FIT_SETTINGS}), "tumorcast experiment")
    model_of, prior, companion = growth_model_of(settings, told | {"forecaster": "pooled", "out": None, "plots": None})
    columns = size_columns(told | {"companion_column": companion})
    table = read_size_source(told["source"], columns)
    tell_hints(told["source"], hints_of(table, columns, told))
    tell_balance(told["source"], Balance.of(table, table.outcomes))
    digest = sha256_of(told["source"])
    if prior is not None and digest in prior.source:
        raise UsageError(
            f"--prior: it was learnt from {told['source']}, and so knows what is to be forecast; "
            f"give --prior {LEAVE_ONE_OUT}"
        )
    told_prior = LEAVE_ONE_OUT if prior is None else hashlib.sha256(prior.to_json().encode()).hexdigest()
    made_of = {"source_sha256": digest, "columns": vars(columns), "prior": told_prior}
    return SizeData(table.series, made_of, table.outcomes, told["patients"]), model_of(table.series)
