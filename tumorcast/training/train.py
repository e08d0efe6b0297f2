"""Train a network on a cohort: AdamW, an average of the weights, and a resume that changes nothing.

The learning rate rises linearly, then falls as a cosine to zero at the last step. Every random number of step k comes
from (seed, k), so a run that was stopped and resumed has the losses of one that was not.
"""

import csv
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tumorcast.config import Architecture, NetworkKind, TrainSettings
from tumorcast.data.cohort import Cohort
from tumorcast.durable import written_whole
from tumorcast.errors import InputError, UsageError
from tumorcast.training.checkpoint import TrainingState, load_checkpoint, save_tensors
from tumorcast.training.curve import draw_loss_curve
from tumorcast.training.losses import batch_loss
from tumorcast.training.networks import RUN_FILE, WEIGHTS_FILE, RunInfo, build, default_architecture
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
    architecture: Architecture | None = None,
    until: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> RunInfo:
    """Train a network of this kind into folder `out`, resuming what is there.

    until: stop after this step of `settings.steps` (a later call goes on). Raises UsageError if `out` holds a run with
    other settings, InputError if the cohort or the checkpoint cannot be used.
    """
    with Cohort.open(cohort_path) as cohort:
        info = _describe(kind, cohort, settings, architecture)
        slices = read_slices(cohort)
    torch.manual_seed(settings.seed)
    state = TrainingState.fresh(build(kind, info.architecture), settings.learning_rate, settings.weight_decay)
    losses = _resume(out, info, state)
    started = time.monotonic()
    while state.step < min(settings.steps, until or settings.steps):
        losses.append(_advance(kind, state, slices, settings))
        report(Progress(state.step, settings.steps, losses[-1]))
        if state.step % settings.checkpoint_every == 0:
            _save(out, info, state, losses)
    _save(out, info, state, losses)
    draw_loss_curve(losses, out / "loss.png", title=f"{kind}, {time.monotonic() - started:.0f} s in this session")
    return info


def _describe(kind: NetworkKind, cohort: Cohort, settings: TrainSettings, architecture: Architecture | None) -> RunInfo:
    contrasts = tuple(str(contrast) for contrast in cohort.contrasts)
    arch = architecture or default_architecture(kind, image_size=cohort.image_size, contrasts=len(contrasts))
    if (arch.image_size, arch.in_channels) != (cohort.image_size, len(contrasts)):
        raise UsageError(
            f"{cohort.path}: images of {len(contrasts)} contrasts at {cohort.image_size} px; the architecture takes "
            f"{arch.in_channels} at {arch.image_size} px: change it, or prepare the cohort again"
        )
    provenance = {"version": VERSION, "cohort_sha256": cohort.sha256, "settings": settings.model_dump(mode="json")}
    return RunInfo(kind, arch, contrasts, settings.noise_levels, cohort.pixel_mm, provenance)


def _advance(kind: NetworkKind, state: TrainingState, slices: SliceSet, settings: TrainSettings) -> float:
    """One step; returns its loss."""
    generator = torch.Generator().manual_seed((settings.seed << 32) + state.step)
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
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"{out}: cannot be made ({fault}); give --out a folder that can be written") from None
    if not (out / CHECKPOINT_FILE).exists():
        with written_whole(out / RUN_FILE) as temporary:
            temporary.write_text(info.to_json(), encoding="utf-8")
        return []
    _refuse_other(out / RUN_FILE, json.loads(info.to_json()))
    load_checkpoint(out / CHECKPOINT_FILE, state)
    with (out / LOSSES_FILE).open(newline="", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)][: state.step]


def _refuse_other(path: Path, wanted: dict[str, Any]) -> None:
    """Raise UsageError if the run on disk is not the one that is wanted, naming the first difference."""
    found = _flat(json.loads(path.read_text(encoding="utf-8")))
    for key, value in _flat(wanted).items():
        if key not in ("provenance.version", "provenance.machine") and found.get(key) != value:
            raise UsageError(
                f"{path}: the run there has {key} = {found.get(key)!r}, this one {value!r}; "
                "give the same settings to resume it, or another --out"
            )


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots.

    >>> _flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _save(out: Path, info: RunInfo, state: TrainingState, losses: list[float]) -> None:
    """Losses first: a checkpoint never knows more steps than the losses beside it."""
    with written_whole(out / LOSSES_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "loss"])
        rows.writerows([k, repr(loss)] for k, loss in enumerate(losses))
    metadata = {"step": str(state.step), "kind": str(info.kind), "machine": platform.machine()}
    save_tensors(out / CHECKPOINT_FILE, state.tensors(), metadata)
    save_tensors(out / WEIGHTS_FILE, state.average, metadata)
