"""The command that trains a network. Parse, call, print."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tumorcast.cli.options import (
    ConfigFile,
    Json,
    Out,
    choice,
    only_given,
    origin_of,
    print_result,
    progress,
    table_of,
)
from tumorcast.errors import StoppedError, UsageError

SETTINGS = ("steps", "batch", "noise_levels", "seed", "bfloat16", "compile")
RECENT = 100  # steps whose mean loss is printed at the end


def _option(help: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=help, **limits)


Network = Annotated[
    str, typer.Argument(help="denoiser, regressor, segmenter, progression (in volumes) or slice-progression.")
]
Source = Annotated[Path, typer.Argument(help="A cohort file, or the folder of its unpacked slices.")]
Kind = Annotated[str, _option("Of a regressor: dense, or attention-pool as in the paper.")]
Steps = Annotated[int | None, _option("Optimiser steps of the whole run.")]
BatchSize = Annotated[int | None, _option("Slices a step, or pairs of a progression network.", "--batch")]
NoiseLevels = Annotated[int | None, _option("Diffusion times 0 … this - 1 are learned.")]
Seed = Annotated[int | None, _option("Of the initial weights, the batches and the noise.")]
Bfloat16 = Annotated[bool | None, _option("Autocast: faster where the processor has it.", "--bfloat16/--no-bfloat16")]
Compile = Annotated[bool | None, _option("torch.compile, on a CUDA device.", "--compile/--no-compile")]
DeviceName = Annotated[str, _option("auto (cuda where torch sees one), cpu or cuda.", "--device")]
StartFrom = Annotated[Path | None, _option("A RUN folder whose weights are trained on.")]
LeaveOut = Annotated[str | None, _option("Patients that are not trained on: A,B,C.")]
Cache = Annotated[Path | None, _option("Where the cohort's slices are unpacked; by default beside it.")]
Until = Annotated[int | None, _option("Stop after this step; starting again goes on.", min=1)]


def train(
    context: typer.Context,
    network: Network,
    cohort: Source,
    out: Out,
    kind: Kind = "dense",
    steps: Steps = None,
    batch: BatchSize = None,
    noise_levels: NoiseLevels = None,
    seed: Seed = None,
    bfloat16: Bfloat16 = None,
    compile: Compile = None,
    device: DeviceName = "auto",
    start_from: StartFrom = None,
    leave_out: LeaveOut = None,
    cache: Cache = None,
    until: Until = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Train a network on a cohort; a folder with an unfinished run is resumed exactly.

    On several devices or nodes: torchrun --nproc-per-node=4 -m tumorcast train …, or slurm/train.sh.
    """
    from tumorcast.training.checkpoint import what_is_kept
    from tumorcast.training.job import Device
    from tumorcast.training.parallel import Team
    from tumorcast.training.stepper import TrainingProgress
    from tumorcast.training.train import train as run

    wanted = _network_kind(network, kind)
    given = only_given({name: context.params[name] for name in SETTINGS})
    if leave_out is not None:
        given["leave_out"] = [name.strip() for name in leave_out.split(",") if name.strip()]
    settings, changes = _settings(config, given)
    options: dict[str, Any] = {"until": until, "device": choice(Device, "--device", device), "cache": cache}
    options["start_from"] = start_from
    leads = Team.from_environment().leads
    losses: list[float] = []

    def tell(progress: TrainingProgress) -> None:
        losses.append(progress.loss)
        draw(progress.step, progress.steps)

    try:
        with progress("steps", partial(what_is_kept, out), silent=not leads) as draw:
            run(wanted, cohort, out, settings, architecture=changes, report=tell, **options)
    except StoppedError as stopped:
        if leads:
            raise
        raise typer.Exit(StoppedError.exit_code) from stopped  # the first process says it
    if leads:
        recent = losses[-RECENT:]
        mean = sum(recent) / len(recent) if recent else None
        print_result(as_json, {"out": str(out), "steps_now": len(losses), "loss": mean})


def _settings(config: Path | None, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Settings from the file, overruled by the options; and the file's [architecture] table."""
    from tumorcast.settings import TrainSettings, read_toml

    values = read_toml(config) if config else {}
    changes = table_of(values.pop("architecture", {}), "architecture", config)
    return TrainSettings.of(values | given, origin_of(config, "tumorcast train")), changes


def _network_kind(network: str, kind: str) -> Any:
    from tumorcast.settings import NetworkKind

    name = f"{kind}-{network}" if network == "regressor" else network
    if name not in list(NetworkKind):
        raise UsageError(
            f"tumorcast train {network} --kind {kind}: networks are denoiser, segmenter, progression, "
            "slice-progression, and regressor with --kind dense or attention-pool"
        )
    return NetworkKind(name)
