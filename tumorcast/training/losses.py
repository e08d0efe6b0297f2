"""What each kind of network is trained to do.

All but the progression network learn on slices noised at random times (Ho et al. 2020, eq. 4, 14).
"""

from functools import cache
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from tumorcast.arrival.network import ArrivalNetwork, logits_of
from tumorcast.diffusion.progression import ProgressionNetwork
from tumorcast.diffusion.regressors import DenseRegressor
from tumorcast.diffusion.schedule import alpha_bars
from tumorcast.settings import NetworkKind
from tumorcast.training.dataset import Batch, PairBatch
from tumorcast.training.job import Draws
from tumorcast.training.parallel import ALONE, Team
from tumorcast.training.volume_pool import VolumeBatch

WEIGHT_INSIDE = 0.3  # of pixels within the present outline: what is asked is where the tumour goes, not where it is


def batch_loss(kind: NetworkKind, module: nn.Module, batch: Batch, draws: Draws, times: range) -> Tensor:
    """() this process' loss of one batch; its mean over the team is that of the whole batch.

    times: diffusion times are drawn uniformly from these. They mean nothing to a progression network.
    """
    if isinstance(batch, VolumeBatch):
        assert isinstance(module, ArrivalNetwork)
        logits = logits_of(module(batch.planes).float(), batch.front, batch.log_ratio)
        return progression_loss(logits, batch, draws.team)
    if isinstance(batch, PairBatch):
        assert isinstance(module, ProgressionNetwork)
        return progression_loss(module(batch.images, batch.outline, batch.log_ratio).float(), batch, draws.team)
    t = draws.integers(times.start, times.stop)
    noise = draws.normal(*batch.images.shape[1:])
    noised = add_noise(batch.images, noise, t)
    match kind:
        case NetworkKind.DENOISER:
            return functional.mse_loss(module(noised, t, batch.classes)[:, : noise.shape[1]].float(), noise)
        case NetworkKind.ATTENTION_POOL_REGRESSOR:
            return functional.mse_loss(module(noised, t, batch.brain).float(), batch.fraction)
        case NetworkKind.DENSE_REGRESSOR | NetworkKind.SEGMENTER:
            assert isinstance(module, DenseRegressor)
            return segmentation_loss(module.logits(noised, t).float(), batch.tumour, draws.team)
        case NetworkKind.SLICE_PROGRESSION | NetworkKind.PROGRESSION:
            raise ValueError("a progression network learns from pairs")
        case _:
            assert_never(kind)


def add_noise(images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε for images and noise (N, C, H, W) at times t (N,)."""
    abar = alpha_bars_at(t)[:, None, None, None]
    return abar.sqrt().float() * images + (1 - abar).sqrt().float() * noise


def alpha_bars_at(t: Tensor) -> Tensor:
    """(N,) ᾱ_t in float64 at times t (N,)."""
    return _alpha_bars_on(t.device)[t]


@cache
def _alpha_bars_on(device: torch.device) -> Tensor:
    return torch.from_numpy(alpha_bars()).to(device)


def segmentation_loss(logits: Tensor, tumour: Tensor, team: Team = ALONE) -> Tensor:
    """() binary cross-entropy plus soft Dice loss over the whole batch, for (N, H, W) logits and masks."""
    entropy = functional.binary_cross_entropy_with_logits(logits, tumour)
    return entropy + 1 - _soft_dice(torch.sigmoid(logits), tumour, 1.0, team)


def progression_loss(logits: Tensor, batch: PairBatch | VolumeBatch, team: Team = ALONE) -> Tensor:
    """() weighted cross-entropy plus soft Dice loss of the later mask, over the brain of the whole batch.

    Pixels, or voxels, within the present outline weigh WEIGHT_INSIDE, all others of the brain 1.
    """
    weight = batch.brain * torch.where(batch.outline > 0, WEIGHT_INSIDE, 1.0)
    entropy = functional.binary_cross_entropy_with_logits(logits, batch.later, reduction="none")
    mean = team.whole_sum((weight * entropy).sum()) / team.whole_sum(weight.sum()).clamp(min=1.0)
    return mean + 1 - _soft_dice(torch.sigmoid(logits), batch.later, weight, team)


def _soft_dice(probability: Tensor, tumour: Tensor, weight: Tensor | float, team: Team) -> Tensor:
    """() of the whole batch. Its sums are over all processes: Dice is no mean over rows."""
    overlap = 2 * team.whole_sum((weight * probability * tumour).sum()) + 1.0
    return overlap / (team.whole_sum((weight * probability).sum() + (weight * tumour).sum()) + 1.0)
