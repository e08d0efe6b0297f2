"""The command `experiment failures`."""

import typer

from tumorcast.cli.experiment.launch import (
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
def failures(
    *,
    context: typer.Context,
    cohort: CohortFile,
    model: Model,
    out: Out,
    members: Members = 4,
    patients: Patients = None,
    seed: Seed = None,
    noise_level: NoiseLevel = None,
    sampling: SamplingOptions,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How far can the flags of failure be trusted? Precision and recall on failures provoked in known ways."""
    from tumorcast.evaluation.experiments.flag_accuracy import FlagAccuracyExperiment

    launch_opened(of_followups(context.params, FlagAccuracyExperiment), out, as_json, so_far=so_far)
