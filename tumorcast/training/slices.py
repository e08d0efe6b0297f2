"""Training slices: a cohort in memory, batches drawn from (seed, step) alone, and their augmentation.

Because a batch depends on nothing but the seed and the step, a resumed run sees exactly what an uninterrupted one does.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tumorcast.config import TrainSettings
from tumorcast.data.cohort import Cohort
from tumorcast.errors import InputError
from tumorcast.records import Session

AIR = -1.0


@dataclass(frozen=True)
class SliceSet:
    """All slices of a cohort: images (M, C, H, W) float16 in [-1, 1], tumour and brain (M, H, W) bool."""

    images: npt.NDArray[np.float16]
    tumour: npt.NDArray[np.bool_]
    brain: npt.NDArray[np.bool_]

    @cached_property
    def with_tumour(self) -> npt.NDArray[np.bool_]:
        """(M,) whether the slice bears tumour."""
        return np.asarray(self.tumour.any(axis=(1, 2)))


@dataclass(frozen=True)
class Batch:
    """images (N, C, H, W), tumour and brain (N, H, W) in {0, 1}, all float32; classes (N,): 1 where there is tumour."""

    images: Tensor
    tumour: Tensor
    brain: Tensor
    classes: Tensor

    @property
    def fraction(self) -> Tensor:
        """(N,) tumour over brain pixels."""
        return self.tumour.sum(dim=(1, 2)) / self.brain.sum(dim=(1, 2)).clamp(min=1.0)


def read_slices(cohort: Cohort) -> SliceSet:
    """Every slice of the cohort. Raises InputError if none bears tumour."""
    parts = [_compact(cohort.session(pid, info.id)) for pid in cohort.patient_ids() for info in cohort.sessions(pid)]
    images, tumour, brain = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    slices = SliceSet(images, tumour, brain)
    if not slices.with_tumour.any():
        raise InputError(f"{cohort.path}: no slice bears tumour, so nothing can be learned; prepare it with its masks")
    return slices


def _compact(session: Session) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Images, tumour and brain of a session; halved at once, so that a large cohort never stands in full."""
    return session.images.astype(np.float16), session.labels > 0, session.brain


def draw_batch(slices: SliceSet, settings: TrainSettings, generator: torch.Generator) -> Batch:
    """A batch with the wanted share of slices with tumour, augmented if the settings say so."""
    bearing = slices.with_tumour
    pools = [torch.from_numpy(np.flatnonzero(part)) for part in (bearing, ~bearing) if part.any()]
    wanted = round(settings.batch * settings.tumour_share) if len(pools) == 2 else settings.batch
    counts = [wanted, settings.batch - wanted][: len(pools)]
    picks = torch.cat(
        [pool[torch.randint(len(pool), (n,), generator=generator)] for pool, n in zip(pools, counts, strict=True)]
    ).numpy()
    images = torch.from_numpy(slices.images[picks]).float()
    masks = torch.from_numpy(np.stack([slices.tumour[picks], slices.brain[picks]], axis=1)).float()
    if settings.augment:
        images, masks = _augment(images, masks, generator)
    tumour, brain = masks[:, 0], masks[:, 1]
    return Batch(images, tumour, brain, (tumour.sum(dim=(1, 2)) > 0).long())


def _augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale and shift image and masks together; then bend the intensities inside the brain."""
    n, c, *_ = images.shape
    grid = functional.affine_grid(_random_affines(n, generator), [n, c, *images.shape[2:]], align_corners=False)
    images = functional.grid_sample(images - AIR, grid, align_corners=False) + AIR
    masks = (functional.grid_sample(masks, grid, align_corners=False) > 0.5).float()
    return _bend(images, masks[:, 1:], generator), masks


def _random_affines(n: int, generator: torch.Generator) -> Tensor:
    """(N, 2, 3): a left-right flip half of the time, ±15°, scale 0.9–1.1, shift ±5 %."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle, scale = uniform(-0.26, 0.26), uniform(0.9, 1.1)
    flip = torch.sign(uniform(-1.0, 1.0))
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cos * flip, -sin, uniform(-0.05, 0.05)], 1),
        torch.stack([sin * flip, cos, uniform(-0.05, 0.05)], 1),
    ]
    return torch.stack(rows, dim=1)


def _bend(images: Tensor, brain: Tensor, generator: torch.Generator) -> Tensor:
    """A random gamma, gain and offset for each image and contrast, inside the brain: scanners differ."""
    shape = (*images.shape[:2], 1, 1)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    unit = ((images + 1) / 2).clamp(0, 1)
    bent = unit ** torch.exp(uniform(-0.35, 0.35)) * uniform(0.85, 1.05) + uniform(-0.05, 0.05)
    return torch.where(brain > 0, bent.clamp(0, 1) * 2 - 1, images)
