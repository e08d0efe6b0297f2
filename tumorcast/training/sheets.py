"""Sample sheets: what a network makes of a few fixed slices that it is not trained on, as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tumorcast.diffusion.regressors import DenseRegressor
from tumorcast.durable import written_whole
from tumorcast.settings import NetworkKind
from tumorcast.training.job import Job
from tumorcast.training.losses import add_noise, alpha_bars_at
from tumorcast.training.pairs import PairBatch
from tumorcast.training.pools import Pool
from tumorcast.training.slices import Batch
from tumorcast.training.validation import BATCHES

ROWS = 4
GAP = 2  # pixels between slices
SHEET = BATCHES  # the number of its draws: those before are of validation
TIMES = (20, 100, 200, 300)
IMAGE, MASK = (-1.0, 1.0), (0.0, 1.0)  # black and white


@dataclass(frozen=True)
class Column:
    """A column of a sheet: (N, H, W) values, and those that are drawn black and white."""

    title: str
    values: Tensor
    limits: tuple[float, float]


@torch.no_grad()
def sheet(job: Job, module: nn.Module, pool: Pool) -> list[Column]:
    """The columns for this kind of network; none for one that gives no image. Of the contrasts the last is shown."""
    draws = job.fixed_draws(SHEET, ROWS)
    batch = pool.draw(draws, augmented=False)
    if isinstance(batch, PairBatch):
        return _of_progression(module, batch)
    noise = draws.normal(*batch.images.shape[1:])
    levels = job.settings.noise_levels
    times = [t for t in TIMES if t < levels] or [levels - 1]
    match job.kind:
        case NetworkKind.DENOISER:
            return _of_denoiser(module, batch, noise, times)
        case NetworkKind.DENSE_REGRESSOR | NetworkKind.SEGMENTER:
            return _of_segmenter(module, batch, noise, times)
        case NetworkKind.ATTENTION_POOL_REGRESSOR | NetworkKind.PROGRESSION:
            return []
        case _:
            assert_never(job.kind)


def _of_progression(module: nn.Module, batch: PairBatch) -> list[Column]:
    predicted = torch.sigmoid(module(batch.images, batch.outline, batch.log_ratio))
    return [
        Column("present", batch.images[:, -1], IMAGE),
        Column("its outline", batch.outline, MASK),
        Column("later, true", batch.later, MASK),
        Column("later, predicted", predicted, MASK),
    ]


def _of_denoiser(module: nn.Module, batch: Batch, noise: Tensor, times: list[int]) -> list[Column]:
    columns = [Column("clean", batch.images[:, -1], IMAGE)]
    for time in times:
        t = torch.full((ROWS,), time, device=noise.device)
        noised = add_noise(batch.images, noise, t)
        eps = module(noised, t, batch.classes)[:, : noise.shape[1]]
        abar = alpha_bars_at(t)[:, None, None, None]
        x0 = (noised - (1 - abar).sqrt().float() * eps) / abar.sqrt().float()  # Song et al. 2021, eq. 9
        columns += [Column(f"noised, t = {time}", noised[:, -1], IMAGE), Column("predicted", x0[:, -1], IMAGE)]
    return columns


def _of_segmenter(module: nn.Module, batch: Batch, noise: Tensor, times: list[int]) -> list[Column]:
    assert isinstance(module, DenseRegressor)
    columns = [Column("clean", batch.images[:, -1], IMAGE), Column("truth", batch.tumour, MASK)]
    for time in times:
        t = torch.full((ROWS,), time, device=noise.device)
        probability = torch.sigmoid(module.logits(add_noise(batch.images, noise, t), t))
        columns.append(Column(f"t = {time}", probability, MASK))
    return columns


def draw_sheet(columns: list[Column], path: Path, title: str) -> None:
    """Draw columns into a PNG, a slice a row."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that training itself does not need

    figure = Figure(figsize=(1.5 * len(columns), 1.5 * ROWS + 0.5), layout="constrained")
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


def mosaic(columns: list[Column]) -> npt.NDArray[np.float32]:
    """All tiles in one image of values in [0, 1], with white gaps: one picture is drawn much quicker than many."""
    tiles = torch.stack([(c.values.float() - c.limits[0]) / (c.limits[1] - c.limits[0]) for c in columns], dim=1)
    tiles = functional.pad(tiles.clamp(0, 1), (0, GAP, 0, GAP), value=1.0)  # (ROWS, K, H + GAP, W + GAP)
    rows, count, height, width = tiles.shape
    return tiles.permute(0, 2, 1, 3).reshape(rows * height, count * width).cpu().numpy()
