"""What lies outside the tumour is bent onto the first scan; the tumour's own change stays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from tumorcast.data.cohort import Cohort
from tumorcast.data.deformation import MARGIN_MM, deformation_between
from tumorcast.data.geometry import Interpolation
from tumorcast.data.prepare import PrepareSettings, Register, SliceChoice, prepare_cohort
from tumorcast.data.quality import judge_bend
from tumorcast.data.registration import Picture, one_thread
from tumorcast.data.transforms import Displacement, carried

WITHIN = 0.02  # of the tumour's true volume


def warped(picture: Picture, largest_mm: float, *, tumour: float = 0.0) -> tuple[Picture, Displacement]:
    """A scan in which the brain has moved by a smooth field, but not within 24 mm of its tumour, and the way there.

    tumour: that much of the tumour's surroundings is pushed away by its growth, mm.
    """
    grid, rng = picture.grid, np.random.default_rng(3)
    vectors = np.stack([ndimage.gaussian_filter(rng.standard_normal(grid.size[::-1]), 5.0) for _ in range(3)], axis=-1)
    away = ndimage.distance_transform_edt(~picture.tumour, grid.spacing[::-1])
    vectors *= (largest_mm / np.linalg.norm(vectors, axis=-1).max()) * np.clip((away - 24) / 12, 0, 1)[..., None]
    back = Displacement(vectors.astype(np.float32), grid)
    masks = (
        sitk.GetArrayFromImage(
            carried(grid.image(m.astype("u1")), grid, np.eye(4), back, interpolation=Interpolation.NEAREST)
        )
        > 0
        for m in (picture.brain, picture.tumour)
    )
    return Picture(carried(picture.image, grid, np.eye(4), back), *masks), back.inverse()


def vectors_at(field: Displacement, points: np.ndarray) -> np.ndarray:
    """(N, 3) displacements at points (N, 3), RAS mm."""
    way = field.transform()
    lps = points * [-1.0, -1.0, 1.0]
    return np.array([way.TransformPoint(point) for point in lps.tolist()]) - lps


@pytest.fixture(scope="module")
def bent(phantom: Callable) -> tuple[Picture, Picture, Displacement, Displacement]:
    """A first scan, one in which the tumour has grown and the brain moved by up to 6 mm, and the true and found way."""
    fixed, grown = phantom(tumour_mm=12.0), phantom(tumour_mm=20.0)
    moving, true = warped(grown, 6.0)
    with one_thread():
        return fixed, moving, true, deformation_between(fixed, moving, np.eye(4))


def test_the_surroundings_are_bent_back(bent: tuple[Picture, Picture, Displacement, Displacement]) -> None:
    fixed, moving, true, found = bent
    points = fixed.brain_points()
    wanted, got = (vectors_at(field, points) for field in (true, found))
    moves = np.linalg.norm(wanted, axis=1) > 2.0
    assert moves.sum() > 100
    off = np.linalg.norm(got - wanted, axis=1)[moves]
    assert off.mean() < 0.6 * np.linalg.norm(wanted, axis=1)[moves].mean()
    with one_thread():
        bend = judge_bend(fixed, moving, np.eye(4), found)
    assert bend.kept and bend.nmi_deformed > bend.nmi_rigid and bend.least_jacobian > 0.5


def test_the_tumour_keeps_its_growth(bent: tuple[Picture, Picture, Displacement, Displacement]) -> None:
    """The tumour that has grown keeps its volume, and even its voxels; nothing within the margin of it moves."""
    fixed, moving, _, found = bent
    image = moving.grid.image(moving.tumour.astype(np.uint8))
    placed = carried(image, fixed.grid, np.eye(4), found, interpolation=Interpolation.NEAREST)
    after = sitk.GetArrayFromImage(placed) > 0
    assert moving.tumour.sum() > 3 * fixed.tumour.sum()
    assert after.sum() == pytest.approx(moving.tumour.sum(), rel=WITHIN)
    np.testing.assert_array_equal(after, moving.tumour)
    near = ndimage.distance_transform_edt(~moving.tumour, fixed.grid.spacing[::-1]) < MARGIN_MM - 7.0
    points = np.argwhere(near)[:, ::-1]
    world = (np.c_[points, np.ones(len(points))] @ fixed.grid.affine().T)[:, :3]
    assert np.abs(vectors_at(found, world)).max() == 0.0


def test_a_tumour_that_pushes_is_not_pushed_back(phantom: Callable) -> None:
    """Mass effect round a grown tumour: an unhindered field would carry the tumour's edge back to the first outline."""
    fixed, grown = phantom(tumour_mm=12.0), phantom(tumour_mm=12.0)
    grid, centre = grown.grid, np.array([10.0, -20.0, 25.0])
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * 4.0 for n in grid.size[::-1]), indexing="ij")
    offset = np.stack([x, y, z], axis=-1) - centre[::-1]
    radius = np.linalg.norm(offset, axis=-1, keepdims=True)
    pushed = -offset / np.maximum(radius, 1.0) * 5.0 * np.exp(-(((radius - 14) / 14) ** 2))
    push = Displacement(pushed.astype(np.float32), grid)
    masks = (
        sitk.GetArrayFromImage(
            carried(grid.image(m.astype("u1")), grid, np.eye(4), push, interpolation=Interpolation.NEAREST)
        )
        > 0
        for m in (grown.brain, grown.tumour)
    )
    moving = Picture(carried(grown.image, grid, np.eye(4), push), *masks)
    assert moving.tumour.sum() > 1.5 * fixed.tumour.sum()
    with one_thread():
        found = deformation_between(fixed, moving, np.eye(4))
    image = carried(grid.image(moving.tumour.astype("u1")), grid, np.eye(4), found, interpolation=Interpolation.NEAREST)
    assert (sitk.GetArrayFromImage(image) > 0).sum() == pytest.approx(moving.tumour.sum(), rel=WITHIN)


