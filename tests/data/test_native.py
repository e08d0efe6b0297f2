"""Results of registered scans on the scanner's own voxels: the grid to the last bit, the place to the last digit."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from tumorcast.data.cohort import Cohort
from tumorcast.data.imaging.geometry import Grid, Interpolation
from tumorcast.data.imaging.transforms import Affine, Displacement, resample
from tumorcast.data.native import NativeImage, native_image, to_native
from tumorcast.data.prepare import PrepareSettings, Register, SliceChoice, prepare_cohort
from tumorcast.errors import InputError, UsageError
from tumorcast.records import Contrast

EVERY_SLICE = {"slices": SliceChoice.ALL}


@pytest.fixture(scope="module")
def registered(phantom_scan: Callable, turned: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of a phantom, the second turned by 12 degrees and shifted by 9 mm, in T1c and T2-FLAIR."""
    folder = tmp_path_factory.mktemp("native")
    for name, transform in (("P1-000", Affine.identity()), ("P1-001", turned(12.0, 9.0, np.zeros(3), 4))):
        phantom_scan(folder / "scans", name, kinds=("t1c", "t2f"), transform=transform)
    settings = PrepareSettings(register=Register.RIGID, image_size=64, **EVERY_SLICE)
    prepare_cohort(folder / "scans", folder / "c.h5", settings)
    return folder


