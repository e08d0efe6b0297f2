"""What lies outside the tumour is bent onto the first scan; the tumour's own change stays."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from tumorcast.data.cohort import Cohort
from tumorcast.data.imaging import deformation
from tumorcast.data.imaging.deformation import MARGIN_MM, deformation_between
from tumorcast.data.imaging.registration import RegistrationImage, one_thread
from tumorcast.data.imaging.registration_qc import judge_deformation
from tumorcast.data.imaging.transforms import IDENTITY, Displacement, resample_mask
from tumorcast.data.prepare import PrepareSettings, Register, SliceChoice, prepare_cohort

KINDS = ("t1c", "seg")
WITHIN = 0.02  # of the tumour's true volume


def warped(picture: RegistrationImage, field: Displacement) -> RegistrationImage:
    """The scan as it is where everything has moved by a field (which leads back)."""
    return picture.resampled(picture.grid, field)


def moved_mask(picture: RegistrationImage, mask: np.ndarray, field: Displacement) -> np.ndarray:
    return resample_mask(mask, picture.grid, picture.grid, field) > 0


def smooth_field(picture: RegistrationImage, largest_mm: float) -> Displacement:
    """Smooth over some 24 mm, and zero within 24 mm of the tumour."""
    grid, rng = picture.grid, np.random.default_rng(3)
    vectors = np.stack([ndimage.gaussian_filter(rng.standard_normal(grid.size[::-1]), 6.0) for _ in range(3)], axis=-1)
    away = ndimage.distance_transform_edt(~picture.tumour, grid.spacing[::-1])
    vectors *= (largest_mm / np.linalg.norm(vectors, axis=-1).max()) * np.clip((away - 24) / 12, 0, 1)[..., None]
    return Displacement(vectors.astype(np.float32), grid)


def vectors_at(field: Displacement, points: np.ndarray) -> np.ndarray:
    """(N, 3) displacements at points (N, 3), RAS mm."""
    return field.map(points) - points


def simulated(moved_cohort, session: str) -> RegistrationImage:
    folder = moved_cohort.still / f"{moved_cohort.patient_id}-{session}"
    image, mask = (
        sitk.DICOMOrient(sitk.ReadImage(str(folder / f"{folder.name}-{kind}.nii.gz")), "LPS") for kind in KINDS
    )
    values = sitk.GetArrayFromImage(image)
    return RegistrationImage(sitk.Cast(image, sitk.sitkFloat32), values > 0, sitk.GetArrayFromImage(mask) > 0)


@pytest.fixture(scope="module", autouse=True)
def fewer_iterations() -> Iterator[None]:
    """They cost most of the time, and these volumes are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deformation, "LEVELS", ((8.0, 10), (4.0, 15), (2.0, 20)))
        yield


@pytest.fixture(scope="module")
def bent(moved_cohort) -> tuple[RegistrationImage, RegistrationImage, Displacement, Displacement]:
    """Two simulated scans, the brain of the second moved by up to 12 mm; the true way back and the one found."""
    fixed, grown = simulated(moved_cohort, "000"), simulated(moved_cohort, "001")
    field = smooth_field(grown, 12.0)
    moving = warped(grown, field)
    with one_thread():
        return fixed, moving, ~field, deformation_between(fixed, moving, IDENTITY)


@pytest.mark.slow
def test_the_surroundings_are_bent_back(
    bent: tuple[RegistrationImage, RegistrationImage, Displacement, Displacement],
) -> None:
    """Where the brain has moved by more than 2 mm, less than 60 % of that is left; voxels measure 4 mm."""
    fixed, moving, true, found = bent
    points = fixed.brain_points()
    wanted, got = (vectors_at(field, points) for field in (true, found))
    moved = np.linalg.norm(wanted, axis=1)
    moves = moved > 2.0
    assert moves.sum() > 500
    left = np.linalg.norm(got - wanted, axis=1)
    assert left[moves].mean() < 0.6 * moved[moves].mean()
    assert left[~moves].mean() < moved[~moves].mean()
    with one_thread():
        bend = judge_deformation(fixed, moving, IDENTITY, found)
    assert bend.kept and bend.nmi_deformed > bend.nmi_rigid and bend.least_jacobian > 0.3


@pytest.mark.slow
def test_the_tumour_keeps_its_growth(
    bent: tuple[RegistrationImage, RegistrationImage, Displacement, Displacement],
) -> None:
    """The tumour that has grown keeps its volume, and even its voxels; nothing next to it moves."""
    fixed, moving, _, found = bent
    after = moved_mask(moving, moving.tumour, found)
    assert moving.tumour.sum() > 1.3 * fixed.tumour.sum()
    assert after.sum() == pytest.approx(moving.tumour.sum(), rel=WITHIN)
    np.testing.assert_array_equal(after, moving.tumour)
    near = ndimage.distance_transform_edt(~moving.tumour, fixed.grid.spacing[::-1]) < MARGIN_MM - 7.0
    points = np.argwhere(near)[:, ::-1]
    world = (np.c_[points, np.ones(len(points))] @ fixed.grid.affine().T)[:, :3]
    assert np.abs(vectors_at(found, world)).max() == 0.0


