"""Batches of pairs of volumes, moved, turned and bent at random."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tumorcast.arrival.crop import LEAST_SIDES
from tumorcast.arrival.front import T1
from tumorcast.arrival.planes import AIR, FARTHEST_FRONT, FARTHEST_MM
from tumorcast.data.grey import GREY_LEVELS
from tumorcast.errors import InputError
from tumorcast.training.augment import bend
from tumorcast.training.job import Draws
from tumorcast.training.volume_arrays import ITEMS, SPARE, VolumeArrays, pairs_of

GROWING, GROWING_SHARE = 1.1, 0.8  # ratios of volumes from which a pair grows, and the share of a batch that does
ALL_CONTRASTS, NO_CONTRAST = 0.7, 0.05  # shares of the batches; of the others each contrast is left out by half
UNIFORM = 0.5  # share of the batches with a front that knows no tissue, so that the network learns what tissue does


@dataclass(frozen=True)
class VolumeBatch:
    """planes (N, P, Z, Y, X) as the network reads them; outline, later, brain, front (N, Z, Y, X), all float32.

    log_ratio: (N,) ln(later volume / present volume) within the box.
    """

    planes: Tensor
    outline: Tensor
    later: Tensor
    brain: Tensor
    front: Tensor
    log_ratio: Tensor


@dataclass(frozen=True)
class VolumePool:
    """Pairs to draw batches from; every patient has the same weight, however many it has.

    growing, others: the numbers of the pairs of each patient that has such, where the tumour grows and where it does
    not. A scan is mostly followed by one that is much like it, from which little is learned.
    """

    arrays: VolumeArrays
    device: torch.device
    growing: tuple[npt.NDArray[np.int64], ...]
    others: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def of(cls, arrays: VolumeArrays, device: torch.device, patients: npt.NDArray[np.bool_]) -> Self:
        """Those of the patients (P,) that are True. Raises InputError if they have none."""
        growing, others = [], []
        for numbers in pairs_of(arrays, patients):
            grows = np.array([arrays.log_ratio(number) >= np.log(GROWING) for number in numbers])
            growing += [numbers[grows]] if grows.any() else []
            others += [numbers[~grows]] if not grows.all() else []
        if not growing and not others:
            raise InputError(f"{arrays.origin}: no patient to train on has a pair of scans to learn from")
        return cls(arrays, device, tuple(growing), tuple(others))

    def draw(self, draws: Draws, *, augmented: bool) -> VolumeBatch:
        """A batch of pairs drawn at random."""
        turn = _Turns.drawn(draws) if augmented else None
        chances = draws.uniform(0.0, 1.0, 3).double().tolist()
        rows = [self._row(self._pair(*three), turn, row) for row, three in enumerate(chances)]
        stacks = {name: torch.stack([row[name] for row in rows]).to(self.device) for name in rows[0]}
        images, front = stacks["images"], stacks["front"]
        if augmented:
            images = bend(images, stacks["brain"][:, None], draws)
            absent = _absent(draws, images.shape[1]).to(self.device)
            images = torch.where(absent[:, :, None, None, None], AIR, images)
            knows_tissue = self._t1_left(absent) & (draws.uniform(0.0, 1.0) >= UNIFORM).to(self.device)
            front = torch.where(knows_tissue[:, None, None, None], front, stacks["uniform_front"])
        maps = [
            2 * stacks["outline"] - 1,
            (stacks["distance"] / FARTHEST_MM).clamp(-1, 1),
            (front / FARTHEST_FRONT).clamp(-1, 1),
        ]
        before, after = (stacks[name].sum(dim=(1, 2, 3)).clamp(min=1.0) for name in ("outline", "later"))
        return VolumeBatch(
            planes=torch.cat([images, torch.stack(maps, dim=1)], dim=1),
            outline=stacks["outline"],
            later=stacks["later"],
            brain=stacks["brain"],
            front=front,
            log_ratio=torch.log(after / before),
        )

    def _t1_left(self, absent: Tensor) -> Tensor:
        """(N,) whether a T1 is left, by which the front knows tissue."""
        channels = [k for k, name in enumerate(self.arrays.contrasts) if name in T1]
        if not channels:
            return torch.zeros(len(absent), dtype=torch.bool, device=absent.device)
        return ~absent[:, channels].all(dim=1)

    def _pair(self, which: float, patient: float, pair: float) -> int:
        """The pair that three numbers in [0, 1) stand for."""
        grows = bool(self.growing) and (which < GROWING_SHARE or not self.others)
        pool = self.growing if grows else self.others
        numbers = pool[int(patient * len(pool))]
        return int(numbers[int(pair * len(numbers))])

    def _row(self, pair: int, turns: "_Turns | None", row: int) -> dict[str, Tensor]:
        scan, arrays = int(self.arrays.earlier[pair]), self.arrays
        start = (SPARE,) * 3 if turns is None else turns.start(row)
        box = tuple(slice(first, first + side) for first, side in zip(start, LEAST_SIDES, strict=True))
        parts: dict[str, npt.NDArray[np.generic]] = {name: getattr(arrays, name)[scan][(..., *box)] for name in ITEMS}
        parts["later"] = arrays.later[pair][box]
        tensors = {name: torch.from_numpy(np.array(part)).float() for name, part in parts.items()}
        tensors["images"] = tensors["images"] * (2 / GREY_LEVELS) - 1
        return tensors if turns is None else {name: turns.turned(part, row) for name, part in tensors.items()}


@dataclass(frozen=True)
class _Turns:
    """How the boxes of a batch lie: moved by up to SPARE voxels (N, 3), mirrored (N, 3), y and x exchanged (N,)."""

    shift: Tensor
    mirrored: Tensor
    exchanged: Tensor

    @classmethod
    def drawn(cls, draws: Draws) -> Self:
        """At random."""
        shift = draws.uniform(0.0, 2 * SPARE + 1, 3).long().clamp(max=2 * SPARE)
        return cls(shift, draws.uniform(0.0, 1.0, 3) < 0.5, draws.uniform(0.0, 1.0) < 0.5)

    def start(self, row: int) -> tuple[int, ...]:
        """The first voxel of the box."""
        return tuple(int(value) for value in self.shift[row])

    def turned(self, part: Tensor, row: int) -> Tensor:
        """(..., Z, Y, X) mirrored and exchanged."""
        axes = [axis - 3 for axis in range(3) if self.mirrored[row, axis]]
        part = part.flip(axes) if axes else part
        return part.transpose(-1, -2) if self.exchanged[row] else part


def _absent(draws: Draws, contrasts: int) -> Tensor:
    """(N, C) which contrasts are left out, so that the network serves scans that lack some."""
    case, each = draws.uniform(0.0, 1.0), draws.uniform(0.0, 1.0, contrasts)
    some = (case >= ALL_CONTRASTS)[:, None] & (each < 0.5)
    return some | (case >= 1 - NO_CONTRAST)[:, None]
