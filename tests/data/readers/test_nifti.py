"""Where a NIfTI file's voxels lie: as nibabel says, and where its header contradicts itself it is told or refused."""

import gzip
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.readers.volumes import read_image, read_session
from tumorcast.errors import InputError
from tumorcast.records import Contrast

LAS = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -20], [0, 0, 3, -10], [0, 0, 0, 1]])
SIZE = (14, 12, 9)


def turned(angles: tuple[float, float, float], sides: tuple[float, float, float] = (1.0, 1.5, 3.0)) -> np.ndarray:
    """An affine with its axes turned, degrees."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * sides
    affine[:3, 3] = 5, -7, 11
    return affine


def write(
    path: Path,
    *,
    qform: tuple[np.ndarray | None, int] = (None, 0),
    sform: tuple[np.ndarray | None, int] = (None, 0),
    kind: type = nib.Nifti1Image,
    **fields: object,
) -> Path:
    """A volume of this size with these codes, and fields of the header set last."""
    voxels = np.random.default_rng(0).integers(1, 200, SIZE).astype(np.int16)
    image = kind(voxels, LAS)
    image.set_qform(*qform)
    image.set_sform(*sform)
    if qform[1] == 0:
        image.header["pixdim"][1:4] = np.linalg.norm((LAS if sform[0] is None else sform[0])[:3, :3], axis=0)
    plain = path.with_name("plain.nii")
    nib.save(image, plain)
    content = plain.read_bytes()
    length = image.header.sizeof_hdr
    header = type(image.header)(content[:length], check=False)
    for name, value in fields.items():  # as no library would write them
        header[name] = value
    content = header.binaryblock + content[length:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def affine_of(path: Path) -> np.ndarray:
    return Grid.of(read_image(path).image).affine()


OTHER = LAS + np.array([[0, 0, 0, 20], [0, 0, 0, 10], [0, 0, 0, -15], [0, 0, 0, 0]])
MIRRORED = LAS @ np.diag([-1.0, 1, 1, 1])


@pytest.mark.parametrize(
    ("header", "told"),
    [
        pytest.param({"qform": (LAS, 1), "sform": (LAS, 1)}, "", id="agree"),
        pytest.param({"qform": (LAS, 1)}, "", id="qform alone"),
        pytest.param({"sform": (turned((10, -20, 33)), 2)}, "", id="oblique sform alone"),
        pytest.param({"qform": (LAS, 1), "sform": (OTHER, 2)}, "qform (code 1)", id="shifted"),
        pytest.param({"qform": (LAS, 1), "sform": (turned((0, 0, 30), (2, 2, 3)), 4)}, "qform (code 1)", id="rotated"),
        pytest.param({"qform": (MIRRORED, 1), "sform": (LAS, 1)}, "qform (code 1)", id="mirrored"),
        pytest.param({"sform": (LAS, 1), "pixdim": [1, 2, 2, 6, 1, 1, 1, 1]}, "pixdim says 2 x 2 x 6 mm", id="scale"),
        pytest.param({}, "qform_code and sform_code are 0", id="no orientation"),
        pytest.param({"qform": (LAS, 1), "pixdim": [0, 2, 2, 3, 1, 1, 1, 1]}, "", id="qfac 0"),
    ],
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_affine_is_nibabels_and_a_contradiction_is_told(
    tmp_path: Path, header: dict, told: str, kind: type
) -> None:
    path = write(tmp_path / "a.nii.gz", kind=kind, **header)
    found = read_image(path)
    np.testing.assert_allclose(Grid.of(found.image).affine(), nib.load(path).affine, atol=2e-5)
    assert bool(found.notes) == bool(told)
    assert told in " ".join(found.notes)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        pytest.param(
            {"sform": (LAS + np.diag([0, 0.3, 0, 0]) @ np.roll(np.eye(4), 1, 0), 1)}, "right angles", id="shear"
        ),
        pytest.param(
            {"qform": (LAS, 1), "sform": (LAS + 0.4 * np.eye(4)[:, [1, 0, 2, 3]] * [1, 0, 0, 0], 2)},
            "fslorient -copyqform2sform",
            id="shear beside a sound qform",
        ),
        pytest.param({"sform": (LAS, 1), "srow_x": [0, 0, 0, 0], "srow_y": [0, 0, 0, 0]}, "sform", id="no rank"),
        pytest.param({"sform": (LAS, 1), "xyzt_units": 1}, "xyzt_units", id="metres"),
        pytest.param({"sform": (LAS, 1), "xyzt_units": 3}, "xyzt_units", id="micrometres"),
        pytest.param({"sform": (np.diag([0.002, 0.002, 0.003, 1]), 1)}, "longest side", id="metres without a word"),
        pytest.param({"qform": (LAS, 1), "quatern_b": 1.5}, "header", id="no quaternion"),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused(tmp_path: Path, header: dict, named: str) -> None:
    path = write(tmp_path / "a.nii.gz", **header)
    with pytest.raises(InputError, match=named) as refusal:
        read_image(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("shear", [1e-6, 1e-4, 4e-4])
def test_what_rounding_shears_is_straight(tmp_path: Path, shear: float) -> None:
    """Above .0002 ITK takes the qform in its place."""
    affine = turned((5, 3, 8))
    affine[:3, 0] += shear * affine[:3, 1]
    path = write(tmp_path / "a.nii", sform=(affine, 1), qform=(OTHER, 1))
    corner = np.array([*(np.array(SIZE) - 1), 1])
    assert np.abs((affine_of(path) - affine) @ corner).max() < 0.05


def test_a_pair_or_analyze_says_what_it_is(tmp_path: Path, scan: Callable) -> None:
    voxels = np.ones(SIZE, np.int16)
    nib.save(nib.Nifti1Pair(voxels, LAS), tmp_path / "pair.img")
    nib.save(nib.AnalyzeImage(voxels, LAS), tmp_path / "old.img")
    for name, told in (("pair.hdr", "pair"), ("old.hdr", "Analyze")):
        with pytest.raises(InputError, match=told) as refusal:
            read_image(tmp_path / name)
        assert "truncated" not in str(refusal.value)


def test_what_bears_the_wrong_ending_says_so(tmp_path: Path) -> None:
    sound = write(tmp_path / "sound.nii.gz", sform=(LAS, 1)).read_bytes()
    (tmp_path / "packed.nii").write_bytes(sound)
    with pytest.raises(InputError, match=r"to packed\.nii\.gz"):
        read_image(tmp_path / "packed.nii")
    plain = write(tmp_path / "plain.nii", sform=(LAS, 1)).rename(tmp_path / "plain.nii.gz")
    with pytest.raises(InputError, match=r"rename it to plain\.nii"):
        read_image(plain)


def stored_otherwise(image: nib.Nifti1Image, axes: tuple[int, ...], flips: tuple[int, ...]) -> nib.Nifti1Image:
    """The same voxels in space, in another order of storage."""
    change = np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    return image.as_reoriented(change)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (8.0, -17.0, 29.0), (0.0, 0.0, 45.0)])
def test_every_order_of_storage_is_the_same_scan(tmp_path: Path, angles: tuple[float, float, float]) -> None:
    """Mask and T2 in each of the 48 orders beside a T1c: labels and intensities are those of the same voxels."""
    rng, affine = np.random.default_rng(1), turned(angles)
    voxels = {kind: rng.integers(1, 200, SIZE).astype(np.int16) for kind in ("t1c", "t2w")}
    voxels["seg"] = rng.integers(0, 4, SIZE).astype(np.int16)
    images = {kind: nib.Nifti1Image(array, affine) for kind, array in voxels.items()}
    contrasts = (Contrast.T1C, Contrast.T2W)
    for kind, image in images.items():
        nib.save(image, tmp_path / f"P1-{kind}.nii")
    (source,) = find_scans(tmp_path, Layout.BRATS).sessions
    plain = read_session(source, contrasts)
    for axes, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        for kind in ("t2w", "seg"):
            nib.save(stored_otherwise(images[kind], axes, flips), tmp_path / f"P1-{kind}.nii")
        found = read_session(source, contrasts)
        np.testing.assert_array_equal(found.labels, plain.labels)
        np.testing.assert_array_equal(found.images[Contrast.T2W], plain.images[Contrast.T2W])


@pytest.mark.parametrize("affine", [MIRRORED, np.eye(4), None], ids=["mirrored", "identity", "no codes"])
def test_a_mask_whose_header_places_it_elsewhere_is_refused(tmp_path: Path, affine: np.ndarray | None) -> None:
    """Equal shape and order are no evidence: the same voxels would lie on another place of the head."""
    voxels = np.random.default_rng(2).integers(0, 4, SIZE).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels + 1, LAS), tmp_path / "P1-t1c.nii")
    mask = nib.Nifti1Image(voxels, affine)
    if affine is None:
        mask.set_qform(None, 0), mask.set_sform(None, 0)
    nib.save(mask, tmp_path / "P1-seg.nii")
    (source,) = find_scans(tmp_path, Layout.BRATS).sessions
    with pytest.raises(InputError, match=r"P1-seg.nii: .*P1-t1c.nii"):
        read_session(source, (Contrast.T1C,))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.mgz", b"\x1f\x8b\x08\x00", "mri_convert"),
        ("a.nrrd", b"NRRD0005", "SimpleITK"),
        ("a.nii.gz", b"<!DOCTYPE html><html>", "download it again"),
    ],
)
def test_other_things_are_called_by_their_name(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_image(tmp_path / name)


def test_an_axis_that_is_not_there_is_none(tmp_path: Path) -> None:
    """ITK's issue 3333 has such a file: four axes, the last without any voxel."""
    path = write(tmp_path / "a.nii", sform=(LAS, 1), dim=[4, *SIZE, 0, 1, 1, 1])
    assert read_image(path).image.GetSize() == SIZE
