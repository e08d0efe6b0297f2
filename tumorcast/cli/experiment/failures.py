"""The command `experiment failures`."""

import typer

from tumorcast.cli.experiment.launch import (
    Batch,
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
from tumorcast.cli.options import ConfigFile, Json, Out


def failures(
    context: typer.Context,
    cohort: CohortFile,
    model: Model,
    out: Out,
    members: Members = 4,
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
    """How far can the flags of failure be trusted? Precision and recall on failures provoked in known ways."""
    from tumorcast.evaluation.experiments.flag_accuracy import FlagAccuracyExperiment

    launch_opened(of_followups(context.params, FlagAccuracyExperiment), out, as_json, so_far=so_far)
