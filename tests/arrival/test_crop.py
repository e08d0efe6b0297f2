"""The box round a tumour: it holds what it should, and what is taken out goes back."""

import numpy as np

from tumorcast.arrival.crop import LEAST_SIDES, Crop, signed_distance_mm


def test_a_cut_goes_back_where_it_was_also_at_the_edge() -> None:
    rng = np.random.default_rng(1)
    volume = rng.random((30, 90, 70)).astype(np.float32)
    tumour = np.zeros(volume.shape, bool)
    tumour[0:4, 80:90, 0:5] = True
    crop = Crop.round(tumour, 2.0)
    assert crop.sides == LEAST_SIDES and crop.start[0] < 0
    assert crop.cut(tumour).sum() == tumour.sum()
    back = crop.put_back(crop.cut(volume, -1.0), -5.0)
    inside = crop.put_back(np.ones(crop.sides, bool), False)
    np.testing.assert_array_equal(back[inside], volume[inside])
    assert (back[~inside] == -5.0).all()


def test_the_box_grows_with_the_tumour_in_steps_of_eight() -> None:
    tumour = np.zeros((120, 120, 120), bool)
    tumour[10:110, 50:60, 50:60] = True
    assert Crop.round(tumour, 2.0).sides == (120, 64, 64)
    assert Crop.round(tumour[:, :, 40:], 1.0).sides == (120, 64, 64)


def test_distances_are_negative_within() -> None:
    tumour = np.zeros((1, 1, 7), bool)
    tumour[..., 2:5] = True
    np.testing.assert_array_equal(signed_distance_mm(tumour, 2.0)[0, 0], [4, 2, -2, -4, -2, 2, 4])


def test_the_box_goes_its_margin_beyond_the_tumour_or_to_the_end_of_the_volume() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        shape = rng.integers(40, 130, 3)
        tumour = np.zeros(shape, bool)
        first = [int(rng.integers(0, side)) for side in shape]
        past = [int(rng.integers(start + 1, side + 1)) for start, side in zip(first, shape, strict=True)]
        tumour[tuple(slice(*ends) for ends in zip(first, past, strict=True))] = True
        crop = Crop.round(tumour, 2.0)
        for axis in range(3):
            assert crop.start[axis] <= max(first[axis] - 10, 0)
            assert crop.start[axis] + crop.sides[axis] >= min(past[axis] + 10, shape[axis])
            assert crop.sides[axis] % 8 == 0 and crop.sides[axis] < max(shape[axis], LEAST_SIDES[axis]) + 8
