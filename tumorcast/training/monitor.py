"""What watches a run beside its steps: the loss on held-out patients, sample sheets, and warnings of divergence."""

import logging
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tumorcast.arrival.network import logits_of
from tumorcast.diffusion.regressors import DenseRegressor
from tumorcast.durable import written_whole
from tumorcast.errors import EngineError
from tumorcast.settings import NetworkKind
from tumorcast.training.checkpoint import TrainingState
from tumorcast.training.dataset import PairBatch, Pool, SliceBatch
from tumorcast.training.job import Job
from tumorcast.training.log import Row, RunLog, opened_log
from tumorcast.training.losses import add_noise, alpha_bars_at, batch_loss
from tumorcast.training.volume_pool import VolumeBatch, VolumePool

SHEETS_FOLDER = "sheets"
TIME_BAND_EDGES = (0, 50, 150, 350, 1000)  # of diffusion times
VALIDATION_BATCHES, VALIDATION_ROWS = 4, 16
VOLUME_ROWS = 4  # of a validation batch of volumes
SHEET_DRAWS = VALIDATION_BATCHES  # the number of its draws: those before are of validation
SHEET_ROWS = 4
SHEET_TIMES = (20, 100, 200, 300)
GAP = 2  # pixels between slices
IMAGE, MASK = (-1.0, 1.0), (0.0, 1.0)  # black and white
WINDOW = 100  # steps over which the loss is averaged
ALARMING = 2.0  # times the least such average
RISES = 5  # of a validation loss, in a row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validation:
    """Fixed batches of the patients held out."""

    job: Job
    pool: Pool

    def losses(self, module: nn.Module) -> dict[str, float]:
        """The mean loss by band of diffusion times, or under the one name "pairs"."""
        times_of = time_bands(self.job.kind, self.job.settings.noise_levels)
        return {name: self._loss(module, times) for name, times in times_of.items()}

    def _loss(self, module: nn.Module, times: range) -> float:
        losses = [self._batch_loss(module, times, number) for number in range(VALIDATION_BATCHES)]
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def _batch_loss(self, module: nn.Module, times: range, number: int) -> torch.Tensor:
        rows = VOLUME_ROWS if isinstance(self.pool, VolumePool) else VALIDATION_ROWS
        draws = self.job.fixed_draws(number, rows)
        batch = self.pool.draw(draws, augmented=False)
        with self.job.autocast():
            return batch_loss(self.job.kind, module, batch, draws, times)


def time_bands(kind: NetworkKind, noise_levels: int) -> dict[str, range]:
    """The bands of diffusion times as far as a network learns them.

    >>> time_bands(NetworkKind.DENOISER, 200)
    {'0-49': range(0, 50), '50-149': range(50, 150), '150-199': range(150, 200)}
    """
    if kind in (NetworkKind.SLICE_PROGRESSION, NetworkKind.PROGRESSION):
        return {"pairs": range(1)}
    starts = [edge for edge in TIME_BAND_EDGES if edge < noise_levels]
    stops = [*starts[1:], noise_levels]
    return {f"{start}-{stop - 1}": range(start, stop) for start, stop in zip(starts, stops, strict=True)}


@dataclass(frozen=True)
class SheetColumn:
    """A column of a sample sheet: (N, H, W) values, and those that are drawn black and white."""

    title: str
    values: Tensor
    limits: tuple[float, float]


@torch.no_grad()
def sample_sheet(job: Job, module: nn.Module, pool: Pool) -> list[SheetColumn]:
    """The columns for this kind of network; none for one that gives no image. Of the contrasts the last is shown."""
    draws = job.fixed_draws(SHEET_DRAWS, SHEET_ROWS)
    batch = pool.draw(draws, augmented=False)
    if isinstance(batch, VolumeBatch):
        return _of_volumes(module, batch)
    if isinstance(batch, PairBatch):
        return _of_progression(module, batch)
    noise = draws.normal(*batch.images.shape[1:])
    levels = job.settings.noise_levels
    times = [t for t in SHEET_TIMES if t < levels] or [levels - 1]
    match job.kind:
        case NetworkKind.DENOISER:
            return _of_denoiser(module, batch, noise, times)
        case NetworkKind.DENSE_REGRESSOR | NetworkKind.SEGMENTER:
            return _of_segmenter(module, batch, noise, times)
        case NetworkKind.ATTENTION_POOL_REGRESSOR | NetworkKind.SLICE_PROGRESSION | NetworkKind.PROGRESSION:
            return []
        case _:
            assert_never(job.kind)


