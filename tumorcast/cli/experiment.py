"""The commands `experiment NAME`: what they share, and those that ask about one model: grid and consistency.

A command elsewhere is added by `experiment.command("NAME")(function)`, and ends in `launch` or `launch_opened`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.commands import Commands
from tumorcast.cli.forecast_options import A_MODEL, Device, EngineCache, ProviderName, engine_choice, forecast_settings
from tumorcast.cli.options import ConfigFile, Json, Out, choice, exit_if_failed, print_result, stoppable, tell_fate
from tumorcast.cli.progress import CohortProgress
from tumorcast.errors import StoppedError, UsageError

if TYPE_CHECKING:
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.opening import EngineChoice
    from tumorcast.engines.protocol import Engine
    from tumorcast.evaluation.experiments.cases import CaseSource
    from tumorcast.evaluation.experiments.experiment import Experiment
    from tumorcast.running.ranks import Ranks

    Opened = Callable[[Ranks], AbstractContextManager[Experiment]]

CHANGE = 0.25
GO_ON = "finished units are kept; start the same command again to go on"

CohortFile = Annotated[Path, typer.Argument(help="A cohort file.")]
Model = Annotated[list[Path], typer.Option("--model", help=A_MODEL)]
Change = Annotated[
    float | None, typer.Option("--relative-change", help=f"Aimed at where no later scan tells ({CHANGE:g}).")
]
Members = Annotated[int | None, typer.Option("--members", min=1, help="Members of the ensemble.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of the members' noise and targets.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps each way.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Images that go through a network together.")]
Patients = Annotated[
    int | None, typer.Option("--patients", min=1, help="At most so many, spread evenly over the cohort.")
]

SoFar = Annotated[
    bool, typer.Option("--so-far", help="Measure nothing more: report on the units that are done, in OUT/so-far.")
]

experiment = Commands(
    help="Ask a question of a whole cohort: a table, a picture and a JSON file. Starting again resumes.\n\n"
    "Over MPI ranks: mpirun -n 4 python -m mpi4py -m tumorcast experiment …",
    no_args_is_help=True,
)


def launch(asked: "Experiment", out: Path, as_json: bool, *, so_far: bool) -> None:
    """Run an experiment of sizes alone, without an engine; print what came of it, end with 1 where units failed."""
    _launch(lambda _: nullcontext(asked), out, as_json, so_far)


def launch_opened(opened: "Opened", out: Path, as_json: bool, *, so_far: bool) -> None:
    """The same of one that is made on each rank, once it keeps to its own cores: engines count them when they open.

    opened: gets the ranks, and gives the experiment as a context, at whose end its files are closed.
    Raises EngineError where a base installation lacks what measures images and maps.
    """
    from tumorcast.extra import check_extra

    check_extra()
    _launch(opened, out, as_json, so_far)


def _launch(opened: "Opened", out: Path, as_json: bool, so_far: bool) -> None:
    from tumorcast.evaluation.experiments.folder import ResultFolder
    from tumorcast.evaluation.experiments.run import RunResult, report_so_far, run_experiment
    from tumorcast.running.ranks import open_ranks, pin_threads

    with open_ranks() as ranks, stoppable(GO_ON):
        pin_threads(ranks)
        with opened(ranks) as asked, CohortProgress("units", silent=not ranks.is_root) as progress:
            name = asked.name
            if so_far:
                result = report_so_far(asked, out) if ranks.is_root else RunResult(stopped=False)
            else:
                result = run_experiment(asked, out, ranks, progress.tell)
    if result.stopped and not ranks.is_root:  # rank 0 says why
        raise typer.Exit(StoppedError.exit_code)
    if result.stopped:
        raise StoppedError(f"stopped: {GO_ON}")
    if ranks.is_root:
        for unit, reason in result.failed.items():
            tell_fate(unit, None, "failed", reason)
        counts = {"ok": result.done, "failed": len(result.failed)}
        answer = result.findings.answer if result.findings else ""
        written = ResultFolder(out).so_far if so_far else out
        print_result(as_json, {"out": str(written), "experiment": name, "units": counts, "answer": answer})
        exit_if_failed(len(result.failed))


@contextmanager
def cohort_and_engine(cohort: Path, wanted: "EngineChoice", ranks: "Ranks") -> Iterator[tuple["Cohort", "Engine"]]:
    """A cohort and the model for it, on this rank's own GPU. Raises InputError if they are for different images."""
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.opening import open_engine
    from tumorcast.engines.protocol import check_same_images
    from tumorcast.running.forecast_run import own_gpu

    engine = open_engine(own_gpu(wanted, ranks))
    with Cohort.open(cohort) as opened:
        check_same_images(opened, engine.info.images)
        yield opened, engine


