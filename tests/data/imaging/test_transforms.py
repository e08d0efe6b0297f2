"""Masks on other grids: of voxels of unlike sizes none moves by half a voxel."""

import numpy as np
import pytest

from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.transforms import resample_mask


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("factor", [(2, 2, 2), (4, 4, 4), (1, 1, 2), (1, 3, 4)])
def test_a_mask_between_voxels_of_unlike_sizes_stays_in_its_place(factor: tuple[int, int, int]) -> None:
    """Both grids begin at one voxel's middle, so that of an even factor voxels lie halfway between two."""
    straight = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    fine = Grid(tuple(24 * side for side in factor), (1.0, 1.0, 1.0), (5.0, -3.0, 2.0), straight)
    coarse = Grid((24, 24, 24), tuple(map(float, factor)), fine.origin, straight)
    z, y, x = np.indices((24, 24, 24))
    labels = np.where(np.hypot(np.hypot(z - 11, y - 10), x - 12) < 6, np.where(x < 12, 1, 3), 0).astype(np.uint8)
    moved = resample_mask(labels, coarse, fine)
    back = resample_mask(moved, fine, coarse)
    whole = np.prod(factor)
    for label in (1, 3):
        assert (moved == label).sum() == pytest.approx(whole * (labels == label).sum(), rel=0.1)
        assert dice(back == label, labels == label) > 0.97
    centre = [np.argwhere(found > 0).mean(axis=0) for found in (labels, moved)]
    assert np.abs(centre[1] - centre[0] * factor[::-1]).max() < 0.1
    assert (moved > 0).sum() == pytest.approx(whole * (labels > 0).sum(), abs=1)
    assert (back > 0).sum() == pytest.approx((labels > 0).sum(), abs=1)
