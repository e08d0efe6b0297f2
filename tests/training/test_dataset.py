"""Pairs of scans: which there are, how they are drawn, and that a pair is moved as one."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorcast.errors import InputError
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.arrays import open_arrays
from tumorcast.training.augment import perturb_outlines
from tumorcast.training.dataset import PairBatch, PairPool, SliceStore, find_pairs
from tumorcast.training.job import Draws, generator_of
from tumorcast.training.losses import WEIGHT_INSIDE, progression_loss
from tumorcast.training.train import train

CPU = torch.device("cpu")


def pool_of(folder: Path) -> PairPool:
    store = SliceStore.open(open_arrays(folder), CPU)
    return PairPool.of(store, np.ones(len(store.arrays.patient_ids), np.bool_))


def draws(size: int, seed: int = 0) -> Draws:
    return Draws(generator_of(CPU, seed), size)


def test_every_earlier_and_later_scan_of_a_slice_is_a_pair(make_slices: Callable[..., Path], tmp_path: Path) -> None:
    radii = {"A": [[2.0, 0.0], [3.0, 2.0], [6.0, 2.0]], "B": [[4.0]], "C": [[3.0], [2.0], [3.1]]}
    arrays = open_arrays(make_slices(tmp_path / "x.slices", radii))
    place = list(zip(arrays.patient.tolist(), arrays.session.tolist(), arrays.source_slice.tolist(), strict=True))
    area = arrays.tumour.sum(axis=(1, 2))
    wanted = {
        (i, j)
        for i, j in product(range(len(place)), repeat=2)
        if place[i][0] == place[j][0]
        and place[i][2] == place[j][2]
        and place[i][1] < place[j][1]
        and area[i] > 0
        and 0.7 <= area[j] / area[i] <= 5.0
    }
    found = find_pairs(arrays, np.ones(3, np.bool_))
    assert {tuple(pair) for pair in found.tolist()} == wanted
    assert len(found) == len(wanted) == 5
    assert not len(find_pairs(arrays, np.array([False, True, False])))


def test_every_patient_weighs_the_same(make_slices: Callable[..., Path], tmp_path: Path) -> None:
    pool = pool_of(make_slices(tmp_path / "x.slices", {"many": [[3.0] * 4] * 4, "one": [[4.0], [4.0]]}))
    assert len(pool.earlier) == 24 + 1
    sizes = pool.draw(draws(1000), augmented=False).outline.sum(dim=(1, 2))
    assert (sizes == sizes.max()).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_without_augmentation_a_batch_is_two_scans_of_one_slice(small_slices: Path) -> None:
    pool = pool_of(small_slices)
    batch = pool.draw(draws(32), augmented=False)
    assert batch.images.shape == (32, 2, 16, 16)
    assert torch.equal(batch.outline, (batch.images[:, 0] > 0.5).float())
    ratio = batch.later.sum(dim=(1, 2)) / batch.outline.sum(dim=(1, 2))
    assert torch.allclose(batch.log_ratio, ratio.log())
    assert ratio.min() > 1
    assert (batch.later >= batch.outline).all()


def test_a_pair_is_moved_as_one_and_measured_afterwards(small_slices: Path) -> None:
    batch = pool_of(small_slices).draw(draws(64), augmented=True)
    bright = (batch.images[:, 0] > 0.45).float()
    right = [(a == b).all() for a, b in zip(bright, batch.outline, strict=True)]
    inside = (batch.later >= batch.outline).flatten(1).float().mean(dim=1)
    assert inside.min() > 0.93  # a misdrawn outline can be a pixel wider
    assert sum(inside == 1) > 55
    assert len({round(float(batch.outline[k].sum())) for k in range(64)}) > 10, "every pair is scaled on its own"
    assert sum(right) > 0
    areas = [mask.sum(dim=(1, 2)) for mask in (batch.outline, batch.later)]
    assert torch.allclose(batch.log_ratio, torch.log(areas[1].clamp(min=1) / areas[0].clamp(min=1)))


def test_a_share_of_the_outlines_is_a_pixel_off() -> None:
    outline = torch.zeros(1000, 12, 12)
    outline[:, 4:8, 4:8] = 1
    outline[:500, 4:8, 4:8] = 0
    outline[:500, 5, 5] = 1  # of one pixel: it would be eroded to nothing
    sizes = perturb_outlines(outline, 0.2, draws(1000)).sum(dim=(1, 2))
    assert set(sizes[:500].tolist()) == {1.0, 9.0}
    assert set(sizes[500:].tolist()) == {4.0, 16.0, 36.0}
    assert (sizes[500:] != 16).float().mean().item() == pytest.approx(0.2, abs=0.05)


def test_the_loss_is_the_weighted_one_of_brain_pixels() -> None:
    """Against the definition, pixel by pixel."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 5, 5))
    outline, later, brain = (random.random((3, 2, 5, 5)) < 0.5).astype(float)
    weights = entropy = overlap = total = 0.0
    for n, i, j in product(range(2), range(5), range(5)):
        weight = brain[n, i, j] * (WEIGHT_INSIDE if outline[n, i, j] else 1.0)
        p, y = 1 / (1 + math.exp(-logits[n, i, j])), later[n, i, j]
        weights += weight
        entropy -= weight * (y * math.log(p) + (1 - y) * math.log(1 - p))
        overlap += weight * p * y
        total += weight * (p + y)
    wanted = entropy / weights + 1 - (2 * overlap + 1) / (total + 1)
    parts = (torch.from_numpy(part).float() for part in (outline, later, brain))
    batch = PairBatch(torch.zeros(2, 1, 5, 5), *parts, log_ratio=torch.zeros(2))
    assert progression_loss(torch.from_numpy(logits).float(), batch).item() == pytest.approx(wanted, rel=1e-5)


def test_a_cohort_without_pairs_is_refused(make_slices: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_slices(tmp_path / "x.slices", {"A": [[2.0], [7.0]], "B": [[3.0]]})
    with pytest.raises(InputError, match=r"0\.7 to 5 times"):
        train(NetworkKind.SLICE_PROGRESSION, folder, tmp_path / "run", TrainSettings(steps=1))
