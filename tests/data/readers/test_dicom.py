"""DICOM series written by pydicom: which is taken for which contrast, on which day, and their voxels."""

import csv
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from tumorcast.data.inventory import take_inventory, write_table
from tumorcast.data.prepare import PrepareSettings, prepare_cohort
from tumorcast.data.readers.clinical import date_sessions, read_clinical
from tumorcast.data.readers.dicom_scans import contrast_of
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.readers.volumes import read_image, read_session
from tumorcast.errors import InputError
from tumorcast.records import Contrast

FLAT = np.arange(6 * 4 * 5).reshape(6, 4, 5)
SLOPE = np.array([[0.8, 0.0, -0.6], [0.0, 1.0, 0.0], [0.6, 0.0, 0.8]])


@pytest.mark.parametrize(
    ("description", "contrast"),
    [
        ("AX T1", Contrast.T1N),
        ("t1_mprage_sag_pre", Contrast.T1N),
        ("AX T1 SE W/O", Contrast.T1N),
        ("Ax T1 FLAIR", Contrast.T1N),
        ("SAG 3D T1 BRAVO +C", Contrast.T1C),
        ("t1_mprage_tra_p2_iso KM", Contrast.T1C),
        ("Ax T1 POST GAD", Contrast.T1C),
        ("T1+C", Contrast.T1C),
        ("AX T2 TSE", Contrast.T2W),
        ("AX T2 FLAIR", Contrast.T2F),
        ("t2_tirm_tra_dark-fluid", Contrast.T2F),
        ("FLAIR POST", Contrast.T2F),
        ("AX T2* GRE", None),
        ("ep2d_diff_b1000_T2", None),
        ("T1 MPR COR", None),
        ("Loc T1 3 plane", None),
        ("Subtraction T1 post", None),
        ("MR Angio TOF 3D", None),
        ("DSC perfusion", None),
    ],
)
def test_a_description_tells_the_contrast(description: str, contrast: Contrast | None) -> None:
    assert contrast_of({"modality": "MR", "description": description}) is contrast


@pytest.mark.parametrize(
    ("tags", "contrast"),
    [
        ({"repetition_ms": "500", "echo_ms": "12"}, Contrast.T1N),
        ({"repetition_ms": "500", "echo_ms": "12", "agent": "Gadovist"}, Contrast.T1C),
        ({"repetition_ms": "500", "echo_ms": "12", "agent": "NONE"}, Contrast.T1N),
        ({"repetition_ms": "2100", "echo_ms": "3.4", "inversion_ms": "900"}, Contrast.T1N),
        ({"repetition_ms": "4000", "echo_ms": "100"}, Contrast.T2W),
        ({"repetition_ms": "9000", "echo_ms": "120", "inversion_ms": "2500"}, Contrast.T2F),
        ({"repetition_ms": "5000", "echo_ms": "90", "sequence": "EP"}, None),
        ({"repetition_ms": "2500", "echo_ms": "15"}, None),
        ({}, None),
        ({"description": "AX T1", "agent": "Gadovist"}, Contrast.T1C),
        ({"description": "AX T1 PRE", "agent": "Gadovist"}, Contrast.T1N),
        ({"description": "T1 W/WO contrast", "agent": "Gadovist"}, Contrast.T1C),
        ({"description": "T1 W/WO contrast"}, Contrast.T1N),
        ({"protocol": "T2 FLAIR"}, Contrast.T2F),
        ({"description": "AX T1", "image_type": "ORIGINAL\\PRIMARY\\LOCALIZER"}, None),
        ({"description": "AX T1", "modality": "CT"}, None),
    ],
)
def test_times_and_agent_tell_what_words_do_not(tags: dict[str, str], contrast: Contrast | None) -> None:
    assert contrast_of({"modality": "MR"} | tags) is contrast


def test_voxels_and_grid_of_a_series_that_slopes(tmp_path: Path, dicom_series: Callable) -> None:
    """Against nibabel, which writes the same volume with the same affine as NIfTI."""
    folder = dicom_series(tmp_path / "a", FLAT, thickness=2.5, direction=SLOPE)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ SLOPE @ np.diag([1.0, 1.0, 2.5])
    nibabel.save(nibabel.Nifti1Image(FLAT.T.astype(np.int16), affine), tmp_path / "a.nii.gz")
    read, expected = read_image(folder)[0], read_image(tmp_path / "a.nii.gz")[0]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(expected))
    for place in ("Spacing", "Origin", "Direction"):
        np.testing.assert_allclose(getattr(read, f"Get{place}")(), getattr(expected, f"Get{place}")(), atol=1e-5)


