"""Masks of the brain and the scaling of intensities; the inside of the skull, by a rule, on a drawn head."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tumorcast.data.imaging.brain_mask import BrainMask, Window, brain_mask, intracranial, otsu, resolve, window_of
from tumorcast.records import Contrast


def test_nonzero_mask_joins_contrasts_and_fills_holes(make_phantom) -> None:
    t1, flair = make_phantom("t1n").astype(np.float32), make_phantom("t2f").astype(np.float32)
    brain = t1 > 0
    t1[3, 18:20, 18:20] = 0  # a ventricle that is dark in both
    flair[3, 18:20, 18:20] = 0
    flair[:, :10] = 0
    images = {Contrast.T1N: t1, Contrast.T2F: flair}
    assert resolve(BrainMask.AUTO, images) is BrainMask.NONZERO
    np.testing.assert_array_equal(brain_mask(images, BrainMask.AUTO), brain)


def test_a_hole_that_opens_to_the_border_of_the_slice_stays_open() -> None:
    volume = np.zeros((4, 20, 20), np.float32)
    volume[1:3, 5:15, 5:15] = 1
    volume[1, 8:12, 8:12] = 0
    volume[2, 5:10, 9:11] = 0
    volume[3, (0, -1)] = 1  # what lies between these bars opens to the left and to the right alone
    volume[3, :, 10] = 1
    mask = brain_mask({Contrast.T1C: volume}, BrainMask.NONZERO)
    assert [int(one.sum()) for one in mask] == [0, 100, 90, 58]


def test_a_head_in_noise_is_found(make_phantom) -> None:
    rng = np.random.default_rng(3)
    head = make_phantom("t1c").astype(np.float32)
    noisy = head + np.abs(rng.normal(0, 12, head.shape)).astype(np.float32)
    images = {Contrast.T1C: noisy}
    assert resolve(BrainMask.AUTO, images) is BrainMask.HEAD
    np.testing.assert_array_equal(brain_mask(images, BrainMask.AUTO), head > 0)


def test_bright_fat_round_a_dim_brain_does_not_cost_the_brain() -> None:
    z, y, x = np.mgrid[:6, -24:24, -24:24]
    radius = np.hypot(x, y) + 0 * z
    rng = np.random.default_rng(0)
    head = np.where(radius < 15, 400.0, np.where(radius < 17, 60.0, np.where(radius < 20, 1600.0, 0.0)))
    head[:, :, 15:20] = np.where((np.abs(y) < 2)[:, :, 15:20], 60.0, head[:, :, 15:20])  # the skull opens to the air
    head[:, 22:27, :8] = np.where(radius[:, 22:27, :8] < 20, 60.0, 0.0)
    noisy = (head + np.abs(rng.normal(0, 15, head.shape))).astype(np.float32)
    mask = brain_mask({Contrast.T1C: noisy}, BrainMask.HEAD)
    assert mask[radius < 14].mean() > 0.99


def test_otsu_splits_two_peaks() -> None:
    rng = np.random.default_rng(0)
    volume = np.r_[rng.normal(10, 1, 3000), rng.normal(50, 3, 2000)]
    assert 13 < otsu(volume) < 41


@pytest.mark.parametrize("background", [0.0, 100.0])
def test_otsu_splits_off_a_few_voxels_from_one_value(background: float) -> None:
    volume = np.full(2000, background)
    volume[:3] = 400.0
    assert background < otsu(volume) < 400.0


@given(st.lists(st.integers(0, 4096), min_size=2, max_size=60), st.floats(0.01, 100), st.floats(-50, 50))
def test_scaling_does_not_depend_on_gain_and_offset(values: list[int], gain: float, offset: float) -> None:
    volume = np.array(values, np.float64)
    brain = np.ones(volume.shape, bool)
    window = window_of(volume, brain)
    if len(set(values)) == 1:
        assert window is None
        return
    other = window_of(gain * volume + offset, brain)
    assert window is not None
    assert other is not None
    scaled = window.scale(volume, brain)
    np.testing.assert_allclose(other.scale(gain * volume + offset, brain), scaled, atol=1e-4)
    assert scaled.dtype == np.float32
    assert np.abs(scaled).max() <= 1
    assert (np.diff(scaled[np.argsort(volume)]) >= 0).all()


def test_scaling_ignores_a_few_wild_voxels_and_what_is_outside(make_phantom) -> None:
    volume = make_phantom("t1n").astype(np.float32)
    brain = volume > 0
    window = window_of(volume, brain)
    wild = volume.copy()
    wild[3, 18, 18] = 30_000
    wild[0, 0, 0] = 30_000
    assert window is not None
    assert window_of(wild, brain).high == pytest.approx(window.high, rel=0.01)
    assert (window.scale(wild, brain)[~brain] == -1).all()


def test_percentiles_become_the_ends() -> None:
    volume = np.arange(1001.0)
    assert window_of(volume, volume >= 0) == Window(5.0, 995.0)
    assert window_of(np.full(9, 4.0), np.ones(9, bool)) is None
    assert window_of(volume, volume < 0) is None


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
