"""The prepared grid and the way home: exact at 1 mm, in any orientation."""

import itertools
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tumorcast.data.imaging.geometry import Grid, Interpolation, PlaneAxis, PreparedGrid, canonical, to_source_grid

SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


def grid_of(direction: np.ndarray, size=(7, 9, 5), spacing=(1.0, 1.0, 1.0)) -> Grid:
    return Grid(size, spacing, (-3.0, 20.0, 7.5), tuple(float(value) for value in direction.ravel()))


def labels_on(grid: Grid, seed: int = 0) -> sitk.Image:
    return grid.image(np.random.default_rng(seed).integers(0, 4, grid.size[::-1]).astype(np.uint8))


def there_and_home(image: sitk.Image, interpolation: Interpolation = Interpolation.NEAREST) -> sitk.Image:
    grid = Grid.of(image)
    upright = sitk.GetArrayFromImage(canonical(image))
    stack = PreparedGrid.over(grid, 256).sample(upright).astype(upright.dtype)
    return to_source_grid(stack, np.arange(len(upright)), grid, interpolation=interpolation)


@pytest.mark.parametrize("direction", SIGNED_PERMUTATIONS)
@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_flipped_and_permuted_labels_come_home_exactly(direction: np.ndarray, interpolation: Interpolation) -> None:
    image = labels_on(grid_of(direction))
    home = there_and_home(image, interpolation)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(home), sitk.GetArrayFromImage(image))
    assert Grid.of(home) == Grid.of(image)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@example((0.0, 0.25, 0.25, 0.375), (1, 2, 2), 1.0, False)  # a tie of axes: an orientation code leads home wrongly
@given(
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.floats(0.5, 6.0),
    st.booleans(),
)
def test_oblique_labels_come_home_exactly(quaternion, size, thickness: float, mirrored: bool) -> None:
    direction = Rotation.from_quat(quaternion).as_matrix() * ([1, 1, -1] if mirrored else [1, 1, 1])
    # 1 mm in the plane of slices, whichever source axes that is: the third LPS axis may be any of them
    third = int(np.argmax(np.abs(direction[2])))
    spacing = tuple(thickness if axis == third else 1.0 for axis in range(3))
    image = labels_on(grid_of(direction, size, spacing))
    if Grid.of(canonical(image)).spacing[:2] != (1.0, 1.0):
        return  # ITK settled a near tie of axes otherwise; the pixels are then not 1 mm
    home = there_and_home(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(home), sitk.GetArrayFromImage(image))
    assert Grid.of(home) == Grid.of(image)


def test_an_even_or_odd_margin_is_whole_pixels() -> None:
    for count in (239, 240, 241, 256, 300):
        weights = PlaneAxis.over(count, 1.0, 256).weights()
        assert set(np.unique(weights)) <= {0.0, 1.0}
        assert weights.sum() == min(count, 256)


@given(st.integers(8, 400), st.floats(0.3, 6.0), st.sampled_from([64, 128, 256]))
def test_weights_are_averages(count: int, spacing: float, image_size: int) -> None:
    axis = PlaneAxis.over(count, spacing, image_size)
    weights = axis.weights()
    assert weights.min() >= 0
    assert weights.sum(axis=1).max() <= 1 + 1e-4
    edges = axis.start + np.arange(image_size + 1) * axis.scale
    inside = (edges[:-1] >= 0.5) & (edges[1:] <= count - 0.5)
    np.testing.assert_allclose(weights[inside].sum(axis=1), 1.0, atol=1e-4)


@given(st.floats(0.4, 4.0), st.sampled_from([64, 128, 256]))
def test_down_sampling_keeps_the_area(spacing: float, image_size: int) -> None:
    if 256 / image_size < spacing:
        return
    grid = grid_of(np.eye(3), (60, 50, 1), (spacing, spacing, 1.0))
    shape = np.zeros((1, 50, 60), np.float32)
    shape[0, 15:35, 20:45] = 1
    plane = PreparedGrid.over(grid, image_size)
    pixel = (plane.rows.scale * spacing) * (plane.columns.scale * spacing)
    assert plane.sample(shape).sum() * pixel == pytest.approx(shape.sum() * spacing**2, rel=1e-4)


@pytest.mark.parametrize("image_size", [64, 128, 256])
@pytest.mark.parametrize("direction", [SIGNED_PERMUTATIONS[k] for k in (0, 5, 17, 30, 46)])
def test_affine_puts_a_point_where_the_source_has_it(direction: np.ndarray, image_size: int) -> None:
    """The centre of mass of a bright block, in RAS mm, is the same in both grids."""
    grid = grid_of(direction, (40, 44, 48))
    volume = np.zeros(grid.size[::-1], np.float32)
    volume[20:28, 12:20, 16:24] = 1
    source = (grid.affine() @ [19.5, 15.5, 23.5, 1.0])[:3]
    plane = PreparedGrid.over(grid, image_size)
    stack = plane.sample(sitk.GetArrayFromImage(canonical(grid.image(volume))))
    z, y, x = np.meshgrid(*(np.arange(n) for n in stack.shape), indexing="ij")
    centre = [float((axis * stack).sum() / stack.sum()) for axis in (x, y, z)]
    np.testing.assert_allclose((plane.affine() @ [*centre, 1.0])[:3], source, atol=1e-3)


def test_affine_is_what_nibabel_reads(tmp_path) -> None:
    grid = grid_of(Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix())
    sitk.WriteImage(labels_on(grid), str(tmp_path / "a.nii"))
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii").affine, grid.affine(), atol=1e-4)


def test_coarse_maps_come_home_smoothly_and_stop_at_the_field_of_view() -> None:
    grid = grid_of(np.eye(3), (300, 240, 2))
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32), (1, 64, 64))
    home = sitk.GetArrayFromImage(to_source_grid(ramp, np.array([1]), grid, outside=-7.0))
    assert (home[0] == -7).all()
    assert (home[1, :, :22] == -7).all()
    assert (home[1, :, 278:] == -7).all()
    np.testing.assert_allclose(np.diff(home[1, 0, 30:270]), 0.25, atol=1e-5)


def test_grid_survives_json() -> None:
    grid = grid_of(np.eye(3))
    assert Grid.from_dict(grid.as_dict()) == grid


def test_grids_of_one_size_are_told_apart() -> None:
    grid = Grid((2, 3, 4), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    assert grid.distance_mm(grid) == 0.0
    assert grid.distance_mm(replace(grid, spacing=(1.0, 2.0, 3.5))) == pytest.approx(1.5)
    assert math.isinf(grid.distance_mm(replace(grid, size=(2, 3, 5))))
