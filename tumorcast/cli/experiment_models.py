"""The commands `experiment hindsight`, `finetune` and `contrasts`: parse, call, print."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.experiment import (
    Batch,
    CohortFile,
    Members,
    Model,
    Patients,
    Seed,
    SoFar,
    Steps,
    experiment,
    experiment_settings,
    launch_opened,
)
from tumorcast.cli.forecast_options import A_BUNDLE, Device, EngineCache, ProviderName, engine_choice
from tumorcast.cli.options import ConfigFile, Json, Out, choice, only_given
from tumorcast.errors import UsageError

if TYPE_CHECKING:
    from tumorcast.engines.protocol import Engine
    from tumorcast.evaluation.experiments.experiment import Experiment
    from tumorcast.evaluation.experiments.later import FollowedCohort, SizeSource
    from tumorcast.running.ranks import Ranks

TARGETS = "the true later size (truth), or one forecast from the scans before it (ode)."
Slices = Annotated[
    int, typer.Option("--slices", min=1, help="The so many slices with most tumour of the last known scan.")
]
TrueTarget = Annotated[str, typer.Option("--target", help=f"What is aimed at: {TARGETS}")]


@experiment.command()
def hindsight(
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
    steps: Steps = None,
    batch: Batch = None,
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    config: ConfigFile = None,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How near does `select`, which does not see the later scan, come to the best settings with hindsight?"""
    from tumorcast.forecasting.select import SelectGrid
    from tumorcast.settings import read_toml

    settings, sizes = experiment_settings(context.params), _sizes(target)
    wanted = SelectGrid.of(read_toml(grid) if grid else {}, str(grid or "tumorcast experiment hindsight"))
    engine = engine_choice(model, provider, device, cache=engine_cache, rows=settings.batch)

    @contextmanager
    def opened(ranks: "Ranks") -> "Iterator[Experiment]":
        from tumorcast.evaluation.experiments.hindsight import Hindsight, HindsightSettings

        tried = HindsightSettings(settings, wanted, slices, paper_members)
        with ExitStack() as stack:
            followed, opened_engine = _open(cohort, engine, sizes, ranks, stack)
            tried.check(opened_engine)
            yield Hindsight(followed, opened_engine, sizes, tried, patients)

    launch_opened(opened, out, as_json, so_far=so_far)


@experiment.command()
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
    settings, sizes = experiment_settings(context.params), _sizes(target)
    engine = engine_choice(model, "torch", device)
    given = only_given({"steps": tuning_steps, "batch": tuning_batch, "learning_rate": learning_rate})

    @contextmanager
    def opened(ranks: "Ranks") -> "Iterator[Experiment]":
        from tumorcast.engines.torch_engine import TorchEngine
        from tumorcast.evaluation.experiments.finetune import TUNING, Finetune, FinetuneSettings
        from tumorcast.evaluation.experiments.later import check_levels
        from tumorcast.settings import TrainSettings

        training = TrainSettings.of(TUNING.model_dump() | given, "tumorcast experiment finetune")
        with ExitStack() as stack:
            followed, untuned = _open(cohort, engine, sizes, ranks, stack)
            assert isinstance(untuned, TorchEngine)
            check_levels(untuned, [settings.sampler.noise_level])
            yield Finetune(followed, untuned, sizes, FinetuneSettings(settings, training, slices), patients)

    launch_opened(opened, out, as_json, so_far=so_far)


@experiment.command()
def contrasts(
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
    steps: Steps = None,
    batch: Batch = None,
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    config: ConfigFile = None,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """Models of one contrast against four: --cohort A.h5 --model A --cohort B.h5 --model B, of the same scans.

    The first one is what the others are compared with.
    """
    settings, sizes = experiment_settings(context.params), _sizes(target)
    if len(cohort) != len(model) or len(model) < 2:
        raise UsageError(
            f"{len(cohort)} --cohort and {len(model)} --model: give two models or more, and a cohort for each"
        )
    engines = [engine_choice([one], provider, device, cache=engine_cache, rows=settings.batch) for one in model]

    @contextmanager
    def opened(ranks: "Ranks") -> "Iterator[Experiment]":
        from tumorcast.evaluation.experiments.contrasts import Contender, Contrasts
        from tumorcast.evaluation.experiments.later import check_levels

        with ExitStack() as stack:
            both = [_open(*pair, sizes, ranks, stack) for pair in zip(cohort, engines, strict=True)]
            names = _names([list(one.truth.contrasts) for one, _ in both], model)
            contenders = tuple(Contender(name, *one) for name, one in zip(names, both, strict=True))
            for one in contenders:
                check_levels(one.engine, [settings.sampler.noise_level])
            asked = Contrasts(contenders, sizes, settings, slices, patients)
            asked.check()
            yield asked

    launch_opened(opened, out, as_json, so_far=so_far)


def _sizes(target: str) -> "SizeSource":
    """What forecasts aim at, by --target."""
    from tumorcast.evaluation.comparison import TargetMode
    from tumorcast.evaluation.experiments.later import SizeSource

    return SizeSource.shipped(choice(TargetMode, "--target", target))


def _open(
    cohort: Path, wanted: Any, sizes: "SizeSource", ranks: "Ranks", stack: ExitStack
) -> "tuple[FollowedCohort, Engine]":
    """A cohort with its last scans hidden, and the model for it. Raises InputError if they do not go together."""
    from tumorcast.engines.opening import open_engine
    from tumorcast.engines.protocol import check_same_images
    from tumorcast.evaluation.experiments.later import FollowedCohort
    from tumorcast.running.forecast_run import own_gpu

    engine, followed = open_engine(own_gpu(wanted, ranks)), FollowedCohort.open(cohort, stack)
    check_same_images(followed.truth, engine.info.images)
    sizes.check(followed.truth)
    return followed, engine


def _names(contrasts: list[list[Any]], models: list[Path]) -> list[str]:
    """What the models are called: their contrasts; where two have the same, or one folder's name, a number too."""
    told = [
        f"{model.resolve().name} ({', '.join(map(str, one))})" for one, model in zip(contrasts, models, strict=True)
    ]
    return [f"{name} {place}" if told.count(name) > 1 else name for place, name in enumerate(told, start=1)]
