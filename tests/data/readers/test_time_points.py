"""Which scans are one patient's: time points in names of files and folders, and numbers that are none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tumorcast.data.readers.conventions import brats_names, like_timepoints
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.survey import survey

OLD = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "seg": "seg"}


def write(root: Path, stem: str, save_nifti: Callable, make_phantom: Callable, kinds: dict[str, str] = OLD) -> None:
    """A scan whose files are STEM_t1.nii.gz and so on."""
    for kind, name in kinds.items():
        save_nifti(root / f"{stem}_{name}.nii.gz", make_phantom(kind))


def listed(root: Path) -> list[tuple[str, str]]:
    return [(session.patient_id, session.session_id) for session in find_scans(root).sessions]


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (("100001_time1", "100001_time2"), [("100001", "time1"), ("100001", "time2")]),
        (("100001/100001_time1", "100001/100001_time2"), [("100001", "time1"), ("100001", "time2")]),
        (("P7_tp1", "P7_tp2"), [("P7", "tp1"), ("P7", "tp2")]),
        (("P7/P7_baseline", "P7/P7_followup"), [("P7", "baseline"), ("P7", "followup")]),
        (("P7-visit-2", "P7-visit-10"), [("P7", "visit-10"), ("P7", "visit-2")]),
        (("RHUH-0001/0/RHUH-0001_0", "RHUH-0001/1/RHUH-0001_1"), [("RHUH-0001", "0"), ("RHUH-0001", "1")]),
        (("UPENN-GBM-00001_11/UPENN-GBM-00001_11", "UPENN-GBM-00001_21/UPENN-GBM-00001_21"),
         [("UPENN-GBM-00001", "11"), ("UPENN-GBM-00001", "21")]),
        (("BraTS20_Training_001/BraTS20_Training_001", "BraTS20_Training_002/BraTS20_Training_002"),
         [("BraTS20_Training_001", "000"), ("BraTS20_Training_002", "000")]),
        (("Brats18_TCIA09_141_1/Brats18_TCIA09_141_1", "Brats18_TCIA09_142_1/Brats18_TCIA09_142_1"),
         [("Brats18_TCIA09_141_1", "000"), ("Brats18_TCIA09_142_1", "000")]),
        (("P7_bl", "P7_fu1"), [("P7", "bl"), ("P7", "fu1")]),
        (("case_01", "case_02"), [("case_01", "000"), ("case_02", "000")]),
        (("Patient_1/Patient_1", "Patient_2/Patient_2"), [("Patient_1", "000"), ("Patient_2", "000")]),
    ],
)  # fmt: skip
def test_patients_and_time_points(
    tmp_path: Path, save_nifti: Callable, make_phantom: Callable, stems: tuple[str, ...], expected: list
) -> None:
    for stem in stems:
        write(tmp_path, stem, save_nifti, make_phantom)
    assert listed(tmp_path) == expected


def test_time_points_are_counted_in_time(tmp_path: Path, save_nifti: Callable, make_phantom: Callable) -> None:
    for name in ("post", "pre", "time10", "time2"):
        write(tmp_path / "P7", f"P7_{name}", save_nifti, make_phantom, {"t1c": "t1ce"})
    days = {session.session_id: session.day for session in find_scans(tmp_path).sessions}
    assert sorted(days, key=days.__getitem__) == ["pre", "post", "time2", "time10"]


def test_maps_of_change_are_no_scans_and_are_told(tmp_path: Path, save_nifti: Callable, make_phantom: Callable) -> None:
    """UCSF-ALPTDG has subtractions, with masks of their own, beside the scans."""
    folder = tmp_path / "100001"
    for time in (1, 2):
        write(folder, f"100001_time{time}", save_nifti, make_phantom)
    for name in ("flair_subtraction", "flair_subtraction_seg", "time1_t1ce-t1", "time1_enhancing_cellular_tumor_seg"):
        save_nifti(folder / f"100001_{name}.nii.gz", make_phantom("seg"))
    found = find_scans(tmp_path)
    assert [session.session_id for session in found.sessions] == ["time1", "time2"]
    assert sorted(one.path.name for one in found.left_out) == [
        "100001_flair_subtraction.nii.gz", "100001_flair_subtraction_seg.nii.gz",
        "100001_time1_enhancing_cellular_tumor_seg.nii.gz", "100001_time1_t1ce-t1.nii.gz",
    ]  # fmt: skip


def test_names_that_look_like_time_points_are_told(
    tmp_path: Path, save_nifti: Callable, make_phantom: Callable
) -> None:
    for name in ("P001_1", "P001_2", "P002_1"):
        write(tmp_path, name, save_nifti, make_phantom, {"t1c": "t1ce"})
    assert survey(tmp_path).balance().like_timepoints == (("P001_1", "P001_2"),)
    dates = ["P02_2020-01-01", "P02_2020-04-01", "TCGA-02-0006_1996.08.23", "TCGA-02-0006_1997.02.01"]
    assert list(like_timepoints(dates)) == [dates[:2], dates[2:]]
    assert list(like_timepoints(["TCGA-CS-4942", "TCGA-CS-4943", "PGBM-001", "PGBM-002", "BraTS2021_00000"])) == []


def test_one_scan_in_two_places_is_refused(tmp_path: Path, save_nifti: Callable, make_phantom: Callable) -> None:
    write(tmp_path, "100001_time1", save_nifti, make_phantom)
    write(tmp_path / "100001", "100001_time1", save_nifti, make_phantom)
    write(tmp_path, "P2", save_nifti, make_phantom)
    assert ["keep one" in session.fault for session in find_scans(tmp_path, Layout.BRATS).sessions] == [True, False]


def test_days_follow_up_names() -> None:
    assert brats_names("UCSF-PDGM-0429_FU003d") == ("UCSF-PDGM-0429", "FU003d")
    assert brats_names("BraTSReg_001_01_0106") == ("BraTSReg_001", "01_0106")
    assert brats_names("UCSF-PDGM-0429") == ("UCSF-PDGM-0429", "000")
