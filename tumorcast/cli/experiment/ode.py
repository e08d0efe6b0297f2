"""The command `experiment ode`."""

from typing import Annotated

import typer

from tumorcast.cli.experiment.launch import Patients, SoFar, launch
from tumorcast.cli.experiment.sizes import SizeModelOptions, sizes_and_model
from tumorcast.cli.option_groups import grouped_options
from tumorcast.cli.options import Json, Out, exit_if_failed
from tumorcast.cli.size_options import ColumnOptions, Source


@grouped_options
def ode(
    *,
    source: Source,
    out: Out,
    sizes: SizeModelOptions,
    patients: Patients = None,
    paper_fit: Annotated[
        bool, typer.Option("--paper-fit", help="The paper's own fit too, faults included; by lmfit.")
    ] = False,
    columns: ColumnOptions,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How near do forecasts come to each patient's last scan, fitted without it? Forecasters side by side."""
    from tumorcast.evaluation.experiments.size_forecasts import METHODS, SizeForecastExperiment
    from tumorcast.evaluation.experiments.size_methods import SizeMethod

    data, model = sizes_and_model(source, sizes, columns, patients)
    methods = tuple(SizeMethod) if paper_fit else METHODS
    launch(SizeForecastExperiment(data, model, methods), out, as_json, so_far=so_far)
    exit_if_failed(sum(outcome.status == "failed" for outcome in data.left_out))
