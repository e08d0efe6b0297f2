"""A scan on cubic voxels: exact where it is so already, and of the same volume and place where it is not."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.archive.nifti import CubicPlacement, Space
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.data.grey import from_grey
from tumorcast.data.imaging.brain_mask import Window
from tumorcast.data.imaging.geometry import AxisOrder, Grid, Interpolation
from tumorcast.data.readers.volumes import Scan
from tumorcast.data.session_volume import doubts_of, volume_of
from tumorcast.errors import InputError
from tumorcast.records import Contrast, Session

WINDOW = Window(0.0, 100.0)


def scan_of(labels: np.ndarray, spacing: tuple[float, float, float]) -> Scan:
    """A scan whose T1C is 50 in the brain, and 90 in the tumour. spacing: x, y, z."""
    depth, height, width = labels.shape
    grid = Grid((width, height, depth), spacing, (-10.0, 20.0, 30.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    brain = np.zeros(labels.shape, bool)
    brain[2:-2, 3:-3, 3:-3] = True
    image = np.where(labels > 0, 90.0, np.where(brain, 50.0, 0.0)).astype(np.float32)
    numbers = np.arange(depth, dtype=np.int64)
    return Scan(
        Contrast.T1C, {Contrast.T1C: image}, {Contrast.T1C: grid}, labels, Contrast.T1C, numbers, {}, (),
        brains={Contrast.T1C: brain},
    )  # fmt: skip


def labelled(shape: tuple[int, int, int]) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    z, y, x = (side // 3 for side in shape)
    labels[z : 2 * z, y : 2 * y, x : 2 * x] = 2
    labels[z : z + 2, y : y + 3, x : x + 3] = 3
    return labels


def test_cubic_voxels_of_the_right_size_come_through_untouched() -> None:
    scan = scan_of(labelled((20, 24, 24)), (2.0, 2.0, 2.0))
    volume = volume_of(scan, scan.brain, {Contrast.T1C: WINDOW}, 2.0)
    np.testing.assert_array_equal(volume.labels, scan.labels)
    np.testing.assert_array_equal(volume.brain, scan.brain)
    np.testing.assert_allclose(from_grey(volume.images)[0][scan.brain][0], 0.0, atol=0.005)
    np.testing.assert_allclose(volume.affine, scan.grid.affine())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 1.5), (1.2, 0.9, 5.0), (3.0, 3.0, 2.5)])
def test_tumours_keep_their_volume_and_place(spacing: tuple[float, float, float]) -> None:
    labels = labelled((30, 60, 60) if spacing[2] > 2 else (60, 60, 60))
    scan = scan_of(labels, spacing)
    volume = volume_of(scan, scan.brain, {Contrast.T1C: WINDOW}, 2.0)
    true_mm3 = float((labels > 0).sum() * np.prod(spacing))
    assert volume.volume_mm3 == pytest.approx(true_mm3, rel=0.02)
    assert volume.voxel_mm == pytest.approx(2.0) and volume.coarsest_mm == max(spacing)
    centres = []
    for mask, affine in ((labels > 0, scan.grid.affine()), (volume.tumour, volume.affine)):
        centres.append((affine @ [*np.argwhere(mask).mean(axis=0)[::-1], 1.0])[:3])
    np.testing.assert_allclose(centres[0], centres[1], atol=0.6)
    enhancing_mm3 = float((labels == 3).sum() * np.prod(spacing))
    assert (volume.labels == 3).sum() * 8.0 == pytest.approx(enhancing_mm3, rel=0.5, abs=40)


OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)  # as RAS


def half_full_box(factor: tuple[int, int, int]) -> np.ndarray:
    """All round, its last voxels fill one half of a voxel so many times as large, x, y, z."""
    labels = np.zeros((72, 72, 72), np.uint8)
    labels[tuple(slice(3 * k + k // 2, (5 + n) * k + k // 2) for n, k in enumerate(factor[::-1], 1))] = 3
    return labels


def ellipsoid(factor: tuple[int, int, int]) -> np.ndarray:
    z, y, x = np.indices((72, 72, 72))
    inside = ((z - 32.3) / 14) ** 2 + ((y - 35.1) / 19) ** 2 + ((x - 33.8) / 12) ** 2 < 1
    return np.where(inside, 3, 0).astype(np.uint8)


def centre_of(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The middle of a mask (Z, Y, X) in mm."""
    return np.asarray((affine @ [*np.argwhere(mask).mean(axis=0)[::-1], 1.0])[:3])