def test_the_contrasts_and_days_of_patients(tmp_path: Path, dicom_series: Callable, save_nifti: Callable) -> None:
    """Folders may be nested as they like; PatientID and PatientName are not what a patient is called."""
    for day, study in (("20200131", "1.1"), ("20200501", "1.2")):
        of_day = {"StudyDate": day, "StudyInstanceUID": study, "PatientID": "7", "PatientName": "Roe^Jane"}
        for number, description in enumerate(("AX T1", "AX T1 POST", "AX T2", "T2 FLAIR", "DWI"), 1):
            dicom_series(tmp_path / "A" / day / "mr" / f"{number}", FLAT, description, SeriesNumber=number, **of_day)
        save_nifti(tmp_path / "A" / day / "mr" / "tumor_seg.nii.gz", FLAT.astype(np.uint8))
    dicom_series(tmp_path / "B", FLAT, "AX T1 POST", StudyDate="")
    (tmp_path / "B" / "notes.txt").write_text("none of it")
    found = find_scans(tmp_path).sessions
    assert [(one.patient_id, one.session_id, one.day, len(one.images)) for one in found] == [
        ("A", "001", 0.0, 4),
        ("A", "002", 91.0, 4),
        ("B", "001", 0.0, 1),
    ]
    assert [one.mask is not None for one in found] == [True, True, False]
    assert found[1].images[Contrast.T1C].parent == tmp_path / "A" / "20200501" / "mr" / "2"
    assert date_sessions(found, None).undated == frozenset()


def test_of_several_series_the_finest_is_meant(tmp_path: Path, dicom_series: Callable) -> None:
    folder = tmp_path / "A" / "1"
    dicom_series(folder, FLAT, "AX T1 POST", thickness=5.0, SeriesNumber=1)
    dicom_series(folder, FLAT, "SAG T1 POST 3D", thickness=1.0, SeriesNumber=2)
    dicom_series(folder, FLAT[:4], "T1 POST", thickness=0.5, SeriesNumber=3)  # too few images
    (session,) = find_scans(tmp_path).sessions
    assert session.images == {Contrast.T1C: folder / "2-994"}
    assert read_image(session.images[Contrast.T1C])[0].GetSpacing()[2] == 1.0
    with pytest.raises(InputError, match="3 DICOM series"):
        read_image(folder)


def test_studies_without_dates_count_up(tmp_path: Path, dicom_series: Callable) -> None:
    for study in ("1.2", "1.1"):
        dicom_series(tmp_path / "A" / study, FLAT, StudyInstanceUID=study, StudyDate="")
    found = find_scans(tmp_path).sessions
    assert [one.day for one in found] == [0.0, 1.0]
    assert date_sessions(found, None).undated == {"A"}


def test_a_study_without_a_date_beside_dated_ones(tmp_path: Path, dicom_series: Callable) -> None:
    for study, day in (("1.1", "20200131"), ("1.2", "")):
        dicom_series(tmp_path / "A" / study, FLAT, StudyInstanceUID=study, StudyDate=day)
    found = find_scans(tmp_path).sessions
    refused = date_sessions(found, None).refused
    assert list(refused) == [("A", "002")] and "a study without a date beside dated ones" in refused["A", "002"]
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("patient_id,session_id,day\nA,1,0\nA,2,50\n")
    assert date_sessions(found, read_clinical(clinical)).refused == {}


