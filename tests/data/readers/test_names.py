"""How names of patients and sessions meet, in the clinical table and in BIDS's own, and what becomes of other rows."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from tumorcast.data.readers.clinical import date_sessions, read_clinical
from tumorcast.data.readers.layouts import find_scans
from tumorcast.data.readers.names import meeting, met
from tumorcast.data.survey import survey
from tumorcast.errors import InputError


@pytest.mark.parametrize(
    ("told", "folder"),
    [
        ("01", "sub-01"),
        ("1", "sub-01"),
        ("1.0", "sub-01"),
        ("001", "sub-01"),
        ("SUB-01", "sub-01"),
        (" sub-01 ", "sub-01"),
        ("UCSF-PDGM-004", "UCSF-PDGM-0004"),
        ("100001.0", "100001"),
        ("3", "PatientID_0003"),
        (unicodedata.normalize("NFD", "Müller"), unicodedata.normalize("NFC", "Müller")),
        (unicodedata.normalize("NFC", "sub-é1"), unicodedata.normalize("NFD", "sub-é1")),
    ],
)
def test_names_meet(told: str, folder: str) -> None:
    assert met(told, [folder, "another-77"]) == [folder]
    assert meeting([told], [folder, "another-77"]) == {told: folder}


@pytest.mark.parametrize(("told", "folders"), [("1", ["case-1", "case-001"]), ("p1", ["P1", "P01"])])
def test_a_name_that_may_be_several_is_none(told: str, folders: list[str]) -> None:
    assert len(met(told, folders)) == 2
    assert meeting([told], folders) == {}


def test_two_names_of_a_table_are_not_made_one_patient() -> None:
    """`1` beside `01` may be another person; `sub-01` beside `01` is not."""
    assert meeting(["01", "1"], ["sub-01"]) == {"01": "sub-01"}
    assert meeting(["1", "001"], ["sub-01"]) == {}
    assert meeting(["sub-01", "01"], ["sub-01"]) == {"sub-01": "sub-01", "01": "sub-01"}


def bids(root: Path, save_nifti: Callable, make_phantom: Callable) -> Path:
    for session in ("ses-01", "ses-02"):
        save_nifti(root / "sub-01" / session / "anat" / f"sub-01_{session}_T1w.nii.gz", make_phantom("t1n"))
    return root


@pytest.mark.parametrize(
    "names", [("01", "01", "02"), ("1", "1", "2"), ("sub-01", "ses-01", "ses-02"), ("1", "1.0", "2.0")]
)
def test_a_clinical_table_in_other_spellings(
    tmp_path: Path, save_nifti: Callable, make_phantom: Callable, names: tuple[str, str, str]
) -> None:
    patient, first, second = names
    table = tmp_path / "clinical.csv"
    table.write_text(f"patient_id,session_id,day,rt_start_day\n{patient},{first},0,10\n{patient},{second},84,NA\n")
    found = find_scans(bids(tmp_path / "scans", save_nifti, make_phantom)).sessions
    dated = date_sessions(found, read_clinical(table))
    assert [session.day for session in dated.sessions] == [0.0, 84.0]
    assert dated.treatments["sub-01"].radiotherapy[0].start_days == 10.0
    assert dated.unmatched == ()


@pytest.mark.parametrize("session", ["1", "01", "ses-01", "1.0"])
def test_sessions_tsv_in_other_spellings(
    tmp_path: Path, save_nifti: Callable, make_phantom: Callable, session: str
) -> None:
    root = bids(tmp_path, save_nifti, make_phantom)
    (root / "sub-01" / "sub-01_sessions.tsv").write_text(f"session_id\tdays\n{session}\t0\nses-02\t33\n")
    assert [one.day for one in date_sessions(find_scans(root).sessions, None).sessions] == [0.0, 33.0]


@pytest.mark.parametrize(
    ("row", "told"),
    [("sub-07,ses-01,0", "patient sub-07: no such patient"), ("sub-01,ses-09,5", "session ses-09: no such scan")],
)
def test_a_row_that_fits_no_scan_is_named_and_stops(
    tmp_path: Path, save_nifti: Callable, make_phantom: Callable, row: str, told: str
) -> None:
    table = tmp_path / "clinical.csv"
    table.write_text(f"patient_id,session_id,day\nsub-01,ses-01,0\nsub-01,ses-02,84\n{row}\n")
    found = survey(bids(tmp_path / "scans", save_nifti, make_phantom), clinical=table)
    with pytest.raises(InputError, match="--allow-unmatched") as refusal:
        found.refuse_unmatched()
    assert f"{table}, line 4: " in str(refusal.value) and told in str(refusal.value)
    assert [session.day for session in found.dated.sessions] == [0.0, 84.0]


def test_a_session_that_has_no_folder_is_named(tmp_path: Path, save_nifti: Callable, make_phantom: Callable) -> None:
    root = bids(tmp_path, save_nifti, make_phantom)
    (root / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tdays\nses-01\t0\nses-02\t33\nses-03\t60\n")
    (row,) = survey(root).unmatched
    assert "sessions.tsv, line 4" in str(row) and "ses-03" in str(row)


@pytest.mark.parametrize("day", ["20200101", "19991231.0", "2020-01-01"])
def test_a_date_is_no_day(tmp_path: Path, save_nifti: Callable, make_phantom: Callable, day: str) -> None:
    """A date in the column of days would put treatment a life away from the scans, and stand in the cohort file."""
    table = tmp_path / "clinical.csv"
    table.write_text(f"patient_id,session_id,day\nsub-01,ses-01,{day}\nsub-01,ses-02,84\n")
    dated = date_sessions(find_scans(bids(tmp_path / "scans", save_nifti, make_phantom)).sessions, read_clinical(table))
    assert all(f"'day' is '{day}'" in reason for reason in dated.refused.values()) and len(dated.refused) == 2
