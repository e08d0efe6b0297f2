"""No file is lost: each below a source is taken, or left out with a reason; what cannot be read ends with code 1."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)
from typer.testing import CliRunner

from tumorcast.cli.main import app
from tumorcast.data.readers.clinical import date_sessions
from tumorcast.data.readers.dicom import read_series
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.errors import InputError

HEAD = np.pad(np.random.default_rng(0).integers(50, 200, (8, 30, 26)), ((0, 0), (3, 3), (3, 3))).astype(np.int16)
POINTERS = {
    "datalad get": b"/annex/objects/MD5E-s100--0123.nii.gz\n",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n",
}


def run(*words: object) -> tuple[int, str]:
    """Exit code, with that of the error tree, and all that is printed."""
    result = CliRunner().invoke(app, ["prepare", *map(str, words)])
    told = "" if result.exception is None else str(result.exception)
    return getattr(result.exception, "exit_code", result.exit_code), result.output + told


def files_of(root: Path) -> int:
    return sum(path.is_file() or path.is_symlink() for path in root.rglob("*"))


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../.git/annex/objects/aa/MD5E-s1--0.nii.gz")


@pytest.mark.parametrize("which", ["whole scan", "mask alone", "a contrast", "pointer", "lfs"])
def test_content_that_is_elsewhere_is_named(tmp_path: Path, scan: Callable, which: str) -> None:
    scans = tmp_path / "scans"
    for number in range(3):
        scan(scans, f"P1-00{number}")
    folder = scans / "P1-002"
    victims = {"whole scan": sorted(folder.iterdir()), "mask alone": [folder / "P1-002-seg.nii.gz"]}
    for path in victims.get(which, [folder / "P1-002-t1c.nii.gz"]):
        if which in {"pointer", "lfs"}:
            path.write_bytes(POINTERS["datalad get" if which == "pointer" else "git lfs pull"])
        else:
            dangling(path)
    remedy = "git lfs pull" if which == "lfs" else "datalad get"
    listed = run(scans, "--dry-run")
    done = run(scans, "--image-size", 64, "--min-tumour-mm2", 10, "--out", tmp_path / "c.h5")
    for code, told in (listed, done):
        assert code == 1
        assert "P1-002-" in told and remedy in told
    assert files_of(scans) == find_scans(scans).taken


def test_every_file_is_taken_or_left_out(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path, "P1-000")
    (tmp_path / "README.txt").write_text("scans")
    for name in ("._P1-000-t1c.nii.gz", "P1-000-adc.nii.gz", "P1-000-t1c (1).nii.gz", "old.zip"):
        (tmp_path / "P1-000" / name).write_bytes(b"\0" * 400)
    (tmp_path / "P1-000" / "P1-000-t1c.mha").write_text("ObjectType = Image")
    (tmp_path / "P1-000" / "P1-000-t1c.nii.gz").unlink()
    found = find_scans(tmp_path, Layout.BRATS)
    reasons = {one.path.name: one for one in found.left_out}
    assert found.taken + len(reasons) == files_of(tmp_path)
    assert "operating system" in reasons["._P1-000-t1c.nii.gz"].reason
    assert "layout brats" in reasons["P1-000-adc.nii.gz"].reason
    assert reasons["old.zip"].lost
    code, told = run(tmp_path, "--dry-run")
    assert code == 3 and "P1-000-t1c.mha" in told  # found as the T1c that it is, and refused by name


def test_links_are_followed_once(tmp_path: Path, dicom_series: Callable) -> None:
    root = tmp_path / "scans"
    dicom_series(root / "A" / "visit1", HEAD)
    dicom_series(tmp_path / "archive" / "x", HEAD, StudyDate="20200425")
    (root / "A" / "visit2").symlink_to(tmp_path / "archive" / "x")
    (root / "A" / "visit3").symlink_to(tmp_path / "archive" / "x")
    (root / "A" / "loop").symlink_to(root / "A")
    (root / "B").symlink_to("nowhere")
    found = find_scans(root)
    assert [(session.patient_id, session.day) for session in found.sessions] == [("A", 0.0), ("A", 85.0)]
    told = {one.path.name: one.reason for one in found.left_out}
    assert "visit2" in told["visit3"] and "same folder" in told["loop"] and "not here" in told["B"]


def changed(folder: Path, syntax: str) -> None:
    """Write the series again in another transfer syntax."""
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        plain = pydicom.Dataset(image)
        plain.file_meta = image.file_meta
        ways = {"implicit_vr": syntax == ImplicitVRLittleEndian, "little_endian": syntax != ExplicitVRBigEndian}
        options = {} if syntax == DeflatedExplicitVRLittleEndian else ways
        pydicom.dcmwrite(path, plain, enforce_file_format=True, **options)


@pytest.mark.parametrize(
    ("syntax", "start"),
    [
        *product(
            (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian), ("whole", "no preamble")
        ),
        (ImplicitVRLittleEndian, "no meta"),  # without its first group a file can only be of DICOM's default syntax
    ],
)
def test_files_of_old_archives_are_read(tmp_path: Path, dicom_series: Callable, syntax: str, start: str) -> None:
    folder = dicom_series(tmp_path / "A" / "t1c", HEAD)
    changed(folder, syntax)
    for path in folder.iterdir():
        content = path.read_bytes()
        meta = 132 + 12 + int.from_bytes(content[140:144], "little")
        path.write_bytes(content[{"whole": 0, "no preamble": 132, "no meta": meta}[start] :])
    (session,) = find_scans(tmp_path).sessions
    image, _ = read_series(next(iter(session.images.values())))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), HEAD)


@pytest.mark.parametrize("damage", ["cut", "noise", "dangling"])
def test_a_series_that_cannot_be_read_is_named(tmp_path: Path, dicom_series: Callable, damage: str) -> None:
    root = tmp_path / "scans"
    dicom_series(root / "A" / "t1c", HEAD)
    for path in sorted(dicom_series(root / "A" / "t2w", HEAD, "AX T2", SeriesNumber=2).iterdir()):
        if damage == "dangling":
            dangling(path)
        else:
            path.write_bytes(path.read_bytes()[:300] if damage == "cut" else path.read_bytes()[:200] + b"\xff" * 500)
    for code, told in (
        run(root, "--dry-run", "--slices", "all"),
        run(root, "--slices", "all", "--image-size", 64, "--out", tmp_path / "c.h5"),
    ):
        assert code == 1 and "A/t2w/" in told


@pytest.mark.parametrize(
    ("storage", "tags", "told"),
    [
        (SegmentationStorage, {"Modality": "SEG"}, "segimage2itkimage"),
        (EnhancedMRImageStorage, {"NumberOfFrames": 2}, "dcm2niix"),
    ],
)
def test_what_is_not_read_of_dicom_is_named(
    tmp_path: Path, dicom_series: Callable, storage: str, tags: dict, told: str
) -> None:
    root = tmp_path / "scans"
    dicom_series(root / "A" / "t1c", HEAD)
    other = dicom_series(root / "A" / "other", HEAD[:1], "AX T2", SeriesNumber=2)
    for path in other.iterdir():
        image = pydicom.dcmread(path)
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = storage
        for name, value in tags.items():
            setattr(image, name, value)
        if "NumberOfFrames" in tags:
            image.PixelData = image.PixelData * 2
        image.save_as(path)
    code, printed = run(root, "--dry-run", "--slices", "all", "--json")
    balance = json.loads(printed[printed.index('{"layout"') :].splitlines()[0])["balance"]
    assert code == 1
    assert [group for group in balance["left_out"] if told in group["reason"] and group["lost"]]
    assert balance["files"]["found"] == files_of(root)


def test_a_copy_of_an_image_is_read_once(tmp_path: Path, dicom_series: Callable) -> None:
    folder = dicom_series(tmp_path / "A" / "t1c", HEAD)
    first = min(folder.iterdir())
    (folder / f"{first.name} (1)").write_bytes(first.read_bytes())
    (session,) = find_scans(tmp_path).sessions
    assert read_series(next(iter(session.images.values())))[0].GetSize()[2] == len(HEAD)
    assert any("once more" in one.reason for one in find_scans(tmp_path).left_out)


@pytest.mark.parametrize("slopes", [(1, 0.25, 0.5, 2.5), (1, 1000, 1, 1), (1, 0.001, 0.001, 0.001), (2.5, 1, 1, 1)])
def test_each_slice_has_its_own_slope(tmp_path: Path, dicom_series: Callable, slopes: tuple[float, ...]) -> None:
    folder = dicom_series(tmp_path / "A", np.full((4, 6, 5), 101), thickness=2.0)
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.RescaleSlope, image.RescaleIntercept = slopes[image.InstanceNumber - 1], 3
        image.save_as(path)
    found = sitk.GetArrayFromImage(read_series(folder)[0])[:, 0, 0]
    np.testing.assert_allclose(found, 101 * np.array(slopes) + 3)


@pytest.mark.parametrize("shift", [(0.0, 0.5), (0.5, 0.0), (-0.2, 0.3)])
def test_a_sheared_stack_is_refused(tmp_path: Path, dicom_series: Callable, shift: tuple[float, float]) -> None:
    folder = dicom_series(tmp_path / "A", HEAD)
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        number = image.InstanceNumber - 1
        image.ImagePositionPatient = [shift[0] * number, shift[1] * number, float(image.ImagePositionPatient[2])]
        image.save_as(path)
    with pytest.raises(InputError, match="sideways"):
        read_series(folder)


def test_unfinished_downloads_are_named(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path / "scans", "case01")
    for path in sorted(scan(tmp_path / "scans", "case02").iterdir()):
        path.rename(f"{path}.part")
    code, told = run(tmp_path / "scans", "--dry-run")
    assert code == 1 and "case02-t1c.nii.gz.part" in told and "not finished" in told


def test_a_name_that_is_not_text_costs_its_scan_alone(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path / "scans", "P1")
    for path in sorted(scan(tmp_path / "scans", "P2").iterdir()):
        path.rename(path.with_name(path.name.replace("P2", "c\udcff1")))
    (tmp_path / "scans" / "P2").rename(tmp_path / "scans" / "c\udcff1")
    code, told = run(tmp_path / "scans", "--image-size", 64, "--min-tumour-mm2", 10, "--out", tmp_path / "c.h5")
    assert code == 1 and "not UTF-8" in told


def test_a_pointer_in_a_series_is_told_as_one(tmp_path: Path, dicom_series: Callable) -> None:
    folder = dicom_series(tmp_path / "A" / "t1c", HEAD)
    for path in folder.iterdir():
        path.rename(path.with_suffix(".dcm"))
    (folder / "1-998.dcm").write_bytes(POINTERS["datalad get"])
    with pytest.raises(InputError, match="datalad get"):
        read_series(folder)


def test_masks_of_brains_are_no_tumours_and_series_of_masks_no_contrasts(
    tmp_path: Path, dicom_series: Callable, save_nifti: Callable
) -> None:
    dicom_series(tmp_path / "A" / "t1c", HEAD)
    for name in ("MaskTumor", "dT1", "nRCBV"):
        dicom_series(tmp_path / "A" / name, HEAD, name, EchoTime=10, RepetitionTime=500, SeriesNumber=3)
    for name in ("brain_mask.nii.gz", "A_SEG.NII.GZ"):
        save_nifti(tmp_path / "A" / "mask.nii.gz", HEAD.astype(np.uint8)).rename(tmp_path / "A" / name)
    (session,) = find_scans(tmp_path).sessions
    assert [str(contrast) for contrast in session.images] == ["t1c"]
    assert session.mask == tmp_path / "A" / "A_SEG.NII.GZ" and not session.fault


def test_two_studies_of_one_date_are_two_visits_if_they_show_the_same(tmp_path: Path, dicom_series: Callable) -> None:
    """Dates that were all made alike must not cost a visit; parts of one visit in two studies stay together."""
    for name, study in (("pre", "1.2.7"), ("post", "1.2.8")):
        dicom_series(tmp_path / "A" / name, HEAD, StudyInstanceUID=study, StudyDate="19000101")
    dicom_series(tmp_path / "B" / "1", HEAD, StudyInstanceUID="1.2.9")
    dicom_series(tmp_path / "B" / "2", HEAD, "AX T2", StudyInstanceUID="1.2.10")
    sessions = find_scans(tmp_path).sessions
    assert [(one.patient_id, len(one.images)) for one in sessions] == [("A", 1), ("A", 1), ("B", 2)]
    dated = date_sessions(sessions, None)
    assert all("both on day 0" in dated.refused["A", name] for name in ("001", "002"))


def test_where_nothing_can_be_used_the_balance_tells_why(tmp_path: Path, dicom_series: Callable) -> None:
    root = tmp_path / "scans"
    dicom_series(root / "A" / "t1c", HEAD)
    dicom_series(root / "A" / "other", HEAD[:1], "seg", SeriesNumber=2, Modality="SEG")
    code, told = run(root, "--image-size", 64, "--out", tmp_path / "c.h5")
    assert code == 3 and "segimage2itkimage" in told and "balance:" in told


def test_a_table_as_source_accounts_for_what_it_names(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path, "P1")
    (tmp_path / "my.csv").write_text("patient,session,day,t1c,seg\nA,1,0,P1/P1-t1c.nii.gz,P1/P1-seg.nii.gz\n")
    found = find_scans(tmp_path / "my.csv")
    assert (found.taken, found.left_out) == (3, ())