def _of_progression(module: nn.Module, batch: PairBatch) -> list[SheetColumn]:
    predicted = torch.sigmoid(module(batch.images, batch.outline, batch.log_ratio))
    return [
        SheetColumn("present", batch.images[:, -1], IMAGE),
        SheetColumn("its outline", batch.outline, MASK),
        SheetColumn("later, true", batch.later, MASK),
        SheetColumn("later, predicted", predicted, MASK),
    ]


def _of_volumes(module: nn.Module, batch: VolumeBatch) -> list[SheetColumn]:
    """The slice of each volume where the later tumour is largest."""
    predicted = torch.sigmoid(logits_of(module(batch.planes).float(), batch.front, batch.log_ratio))
    rows, largest = torch.arange(len(predicted)), batch.later.sum(dim=(2, 3)).argmax(dim=1)
    shown = {"present": batch.planes[:, 0], "its outline": batch.outline, "later, true": batch.later}
    shown["later, predicted"] = predicted
    return [
        SheetColumn(title, values[rows, largest], IMAGE if title == "present" else MASK)
        for title, values in shown.items()
    ]


def _of_denoiser(module: nn.Module, batch: SliceBatch, noise: Tensor, times: list[int]) -> list[SheetColumn]:
    columns = [SheetColumn("clean", batch.images[:, -1], IMAGE)]
    for time in times:
        t = torch.full((SHEET_ROWS,), time, device=noise.device)
        noised = add_noise(batch.images, noise, t)
        eps = module(noised, t, batch.classes)[:, : noise.shape[1]]
        abar = alpha_bars_at(t)[:, None, None, None]
        x0 = (noised - (1 - abar).sqrt().float() * eps) / abar.sqrt().float()  # Song et al. 2021, eq. 9
        columns += [
            SheetColumn(f"noised, t = {time}", noised[:, -1], IMAGE),
            SheetColumn("predicted", x0[:, -1], IMAGE),
        ]
    return columns


def _of_segmenter(module: nn.Module, batch: SliceBatch, noise: Tensor, times: list[int]) -> list[SheetColumn]:
    assert isinstance(module, DenseRegressor)
    columns = [SheetColumn("clean", batch.images[:, -1], IMAGE), SheetColumn("truth", batch.tumour, MASK)]
    for time in times:
        t = torch.full((SHEET_ROWS,), time, device=noise.device)
        probability = torch.sigmoid(module.logits(add_noise(batch.images, noise, t), t))
        columns.append(SheetColumn(f"t = {time}", probability, MASK))
    return columns


