"""One step of training after the other: learning rate, loss, gradients, AdamW; and what is logged of each."""

import math
import time
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor, nn

from tumorcast.diffusion.regressors import DenseRegressor
from tumorcast.settings import RateSchedule, TrainSettings
from tumorcast.training.checkpoint import TrainingState
from tumorcast.training.dataset import Pool
from tumorcast.training.job import Job
from tumorcast.training.log import Row
from tumorcast.training.losses import batch_loss

LARGEST_GRADIENT = 1.0  # norm over all parameters; what is above is scaled down to it
REPORTED_AT_ONCE = 20  # steps on a CUDA device: reading a number from it makes it wait


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of a step: a linear rise over `warmup_steps`, then as the schedule says.

    >>> settings = TrainSettings(steps=10, warmup_steps=2, learning_rate=1.0)
    >>> [round(learning_rate(k, settings), 2) for k in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    warmup = min(settings.warmup_steps, settings.steps - 1)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    match settings.schedule:
        case RateSchedule.CONSTANT:
            return settings.learning_rate
        case RateSchedule.COSINE:
            share = (step - warmup) / (settings.steps - warmup)
            return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        case _:
            assert_never(settings.schedule)


@dataclass(frozen=True)
class TrainingProgress:
    """What is told after every step."""

    step: int
    steps: int
    loss: float


class Stepper:
    """A network under training and what it is trained on."""

    def __init__(self, job: Job, state: TrainingState, pool: Pool) -> None:
        self.job, self.state, self._pool = job, state, pool
        self._times = range(job.settings.noise_levels)
        self._unreported: list[tuple[int, Tensor, Tensor]] = []
        self._since = 0.0

    def advance(self) -> None:
        """One step."""
        job, state = self.job, self.state
        if not self._unreported:
            self._since = time.monotonic()
        draws = job.draws(state.step)
        batch = self._pool.draw(draws, augmented=job.settings.augment)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(state.step, job.settings)
        with job.autocast():
            loss = batch_loss(job.kind, state.module, batch, draws, self._times)
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        mean = job.team.average(state.module, loss)
        norm = torch.nn.utils.clip_grad_norm_(state.module.parameters(), LARGEST_GRADIENT)
        state.optimizer.step()
        state.update_average(job.settings.ema_decay)
        state.step += 1
        self._unreported.append((state.step, mean, norm))

    def collect(self, *, at_once: bool) -> list[Row]:
        """What there is to tell of the steps since it was last told; nothing yet where waiting for more pays."""
        enough = REPORTED_AT_ONCE if self.job.device.type == "cuda" else 1
        if len(self._unreported) < (1 if at_once else enough):
            return []
        steps, losses, norms = zip(*self._unreported, strict=True)
        numbers = torch.stack([torch.stack(losses), torch.stack(norms)], dim=1).tolist()
        seconds = (time.monotonic() - self._since) / len(steps)
        self._unreported = []
        return [self._row(step, *two, seconds=seconds) for step, two in zip(steps, numbers, strict=True)]

    def _row(self, step: int, loss: float, norm: float, *, seconds: float) -> Row:
        settings = self.job.settings
        return {
            "step": step,
            "loss": loss,
            "learning_rate": learning_rate(step - 1, settings),
            "gradient_norm": norm,
            "seconds": round(seconds, 5),
            "images_per_second": round(settings.batch / max(seconds, 1e-9), 2),
        }


def compile_forward(module: nn.Module) -> None:
    """Compile what training calls of a network. The module stays itself, so its parameters keep their names."""
    name = "logits" if isinstance(module, DenseRegressor) else "forward"
    setattr(module, name, torch.compile(getattr(module, name)))
