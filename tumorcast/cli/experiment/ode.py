"""The command `experiment ode`."""

from typing import Annotated

import typer

from tumorcast.cli.experiment.launch import Patients, SoFar, launch
from tumorcast.cli.experiment.sizes import Size, sizes_and_model
from tumorcast.cli.fit import (
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
)
from tumorcast.cli.options import Json, Out, exit_if_failed


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
    from tumorcast.evaluation.experiments.size_forecasts import METHODS, SizeForecastExperiment
    from tumorcast.evaluation.experiments.size_methods import SizeMethod

    data, model = sizes_and_model(context.params)
    methods = tuple(SizeMethod) if paper_fit else METHODS
    launch(SizeForecastExperiment(data, model, methods), out, as_json, so_far=so_far)
    exit_if_failed(sum(one.status == "failed" for one in data.left_out))