def draw_sheet(columns: list[SheetColumn], path: Path, title: str) -> None:
    """Draw columns into a PNG, a slice a row."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that training itself does not need

    figure = Figure(figsize=(1.5 * len(columns), 1.5 * SHEET_ROWS + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic(columns), cmap="gray", vmin=0, vmax=1)
    side = columns[0].values.shape[-1] + GAP
    axes.set_xticks([side * number + side / 2 for number in range(len(columns))])
    axes.set_xticklabels([column.title for column in columns], fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    figure.suptitle(title, fontsize=9)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def mosaic(columns: list[SheetColumn]) -> npt.NDArray[np.float32]:
    """All tiles in one image of values in [0, 1], with white gaps: one picture is drawn much quicker than many."""
    tiles = torch.stack([(c.values.float() - c.limits[0]) / (c.limits[1] - c.limits[0]) for c in columns], dim=1)
    tiles = functional.pad(tiles.clamp(0, 1), (0, GAP, 0, GAP), value=1.0)  # (SHEET_ROWS, K, H + GAP, W + GAP)
    rows, count, height, width = tiles.shape
    return tiles.permute(0, 2, 1, 3).reshape(rows * height, count * width).cpu().numpy()


def check_finite(row: Row, out: Path, saved: int | None) -> None:
    """Raises EngineError if loss or gradient of a step is no number. saved: the step of the last checkpoint."""
    if math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]):
        return
    kept = "there is no checkpoint yet" if saved is None else f"the last good checkpoint, of step {saved}, is kept"
    raise EngineError(
        f"{out}: step {row['step']}: the loss is {row['loss']}, the gradient's norm {row['gradient_norm']}; {kept}. "
        f"Train anew with a lower learning_rate (it is {row['learning_rate']:.3g}), longer warmup_steps or without "
        "bfloat16, into another --out"
    )


class DivergenceWatch:
    """Sees every row of the log in turn and says once what is alarming."""

    def __init__(self, warmup_steps: int) -> None:
        self._warmup = warmup_steps
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._least = math.inf
        self._before: dict[str, float] = {}
        self._rises: dict[str, int] = {}
        self._warned: set[str] = set()

    def look(self, row: Row) -> str | None:
        """A warning, where this row gives the first cause for it."""
        if "loss" in row and row["step"] > self._warmup:
            return self._look_at_loss(row["loss"])
        return self._look_at_validation(row.get("validation", {}))

    def _look_at_loss(self, loss: float) -> str | None:
        self._recent.append(loss)
        if len(self._recent) < WINDOW:
            return None
        mean = math.fsum(self._recent) / WINDOW
        self._least = min(self._least, mean)
        if mean <= ALARMING * self._least:
            return None
        return self._warn_once(
            "loss",
            f"the mean loss of {WINDOW} steps is {mean:.4g}, over {ALARMING:g} times its least, {self._least:.4g}; if "
            "it stays there, train anew with a lower learning_rate",
        )

    def _look_at_validation(self, losses: dict[str, float]) -> str | None:
        for band, loss in losses.items():
            rising = loss > self._before.get(band, math.inf)
            self._rises[band] = self._rises.get(band, 0) + 1 if rising else 0
            self._before[band] = loss
        worst = max(self._rises, key=self._rises.__getitem__, default="")
        if not losses or self._rises[worst] < RISES:
            return None
        return self._warn_once(
            "validation",
            f"the validation loss ({worst}) rose {RISES} times in a row, to {losses[worst]:.4g}; the network may have "
            "begun to learn the training patients by heart: fewer steps or more patients help",
        )

    def _warn_once(self, subject: str, text: str) -> str | None:
        if subject in self._warned:
            return None
        self._warned.add(subject)
        return text


class RunMonitor:
    """Logs a run, validates it and draws sample sheets, in the process that leads. pool: of the patients held out;
    without it nothing is validated or drawn."""

    def __init__(self, job: Job, log: RunLog, pool: Pool | None) -> None:
        """Use `monitoring`."""
        self.log = log
        self._job, self._pool = job, pool
        self._watch = DivergenceWatch(job.settings.warmup_steps)
        for row in log.rows:
            self._watch.look(row)

    def log_row(self, row: Row) -> None:
        """Log a row, and what is alarming in it."""
        self.log.write(row)
        warning = self._watch.look(row)
        if warning is not None:
            self.log.write({"step": row["step"], "warning": warning})
            logger.warning("%s: step %d: %s", self._job.out, row["step"], warning)

    def is_due(self, step: int) -> bool:
        """Whether the run is to be validated or drawn after this step."""
        return self._validates_after(step) or self._draws_after(step)

    def validate_and_draw(self, state: TrainingState) -> None:
        """Validate, and draw a sample sheet, where it is time to."""
        if self._pool is None or not self.is_due(state.step):
            return
        with state.averaged() as module, torch.compiler.set_stance("force_eager"):  # other shapes than a step's
            if self._validates_after(state.step):
                self.log_row({"step": state.step, "validation": Validation(self._job, self._pool).losses(module)})
            columns = sample_sheet(self._job, module, self._pool) if self._draws_after(state.step) else []
        if columns:
            draw_sheet(columns, self._job.out / SHEETS_FOLDER / f"{state.step:06d}.png", f"step {state.step}")

    def _validates_after(self, step: int) -> bool:
        return self._pool is not None and step % self._job.settings.validate_every == 0

    def _draws_after(self, step: int) -> bool:
        every = self._job.settings.sheet_every
        return self._pool is not None and every > 0 and step % every == 0


@contextmanager
def monitoring(job: Job, state: TrainingState, pool: Pool | None) -> Iterator[RunMonitor | None]:
    """The monitor of a run, which stands where `state` does; None in a process that does not lead."""
    if not job.team.leads:
        yield None
        return
    with opened_log(job.out, state.step) as log:
        yield RunMonitor(job, log, pool)