@pytest.mark.parametrize("shape_of", [half_full_box, ellipsoid])
@pytest.mark.parametrize(
    ("spacing", "voxel_mm"),
    [
        ((1.0, 1.0, 1.0), 2.0),
        ((1.0, 1.0, 1.0), 4.0),
        ((1.0, 1.0, 2.0), 2.0),
        ((0.5, 0.5, 1.0), 2.0),
        ((1.0, 1.0, 4.0), 2.0),
        ((2.0, 2.0, 2.0), 1.0),
    ],
)
def test_a_mask_stays_in_its_place_also_from_the_scan_to_exported_maps(
    spacing: tuple[float, float, float], voxel_mm: float, shape_of: Callable[..., np.ndarray]
) -> None:
    """Of voxels that are half full all round, one side is not taken before the other: a tenth of a voxel is left."""
    labels = shape_of(tuple(max(round(voxel_mm / side), 1) for side in spacing))
    for direction in (OBLIQUE, FLIPPED):
        scan = scan_of(labels, spacing)
        grid = replace(scan.grid, direction=direction)
        lps = grid.canonical()
        scan = replace(scan, grids={Contrast.T1C: grid}, labels=AxisOrder.between(grid, lps).voxels(labels))
        volume = volume_of(scan, scan.brain, {Contrast.T1C: WINDOW}, voxel_mm)
        true = centre_of(labels > 0, grid.affine())
        assert np.linalg.norm(centre_of(volume.tumour, volume.affine) - true) < 0.1 * voxel_mm
        place = CubicPlacement(Grid.from_affine(volume.affine, volume.tumour.shape[::-1]), volume.tumour | True, grid)
        for space, interpolation in product(Space, Interpolation):
            kind = np.float32 if interpolation is Interpolation.LINEAR else np.uint8
            image = place.volume(space, volume.tumour.astype(kind), 0.0, interpolation)
            values = sitk.GetArrayFromImage(image)
            found = np.average(np.argwhere(values > 0), axis=0, weights=values[values > 0])[::-1]
            at = Grid.of(image).affine() @ [*found, 1.0]
            assert np.linalg.norm(at[:3] - true) < 0.1 * max(voxel_mm, *spacing)


def test_the_first_plane_of_thick_slices_is_as_bright_as_the_others() -> None:
    scan = scan_of(labelled((20, 24, 24)), (2.0, 2.0, 6.0))
    everywhere = np.zeros((20, 24, 24), bool)
    everywhere[:, 3:-3, 3:-3] = True
    filled = replace(scan, images={Contrast.T1C: np.where(everywhere, np.float32(50.0), np.float32(0.0))})
    volume = volume_of(filled, everywhere, {Contrast.T1C: WINDOW}, 2.0)
    middle = volume.images[0][:, 12, 12]
    assert middle.min() == middle.max() == 128 and volume.brain[[0, -1], 12, 12].all()


def test_thick_slices_and_a_tumour_at_the_edge_are_told() -> None:
    thick = scan_of(labelled((20, 24, 24)), (1.0, 1.0, 5.0))
    volume = volume_of(thick, thick.brain, {Contrast.T1C: WINDOW}, 2.0)
    assert doubts_of(volume) == ["slices 5 mm apart: between them the volume is interpolated"]
    labels = labelled((20, 24, 24))
    labels[-1, 10, 10] = 1
    cut = scan_of(labels, (2.0, 2.0, 2.0))
    (doubt,) = doubts_of(volume_of(cut, cut.brain, {Contrast.T1C: WINDOW}, 2.0))
    assert "reaches the edge of the scan" in doubt


def test_a_cohort_keeps_volumes_and_tells_of_damaged_ones(blob: Callable[..., Session], tmp_path: Path) -> None:
    scan = scan_of(labelled((20, 24, 24)), (2.0, 2.0, 2.0))
    volume = volume_of(scan, scan.brain, {Contrast.T1C: WINDOW}, 2.0)
    path = tmp_path / "cohort.h5"
    sessions = [replace(blob("A", "000", 0.0, 5.0, 1), volume=volume), blob("A", "001", 30.0, 6.0, 1)]
    contrasts = (Contrast.T1N,)
    write_cohort(path, sessions, {}, image_size=64, contrasts=contrasts, config={})
    with Cohort.open(path) as cohort:
        kept = cohort.volume("A", "000")
        assert cohort.keeps_volumes and kept is not None and cohort.volume("A", "001") is None
        for name in ("images", "labels", "brain", "affine", "coarsest_mm"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(volume, name))
    with h5py.File(path, "r+") as file:
        del file["patients/A/000/volume/brain"]
        file["patients/A/000/volume/brain"] = np.zeros((2, 2, 2), bool)
    with Cohort.open(path) as cohort, pytest.raises(InputError, match=r"volume of A, session 000 .*brain is 2 x 2 x 2"):
        cohort.volume("A", "000")
