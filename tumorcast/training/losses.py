"""What each kind of network is trained to do, on slices noised at random times (Ho et al. 2020, eq. 4, 14)."""

from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from tumorcast.config import NetworkKind
from tumorcast.diffusion.regressors import DenseRegressor
from tumorcast.diffusion.schedule import alpha_bars
from tumorcast.training.slices import Batch


def batch_loss(
    kind: NetworkKind, module: nn.Module, batch: Batch, noise_levels: int, generator: torch.Generator
) -> Tensor:
    """() mean loss of one batch; diffusion times are uniform in 0 … noise_levels - 1, drawn from `generator`."""
    t = torch.randint(noise_levels, (len(batch.images),), generator=generator)
    noise = torch.randn(batch.images.shape, generator=generator)
    noised = add_noise(batch.images, noise, t)
    match kind:
        case NetworkKind.DENOISER:
            return functional.mse_loss(module(noised, t, batch.classes)[:, : noise.shape[1]].float(), noise)
        case NetworkKind.ATTENTION_POOL_REGRESSOR:
            return functional.mse_loss(module(noised, t, batch.brain).float(), batch.fraction)
        case NetworkKind.DENSE_REGRESSOR | NetworkKind.SEGMENTER:
            assert isinstance(module, DenseRegressor)
            return segmentation_loss(module.logits(noised, t).float(), batch.tumour)
        case _:
            assert_never(kind)


def add_noise(images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε for images and noise (N, C, H, W) at times t (N,)."""
    abar = torch.from_numpy(alpha_bars())[t][:, None, None, None]
    return abar.sqrt().float() * images + (1 - abar).sqrt().float() * noise


def segmentation_loss(logits: Tensor, tumour: Tensor) -> Tensor:
    """() binary cross-entropy plus soft Dice loss over the batch, for (N, H, W) logits and masks."""
    probability = torch.sigmoid(logits)
    overlap = 2 * (probability * tumour).sum() + 1.0
    dice = overlap / (probability.sum() + tumour.sum() + 1.0)
    return functional.binary_cross_entropy_with_logits(logits, tumour) + 1 - dice
