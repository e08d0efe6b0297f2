"""Which voxels a mask takes of those that it fills in part: the fullest, and of those alike none for its place."""

import numpy as np
import pytest

from tumorcast.data.imaging.shares import largest_shares


def halved(mask: np.ndarray) -> np.ndarray:
    """The share of each block of two voxels to every side."""
    shape = [part for side in mask.shape for part in (side // 2, 2)]
    return np.asarray(mask.reshape(shape).mean(axis=tuple(range(1, 2 * mask.ndim, 2))), np.float32)


@pytest.mark.parametrize("ends", [(3, 14, 20), (5, 12, 34), (1, 38, 39)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_fullest_are_taken_and_the_middle_stays(ends: tuple[int, int, int], dimensions: int) -> None:
    mask = np.zeros((40,) * dimensions, bool)
    first, past, other = ends
    mask[(slice(first, past), *[slice(first, other)] * (dimensions - 1))] = True
    share, count = halved(mask), round(mask.sum() / 2**dimensions)
    taken = largest_shares(share, count)
    assert taken.sum() == count and share[taken].min() >= share[~taken].max()
    apart = 2 * np.argwhere(taken).mean(axis=0) + 0.5 - np.argwhere(mask).mean(axis=0)
    assert np.abs(apart).max() < 0.2  # a tenth of a voxel


def test_a_whole_mask_comes_through_and_too_many_are_all() -> None:
    mask = np.random.default_rng(2).random((30, 30, 30)) < 0.4
    np.testing.assert_array_equal(largest_shares(mask.astype(np.float32), int(mask.sum())), mask)
    np.testing.assert_array_equal(largest_shares(mask.astype(np.float32), mask.size), mask)
    assert not largest_shares(np.zeros((3, 3), np.float32), 4).any()


def test_a_large_tie_is_shared_out_too() -> None:
    """More than are chosen one by one: a rim of thousands."""
    share = np.full((40, 40, 40), 0.5, np.float32)
    share[2:-2, 2:-2, 2:-2] = 1.0
    taken = largest_shares(share, 36**3 + 8000)
    assert np.abs(np.argwhere(taken).mean(axis=0) - 19.5).max() < 0.01
