"""Train a network on a cohort: AdamW, an average of the weights, and a resume that changes nothing.

The learning rate rises linearly, then falls as a cosine to zero at the last step. Every random number of step k comes
from (seed, k), so a run that was stopped and resumed has the losses of one that was not.
"""

import csv
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tumorcast.config import Architecture, NetworkKind, TrainSettings
from tumorcast.data.cohort import Cohort
from tumorcast.durable import written_whole
from tumorcast.errors import InputError, UsageError
from tumorcast.provenance import commit, refuse_other
from tumorcast.training.checkpoint import TrainingState, load_checkpoint, save_tensors
from tumorcast.training.curve import draw_loss_curve
from tumorcast.training.losses import batch_loss
from tumorcast.training.networks import build, default_architecture
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo
from tumorcast.training.slices import SliceSet, draw_batch, read_slices
from tumorcast.version import VERSION

CHECKPOINT_FILE, LOSSES_FILE = "checkpoint.safetensors", "losses.csv"


@dataclass(frozen=True)
class Progress:
    """What is told after every step."""

    step: int
    steps: int
    loss: float


def train(
    kind: NetworkKind,
    cohort_path: Path,
    out: Path,
    settings: TrainSettings,
    *,
    architecture: Mapping[str, Any] | None = None,
    until: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> RunInfo:
    """Train a network of this kind into folder `out`, resuming what is there.

    architecture: what differs from the default one of this kind, by key.
    until: stop after this step of `settings.steps` (a later call goes on). Raises UsageError if `out` holds a run with
    other settings, InputError if the cohort or the checkpoint cannot be used.
    """
    with Cohort.open(cohort_path) as cohort:
        info = _describe(kind, cohort, settings, architecture or {})
        slices = read_slices(cohort)
    torch.manual_seed(settings.seed)
    state = TrainingState.fresh(build(kind, info.architecture), settings.learning_rate, settings.weight_decay)
    losses = _resume(out, info, state)
    started = time.monotonic()
    while state.step < min(settings.steps, settings.steps if until is None else until):
        losses.append(_advance(kind, state, slices, settings))
        report(Progress(state.step, settings.steps, losses[-1]))
        if state.step % settings.checkpoint_every == 0:
            _save(out, info, state, losses)
    _save(out, info, state, losses)
    draw_loss_curve(losses, out / "loss.png", title=f"{kind}, {time.monotonic() - started:.0f} s in this session")
    return info


def _describe(kind: NetworkKind, cohort: Cohort, settings: TrainSettings, changes: Mapping[str, Any]) -> RunInfo:
    contrasts = tuple(str(contrast) for contrast in cohort.contrasts)
    default = default_architecture(kind, image_size=cohort.image_size, contrasts=len(contrasts))
    arch = Architecture.of(default.model_dump() | dict(changes), "architecture")
    if (arch.image_size, arch.in_channels) != (cohort.image_size, len(contrasts)):
        raise UsageError(
            f"{cohort.path}: images of {len(contrasts)} contrasts at {cohort.image_size} px; the architecture takes "
            f"{arch.in_channels} at {arch.image_size} px: change it, or prepare the cohort again"
        )
    provenance = {"version": VERSION, "cohort_sha256": cohort.sha256, "settings": settings.model_dump(mode="json")}
    return RunInfo(kind, arch, contrasts, settings.noise_levels, provenance)


def _advance(kind: NetworkKind, state: TrainingState, slices: SliceSet, settings: TrainSettings) -> float:
    """One step; returns its loss."""
    generator = batch_generator(settings.seed, state.step)
    batch = draw_batch(slices, settings, generator)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, settings)
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
        loss = batch_loss(kind, state.module, batch, settings.noise_levels, generator)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.module.parameters(), 1.0)
    state.optimizer.step()
    state.update_average(settings.ema_decay)
    state.step += 1
    return float(loss.detach())


def batch_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step. A generator keeps 32 bits of its seed: seed and step are mixed into so many."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of a step: a linear rise over `warmup_steps`, then a cosine to zero.

    >>> settings = TrainSettings(steps=10, warmup_steps=2, learning_rate=1.0)
    >>> [round(learning_rate(k, settings), 2) for k in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    warmup = min(settings.warmup_steps, settings.steps - 1)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    share = (step - warmup) / (settings.steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _resume(out: Path, info: RunInfo, state: TrainingState) -> list[float]:
    """Bring `state` to where the run in `out` stands; returns the losses so far."""
    run, checkpoint = out / RUN_FILE, out / CHECKPOINT_FILE
    if not run.exists():
        with written_whole(run) as temporary:
            temporary.write_text(info.to_json(commit()), encoding="utf-8")
        return []
    try:
        refuse_other(run, json.loads(run.read_text(encoding="utf-8")), json.loads(info.to_json(None)))
        if not checkpoint.exists() and not (out / WEIGHTS_FILE).exists():
            return []
        load_checkpoint(checkpoint, state)
        with (out / LOSSES_FILE).open(newline="", encoding="utf-8") as file:
            return [float(row["loss"]) for row in csv.DictReader(file)][: state.step]
    except (OSError, ValueError, KeyError) as fault:
        raise InputError(f"{out}: the run there cannot be resumed ({fault}); give another --out") from None


def _save(out: Path, info: RunInfo, state: TrainingState, losses: list[float]) -> None:
    """Losses first: a checkpoint never knows more steps than the losses beside it."""
    with written_whole(out / LOSSES_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "loss"])
        rows.writerows([k, repr(loss)] for k, loss in enumerate(losses))
    metadata = {"step": str(state.step), "kind": str(info.kind), "machine": platform.machine()}
    save_tensors(out / CHECKPOINT_FILE, state.tensors(), metadata)
    save_tensors(out / WEIGHTS_FILE, state.average, metadata)
