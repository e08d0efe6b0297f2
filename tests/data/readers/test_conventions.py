"""The folder schemes of public collections: names, days, and what their labels mean."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from tumorcast.data.readers.clinical import date_sessions, read_clinical
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.readers.volumes import read_session
from tumorcast.errors import InputError
from tumorcast.records import Contrast


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def labels_read(source: Path, layout: Layout, contrast: Contrast = Contrast.T1C) -> list[int]:
    """The labels that come of the row 0, 1, 2 … of a mask."""
    (session,) = find_scans(source, layout).sessions
    return read_session(session, (contrast,)).labels[0, 0].tolist()


def mask_row(*values: int) -> np.ndarray:
    voxels = np.zeros((len(values), 4, 3), np.uint8)
    voxels[:, 0, 0] = values
    return voxels


def image(columns: int) -> np.ndarray:
    return np.arange(columns * 12, dtype=np.int16).reshape(columns, 4, 3)


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_brats_until_2021(tmp_path: Path, end: str) -> None:
    for patient in ("BraTS2021_00000", "BraTS2021_00002"):
        touch(*(tmp_path / patient / f"{patient}_{kind}{end}" for kind in ("t1", "t1ce", "t2", "flair", "seg")))
    first, second = find_scans(tmp_path).sessions
    assert (first.patient_id, first.session_id, second.patient_id) == ("BraTS2021_00000", "000", "BraTS2021_00002")
    assert {contrast: path.name for contrast, path in first.images.items()} == {
        Contrast.T1N: f"BraTS2021_00000_t1{end}",
        Contrast.T1C: f"BraTS2021_00000_t1ce{end}",
        Contrast.T2W: f"BraTS2021_00000_t2{end}",
        Contrast.T2F: f"BraTS2021_00000_flair{end}",
    }
    assert first.mask is not None and first.mask.name == f"BraTS2021_00000_seg{end}"


def mu_glioma(root: Path, patient: str, timepoint: int, mask: str = "tumorMask") -> None:
    folder = root / f"PatientID_{patient}" / f"Timepoint_{timepoint}"
    names = (*(f"brain_{contrast}" for contrast in Contrast), mask)
    touch(*(folder / f"PatientID_{patient}_Timepoint_{timepoint}_{name}.nii.gz" for name in names))


def test_mu_glioma_post(tmp_path: Path) -> None:
    for timepoint in (10, 2):
        mu_glioma(tmp_path, "0003", timepoint)
    mu_glioma(tmp_path, "0005", 1, mask="tumormask")
    found = find_scans(tmp_path).sessions
    assert {(one.patient_id, one.session_id): one.day for one in found} == {
        ("PatientID_0003", "Timepoint_2"): 0.0,
        ("PatientID_0003", "Timepoint_10"): 1.0,
        ("PatientID_0005", "Timepoint_1"): 0.0,
    }
    assert all(list(one.images) == list(Contrast) and one.mask for one in found)
    clinical = tmp_path / "days.csv"
    clinical.write_text("patient_id,session_id,day\nPatientID_0003,2,90\nPatientID_0003,10,146\n")
    dated = date_sessions(found, read_clinical(clinical))
    assert [one.day for one in dated.sessions] == [90.0, 146.0, 0.0]
    assert (dated.undated, dated.refused) == (frozenset(), {})


@pytest.mark.parametrize(("labels", "meant"), [((0, 1, 2, 3, 4), [0, 1, 2, 3, 0]), ((0, 1, 2, 4), [0, 1, 2, 0])])
def test_a_resection_cavity_of_mu_glioma_post_is_no_tumour(tmp_path: Path, labels: tuple, meant: list) -> None:
    """Without a label 3 in the same mask, too, where a 4 of BraTS 2021 would be the enhancing tumour."""
    stem = tmp_path / "P_1" / "Timepoint_1" / "P_1_Timepoint_1"
    write(Path(f"{stem}_brain_t1c.nii.gz"), image(len(labels)))
    write(Path(f"{stem}_tumorMask.nii.gz"), mask_row(*labels))
    assert labels_read(tmp_path, Layout.AUTO) == meant


LUMIERE_PLACES = {
    Layout.LUMIERE: (
        "DeepBraTumIA-segmentation/atlas/skull_strip/ct1_skull_strip.nii.gz",
        "DeepBraTumIA-segmentation/atlas/segmentation/seg_mask.nii.gz",
    ),
    Layout.LUMIERE_HD_GLIO: (
        "HD-GLIO-AUTO-segmentation/registered/CT1_r2s_bet_reg.nii.gz",
        "HD-GLIO-AUTO-segmentation/registered/segmentation.nii.gz",
    ),
    Layout.LUMIERE_NATIVE: ("CT1.nii.gz", "DeepBraTumIA-segmentation/native/segmentation/ct1_seg_mask.nii.gz"),
}


def test_lumiere_is_dated_by_weeks(tmp_path: Path) -> None:
    for week in ("week-000-1", "week-000-2", "week-044"):
        folder = tmp_path / "Imaging" / "Patient-001" / week
        touch(*(folder / place for places in LUMIERE_PLACES.values() for place in places))
        touch(folder / "FLAIR.nii.gz", folder / "DeepBraTumIA-segmentation/atlas/skull_strip/flair_skull_strip.nii.gz")
    touch(tmp_path / "Imaging" / "Patient-002" / "week-003" / "T1.nii.gz")
    found = find_scans(tmp_path).sessions
    assert [(one.patient_id, one.session_id, one.day, len(one.images)) for one in found] == [
        ("Patient-001", "week-000-1", 0.0, 2),
        ("Patient-001", "week-000-2", 1.0, 2),
        ("Patient-001", "week-044", 308.0, 2),
        ("Patient-002", "week-003", 21.0, 0),
    ]
    assert date_sessions(found, None).undated == frozenset()
    for layout, places in LUMIERE_PLACES.items():
        scan = find_scans(tmp_path / "Imaging", layout).sessions[0]
        folder = tmp_path / "Imaging" / "Patient-001" / "week-000-1"
        assert (scan.images[Contrast.T1C], scan.mask) == tuple(folder / place for place in places)


@pytest.mark.parametrize(
    ("layout", "labels", "meant"),
    [
        (Layout.LUMIERE, (0, 1, 2, 3), [0, 3, 1, 2]),
        (Layout.LUMIERE_HD_GLIO, (0, 1, 2), [0, 2, 3]),
        (Layout.LUMIERE_NATIVE, (0, 1, 2, 3), [0, 3, 1, 2]),
    ],
)
def test_labels_of_lumiere_become_those_of_brats(tmp_path: Path, layout: Layout, labels: tuple, meant: list) -> None:
    week = tmp_path / "Patient-001" / "week-000"
    for place, voxels in zip(LUMIERE_PLACES[layout], (image(len(labels)), mask_row(*labels)), strict=True):
        write(week / place, voxels)
    assert labels_read(tmp_path, layout) == meant


def test_a_label_that_a_scheme_does_not_have_is_refused(tmp_path: Path) -> None:
    week = tmp_path / "Patient-001" / "week-000"
    for place, voxels in zip(LUMIERE_PLACES[Layout.LUMIERE_HD_GLIO], (image(4), mask_row(0, 1, 2, 3)), strict=True):
        write(week / place, voxels)
    with pytest.raises(InputError, match=r"segmentation.nii.gz: .*hd-glio \(1, 2\)"):
        labels_read(tmp_path, Layout.LUMIERE_HD_GLIO)


@pytest.mark.parametrize(
    ("cell", "meant"), [("1:3 2:1 4:0", [0, 3, 1, 0]), ("brats2021", [0, 1, 2, 3])], ids=["renamed", "by name"]
)
def test_a_table_can_say_what_labels_mean(tmp_path: Path, cell: str, meant: list) -> None:
    write(tmp_path / "i.nii.gz", image(4))
    write(tmp_path / "m.nii.gz", mask_row(0, 1, 2, 4))
    (tmp_path / "sessions.csv").write_text(f"patient,session,day,t1c,seg,labels\nA,1,0,i.nii.gz,m.nii.gz,{cell}\n")
    assert labels_read(tmp_path, Layout.TABLE) == meant


@pytest.mark.parametrize("cell", ["1:4", "1-3", "one:3", "1:3;2:1", "1:1 1:2"])
def test_labels_that_mean_nothing(tmp_path: Path, cell: str) -> None:
    (tmp_path / "sessions.csv").write_text(f"patient,session,day,t1c,labels\nA,1,0,i.nii.gz,{cell}\n")
    with pytest.raises(InputError, match=r"line 2: 'labels' .*brats2023"):
        find_scans(tmp_path)
