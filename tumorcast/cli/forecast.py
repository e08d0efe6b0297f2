"""The commands forecast, plan and status: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tumorcast.cli.export import A_MODEL, Device, EngineCache, ProviderName, engine_choice
from tumorcast.cli.options import (
    ConfigFile,
    Json,
    Out,
    only_given,
    origin_of,
    print_result,
    table_of,
    tell_outcomes,
)
from tumorcast.cli.progress import CohortProgress
from tumorcast.errors import StoppedError

SAMPLER = ("preset", "noise_level", "steps", "guidance", "gain", "scale")
LARGE_CHANGE = 2.0  # of area: above it one may have meant per cent
OTHERS = ("horizon_days", "relative_change", "members", "seed", "max_slices", "batch", "block", "keep_members")


def forecast(
    context: typer.Context,
    cohort: Annotated[Path, typer.Argument(help="A cohort file.")],
    model: Annotated[list[Path], typer.Option(help=A_MODEL)],
    out: Out,
    growth: Annotated[Path | None, typer.Option(help="growth.h5, needed with --horizon-days.")] = None,
    horizon_days: Annotated[float | None, typer.Option(help="Days after each patient's last scan.")] = None,
    relative_change: Annotated[float | None, typer.Option(help="Change of area wanted: 0.25 is 25 % more.")] = None,
    members: Annotated[int | None, typer.Option(help="Members of the ensemble.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the members' noise and targets.")] = None,
    max_slices: Annotated[int | None, typer.Option(help="The so many slices with most tumour; default all.")] = None,
    preset: Annotated[str | None, typer.Option(help="paper: the paper's loop, guidance and scale.")] = None,
    noise_level: Annotated[int | None, typer.Option(help="NL: the diffusion time encoded up to.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps each way.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images that go through a network together.")] = None,
    block: Annotated[int | None, typer.Option(min=1, help="Most members that are one unit of work.")] = None,
    guidance: Annotated[str | None, typer.Option(help="normalised or paper.")] = None,
    gain: Annotated[float | None, typer.Option(help="Of the normalised guidance.")] = None,
    scale: Annotated[float | None, typer.Option(help="s_R of the paper's guidance.")] = None,
    keep_members: Annotated[
        bool | None, typer.Option("--keep-members/--no-keep-members", help="Keep every member's image.")
    ] = None,
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    merge: Annotated[bool, typer.Option("--merge/--no-merge", help="Write the archive at the end.")] = True,
    portable: Annotated[
        bool, typer.Option("--portable", help="An archive that needs no plugin: gzip, larger and slower.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do again what failed.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Forecast every patient: an ensemble of follow-ups of each slice, and its maps. Starting again resumes.

    Over MPI ranks: mpirun -n 4 python -m mpi4py -m tumorcast forecast …
    """
    from tumorcast.archive.packing import Packing
    from tumorcast.running.forecast_run import ForecastInputs, RunOptions, forecast_cohort
    from tumorcast.running.ranks import open_ranks, pin_threads

    settings = forecast_settings(context.params)
    engine = engine_choice(model, provider, device, cache=engine_cache, rows=settings.batch)
    inputs = ForecastInputs(cohort, engine, growth)
    options = RunOptions(merge, Packing.PORTABLE if portable else Packing.BLOSC2, retry_failed)
    with open_ranks() as ranks:
        pin_threads(ranks)
        with CohortProgress("units", silent=not ranks.is_root) as progress:
            result = forecast_cohort(inputs, out, settings, options, ranks=ranks, report=progress.tell)
    if result.stopped and not ranks.is_root:  # rank 0 says why
        raise typer.Exit(StoppedError.exit_code)
    if result.stopped:
        raise StoppedError("stopped: finished units are kept; start the same command again to go on")
    if ranks.is_root:
        tell_outcomes(result.outcomes, out, as_json)


