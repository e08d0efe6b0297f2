"""The command forecast: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.forecast_options import (
    A_MODEL,
    Batch,
    BeforeLastScan,
    Device,
    EngineCache,
    Growth,
    KeepMembers,
    LeftOut,
    MapsOnly,
    MaxSlices,
    Members,
    Place,
    PrecisionName,
    ProviderName,
    RelativeChange,
    Seed,
    Steps,
    engine_choice,
    forecast_settings,
    horizons_of,
)
from tumorcast.cli.options import ConfigFile, Json, Out, tell_outcomes
from tumorcast.cli.progress import CohortProgress
from tumorcast.errors import StoppedError, UsageError


def forecast(
    context: typer.Context,
    cohort: Annotated[Path, typer.Argument(help="A cohort file.")],
    out: Out,
    model: Annotated[list[Path] | None, typer.Option(help=A_MODEL)] = None,
    place: Place = None,
    left_out: LeftOut = False,
    before_last_scan: BeforeLastScan = False,
    maps_only: MapsOnly = None,
    growth: Growth = None,
    horizon_days: Annotated[str, typer.Option(help="Days after each patient's last scan: 90, or 30,90,180.")] = "",
    relative_change: RelativeChange = None,
    members: Members = None,
    seed: Seed = None,
    max_slices: MaxSlices = None,
    preset: Annotated[str | None, typer.Option(help="paper: the paper's loop, guidance and scale.")] = None,
    noise_level: Annotated[int | None, typer.Option(help="NL: the diffusion time encoded up to.")] = None,
    steps: Steps = None,
    batch: Batch = None,
    block: Annotated[int | None, typer.Option(min=1, help="Most members that are one unit of work.")] = None,
    guidance: Annotated[str | None, typer.Option(help="normalised or paper.")] = None,
    gain: Annotated[float | None, typer.Option(help="Of the normalised guidance.")] = None,
    scale: Annotated[float | None, typer.Option(help="s_R of the paper's guidance.")] = None,
    keep_members: KeepMembers = None,
    provider: ProviderName = "",
    precision: PrecisionName = "",
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
    """Forecast every patient: growth maps, and an ensemble of follow-ups of each slice. Starting again resumes.

    Over MPI ranks: mpirun -n 4 python -m mpi4py -m tumorcast forecast …
    """
    from tumorcast.archive.packing import Packing
    from tumorcast.running.forecast_run import ForecastInputs, RunOptions, forecast_cohort
    from tumorcast.running.ranks import open_ranks, pin_threads

    settings = forecast_settings(context.params | horizons_of(horizon_days))
    engine = engine_choice(model or [], provider, device, cache=engine_cache, rows=settings.batch, precision=precision)
    _check_model(model, precision, maps_only=settings.maps_only)
    inputs = ForecastInputs(cohort, engine, growth, place, left_out, before_last_scan)
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
        _tell_if_not_merged(out)
        tell_outcomes(result.outcomes, out, as_json, lost=result.lost)


def _check_model(model: list[Path] | None, precision: str, *, maps_only: bool) -> None:
    if not model and not maps_only:
        raise UsageError("--model is missing; growth maps alone, with --maps-only, need none")
    if precision and maps_only:
        raise UsageError("--maps-only with --precision: that is the denoiser's, and no images are made; leave it out")


def _tell_if_not_merged(out: Path) -> None:
    if not out.exists():
        typer.echo(f"{out}: not merged; `tumorcast archive merge {out}` writes it", err=True)
