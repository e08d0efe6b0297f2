"""The inside of the skull, by a rule: what it keeps and what it leaves out, on a drawn head."""

import numpy as np
import pytest

from tumorcast.data.imaging.intracranial import intracranial


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, ...]:
    """(Z, Y, X) intensities of skin, bone and brain with a cavity and a bright tumour; brain, tumour and head."""
    y, x = np.mgrid[:160, :160] - 80.0
    radius = np.hypot(x, 1.1 * y)
    plane = np.zeros((160, 160), np.float32)
    plane[radius < 74] = 260.0  # skin and fat
    plane[radius < 68] = 15.0  # bone
    brain = radius < 62
    plane[brain] = 100.0
    plane[np.hypot(x + 25, y) < 5] = 5.0  # a cavity
    tumour = np.hypot(x - 54, y) < 7  # at the brain's edge
    plane[tumour & brain] = 190.0
    noise = np.random.default_rng(0).normal(0, 4, (4, 160, 160)).astype(np.float32)
    return (
        np.clip(plane + noise, 0, None),
        np.stack([brain] * 4),
        np.stack([tumour & brain] * 4),
        np.stack([radius < 74] * 4),
    )


def test_bone_and_skin_are_left_out_and_the_tumour_kept(head: tuple[np.ndarray, ...]) -> None:
    volume, brain, tumour, skin = head
    found = intracranial(volume, skin)
    overlap = 2 * (found & brain).sum() / (found.sum() + brain.sum())
    assert overlap > 0.95
    assert (found & tumour).sum() > 0.95 * tumour.sum()
    assert found[:, 80, 55].all()  # the cavity is inside


def test_where_nothing_is_found_the_head_is_taken() -> None:
    head = np.zeros((2, 40, 40), bool)
    head[:, 18:22, 18:22] = True  # too small for the bridge to be cut
    np.testing.assert_array_equal(intracranial(np.where(head, 100.0, 0.0).astype(np.float32), head), head)