def forecast_settings(told: dict[str, Any]) -> Any:
    """Settings from the file, overruled by the options; the paper's preset is laid below both."""
    from tumorcast.settings import ForecastSettings, Preset, SamplerSettings, read_toml

    config = told["config"]
    values = read_toml(config) if config else {}
    sampler = table_of(values.pop("sampler", {}), "sampler", config)
    sampler |= only_given({name: told.get(name) for name in SAMPLER})
    if sampler.get("preset") == Preset.PAPER:
        sampler = SamplerSettings.paper().model_dump() | sampler
    given = only_given({name: told.get(name) for name in OTHERS})
    settings = ForecastSettings.of(values | given | {"sampler": sampler}, origin_of(config, "tumorcast forecast"))
    change = settings.relative_change
    if change is not None and change > LARGE_CHANGE:
        typer.echo(
            f"relative change {change:g}: {1 + change:g} times the present area; {change:g} % is {change / 100:g}",
            err=True,
        )
    return settings


def plan(
    context: typer.Context,
    cohort: Annotated[Path, typer.Argument(help="A cohort file.")],
    model: Annotated[list[Path], typer.Option("--engine", "--model", help=A_MODEL)],
    members: Annotated[int | None, typer.Option(help="Members of the ensemble.")] = None,
    max_slices: Annotated[int | None, typer.Option(help="The so many slices with most tumour; default all.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps each way.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images that go through a network together.")] = None,
    relative_change: Annotated[float | None, typer.Option(help="As of the forecast; default: a horizon.")] = None,
    keep_members: Annotated[
        bool | None, typer.Option("--keep-members/--no-keep-members", help="Keep every member's image.")
    ] = None,
    samples_per_second: Annotated[
        float | None, typer.Option(help="Images a second of one rank, as a GPU's log told; default: measured here.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.1, help="When it shall be finished.")] = 12.0,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of a node.")] = 4,
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """What a forecast of a cohort will take: one unit of it is done here and timed. Ends in a line for sbatch."""
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.opening import open_engine
    from tumorcast.running.estimate import estimate, plan_run, try_unit

    horizon = {"horizon_days": 1.0} if relative_change is None else {}
    settings = forecast_settings(context.params | horizon)
    engine = open_engine(engine_choice(model, provider, device, cache=engine_cache, rows=settings.batch))
    with Cohort.open(cohort) as opened:
        every = plan_run(opened, settings)
        trial = try_unit(opened, every, engine, settings)
        image_bytes = 4 * len(opened.contrasts) * opened.image_size**2
    found = estimate(every, settings, trial, image_bytes, samples_per_second)
    print_result(as_json, _plan_figures(found, hours, gpus_per_node, cohort, model[0]))


def _plan_figures(found: Any, hours: float, gpus_per_node: int, cohort: Path, model: Path) -> dict[str, Any]:
    ranks = found.ranks_for(hours)
    nodes = -(-ranks // gpus_per_node)
    limit = max(15, round(60 * (1.2 * found.rank_hours / ranks + found.longest_unit_seconds / 3600) + 10))
    line = (
        f"sbatch --nodes={nodes} --gres=gpu:{min(gpus_per_node, ranks)} --time={limit // 60:02d}:{limit % 60:02d}:00 "
        f"slurm/forecast_cohort.sh {cohort} --model {model} "
        f"--members {found.images // found.slices} --out RESULTS --horizon-days DAYS"
    )
    return {
        "patients": found.patients,
        "slices": found.slices,
        "units": found.units,
        "images": found.images,
        "images_a_second": round(found.images_a_second, 3),
        "rank_hours": round(found.rank_hours, 3),
        "longest_unit_seconds": round(found.longest_unit_seconds, 1),
        "memory_a_rank_gb": round(found.rank_bytes / 1e9, 2),
        "archive_gb": round(found.shard_bytes / 1e9, 3),
        "dominates": found.dominant,
        "ranks": ranks,
        "hours": round(found.rank_hours / ranks, 3),
        "sbatch": line,
    }


def status(
    run: Annotated[Path, typer.Argument(help="The --out of a forecast, running or dead, or its folder of shards.")],
    as_json: Json = False,
) -> None:
    """How far a forecast is: units done and failed, with reasons, rate, time left. It may be running or dead."""
    from tumorcast.running.status import run_status

    found = run_status(run)
    print_result(as_json, found.figures())
    for reason, count in found.reasons.items():
        typer.echo(f"{count} units failed: {reason}", err=True)