def test_two_masks_refuse_a_scan(tmp_path: Path, dicom_series: Callable, save_nifti: Callable) -> None:
    folder = dicom_series(tmp_path / "A" / "1", FLAT)
    for name in ("seg.nii", "tumor_mask.nii.gz"):
        save_nifti(folder / name, FLAT.astype(np.uint8))
    (reason,) = date_sessions(find_scans(tmp_path).sessions, None).refused.values()
    assert "is a tumour mask of the same scan; keep one" in reason


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"skip": (3,)}, r"slices 3 and 4 .*2 mm"),
        ({"skip": (0, 1, 2, 3, 4)}, "a series of one file"),
        ({"thickness": 0.0}, "slices 1 and 2 .*0 mm"),
        ({"NumberOfFrames": 3}, "several frames .*highdicom"),
        ({"Rows": 60_000, "Columns": 60_000}, r"2.16e\+10 .*5.4e\+08"),
        ({"Rows": 400}, "40 of 4000 bytes"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "GDCM|slices are missing"),
    ],
)
def test_a_series_that_cannot_be_a_volume(tmp_path: Path, dicom_series: Callable, tags: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(dicom_series(tmp_path / "a", FLAT, **tags))


def nested(depth: int, *, undefined: bool) -> Sequence:
    """A sequence whose items hold a sequence, and so on; of told length or up to delimiters."""
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    if depth:
        item.ReferencedImageSequence = nested(depth - 1, undefined=undefined)
    item.is_undefined_length_sequence_item = undefined
    sequence = Sequence([item, item])
    sequence.is_undefined_length = undefined
    return sequence


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_and_compressed_pixels(tmp_path: Path, dicom_series: Callable, syntax: str, undefined: bool) -> None:
    tags = {"ReferencedImageSequence": nested(2, undefined=undefined), "SeriesInstanceUID": "1.2.5"}
    voxels = np.arange(6 * 16 * 16).reshape(6, 16, 16)  # GDCM does not unpack the smallest images of pydicom
    folder = dicom_series(tmp_path / "A" / "1", voxels, syntax=syntax, **tags)
    (session,) = find_scans(tmp_path).sessions
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(session.images[Contrast.T1C])[0]), voxels)
    first = min(folder.iterdir())
    assert (b"\xfe\xff\x0d\xe0" in first.read_bytes()) is undefined  # the delimiter of an item
    first.write_bytes(first.read_bytes()[:-3])
    with pytest.raises(InputError, match="damaged or cut short"):
        read_image(folder)


def padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


@pytest.mark.parametrize("victim", [0, 2, 5])
@pytest.mark.parametrize("kept", [0, 131, 132, 400, -52, -1])
def test_a_file_cut_short_is_no_missing_slice(tmp_path: Path, dicom_series: Callable, victim: int, kept: int) -> None:
    """GDCM passes over such a file, and the volume looks whole if it was at an end."""
    folder = dicom_series(tmp_path / "a", FLAT)
    path = sorted(folder.iterdir())[victim]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"{path}: .*(damaged or cut short|is empty).*; copy it again"):
        read_image(folder)


def test_images_that_point_elsewhere(tmp_path: Path, dicom_series: Callable) -> None:
    folder = dicom_series(tmp_path / "a", FLAT, SeriesInstanceUID="1.9", skip=(3, 4, 5))
    dicom_series(folder, FLAT, SeriesInstanceUID="1.9", direction=SLOPE, SeriesNumber=2, skip=(0, 1, 2))
    with pytest.raises(InputError, match="different directions"):
        read_image(folder)


def test_a_folder_is_prepared_and_a_table_overrules_the_choice(
    tmp_path: Path, dicom_series: Callable, make_phantom: Callable, save_nifti: Callable
) -> None:
    """The dry run's table names the series chosen; another one is written into it and taken."""
    study = tmp_path / "dicom" / "A" / "study"
    dicom_series(study / "1", make_phantom("t1c"), "AX T1 POST", SeriesNumber=1)
    dicom_series(study / "2", make_phantom("t2w"), "T1 POST again", SeriesNumber=2)
    save_nifti(study / "seg.nii.gz", make_phantom("seg"))
    found = take_inventory(tmp_path / "dicom")
    assert (found.layout, found.usable) == (Layout.DICOM, 1)
    assert found.scans[0].size == (40, 36, 6)
    report = prepare_cohort(tmp_path / "dicom", tmp_path / "c.h5", PrepareSettings(image_size=64, min_tumour_mm2=5.0))
    assert [one.status for one in report.outcomes] == ["ok"]
    path = tmp_path / "tables" / "sessions.csv"
    write_table(path, found)
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["patient"], row["day"], row["t1c"]) == ("A", "0", "../dicom/A/study/1/1-994")
    path.write_text(path.read_text().replace("/study/1/1-994", "/study/2"))
    (session,) = find_scans(path).sessions
    volume = read_session(session, (Contrast.T1C,))
    np.testing.assert_array_equal(volume.images[Contrast.T1C], make_phantom("t2w"))
    np.testing.assert_array_equal(volume.labels, make_phantom("seg"))
    assert sorted(volume.sha256) == ["seg", "t1c"]
