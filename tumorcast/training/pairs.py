"""Pairs of scans of one slice, earlier and later, and their batches: what a progression network learns from."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tumorcast.errors import InputError
from tumorcast.training.arrays import SliceArrays
from tumorcast.training.augment import augment, misdraw
from tumorcast.training.draws import Draws
from tumorcast.training.slices import SliceStore

LEAST_RATIO, LARGEST_RATIO = 0.7, 5.0  # of areas, later over earlier: what growth between two scans comes to
MISDRAWN = 0.05  # the share of outlines that are a pixel off, so that the network stands a segmenter's


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
        place = draws.uniform(0.0, 1.0).double() * self.count[patient]  # float32 times a count can round up to it
        pair = self.start[patient] + place.long()
        earlier, later = self.earlier[pair], self.later[pair]
        images, store = self.store.images(earlier), self.store
        masks = torch.stack([store.tumour(earlier), store.tumour(later), store.brain(earlier)], dim=1)
        if augmented:
            images, masks = augment(images, masks, draws)
        outline, grown, brain = masks.unbind(dim=1)
        if augmented:
            outline = misdraw(outline, MISDRAWN, draws)
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
