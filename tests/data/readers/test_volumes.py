"""Bad volumes end in one message that names the file; good ones come back whole."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.readers.volumes import read_image, read_session
from tumorcast.errors import InputError
from tumorcast.records import Contrast

ALL = tuple(Contrast)


def read(folder: Path, contrasts=ALL, layout: Layout = Layout.BRATS):
    (source,) = find_scans(folder, layout).sessions
    return read_session(source, contrasts)


def test_volumes_come_back_whole(tmp_path: Path, scan, make_phantom) -> None:
    scan(tmp_path, "P1")
    volume = read(tmp_path)
    # SimpleITK writes identity directions, which are LPS: nothing is flipped
    np.testing.assert_array_equal(volume.images[Contrast.T2W], make_phantom("t2w"))
    np.testing.assert_array_equal(volume.labels, make_phantom("seg"))
    assert volume.source_slice.tolist() == list(range(6))
    assert sorted(volume.sha256) == ["seg", "t1c", "t1n", "t2f", "t2w"]


def test_missing_contrast_says_what_to_do(tmp_path: Path, scan) -> None:
    scan(tmp_path, "P1", skip="t2f")
    message = r"P1: 3 of 4 contrasts found \(no t2f\); add it, or train a model without it \(--contrasts t1n,t1c,t2w\)"
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_shapes_differ(tmp_path: Path, scan, make_phantom) -> None:
    scan(tmp_path, "P1", t1c=make_phantom("t1c")[:5])
    with pytest.raises(InputError, match=r"P1-t1c.nii.gz: 40x36x5 .*40x36x6"):
        read(tmp_path)


def test_mask_of_another_shape(tmp_path: Path, scan, make_phantom) -> None:
    scan(tmp_path, "P1", seg=make_phantom("seg")[:, :-1])
    with pytest.raises(InputError, match=r"P1-seg.nii.gz: 40x35x6"):
        read(tmp_path)


def test_grids_of_one_shape_in_two_places(tmp_path: Path, scan, make_phantom, save_nifti) -> None:
    folder = scan(tmp_path, "P1")
    shifted = sitk.GetImageFromArray(make_phantom("t2w"))
    shifted.SetOrigin((0.0, 2.0, 0.0))
    save_nifti(folder / "P1-t2w.nii.gz", make_phantom("t2w"), shifted)
    with pytest.raises(InputError, match=r"P1-t2w.nii.gz: .*2 mm"):
        read(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path: Path, scan, make_phantom, value: float) -> None:
    voxels = make_phantom("t2f").astype(np.float32)
    voxels[2, 5, 5:8] = value
    scan(tmp_path, "P1", t2f=voxels)
    with pytest.raises(InputError, match=r"P1-t2f.nii.gz: 3 .*NaN"):
        read(tmp_path)


def test_all_zero(tmp_path: Path, scan, make_phantom) -> None:
    scan(tmp_path, "P1", t1n=np.zeros_like(make_phantom("t1n")))
    with pytest.raises(InputError, match=r"P1-t1n.nii.gz: .*is 0"):
        read(tmp_path)


@pytest.mark.parametrize("value", [7, -7])
def test_one_value_everywhere(tmp_path: Path, scan, make_phantom, value: int) -> None:
    scan(tmp_path, "P1", t1n=np.full_like(make_phantom("t1n"), value))
    with pytest.raises(InputError, match=rf"P1-t1n.nii.gz: every voxel is {value}; export it again, or leave"):
        read(tmp_path)


def test_small_negative_values_become_zero_and_large_ones_are_refused(tmp_path: Path, scan, make_phantom) -> None:
    voxels = make_phantom("t1n")
    voxels[0, 0, 0] = -20
    scan(tmp_path, "P1", t1n=voxels)
    assert read(tmp_path).images[Contrast.T1N].min() == 0
    voxels[0, 0, 0] = -500
    scan(tmp_path, "P1", t1n=voxels)
    with pytest.raises(InputError, match="look normalised"):
        read(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_gzip(tmp_path: Path, scan, share: float) -> None:
    path = scan(tmp_path, "P1") / "P1-t1c.nii.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"P1-t1c.nii.gz: .*truncated"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["P1-t1c.nii", "P1-t1c.nii.gz"])
def test_truncated_inside_a_sound_container(tmp_path: Path, scan, name: str) -> None:
    """SimpleITK reads these without an error and fills the rest with zeros."""
    folder = scan(tmp_path, "P1")
    content = gzip.decompress((folder / "P1-t1c.nii.gz").read_bytes())[:-100]
    (folder / "P1-t1c.nii.gz").unlink()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError, match=r"truncated, \d+ of"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not an image", "damaged"), (gzip.compress(b"text" * 200, mtime=0), "not a NIfTI file"), (b"", "is empty")],
)
def test_unreadable(tmp_path: Path, scan, content: bytes, message: str) -> None:
    path = scan(tmp_path, "P1") / "P1-t1c.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"P1-t1c.nii.gz: .*{message}"):
        read(tmp_path)


def test_a_header_of_nonsense(tmp_path: Path, save_nifti, make_phantom) -> None:
    path = save_nifti(tmp_path / "a.nii", make_phantom("t1n"))
    content = bytearray(path.read_bytes())
    content[108:112] = b"\x00\x00\xc0\x7f"  # the data's offset: NaN
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a NIfTI file"):
        read_image(path)


def test_file_named_but_missing(tmp_path: Path) -> None:
    (tmp_path / "sessions.csv").write_text("patient,session,day,t1c\nA,1,0,gone.nii.gz\n")
    with pytest.raises(InputError, match=r"gone.nii.gz: .*No such file"):
        read(tmp_path, (Contrast.T1C,), Layout.TABLE)


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "a.nii.gz")


def test_extra_channel(tmp_path: Path, scan, make_phantom) -> None:
    path = scan(tmp_path, "P1") / "P1-t1c.nii.gz"
    pair = sitk.GetImageFromArray(np.stack([make_phantom("t1c")] * 2, axis=-1), isVector=True)
    sitk.WriteImage(pair, str(path))
    with pytest.raises(InputError, match=r"P1-t1c.nii.gz: 40x36x6"):
        read(tmp_path)


def test_a_time_series_is_refused_and_a_single_time_point_read(tmp_path: Path, make_phantom) -> None:
    one = sitk.GetImageFromArray(make_phantom("t1c"))
    for count in (1, 3):
        sitk.WriteImage(sitk.JoinSeries([one] * count), str(tmp_path / f"{count}.nii.gz"))
    assert read_image(tmp_path / "1.nii.gz")[0].GetSize() == (40, 36, 6)
    with pytest.raises(InputError, match="40x36x6x3"):
        read_image(tmp_path / "3.nii.gz")


def test_2d_image_where_a_volume_belongs(tmp_path: Path, scan, make_phantom) -> None:
    scan(tmp_path, "P1", t1n=make_phantom("t1n")[3])
    with pytest.raises(InputError, match="a 2D image"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("TCGA-CS-4942", (0, 1, 2, 4), (0, 1, 2, 3)),
        ("P1", (0, 1, 2, 3), (0, 1, 2, 3)),
        ("BraTS-GLI-00001-100", (0, 2, 3, 4), (0, 2, 3, 0)),
    ],
)
def test_labels_by_the_name_of_the_set(tmp_path: Path, scan, make_phantom, name, labels, expected) -> None:  # noqa: PLR0917
    mask = np.zeros_like(make_phantom("seg"))
    mask[2, 10, 10:14] = labels
    scan(tmp_path, name, seg=mask)
    volume = read(tmp_path)
    assert volume.labels[2, 10, 10:14].tolist() == list(expected)
    assert len(volume.notes) == (expected[3] == 0)


@pytest.mark.parametrize("value", [0.37, 5, -1])
def test_labels_that_are_none(tmp_path: Path, scan, make_phantom, value: float) -> None:
    mask = make_phantom("seg").astype(np.float32)
    mask[0, 0, 0] = value
    scan(tmp_path, "P1", seg=mask)
    with pytest.raises(InputError, match=rf"P1-seg.nii.gz: labels? .*{value:g}.*(labels are whole|--labels)"):
        read(tmp_path)


def write_slices(folder: Path, save_nifti, sides: dict[int, int]) -> None:
    for number, side in sides.items():
        plane = np.zeros((side, side), np.float32)
        plane[side // 2 - 20 : side // 2 + 10, side // 2 : side // 2 + 7] = number
        for kind in (*Contrast, "seg"):
            name = f"training/5_{number}/brats_train_5_{kind}_{number}_w.nii.gz"
            save_nifti(folder / name, plane if kind != "seg" else (plane > 0).astype(np.uint8))


def test_slices_are_cropped_stacked_and_turned_upright(tmp_path: Path, save_nifti) -> None:
    write_slices(tmp_path, save_nifti, {41: 240, 43: 256})
    volume = read(tmp_path, layout=Layout.SLICES)
    assert volume.source_slice.tolist() == [41, 43]
    assert volume.grid.size == (240, 240, 44)
    expected = np.zeros((240, 240))
    expected[120:127, 100:130] = 1  # first file axis to posterior: rows and columns change places
    np.testing.assert_array_equal(volume.images[Contrast.T1C][0], 41 * expected)
    np.testing.assert_array_equal(volume.images[Contrast.T1C][1], 43 * expected)


def test_slices_of_two_sizes(tmp_path: Path, save_nifti) -> None:
    write_slices(tmp_path, save_nifti, {1: 240, 2: 224})
    with pytest.raises(InputError, match=r"224x224 .* 240x240"):
        read(tmp_path, layout=Layout.SLICES)


def test_a_volume_where_a_slice_belongs(tmp_path: Path, save_nifti, make_phantom) -> None:
    write_slices(tmp_path, save_nifti, {1: 240})
    save_nifti(tmp_path / "training/5_1/brats_train_5_t1n_1_w.nii.gz", make_phantom("t1n"))
    with pytest.raises(InputError, match="a 3D volume"):
        read(tmp_path, layout=Layout.SLICES)
