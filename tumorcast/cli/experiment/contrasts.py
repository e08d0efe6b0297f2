"""The command `experiment contrasts`."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorcast.cli.experiment.follow_up import Slices, TrueTarget, open_followed, target_source
from tumorcast.cli.experiment.launch import (
    Members,
    Patients,
    SamplingOptions,
    Seed,
    SoFar,
    experiment_settings,
    launch_opened,
)
from tumorcast.cli.forecast_options import A_BUNDLE
from tumorcast.cli.option_groups import grouped_options
from tumorcast.cli.options import Json, Out
from tumorcast.errors import UsageError

if TYPE_CHECKING:
    from tumorcast.evaluation.experiments.base import Experiment
    from tumorcast.records import Contrast
    from tumorcast.running.ranks import Ranks


@grouped_options
def contrasts(
    *,
    context: typer.Context,
    cohort: Annotated[list[Path], typer.Option("--cohort", help="A cohort file, one a model: repeat.")],
    model: Annotated[
        list[Path], typer.Option("--model", help=f"{A_BUNDLE}; or a folder of RUN folders. Repeat, as --cohort.")
    ],
    out: Out,
    target: TrueTarget = "truth",
    members: Members = None,
    slices: Slices = 1,
    patients: Patients = None,
    seed: Seed = None,
    sampling: SamplingOptions,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """Models of one contrast against four: --cohort A.h5 --model A --cohort B.h5 --model B, of the same scans.

    The first one is what the others are compared with.
    """
    settings, targets = experiment_settings(context.params), target_source(target)
    if len(cohort) != len(model) or len(model) < 2:
        raise UsageError(
            f"{len(cohort)} --cohort and {len(model)} --model: give two models or more, and a cohort for each"
        )
    engines = [sampling.engine_choice([path], settings.batch) for path in model]

    @contextmanager
    def opened(ranks: "Ranks") -> "Iterator[Experiment]":
        from tumorcast.evaluation.experiments.contrasts import Contender, ContrastsExperiment
        from tumorcast.evaluation.experiments.followup_source import check_levels

        with ExitStack() as stack:
            both = [open_followed(*pair, targets, ranks, stack) for pair in zip(cohort, engines, strict=True)]
            names = names_of([opened_cohort.contrasts for opened_cohort, _ in both], model)
            contenders = tuple(Contender(name, *opened_files) for name, opened_files in zip(names, both, strict=True))
            for contender in contenders:
                check_levels(contender.engine, [settings.sampler.noise_level])
            experiment = ContrastsExperiment(contenders, targets, settings, slices, patients)
            experiment.check()
            yield experiment

    launch_opened(opened, out, as_json, so_far=so_far)


def names_of(contrasts: "Sequence[Sequence[Contrast | str]]", models: Sequence[Path]) -> list[str]:
    """The names of models: their contrasts; where two have the same, or one folder's name, a number too."""
    names = [
        f"{model.resolve().name} ({', '.join(map(str, own))})" for own, model in zip(contrasts, models, strict=True)
    ]
    return [f"{name} {number}" if names.count(name) > 1 else name for number, name in enumerate(names, start=1)]
