"""A scan on cubic voxels: exact where it is so already, and of the same volume and place where it is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.data.grey import from_grey
from tumorcast.data.imaging.brain_mask import Window
from tumorcast.data.imaging.geometry import Grid
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
