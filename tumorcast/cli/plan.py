"""The command plan: parse, call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.forecast_options import (
    A_MODEL,
    Batch,
    Device,
    EngineCache,
    KeepMembers,
    MaxSlices,
    Members,
    PrecisionName,
    ProviderName,
    Steps,
    engine_choice,
    forecast_settings,
)
from tumorcast.cli.options import ConfigFile, Json, print_result

if TYPE_CHECKING:
    from tumorcast.running.estimate import RunEstimate


def plan(
    context: typer.Context,
    cohort: Annotated[Path, typer.Argument(help="A cohort file.")],
    model: Annotated[list[Path], typer.Option("--engine", "--model", help=A_MODEL)],
    members: Members = None,
    max_slices: MaxSlices = None,
    steps: Steps = None,
    batch: Batch = None,
    relative_change: Annotated[float | None, typer.Option(help="As of the forecast; default: a horizon.")] = None,
    keep_members: KeepMembers = None,
    samples_per_second: Annotated[
        float | None, typer.Option(help="Images a second of one rank, as a GPU's log told; default: measured here.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.1, help="When it shall be finished.")] = 12.0,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of a node.")] = 4,
    provider: ProviderName = "",
    precision: PrecisionName = "",
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
    wanted = engine_choice(model, provider, device, cache=engine_cache, rows=settings.batch, precision=precision)
    engine = open_engine(wanted)
    with Cohort.open(cohort) as opened:
        units = plan_run(opened, settings)
        trial = try_unit(opened, units, engine, settings)
        image_bytes = 4 * len(opened.contrasts) * opened.image_size**2
    run_estimate = estimate(units, settings, trial, image_bytes, samples_per_second)
    print_result(as_json, _plan_figures(run_estimate, hours, gpus_per_node, cohort, model[0]))


def _plan_figures(
    run_estimate: "RunEstimate", hours: float, gpus_per_node: int, cohort: Path, model: Path
) -> dict[str, Any]:
    ranks = run_estimate.ranks_for(hours)
    nodes = -(-ranks // gpus_per_node)
    limit = max(15, round(60 * (1.2 * run_estimate.rank_hours / ranks + run_estimate.longest_unit_seconds / 3600) + 10))
    line = (
        f"sbatch --nodes={nodes} --gres=gpu:{min(gpus_per_node, ranks)} --time={limit // 60:02d}:{limit % 60:02d}:00 "
        f"slurm/forecast_cohort.sh {cohort} --model {model} "
        f"--members {run_estimate.images // run_estimate.slices} --out RESULTS --horizon-days DAYS"
    )
    return {
        "patients": run_estimate.patients,
        "slices": run_estimate.slices,
        "units": run_estimate.units,
        "images": run_estimate.images,
        "images_a_second": round(run_estimate.images_a_second, 3),
        "rank_hours": round(run_estimate.rank_hours, 3),
        "longest_unit_seconds": round(run_estimate.longest_unit_seconds, 1),
        "memory_a_rank_gb": round(run_estimate.rank_bytes / 1e9, 2),
        "archive_gb": round(run_estimate.shard_bytes / 1e9, 3),
        "dominates": run_estimate.dominant,
        "ranks": ranks,
        "hours": round(run_estimate.rank_hours / ranks, 3),
        "sbatch": line,
    }
