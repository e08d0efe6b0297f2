"""Augmentation of slices: one flip, rotation, scale and shift for an image and all its masks; then intensities."""

import torch
from torch import Tensor
from torch.nn import functional

from tumorcast.training.job import Draws

AIR = -1.0


def augment(images: Tensor, masks: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Move images (N, C, H, W) and masks (N, K, H, W) together, then bend the intensities inside the brain.

    The last mask is the brain's.
    """
    n, c, *size = images.shape
    grid = functional.affine_grid(_random_affines(draws), [n, c, *size], align_corners=False)
    images = functional.grid_sample(images - AIR, grid, align_corners=False) + AIR
    masks = (functional.grid_sample(masks, grid, align_corners=False) > 0.5).float()
    return bend(images, masks[:, -1:], draws), masks


def _random_affines(draws: Draws) -> Tensor:
    """(N, 2, 3): a left-right flip half of the time, ±15°, scale 0.9–1.1, shift ±5 %."""
    angle, scale = draws.uniform(-0.26, 0.26), draws.uniform(0.9, 1.1)
    flip = torch.sign(draws.uniform(-1.0, 1.0))
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cos * flip, -sin, draws.uniform(-0.05, 0.05)], 1),
        torch.stack([sin * flip, cos, draws.uniform(-0.05, 0.05)], 1),
    ]
    return torch.stack(rows, dim=1)


def bend(images: Tensor, brain: Tensor, draws: Draws) -> Tensor:
    """A random gamma, gain and offset for each image and contrast, inside the brain: scanners differ.

    images: (N, C, …), of slices or volumes, on the device of `draws`; brain: (N, 1, …).
    """
    shape = (images.shape[1], *[1] * (images.ndim - 2))
    unit = ((images + 1) / 2).clamp(0, 1)
    gamma, gain = torch.exp(draws.uniform(-0.35, 0.35, *shape)), draws.uniform(0.85, 1.05, *shape)
    bent = unit**gamma * gain + draws.uniform(-0.05, 0.05, *shape)
    return torch.where(brain > 0, bent.clamp(0, 1) * 2 - 1, images)


def perturb_outlines(outline: Tensor, share: float, draws: Draws) -> Tensor:
    """Dilate or erode a share of the outlines (N, H, W) by a pixel, as a segmenter errs. None is eroded to nothing."""
    chance = draws.uniform(0.0, 1.0)[:, None, None]
    wider = functional.max_pool2d(outline[:, None], 3, stride=1, padding=1)[:, 0]
    thinner = 1 - functional.max_pool2d(1 - outline[:, None], 3, stride=1, padding=1)[:, 0]
    thinner = torch.where(thinner.sum(dim=(1, 2), keepdim=True) > 0, thinner, outline)
    return torch.where(chance < share / 2, wider, torch.where(chance < share, thinner, outline))