def seg_of(folder: Path, session: str) -> sitk.Image:
    return sitk.ReadImage(str(folder / f"scans/P1-{session}/P1-{session}-seg.nii.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("contrast", [Contrast.T1C, Contrast.T2F, None])
def test_labels_return_to_their_scan(registered: Path, contrast: Contrast | None) -> None:
    with Cohort.open(registered / "c.h5") as cohort:
        for name in ("000", "001"):
            labels = cohort.session("P1", name).labels
            home = to_native(labels, cohort, "P1", name, contrast, interpolation=Interpolation.NEAREST)
            own = seg_of(registered, name)
            assert Grid.of(home) == Grid.of(own)
            mine, true = (sitk.GetArrayFromImage(image) > 0 for image in (home, own))
            assert 2 * (mine & true).sum() / (mine.sum() + true.sum()) > (0.88 if name == "001" else 0.93)


@pytest.mark.slow
def test_a_smooth_map_returns_where_it_belongs(registered: Path) -> None:
    """A map that is made from places in the scan itself: every value must be that of its own place."""
    with Cohort.open(registered / "c.h5") as cohort:
        session = cohort.session("P1", "001")
        image = native_image(session.source)
        z, y, x = np.meshgrid(*(np.arange(n) for n in session.labels.shape), indexing="ij")
        shared = np.stack([x, y, session.source_slice[z], np.ones_like(x)], axis=-1) @ session.affine.T
        there = shared @ image.from_cohort.matrix.T
        for axis in range(3):
            home = to_native(there[..., axis], cohort, "P1", "001", outside=np.nan)
            values = sitk.GetArrayFromImage(home)
            k, j, i = np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij")
            places = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ image.grid.affine().T
            known = ndimage.binary_erosion(np.isfinite(values), iterations=2)
            assert known.mean() > 0.2
            np.testing.assert_allclose(values[known], places[known][:, axis], atol=0.05)


def test_the_stored_affine_is_what_nibabel_reads(registered: Path) -> None:
    with Cohort.open(registered / "c.h5") as cohort:
        native = cohort.source("P1", "001")["native"]
    file = nib.load(registered / "scans/P1-001/P1-001-t1c.nii.gz")
    np.testing.assert_allclose(native["affine"], file.affine, atol=1e-4)
    assert tuple(native["size"]) == file.shape
    assert native["reference"] == "t1c"
    assert native["from_cohort"] == native["contrasts"]["t1c"]["from_cohort"]


def test_a_scan_at_1_mm_that_did_not_move_returns_exactly(
    tmp_path: Path, scan: Callable, make_phantom: Callable
) -> None:
    """Whether it was registered, or only prepared."""
    scan(tmp_path / "scans", "P1", skip="t2w")
    original = make_phantom("seg")
    for name, settings in (
        ("plain", PrepareSettings(image_size=256, **EVERY_SLICE)),
        ("rigid", PrepareSettings(image_size=256, register=Register.RIGID, **EVERY_SLICE)),
    ):
        prepare_cohort(tmp_path / "scans", tmp_path / f"{name}.h5", settings)
        with Cohort.open(tmp_path / f"{name}.h5") as cohort:
            labels = cohort.session("P1", "000").labels
            home = to_native(labels, cohort, "P1", "000", interpolation=Interpolation.NEAREST)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(home), original)


def test_what_there_is_not(registered: Path) -> None:
    with Cohort.open(registered / "c.h5") as cohort:
        labels = cohort.session("P1", "000").labels
        with pytest.raises(UsageError, match=r"t1n: .*t1c, t2f"):
            to_native(labels, cohort, "P1", "000", Contrast.T1N)
        with pytest.raises(InputError, match="P1 has no session 9"):
            to_native(labels, cohort, "P1", "9")
        with pytest.raises(ValueError, match="1 slices given"):
            to_native(labels[:1], cohort, "P1", "000")
        with pytest.raises(ValueError, match="whole numbers go home"):
            to_native(labels, cohort, "P1", "000")


def test_transforms_and_simpleitk_say_the_same(turned: Callable) -> None:
    affine = turned(20.0, 30.0, np.array([5.0, -7.0, 11.0]), 2)
    np.testing.assert_allclose(Affine.of_itk(affine.itk()).matrix, affine.matrix, atol=1e-12)
    point = np.array([[3.0, 4.0, 5.0]])
    lps = affine.itk().TransformPoint((point[0] * [-1, -1, 1]).tolist())
    np.testing.assert_allclose(lps * np.array([-1, -1, 1]), affine.map(point)[0], atol=1e-12)


def test_transforms_compose_from_right_to_left(phantom: Callable, turned: Callable) -> None:
    """A product maps a point as its factors do one after the other, as SimpleITK's composite does too."""
    picture = phantom()
    first, second = turned(20.0, 30.0, np.zeros(3), 2), turned(5.0, 3.0, np.zeros(3), 3)
    rng, points = np.random.default_rng(0), picture.brain_points(50)
    field = Displacement(rng.normal(size=(*picture.brain.shape, 3)).astype(np.float32), picture.grid)
    np.testing.assert_allclose((second @ first).map(points), second.map(first.map(points)), atol=1e-9)
    chain = second @ first @ field
    np.testing.assert_allclose(chain.map(points), second.map(first.map(field.map(points))), atol=1e-9)
    lps = [chain.itk().TransformPoint(point) for point in (points * [-1, -1, 1]).tolist()]
    np.testing.assert_allclose(np.array(lps) * [-1, -1, 1], chain.map(points), atol=1e-6)
    np.testing.assert_allclose((~first @ first).matrix, np.eye(4), atol=1e-12)


def test_a_bent_scan_returns_through_the_inverse(phantom: Callable, turned: Callable) -> None:
    """There and back through a matrix and a smooth field: a blob comes home to within a tenth of a voxel."""
    picture = phantom()
    grid, rng = picture.grid, np.random.default_rng(0)
    vectors = np.stack([ndimage.gaussian_filter(rng.standard_normal(grid.size[::-1]), 6.0) for _ in range(3)], axis=-1)
    field = Displacement((6.0 * vectors / np.abs(vectors).max()).astype(np.float32), grid)
    assert field.largest_mm() > 5.0 and field.least_jacobian() > 0.5
    rigid = turned(10.0, 6.0, np.zeros(3), 5)
    blob = np.zeros(grid.size[::-1], np.float32)
    blob[20, 30, 22] = 1.0
    native = grid.image(ndimage.gaussian_filter(blob, 2.0))
    transform = NativeImage(grid, rigid, field).transform
    there = resample(native, grid, transform)
    home = resample(there, grid, ~transform)
    assert np.hypot(*(centre(there) - centre(native))[:2]) > 2.0
    np.testing.assert_allclose(centre(home), centre(native), atol=0.4)
    points = picture.brain_points(200)
    assert np.linalg.norm((~field).map(field.map(points)) - points, axis=1).max() < 0.05


def centre(image: sitk.Image) -> np.ndarray:
    """(3,) centre of mass, LPS mm."""
    middle = ndimage.center_of_mass(sitk.GetArrayFromImage(image))[::-1]
    return np.array(image.TransformContinuousIndexToPhysicalPoint([float(value) for value in middle]))