def numbers_of(option: str, text: str) -> tuple[float, ...]:
    """`0.5,1` as numbers. Raises UsageError for what are none, or are not above zero.

    >>> numbers_of("--gain", "0.5,1")
    (0.5, 1.0)
    """
    try:
        found = tuple(float(one) for one in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < one < float("inf") for one in found):
        raise UsageError(f"{option} {text}: give numbers above 0, as 0.5,1")
    return tuple(dict.fromkeys(found))


def whole_numbers_of(option: str, text: str) -> tuple[int, ...]:
    """`100,200` as whole numbers. Raises UsageError for what are none, or are not above zero."""
    found = numbers_of(option, text)
    if any(one != int(one) for one in found):
        raise UsageError(f"{option} {text}: give whole numbers, as 100,200")
    return tuple(map(int, found))


@experiment.command()
def grid(
    context: typer.Context,
    cohort: CohortFile,
    model: Model,
    out: Out,
    noise_levels: Annotated[str, typer.Option("--noise-level", help="NL, as 100,200,300.")] = "100,200,300",
    scales: Annotated[
        str | None,
        typer.Option("--scale", help="s_R of the paper's guidance and sampler; default 10000,50000,100000,200000."),
    ] = None,
    gains: Annotated[
        str | None, typer.Option("--gain", help="Instead: of the normalised guidance, as 0.25,0.5,1.")
    ] = None,
    relative_change: Change = None,
    members: Members = 4,
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
    """Noise level against strength of the guidance (the paper's Fig. 2): what changes as asked, what is preserved."""
    from tumorcast.evaluation.experiments.grid import SCALES, Grid, cells_of
    from tumorcast.settings import Guidance

    if scales is not None and gains is not None:
        raise UsageError("give --scale (the paper's guidance) or --gain (the normalised one), not both")
    levels = whole_numbers_of("--noise-level", noise_levels)
    if gains is not None:
        cells = cells_of(levels, Guidance.NORMALISED, numbers_of("--gain", gains))
    else:
        cells = cells_of(levels, Guidance.PAPER, numbers_of("--scale", scales) if scales else SCALES)
    launch_opened(of_cases(context.params, lambda source: Grid(source, cells)), out, as_json, so_far=so_far)


@experiment.command()
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
    noise_level: Annotated[int | None, typer.Option(help="NL: the diffusion time encoded up to.")] = None,
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
    from tumorcast.evaluation.comparison import TargetMode
    from tumorcast.evaluation.experiments.consistency import Consistency
    from tumorcast.growth.model import GrowthModel, fixed
    from tumorcast.growth.prior import shipped_prior
    from tumorcast.growth.settings import FitSettings
    from tumorcast.records import Forecaster

    mode = choice(TargetMode, "--target", target)
    growth = GrowthModel(FitSettings(), Forecaster.POOLED, fixed(shipped_prior()))
    launch_opened(
        of_cases(context.params, lambda source: Consistency(source, seeds, mode, growth)), out, as_json, so_far=so_far
    )


def of_cases(told: dict[str, Any], made: "Callable[[CaseSource], Experiment]") -> "Opened":
    """An experiment on cases of a cohort, by the common options."""
    settings = experiment_settings(told)
    asked = told["model"], told["provider"], told["device"]
    wanted = engine_choice(*asked, cache=told["engine_cache"], rows=settings.batch)

    @contextmanager
    def opened(ranks: "Ranks") -> "Iterator[Experiment]":
        from tumorcast.evaluation.experiments.cases import CaseSource

        with cohort_and_engine(told["cohort"], wanted, ranks) as (cohort, engine):
            yield made(CaseSource(cohort, engine, settings, told["patients"]))

    return opened


def experiment_settings(told: dict[str, Any]) -> Any:
    """Settings as of `forecast`; without a change of size given, that of CHANGE.

    Raises UsageError for a horizon: the later scan, where there is one, tells how far ahead is looked.
    """
    from tumorcast.settings import read_toml

    config, given = told["config"], told.get("relative_change")
    fixed = read_toml(config) if config else {}
    if "horizon_days" in fixed:
        raise UsageError(
            f"{config}: horizon_days = {fixed['horizon_days']} is for `tumorcast forecast`: an experiment looks ahead "
            "to each patient's later scan; leave it out"
        )
    if given is None and "relative_change" not in fixed:
        given = CHANGE
    return forecast_settings(told | {"relative_change": given})