@pytest.mark.slow
def test_a_tumour_that_pushes_is_not_pushed_back(moved_cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tumour of two and a half times the volume has pushed all round it away: without the margin it would shrink."""
    fixed = simulated(moved_cohort, "000")
    z, y, x = np.indices(fixed.brain.shape)
    places = np.stack([x, y, z], axis=-1) * 4.0
    offset = places - places[fixed.tumour].mean(axis=0)
    radius = np.linalg.norm(offset, axis=-1, keepdims=True)
    own = (3 * fixed.tumour.sum() * 64 / (4 * np.pi)) ** (1 / 3)
    pushed = -offset / np.maximum(radius, 1.0) * 7.0 * np.exp(-(((radius - own) / 16) ** 2))
    moving = warped(fixed, Displacement(pushed.astype(np.float32), fixed.grid))
    assert moving.tumour.sum() > 1.7 * fixed.tumour.sum()
    volumes = []
    for margin in (deformation.MARGIN_MM, -1000.0):
        monkeypatch.setattr(deformation, "MARGIN_MM", margin)
        with one_thread():
            found = deformation_between(fixed, moving, IDENTITY)
        volumes.append(int(moved_mask(moving, moving.tumour, found).sum()))
    assert volumes[0] == pytest.approx(moving.tumour.sum(), rel=WITHIN)
    assert volumes[1] < 0.95 * moving.tumour.sum()


def test_a_scan_that_did_not_move_is_hardly_bent(moved_cohort) -> None:
    """The second simulated scan differs in noise, scanner and tumour, and by what the tumour has pushed."""
    fixed, moving = simulated(moved_cohort, "000"), simulated(moved_cohort, "001")
    with one_thread():
        found = deformation_between(fixed, moving, IDENTITY)
    assert np.linalg.norm(vectors_at(found, fixed.brain_points()), axis=1).mean() < 0.4


def test_an_unknown_tumour_is_an_error(phantom: Callable) -> None:
    picture = phantom()
    with pytest.raises(ValueError, match="the tumour must be known"):
        deformation_between(picture, RegistrationImage(picture.image, picture.brain), IDENTITY)


def test_what_folds_is_not_used(phantom: Callable) -> None:
    fixed = phantom()
    vectors = np.zeros((*fixed.brain.shape, 3), np.float32)
    vectors[20, 20:23, 20:23] = 40.0
    bend = judge_deformation(fixed, fixed, IDENTITY, Displacement(vectors, fixed.grid))
    assert not bend.kept
    assert any("not bent, as that left -" in flag for flag in bend.flags)
    assert any("no more like the first scan" in flag for flag in bend.flags)


@pytest.mark.slow
def test_a_bent_cohort(moved_cohort, tmp_path: Path) -> None:
    """The field is kept, and comes back from the file; without a mask a scan is told to be moved rigidly alone."""
    scans, moving = tmp_path / "scans", simulated(moved_cohort, "001")
    moving = warped(moving, smooth_field(moving, 12.0))
    for name, picture in (("000", simulated(moved_cohort, "000")), ("001", moving), ("002", moving)):
        folder = scans / f"P1-{name}"
        folder.mkdir(parents=True)
        sitk.WriteImage(picture.image, str(folder / f"P1-{name}-t1c.nii.gz"))
        if name != "002":
            mask = picture.grid.image(picture.tumour.astype(np.uint8))
            sitk.WriteImage(mask, str(folder / f"P1-{name}-seg.nii.gz"))
    settings = PrepareSettings(image_size=64, register=Register.RIGID, deformable=True, slices=SliceChoice.ALL)
    report = prepare_cohort(scans, tmp_path / "c.h5", settings)
    assert [bool(one.flags) for one in report.outcomes] == [False, False, True]
    assert "not bent, as not both scans have a tumour mask" in report.outcomes[2].notes[0]
    with Cohort.open(tmp_path / "c.h5") as cohort:
        fields = [cohort.displacement("P1", name) for name in ("000", "001", "002")]
        told = cohort.source("P1", "001")["registration"]
        assert cohort.session("P1", "001").displacement.grid == fields[1].grid
    assert fields[0] is None and fields[2] is None
    assert told["deformation"]["kept"]
    assert fields[1].largest_mm() == pytest.approx(told["deformation"]["largest_displacement_mm"], abs=1e-3)
    assert told["tumour_cohort_mm3"] == pytest.approx(told["tumour_native_mm3"], rel=WITHIN)
