"""What batches are drawn from: slices on their device, single or in pairs of scans, for training or validation."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tumorcast.errors import InputError, UsageError
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.arrays import SliceArrays
from tumorcast.training.augment import augment, perturb_outlines
from tumorcast.training.job import Draws
from tumorcast.training.volume_arrays import VolumeArrays
from tumorcast.training.volume_pool import VolumeBatch, VolumePool

STACKS = ("images", "tumour", "brain")
SHARE_OF_FREE_MEMORY = 0.5  # of a CUDA device, at most, for slices that stay there
COPIED_AT_ONCE = 1024
LEAST_RATIO, LARGEST_RATIO = 0.7, 5.0  # of areas, later over earlier: what growth between two scans comes to
PERTURBED_SHARE = 0.05  # the share of outlines that are a pixel off, so that the network stands a segmenter's
LEAST_FOR_VALIDATION = 10  # patients: from so many on, a share that is not zero holds out at least one


@dataclass(frozen=True)
class SliceStore:
    """Slices by their number. `resident`: the arrays on a CUDA device, where they fit; else they are read on demand."""

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
class VolumeStore:
    """Volumes, which are read on demand and put on the device."""

    arrays: VolumeArrays
    device: torch.device


@dataclass(frozen=True)
class SliceBatch:
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

    def draw(self, draws: Draws, *, augmented: bool) -> SliceBatch:
        """A batch with the wanted share of slices with tumour."""
        pools = [pool for pool in (self.bearing, self.bare) if len(pool)]
        wanted = round(draws.size * self.tumour_share) if len(pools) == 2 else draws.size
        picks = draws.members(pools, [wanted, draws.size - wanted][: len(pools)])
        images = self.store.images(picks)
        masks = torch.stack([self.store.tumour(picks), self.store.brain(picks)], dim=1)
        if augmented:
            images, masks = augment(images, masks, draws)
        tumour, brain = masks[:, 0], masks[:, 1]
        return SliceBatch(images, tumour, brain, (tumour.sum(dim=(1, 2)) > 0).long())


@dataclass(frozen=True)
class PairBatch:
    """images (N, C, H, W) of the earlier scan; outline and later, its tumour and the later one, and brain (N, H, W).

    log_ratio: (N,) ln(later area / outline's area), of the masks as they are here: after augmentation and misdrawing.
    """

    images: Tensor
    outline: Tensor
    later: Tensor
    brain: Tensor
    log_ratio: Tensor


@dataclass(frozen=True)
class PairPool:
    """Pairs to draw batches from, patient by patient.

    earlier, later: (Q,) numbers of slices in the store; start, count: (P,) where each patient's pairs lie.
    """

    store: SliceStore
    earlier: Tensor
    later: Tensor
    start: Tensor
    count: Tensor

    @classmethod
    def of(cls, store: SliceStore, patients: npt.NDArray[np.bool_]) -> Self:
        """Those of the patients (P,) that are True. Raises InputError if they have none."""
        pairs = find_pairs(store.arrays, patients)
        if not len(pairs):
            raise InputError(
                f"{store.arrays.origin}: no patient to train on has one slice in two scans with a tumour of "
                f"{LEAST_RATIO} to {LARGEST_RATIO:g} times its earlier area; prepare a cohort with more scans a "
                "patient, or with --slices all"
            )
        _, start, count = np.unique(store.arrays.patient[pairs[:, 0]], return_index=True, return_counts=True)
        numbers = (torch.from_numpy(part.copy()).to(store.device) for part in (pairs[:, 0], pairs[:, 1], start, count))
        return cls(store, *numbers)

    def draw(self, draws: Draws, *, augmented: bool) -> PairBatch:
        """A batch in which every patient has the same weight, however many pairs it has."""
        patient = draws.integers(0, len(self.start))
        offset = draws.uniform(0.0, 1.0).double() * self.count[patient]  # float32 times a count can round up to it
        pair = self.start[patient] + offset.long()
        earlier, later = self.earlier[pair], self.later[pair]
        images, store = self.store.images(earlier), self.store
        masks = torch.stack([store.tumour(earlier), store.tumour(later), store.brain(earlier)], dim=1)
        if augmented:
            images, masks = augment(images, masks, draws)
        outline, grown, brain = masks.unbind(dim=1)
        if augmented:
            outline = perturb_outlines(outline, PERTURBED_SHARE, draws)
        before, after = (mask.sum(dim=(1, 2)).clamp(min=1.0) for mask in (outline, grown))
        return PairBatch(images, outline, grown, brain, torch.log(after / before))


def find_pairs(arrays: SliceArrays, patients: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(Q, 2) numbers of an earlier slice with tumour and the same slice in a later scan, patient by patient."""
    series: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number in np.flatnonzero(patients[arrays.patient]):  # scans of a patient follow each other in time
        series[int(arrays.patient[number]), int(arrays.source_slice[number])].append(int(number))
    area = np.asarray(arrays.tumour_pixels, np.float64)
    pairs = [
        pair
        for _, numbers in sorted(series.items())
        for pair in combinations(numbers, 2)
        if area[pair[0]] > 0 and LEAST_RATIO <= area[pair[1]] / area[pair[0]] <= LARGEST_RATIO
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def held_out(patient_ids: Sequence[str], share: float) -> npt.NDArray[np.bool_]:
    """(P,) whether a patient is held out: about `share` of them.

    >>> held_out([f"P{k}" for k in range(12)], 0.25).sum(), held_out(["A", "B"], 0.0).sum()
    (np.int64(2), np.int64(0))
    """
    fractions = np.array([_hash_fraction(patient_id) for patient_id in patient_ids])
    chosen = fractions < share
    if share > 0 and len(fractions) >= LEAST_FOR_VALIDATION and not chosen.any():
        chosen[fractions.argmin()] = True
    return chosen


def _hash_fraction(patient_id: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8], "big") / 2.0**64


Pool = SlicePool | PairPool | VolumePool
Batch = SliceBatch | PairBatch | VolumeBatch


@dataclass(frozen=True)
class Pools:
    """training: of the patients that are trained on; validation: of those held out, None where they give nothing."""

    training: Pool
    validation: Pool | None

    @classmethod
    def open(cls, kind: NetworkKind, store: SliceStore | VolumeStore, settings: TrainSettings) -> Self:
        """Raises InputError if there is nothing to train on."""
        included = ~_left_out(store, settings)
        validated = held_out(store.arrays.patient_ids, settings.validation_share)
        training = _pool(kind, store, included & ~validated, settings)
        try:
            return cls(training, _pool(kind, store, included & validated, settings))
        except InputError:  # few patients are held out, or none, and without tumour there is nothing to look at
            return cls(training, None)


def _left_out(store: SliceStore | VolumeStore, settings: TrainSettings) -> npt.NDArray[np.bool_]:
    """(P,) whether the settings leave a patient out. Raises UsageError for a name that the cohort lacks."""
    names = store.arrays.patient_ids
    strangers = sorted(set(settings.leave_out) - set(names))
    if strangers:
        raise UsageError(
            f"--leave-out {strangers[0]}: not in {store.arrays.origin}, which has {', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else ''}"
        )
    return np.isin(names, settings.leave_out)


def _pool(
    kind: NetworkKind, store: SliceStore | VolumeStore, patients: npt.NDArray[np.bool_], settings: TrainSettings
) -> Pool:
    if isinstance(store, VolumeStore):
        return VolumePool.of(store.arrays, store.device, patients)
    if kind is NetworkKind.SLICE_PROGRESSION:
        return PairPool.of(store, patients)
    return SlicePool.of(store, patients, settings.tumour_share)