def test_a_scan_that_did_not_change_is_hardly_bent(phantom: Callable) -> None:
    fixed = phantom(tumour_mm=12.0)
    noisy = fixed.image + sitk.Cast(sitk.AdditiveGaussianNoise(fixed.image * 0, 15.0, 0.0, 1), fixed.image.GetPixelID())
    with one_thread():
        found = deformation_between(fixed, Picture(noisy, fixed.brain, fixed.tumour), np.eye(4))
    assert found.largest_mm() < 1.0


def test_an_unknown_tumour_is_an_error(phantom: Callable) -> None:
    picture = phantom()
    with pytest.raises(ValueError, match="the tumour must be known"):
        deformation_between(picture, Picture(picture.image, picture.brain), np.eye(4))


def test_what_folds_is_not_used(phantom: Callable) -> None:
    fixed = phantom()
    vectors = np.zeros((*fixed.brain.shape, 3), np.float32)
    vectors[20, 20:23, 20:23] = 40.0
    bend = judge_bend(fixed, fixed, np.eye(4), Displacement(vectors, fixed.grid))
    assert not bend.kept
    assert any("not bent, as that left -" in flag for flag in bend.flags)
    assert any("no more like the first scan" in flag for flag in bend.flags)


def test_a_bent_cohort(phantom: Callable, phantom_scan: Callable, tmp_path: Path) -> None:
    """The field is kept, and comes back from the file; without a mask a scan is told to be moved rigidly alone."""
    scans = tmp_path / "scans"
    phantom_scan(scans, "P1-000", tumour_mm=12.0)
    folder = phantom_scan(scans, "P1-001", tumour_mm=20.0)
    moving, _ = warped(phantom(tumour_mm=20.0), 6.0)
    sitk.WriteImage(moving.image, str(folder / "P1-001-t1c.nii.gz"))
    phantom_scan(scans, "P1-002", tumour_mm=20.0)
    (scans / "P1-002/P1-002-seg.nii.gz").unlink()
    settings = PrepareSettings(register=Register.RIGID, deformable=True, slices=SliceChoice.ALL)
    report = prepare_cohort(scans, tmp_path / "c.h5", settings)
    assert report.flagged == 1
    assert "not bent, as not both scans have a tumour mask" in report.outcomes[2].notes[0]
    with Cohort.open(tmp_path / "c.h5") as cohort:
        fields = [cohort.displacement("P1", name) for name in ("000", "001", "002")]
        told = cohort.source("P1", "001")["registration"]
        assert cohort.session("P1", "001").displacement.grid == fields[1].grid
    assert fields[0] is None and fields[2] is None
    assert fields[1].largest_mm() == pytest.approx(told["deformation"]["largest_displacement_mm"], abs=1e-3)
    assert told["deformation"]["kept"]
    assert told["tumour_cohort_mm3"] == pytest.approx(told["tumour_native_mm3"], rel=WITHIN)
