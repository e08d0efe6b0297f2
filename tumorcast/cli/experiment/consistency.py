"""The command `experiment consistency`."""

from typing import Annotated

import typer

from tumorcast.cli.experiment.launch import (
    Batch,
    Change,
    CohortFile,
    Members,
    Model,
    NoiseLevel,
    Patients,
    Seed,
    SoFar,
    Steps,
    launch_opened,
    of_followups,
)
from tumorcast.cli.forecast_options import Device, EngineCache, ProviderName
from tumorcast.cli.options import ConfigFile, Json, Out, choice


def consistency(
    context: typer.Context,
    cohort: CohortFile,
    model: Model,
    out: Out,
    seeds: Annotated[int, typer.Option(min=2, help="Images of one and the same target.")] = 10,
    target: Annotated[
        str, typer.Option(help="What members aim at: ode (sizes forecast from the scans so far), or truth.")
    ] = "ode",
    relative_change: Change = None,
    members: Members = 32,
    patients: Patients = None,
    seed: Seed = None,
    noise_level: NoiseLevel = None,
    steps: Steps = None,
    batch: Batch = None,
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    config: ConfigFile = None,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """What seeds change of one image, and with how many members the map stands still: how many are enough."""
    from tumorcast.evaluation.experiments.consistency import ConsistencyExperiment
    from tumorcast.evaluation.followup import TargetSize
    from tumorcast.growth.model import GrowthModel, fixed_prior
    from tumorcast.growth.prior import shipped_prior
    from tumorcast.growth.settings import FitSettings
    from tumorcast.records import Forecaster

    target_size = choice(TargetSize, "--target", target)
    growth = GrowthModel(FitSettings(), Forecaster.POOLED, fixed_prior(shipped_prior()))
    launch_opened(
        of_followups(context.params, lambda source: ConsistencyExperiment(source, seeds, target_size, growth)),
        out,
        as_json,
        so_far=so_far,
    )
