"""The command `experiment finetune`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from tumorcast.cli.experiment.follow_up import Slices, TrueTarget, open_followed, target_source
from tumorcast.cli.experiment.launch import (
    CohortFile,
    Members,
    Model,
    Patients,
    Seed,
    SoFar,
    experiment_settings,
    launch_opened,
)
from tumorcast.cli.forecast_options import Batch, Device, Steps, engine_choice
from tumorcast.cli.options import ConfigFile, Json, Out, only_given

if TYPE_CHECKING:
    from tumorcast.evaluation.experiments.base import Experiment
    from tumorcast.running.ranks import Ranks


def finetune(
    context: typer.Context,
    cohort: CohortFile,
    model: Model,
    out: Out,
    target: TrueTarget = "truth",
    tuning_steps: Annotated[int | None, typer.Option(min=1, help="Steps of training for each patient; 50.")] = None,
    tuning_batch: Annotated[int | None, typer.Option(min=1, help="Slices a step of training; 4.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the training; 1e-4.")] = None,
    members: Members = None,
    slices: Slices = 1,
    patients: Patients = None,
    seed: Seed = None,
    steps: Steps = None,
    batch: Batch = None,
    device: Device = None,
    config: ConfigFile = None,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """Do a few steps of training on a patient's own earlier scans help to forecast the next one? Runs in torch."""
    settings, targets = experiment_settings(context.params), target_source(target)
    engine = engine_choice(model, "torch", device)
    given = only_given({"steps": tuning_steps, "batch": tuning_batch, "learning_rate": learning_rate})

    @contextmanager
    def opened(ranks: "Ranks") -> "Iterator[Experiment]":
        from tumorcast.engines.guarded import GuardedEngine
        from tumorcast.engines.torch_engine import TorchEngine
        from tumorcast.evaluation.experiments.finetune import TUNING, FinetuneExperiment, FinetuneSettings
        from tumorcast.evaluation.experiments.followup_source import check_levels
        from tumorcast.settings import TrainSettings

        training = TrainSettings.of(TUNING.model_dump() | given, "tumorcast experiment finetune")
        with ExitStack() as stack:
            opened_cohort, untuned = open_followed(cohort, engine, targets, ranks, stack)
            assert isinstance(untuned, GuardedEngine) and isinstance(untuned.engine, TorchEngine)
            check_levels(untuned, [settings.sampler.noise_level])
            yield FinetuneExperiment(
                opened_cohort, untuned.engine, targets, FinetuneSettings(settings, training, slices), patients
            )

    launch_opened(opened, out, as_json, so_far=so_far)
