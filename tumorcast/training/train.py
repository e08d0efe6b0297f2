"""Train a network on a cohort: AdamW, an average of the weights, and a resume that changes nothing.

Every random number of step k comes from (seed, k), so a run that was stopped and resumed has the losses of one that was
not.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tumorcast.arrival.planes import EXTRA_PLANES as VOLUME_PLANES
from tumorcast.diffusion.progression import EXTRA_PLANES as SLICE_PLANES
from tumorcast.durable import sha256_of
from tumorcast.errors import StoppedError, UsageError
from tumorcast.settings import Architecture, NetworkKind, TrainSettings, VolumeArchitecture
from tumorcast.training.arrays import SliceArrays, open_arrays
from tumorcast.training.checkpoint import TrainingState, resume, save_run, what_is_kept
from tumorcast.training.dataset import Pools, SliceStore, VolumeStore
from tumorcast.training.job import Device, Job, device_name, open_device
from tumorcast.training.log import LOG_FILE, draw_curve, read_log
from tumorcast.training.monitor import RunMonitor, check_finite, monitoring
from tumorcast.training.networks import (
    TrainedNetwork,
    build,
    default_architecture,
    load_network,
    volume_architecture,
)
from tumorcast.training.parallel import Team, connected
from tumorcast.training.run_info import WEIGHTS_FILE, RunInfo, shape_of
from tumorcast.training.stepper import REPORTED_AT_ONCE, Stepper, TrainingProgress, compile_forward
from tumorcast.training.volume_arrays import VolumeArrays, open_volume_arrays
from tumorcast.version import VERSION

Report = Callable[[TrainingProgress], None]
Arrays = SliceArrays | VolumeArrays
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def train(
    kind: NetworkKind,
    source: Path,
    out: Path,
    settings: TrainSettings,
    *,
    architecture: Mapping[str, Any] | None = None,
    start_from: Path | None = None,
    until: int | None = None,
    device: Device = Device.AUTO,
    cache: Path | None = None,
    report: Report = lambda _: None,
) -> RunInfo:
    """Train a network of this kind into folder `out`, resuming what is there.

    source: a cohort file, or the folder of its unpacked slices, which stands in `cache` (by default beside the file).
    architecture: what differs from the default one of this kind, by key. start_from: a RUN folder of the same kind and
    images, whose weights and architecture are taken in place of fresh ones.
    until: stop after this step of `settings.steps` (a later call goes on). Where several processes were started, each
    does its share. Raises UsageError if `out` holds a run with other settings, InputError if the cohort or the
    checkpoint cannot be used, EngineError if the device is not there or the loss is no longer a number, StoppedError
    after a signal to stop, with a checkpoint of the step reached.
    """
    team = Team.from_environment()
    _check_shares(settings, team)
    job = Job(kind, settings, out, open_device(device, team.local_rank), team)
    last = min(settings.steps, settings.steps if until is None else until)
    with connected(team, job.device):
        arrays = _open_arrays(kind, source, cache, team)
        start = None if start_from is None else _starting_network(job, start_from, arrays)
        info = _describe(job, arrays, architecture or {}, start)
        pools = Pools.open(kind, _store(arrays, job.device), settings)
        state = _fresh_state(job, info, start)
        resume(job, info, state)
        if settings.compile and job.device.type == "cuda":
            compile_forward(state.module)
        started = time.monotonic()
        with monitoring(job, state, pools.validation) as monitor, handle_signals() as stop_requested:
            stepper = Stepper(job, state, pools.training)
            stopped = _train_until(stepper, info, monitor, last=last, report=report, stop_requested=stop_requested)
        if stopped:
            team.wait()  # a launcher may end all when one has ended, and the first one has saved by now
            raise StoppedError(f"{out}: stopped: {what_is_kept(out)}")
    if team.leads:
        title = f"{kind}, {time.monotonic() - started:.0f} s in this session"
        draw_curve(read_log(out / LOG_FILE), out / "loss.png", title=title)
    return info


def _check_shares(settings: TrainSettings, team: Team) -> None:
    if settings.batch % team.size:
        below = settings.batch // team.size * team.size
        raise UsageError(
            f"batch = {settings.batch} cannot be shared evenly by {team.size} processes: give "
            f"{f'{below} or ' if below else ''}{below + team.size} (--batch), or start another number of processes"
        )


def _open_arrays(kind: NetworkKind, source: Path, cache: Path | None, team: Team) -> Arrays:
    """Unpacked by one process of a node; the others wait for it."""
    unpack: Callable[[Path, Path | None], Arrays] = open_arrays
    if kind is NetworkKind.PROGRESSION:
        unpack = partial(open_volume_arrays, jobs=torch.get_num_threads())
    if team.local_rank == 0:
        unpack(source, cache)
    team.wait()
    return unpack(source, cache)


def _store(arrays: Arrays, device: torch.device) -> SliceStore | VolumeStore:
    return VolumeStore(arrays, device) if isinstance(arrays, VolumeArrays) else SliceStore.open(arrays, device)


def _starting_network(job: Job, run: Path, arrays: Arrays) -> TrainedNetwork:
    """The network that a training starts from. Raises UsageError if it is of another kind or for other images."""
    network = load_network(run)
    have = (network.info.kind, network.info.contrasts, _grain(network.info.architecture))
    if have != (job.kind, arrays.contrasts, _grain_of(arrays)):
        raise UsageError(
            f"--start-from {run}: a {have[0]} for {', '.join(have[1])} at {have[2]}, but a {job.kind} for "
            f"{', '.join(arrays.contrasts)} at {_grain_of(arrays)} is to be trained; give a RUN of such a one, or "
            "leave it out"
        )
    return network


def _grain(architecture: Architecture | VolumeArchitecture) -> str:
    """How fine the images of a network are, in words."""
    if isinstance(architecture, VolumeArchitecture):
        return f"{architecture.voxel_mm:g} mm"
    return f"{architecture.image_size} px"


def _grain_of(arrays: Arrays) -> str:
    return f"{arrays.voxel_mm:g} mm" if isinstance(arrays, VolumeArrays) else f"{arrays.image_size} px"


def _default(job: Job, arrays: Arrays) -> Architecture | VolumeArchitecture:
    count = len(arrays.contrasts)
    if isinstance(arrays, VolumeArrays):
        return volume_architecture(contrasts=count, voxel_mm=arrays.voxel_mm)
    return default_architecture(job.kind, image_size=arrays.image_size, contrasts=count)


EXTRA = {NetworkKind.SLICE_PROGRESSION: SLICE_PLANES, NetworkKind.PROGRESSION: VOLUME_PLANES}  # beside the contrasts


def _describe(job: Job, arrays: Arrays, changes: Mapping[str, Any], start: TrainedNetwork | None) -> RunInfo:
    contrasts, settings = arrays.contrasts, job.settings
    if start is not None and changes:
        raise UsageError("--start-from has an architecture of its own: leave out [architecture]")
    default = start.info.architecture if start else _default(job, arrays)
    arch = shape_of(job.kind).of(default.model_dump() | dict(changes), "architecture")
    channels = arch.in_channels - EXTRA.get(job.kind, 0)
    if (_grain(arch), channels) != (_grain_of(arrays), len(contrasts)):
        raise UsageError(
            f"{arrays.origin}: images of {len(contrasts)} contrasts at {_grain_of(arrays)}; the architecture takes "
            f"{channels} at {_grain(arch)}: change it, or prepare the cohort again"
        )
    provenance: dict[str, Any] = {
        "version": VERSION,
        "cohort_sha256": arrays.cohort_sha256,
        "settings": settings.model_dump(mode="json"),
        "start_from_sha256": None if start is None else sha256_of(start.path / WEIGHTS_FILE),
        "device": device_name(job.device, job.team.size),
    }
    noise_levels = 1 if job.kind in EXTRA else settings.noise_levels  # progression networks see clean images only
    return RunInfo(job.kind, arch, contrasts, noise_levels, provenance)


def _fresh_state(job: Job, info: RunInfo, start: TrainedNetwork | None) -> TrainingState:
    """The network before its first step: its weights are drawn on the CPU, so they are the same on every device."""
    torch.manual_seed(job.settings.seed)
    module = build(job.kind, info.architecture)
    if start is not None:
        module.load_state_dict(start.module.state_dict())
    module.to(job.device)
    return TrainingState.fresh(module, job.settings.learning_rate, job.settings.weight_decay)


def _train_until(
    stepper: Stepper,
    info: RunInfo,
    monitor: RunMonitor | None,
    *,
    last: int,
    report: Report,
    stop_requested: Callable[[], bool],
) -> bool:
    """Step after step up to `last`, or until asked to stop; returns whether it was, before the last one.

    Nothing is saved before its loss was looked at.
    """
    job, state = stepper.job, stepper.state
    saved = state.step or None
    while state.step < last:
        stepper.advance()
        stopped = _all_stop(job, state.step, stop_requested)
        keep = stopped or state.step % job.settings.checkpoint_every == 0 or state.step == last
        pause = keep or (monitor is not None and monitor.is_due(state.step))
        for row in stepper.collect(at_once=pause):
            check_finite(row, job.out, saved)
            if monitor is not None:
                monitor.log_row(row)
            report(TrainingProgress(row["step"], job.settings.steps, row["loss"]))
        if monitor is not None:
            monitor.validate_and_draw(state)
        if monitor is not None and keep:
            monitor.log.sync()  # a checkpoint never knows more steps than the log
            save_run(job, info, state)
        saved = state.step if keep else saved
        if stopped:
            return state.step < last
    return False


def _all_stop(job: Job, step: int, asked: Callable[[], bool]) -> bool:
    """Whether all processes stop after this step: they must agree, and on CUDA devices that is asked seldom."""
    if job.team.size > 1 and job.device.type == "cuda" and step % REPORTED_AT_ONCE:
        return False
    return job.team.any(asked())


@contextmanager
def handle_signals() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM, SIGUSR1 and Ctrl-C are noted; the block gets a function that says whether one came.

    A second Ctrl-C is a KeyboardInterrupt at once. Outside of the main thread, which alone hears signals, none comes.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in came:
            raise KeyboardInterrupt
        came.append(number)

    hears = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in SIGNALS} if hears else {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
