"""Training slices on their device, and batches of single slices."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tumorcast.errors import InputError
from tumorcast.training.arrays import SliceArrays
from tumorcast.training.augment import augment
from tumorcast.training.draws import Draws

STACKS = ("images", "tumour", "brain")
SHARE_OF_FREE_MEMORY = 0.5  # of a CUDA device, at most, for slices that stay there
COPIED_AT_ONCE = 1024


@dataclass(frozen=True)
class SliceStore:
    """Slices by their number. `resident`: the arrays on a CUDA device, where they fit; else they are read as asked."""

    arrays: SliceArrays
    device: torch.device
    resident: dict[str, Tensor] | None

    @classmethod
    def open(cls, arrays: SliceArrays, device: torch.device) -> Self:
        """On a CUDA device the slices are kept there, in their float16, when they fit."""
        if device.type != "cuda":
            return cls(arrays, device, None)
        needed = sum(int(getattr(arrays, name).nbytes) for name in STACKS)
        if needed > SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]:
            return cls(arrays, device, None)
        return cls(arrays, device, {name: _on_device(getattr(arrays, name), device) for name in STACKS})

    def images(self, picks: Tensor) -> Tensor:
        """(N, C, H, W) float32."""
        return self._take("images", picks)

    def tumour(self, picks: Tensor) -> Tensor:
        """(N, H, W) float32 in {0, 1}."""
        return self._take("tumour", picks)

    def brain(self, picks: Tensor) -> Tensor:
        """(N, H, W) float32 in {0, 1}."""
        return self._take("brain", picks)

    def _take(self, name: str, picks: Tensor) -> Tensor:
        if self.resident is not None:
            return self.resident[name][picks].float()
        rows = np.asarray(getattr(self.arrays, name)[picks.cpu().numpy()])
        return torch.from_numpy(rows).to(self.device).float()


def _on_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy on the device, made piece by piece so that the host never holds it whole."""
    empty = torch.from_numpy(np.empty((0, *array.shape[1:]), array.dtype))
    whole = torch.empty(array.shape, dtype=empty.dtype, device=device)
    for start in range(0, len(array), COPIED_AT_ONCE):
        part = np.array(array[start : start + COPIED_AT_ONCE])
        whole[start : start + len(part)] = torch.from_numpy(part)
    return whole


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


@dataclass(frozen=True)
class SlicePool:
    """Slices to draw batches from: those with tumour and those without, by their number in the store."""

    store: SliceStore
    bearing: Tensor
    bare: Tensor
    tumour_share: float

    @classmethod
    def of(cls, store: SliceStore, patients: npt.NDArray[np.bool_], tumour_share: float) -> Self:
        """Those of the patients (P,) that are True. Raises InputError if none of their slices bears tumour."""
        arrays = store.arrays
        ours, bearing = patients[arrays.patient], arrays.tumour_pixels > 0
        numbers = [torch.from_numpy(np.flatnonzero(ours & part)).to(store.device) for part in (bearing, ~bearing)]
        if not len(numbers[0]):
            raise InputError(
                f"{arrays.origin}: no slice to train on bears tumour, so nothing can be learned; prepare the cohort "
                "with its masks"
            )
        return cls(store, numbers[0], numbers[1], tumour_share)

    def draw(self, draws: Draws, *, augmented: bool) -> Batch:
        """A batch with the wanted share of slices with tumour."""
        pools = [pool for pool in (self.bearing, self.bare) if len(pool)]
        wanted = round(draws.size * self.tumour_share) if len(pools) == 2 else draws.size
        picks = draws.members(pools, [wanted, draws.size - wanted][: len(pools)])
        images = self.store.images(picks)
        masks = torch.stack([self.store.tumour(picks), self.store.brain(picks)], dim=1)
        if augmented:
            images, masks = augment(images, masks, draws)
        tumour, brain = masks[:, 0], masks[:, 1]
        return Batch(images, tumour, brain, (tumour.sum(dim=(1, 2)) > 0).long())
