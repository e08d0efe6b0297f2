"""The command `experiment hindsight`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorcast.cli.experiment.follow_up import Slices, TrueTarget, open_followed, target_source
from tumorcast.cli.experiment.launch import (
    CohortFile,
    Model,
    Patients,
    SamplingOptions,
    Seed,
    SoFar,
    experiment_settings,
    launch_opened,
)
from tumorcast.cli.option_groups import grouped_options
from tumorcast.cli.options import Json, Out

if TYPE_CHECKING:
    from tumorcast.evaluation.experiments.base import Experiment
    from tumorcast.running.ranks import Ranks


@grouped_options
def hindsight(
    *,
    context: typer.Context,
    cohort: CohortFile,
    model: Model,
    out: Out,
    target: TrueTarget = "ode",
    grid: Annotated[Path | None, typer.Option(help="TOML file: noise_level, gain or scale, members.")] = None,
    paper_members: Annotated[
        int, typer.Option(min=0, help="Of the paper's fixed settings, 398 evaluations each; 0 leaves them out.")
    ] = 4,
    slices: Slices = 1,
    patients: Patients = None,
    seed: Seed = None,
    sampling: SamplingOptions,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How near does `select`, which does not see the later scan, come to the best settings with hindsight?"""
    from tumorcast.forecasting.select import SelectGrid
    from tumorcast.settings import read_toml

    settings, targets = experiment_settings(context.params), target_source(target)
    wanted = SelectGrid.of(read_toml(grid) if grid else {}, str(grid or "tumorcast experiment hindsight"))
    engine = sampling.engine_choice(model, settings.batch)

    @contextmanager
    def opened(ranks: "Ranks") -> "Iterator[Experiment]":
        from tumorcast.evaluation.experiments.settings_selection import SettingsSelectionExperiment, TrialSettings

        trial = TrialSettings(settings, wanted, slices, paper_members)
        with ExitStack() as stack:
            opened_cohort, opened_engine = open_followed(cohort, engine, targets, ranks, stack)
            trial.check(opened_engine)
            yield SettingsSelectionExperiment(opened_cohort, opened_engine, targets, trial, patients)

    launch_opened(opened, out, as_json, so_far=so_far)
