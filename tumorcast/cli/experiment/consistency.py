"""The command `experiment consistency`."""

from typing import Annotated

import typer

from tumorcast.cli.experiment.follow_up import target_source
from tumorcast.cli.experiment.launch import (
    Change,
    CohortFile,
    Members,
    Model,
    NoiseLevel,
    Patients,
    SamplingOptions,
    Seed,
    SoFar,
    launch_opened,
    of_followups,
)
from tumorcast.cli.option_groups import grouped_options
from tumorcast.cli.options import Json, Out


@grouped_options
def consistency(
    *,
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
    sampling: SamplingOptions,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """What seeds change of one image, and with how many members the map stands still: how many are enough."""
    from tumorcast.evaluation.experiments.consistency import ConsistencyExperiment

    targets = target_source(target)
    launch_opened(
        of_followups(
            context.params, lambda source: ConsistencyExperiment(source, seeds, targets.target, targets.growth)
        ),
        out,
        as_json,
        so_far=so_far,
    )
