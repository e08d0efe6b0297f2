"""Train a network on a cohort: AdamW, an average of the weights, and a resume that changes nothing.

Every random number of step k comes from (seed, k), so a run that was stopped and resumed has the losses of one that was
not.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tumorcast.diffusion.progression import EXTRA_PLANES
from tumorcast.durable import sha256_of
from tumorcast.errors import StoppedError, UsageError
from tumorcast.settings import Architecture, NetworkKind, TrainSettings
from tumorcast.training.arrays import SliceArrays, open_arrays
from tumorcast.training.checkpoint import TrainingState, resume, save_run, what_is_kept
from tumorcast.training.dataset import Pools, SliceStore
from tumorcast.training.job import Device, Job, device_name, open_device
from tumorcast.training.log import LOG_FILE, draw_curve, read_log
from tumorcast.training.monitor import RunMonitor, check_finite, monitoring
from tumorcast.training.networks import TrainedNetwork, build, default_architecture, load_network
from tumorcast.training.parallel import Team, connected
from tumorcast.training.run_info import WEIGHTS_FILE, RunInfo
from tumorcast.training.stepper import REPORTED_AT_ONCE, Stepper, TrainingProgress, compile_forward
from tumorcast.version import VERSION

Report = Callable[[TrainingProgress], None]
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
        arrays = _open_arrays(source, cache, team)
        start = None if start_from is None else _starting_network(job, start_from, arrays)
        info = _describe(job, arrays, architecture or {}, start)
        pools = Pools.open(kind, SliceStore.open(arrays, job.device), settings)
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


def _open_arrays(source: Path, cache: Path | None, team: Team) -> SliceArrays:
    """Unpacked by one process of a node; the others wait for it."""
    if team.local_rank == 0:
        open_arrays(source, cache)
    team.wait()
    return open_arrays(source, cache)


def _starting_network(job: Job, run: Path, arrays: SliceArrays) -> TrainedNetwork:
    """The network that a training starts from. Raises UsageError if it is of another kind or for other images."""
    network = load_network(run)
    have = (network.info.kind, network.info.contrasts, network.info.architecture.image_size)
    if have != (job.kind, arrays.contrasts, arrays.image_size):
        raise UsageError(
            f"--start-from {run}: a {have[0]} for {', '.join(have[1])} at {have[2]} px, but a {job.kind} for "
            f"{', '.join(arrays.contrasts)} at {arrays.image_size} px is to be trained; give a RUN of such a one, or "
            "leave it out"
        )
    return network


def _describe(job: Job, arrays: SliceArrays, changes: Mapping[str, Any], start: TrainedNetwork | None) -> RunInfo:
    size, contrasts, settings = arrays.image_size, arrays.contrasts, job.settings
    if start is not None and changes:
        raise UsageError("--start-from has an architecture of its own: leave out [architecture]")
    default = (
        start.info.architecture if start else default_architecture(job.kind, image_size=size, contrasts=len(contrasts))
    )
    arch = Architecture.of(default.model_dump() | dict(changes), "architecture")
    channels = arch.in_channels - (EXTRA_PLANES if job.kind is NetworkKind.PROGRESSION else 0)
    if (arch.image_size, channels) != (size, len(contrasts)):
        raise UsageError(
            f"{arrays.origin}: images of {len(contrasts)} contrasts at {size} px; the architecture takes "
            f"{channels} at {arch.image_size} px: change it, or prepare the cohort again"
        )
    provenance: dict[str, Any] = {
        "version": VERSION,
        "cohort_sha256": arrays.cohort_sha256,
        "settings": settings.model_dump(mode="json"),
        "start_from_sha256": None if start is None else sha256_of(start.path / WEIGHTS_FILE),
        "device": device_name(job.device, job.team.size),
    }
    noise_levels = 1 if job.kind is NetworkKind.PROGRESSION else settings.noise_levels  # it sees clean slices only
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
