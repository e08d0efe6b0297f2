"""Which files make up which scan, and how a clinical table dates them."""

import math
from pathlib import Path

import pytest

from tumorcast.data.readers.clinical import date_sessions, read_clinical
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.errors import InputError
from tumorcast.records import ChemotherapyCourse, Contrast, RadiotherapyCourse, Treatment

KINDS = ("t1n", "t1c", "t2w", "t2f", "seg")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def brats(folder: Path, scan: str, kinds: tuple[str, ...] = KINDS) -> None:
    for kind in kinds:
        touch(folder / scan / f"{scan}-{kind}.nii.gz")


def names(sessions: list) -> list[tuple[str, str]]:
    return [(session.patient_id, session.session_id) for session in sessions]


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_brats_timepoints_belong_to_one_patient_and_count_up(tmp_path: Path) -> None:
    for scan in ("BraTS-GLI-00001-001", "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"):
        brats(tmp_path, scan)
    sessions = find_scans(tmp_path).sessions
    assert names(sessions) == [("BraTS-GLI-00001", "000"), ("BraTS-GLI-00001", "001"), ("BraTS-GLI-00002", "000")]
    assert [session.day for session in sessions] == [0.0, 1.0, 0.0]
    assert date_sessions(sessions, None).undated == {"BraTS-GLI-00001"}
    assert list(sessions[0].images) == list(Contrast)
    assert sessions[0].mask is not None


def test_brats_patients_whose_names_end_in_digits_stay_apart(tmp_path: Path) -> None:
    for scan in ("PGBM-007", "PGBM-009", "TCGA-FG-6692"):
        brats(tmp_path, scan)
    assert [patient for patient, _ in names(find_scans(tmp_path).sessions)] == ["PGBM-007", "PGBM-009", "TCGA-FG-6692"]


def test_brats_in_one_flat_folder(tmp_path: Path) -> None:
    for kind in KINDS:
        touch(tmp_path / f"P1-{kind}.nii")
    (session,) = find_scans(tmp_path).sessions
    assert session.images[Contrast.T2F] == tmp_path / "P1-t2f.nii"


def test_brats_scan_keeps_what_it_has(tmp_path: Path) -> None:
    brats(tmp_path, "P1", ("t1c", "t2f"))
    (session,) = find_scans(tmp_path).sessions
    assert tuple(session.images) == (Contrast.T1C, Contrast.T2F)
    assert session.mask is None


def test_brats_file_twice_is_refused(tmp_path: Path) -> None:
    brats(tmp_path, "P1")
    touch(tmp_path / "P1" / "P1-t1c.nii")
    (session,) = find_scans(tmp_path).sessions
    assert "keep one" in session.fault


def slice_folder(root: Path, part: str, patient: str, number: int, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        touch(root / part / f"{patient}_{number}" / f"brats_train_{patient}_{kind}_{number}_w.nii.gz")


def test_slices_of_all_parts_are_stacked_by_number(tmp_path: Path) -> None:
    for number in (10, 9):
        slice_folder(tmp_path, "testing", "7", number, KINDS[:4])
        touch(tmp_path / "test_labels" / f"7_{number}-label.nii.gz")
    slice_folder(tmp_path, "training", "7", 8, KINDS)
    (session,) = find_scans(tmp_path).sessions
    assert session.slices
    assert [files.number for files in session.slices] == [8, 9, 10]
    assert all(files.mask is not None for files in session.slices)
    assert session.mask is not None


def test_a_slice_without_a_contrast_or_mask_speaks_for_its_session(tmp_path: Path) -> None:
    slice_folder(tmp_path, "training", "7", 1, KINDS)
    slice_folder(tmp_path, "training", "7", 2, ("t1n", "t1c"))
    (session,) = find_scans(tmp_path).sessions
    assert tuple(session.images) == (Contrast.T1N, Contrast.T1C)
    assert session.mask is None


def test_a_slice_in_two_parts_is_refused(tmp_path: Path) -> None:
    for part in ("training", "testing"):
        slice_folder(tmp_path, part, "7", 1, KINDS)
    with pytest.raises(InputError, match="slice 1 lies in"):
        find_scans(tmp_path)


def test_table_with_file_columns(tmp_path: Path) -> None:
    text = "patient,session,day,t1c,seg\nA,s1,-3,scans/a.nii.gz,scans/m.nii.gz\nA,s2,12.5,scans/b.nii.gz,\n"
    path = table(tmp_path / "my.csv", text)
    first, second = find_scans(path).sessions
    assert (first.day, second.day) == (-3.0, 12.5)
    assert first.images == {Contrast.T1C: tmp_path / "scans/a.nii.gz"}
    assert second.mask is None


def test_table_finds_files_by_convention(tmp_path: Path) -> None:
    table(tmp_path / "sessions.csv", "patient,session,day\nA,s1,0\n")
    path = touch(tmp_path / "A" / "s1" / "A_s1-t1c.nii.gz")
    (session,) = find_scans(tmp_path).sessions
    assert session.images == {Contrast.T1C: path}


def test_a_table_separated_by_tabs(tmp_path: Path) -> None:
    path = table(tmp_path / "my.tsv", "patient\tsession\tday\tt1c\nA\ts1\t-3\tscans/a.nii.gz\n")
    (session,) = find_scans(path).sessions
    assert (session.day, session.images) == (-3.0, {Contrast.T1C: tmp_path / "scans/a.nii.gz"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,session\nA,s1\n", "no column 'day'"),
        ("patient;session;day\nA;s1;0\n", "separated by commas"),
        ("patient,session,day\nA,s1,soon\n", "line 2: 'day' is 'soon', not a number"),
        ("patient,session,day\nA,s1,nan\n", "not a finite number"),
        ("patient,session,day\nA,s1,\n", "no day"),
        ("patient,session,day\nA,s1,0\nA,s1,5\n", "has a row above"),
        ("patient,session,day\nA/B,s1,0\n", "without slashes"),
        ("patient,session,day\n", "no scan found"),
        ("patient,session,day,t1c,t1c\nA,s1,0,a.nii,b.nii\n", "column 't1c' stands twice"),
    ],
)
def test_malformed_table(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path / "sessions.csv", text)
    with pytest.raises(InputError, match=message):
        find_scans(tmp_path)


def test_a_table_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "sessions.csv").write_bytes(b"\xff\xfe\x00patient")
    with pytest.raises(InputError, match="is not CSV in UTF-8"):
        find_scans(tmp_path)


@pytest.mark.parametrize("layout", list(Layout))
def test_nothing_found_says_what_was_looked_for(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(InputError, match=r"brats \(|sessions.csv: "):
        find_scans(tmp_path, layout)


def test_two_layouts_fit(tmp_path: Path) -> None:
    brats(tmp_path, "P1")
    table(tmp_path / "sessions.csv", "patient,session,day\nA,s1,0\n")
    with pytest.raises(InputError, match=r"\(brats, table\).*--layout"):
        find_scans(tmp_path)
    assert names(find_scans(tmp_path, Layout.BRATS).sessions) == [("P1", "000")]


def test_source_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_scans(tmp_path / "nowhere")


def test_clinical_table_dates_scans_and_courses(tmp_path: Path) -> None:
    for scan in ("P1-000", "P1-001", "P1-002", "Q2"):
        brats(tmp_path, scan)
    text = (
        "patient_id,session_id,day,rt_start_day,rt_end_day\n"
        "P1,000,5,20,60\nP1,1,90,20,60\nP1,P1-002,200,150,\nP1,,,,400\n"
    )
    clinical = read_clinical(table(tmp_path / "clinical.csv", text))
    dated = date_sessions(find_scans(tmp_path).sessions, clinical)
    assert [session.day for session in dated.sessions] == [5.0, 90.0, 200.0, 0.0]
    assert dated.refused == {}
    courses = (RadiotherapyCourse(20, 60), RadiotherapyCourse(150, 192), RadiotherapyCourse(358, 400))
    assert dated.treatments["P1"].radiotherapy == courses


def test_a_scan_the_clinical_table_forgets_is_refused(tmp_path: Path) -> None:
    for scan in ("P1-000", "P1-001"):
        brats(tmp_path, scan)
    clinical = read_clinical(table(tmp_path / "clinical.csv", "patient_id,session_id,day\nP1,000,5\n"))
    assert "add its row" in date_sessions(find_scans(tmp_path).sessions, clinical).refused["P1", "001"]


def dated(folder: Path, scans: tuple[str, ...], rows: str):
    """What a clinical table of `rows` makes of `scans`."""
    for scan in scans:
        brats(folder, scan)
    clinical = table(folder / "clinical.csv", f"patient_id,session_id,day\n{rows}")
    return date_sessions(find_scans(folder).sessions, read_clinical(clinical))


def test_a_day_without_a_session_is_that_of_the_only_scan(tmp_path: Path) -> None:
    scans = ("P1-000", "P2-000", "P3-000", "P3-001")
    found = dated(tmp_path, scans, "P1,,7\nP1,,7\nP2,,8\nP2,000,8\nP3,000,3\nP3,001,4\nP9,,1\n")
    assert [(one.patient_id, one.day) for one in found.sessions] == [("P1", 7.0), ("P2", 8.0), ("P3", 3.0), ("P3", 4.0)]
    assert found.refused == {}


def test_a_day_without_a_session_may_not_be_that_of_several_scans(tmp_path: Path) -> None:
    found = dated(tmp_path, ("P1-000", "P1-001", "P2-000"), "P1,000,5\nP1,001,6\nP1,,7\nP2,000,8\n")
    assert set(found.refused) == {("P1", "000"), ("P1", "001")}
    reason = "clinical.csv, line 4: a day without session_id, but P1 has 2 scans; name the scan's session_id"
    assert all(refusal.endswith(reason) for refusal in found.refused.values())
    assert not found.undated


@pytest.mark.parametrize("rows", ["P1,000,5\nP1,,7\n", "P1,,5\nP1,,7\n"])
def test_two_days_of_the_only_scan_are_refused(tmp_path: Path, rows: str) -> None:
    (reason,) = dated(tmp_path, ("P1-000",), rows).refused.values()
    assert reason.endswith("line 3: the only scan of P1 is on day 7 here and 5 in another row; keep one")


@pytest.mark.parametrize(
    ("scans", "rows", "undated"),
    [
        (("P1-000", "P1-001", "P2-000"), "", {"P1"}),
        (("P1-000", "P1-001", "P2-000", "P2-001"), "P1,000,0\nP1,001,1\n", {"P2"}),
        (("P1-000", "P1-001"), "P1,000,0\nP1,001,1\n", set()),
        (("P1-000", "P2-000"), "", set()),
    ],
)
def test_scans_that_are_only_counted_are_undated(tmp_path: Path, scans: tuple, rows: str, undated: set) -> None:
    assert dated(tmp_path, scans, rows).undated == undated


def test_days_of_a_table_are_dates_even_where_they_count_up(tmp_path: Path) -> None:
    table(tmp_path / "sessions.csv", "patient,session,day\nA,s1,0\nA,s2,1\n")
    assert date_sessions(find_scans(tmp_path).sessions, None).undated == frozenset()


def test_two_sessions_on_one_day_are_both_refused_and_others_go_on(tmp_path: Path) -> None:
    table(tmp_path / "sessions.csv", "patient,session,day\nA,s1,3\nA,s2,3\nA,s3,9\nB,s1,3\n")
    refused = date_sessions(find_scans(tmp_path).sessions, None).refused
    assert set(refused) == {("A", "s1"), ("A", "s2")}
    assert "both on day 3" in refused["A", "s1"]


def test_clinical_table_tells_treatments_as_tables_of_sizes_do(tmp_path: Path) -> None:
    text = (
        "patient_id,rt_start_day,dose,fractions,chemo_start_day,chemo_end_day,resection_day\n"
        "P1,20,40.05 Gy,15,20,,-3\nP1,20,,,,,80\nP2,,,,,,\n"
    )
    for scan in ("P1-000", "P2-000"):
        brats(tmp_path, scan)
    clinical = read_clinical(table(tmp_path / "clinical.csv", text))
    treatments = date_sessions(find_scans(tmp_path).sessions, clinical).treatments
    assert treatments["P1"] == Treatment(
        (RadiotherapyCourse(20.0, 41.0, 40.05, 15),), (ChemotherapyCourse(20.0, math.inf),), (-3.0, 80.0)
    )
    assert treatments["P2"] == Treatment()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("P1,000,1,50,20\n", "line 2: radiotherapy ends on day 20, before its start on day 50"),
        (
            "P1,000,1,50,90\nP1,,,60,\n",
            "line 2: radiotherapy from day 50 to 90 overlaps with that of line 3, from day 60",
        ),
        ("P1,000,1,,\nP1,000,2,,\n", "line 3: session 000 is on day 2 here and 1 above; keep one"),
        ("P1,000,soon,,\n", "line 2: 'day' is 'soon', not a number"),
    ],
)
def test_a_fault_of_one_patient_refuses_that_patient_alone(tmp_path: Path, rows: str, message: str) -> None:
    for scan in ("P1-000", "P1-001", "P2-000"):
        brats(tmp_path, scan)
    path = table(tmp_path / "clinical.csv", f"patient_id,session_id,day,rt_start_day,rt_end_day\n{rows}P2,000,7,1,2\n")
    clinical = read_clinical(path)
    found = date_sessions(find_scans(tmp_path).sessions, clinical)
    assert set(found.refused) == {("P1", "000"), ("P1", "001")}
    assert all(f"{path}, {message}" in reason for reason in found.refused.values())
    assert found.sessions[-1].day == 7.0 and list(found.treatments) == ["P2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient_id,day,rt_start_day,rt_start_day\nP,1,2,3\n", "column 'rt_start_day' stands twice"),
        ("patient_id,day,dose,dose\nP,1,2,3\n", "column 'dose' stands twice"),
        ("patient,day\nP,1\n", "no column 'patient_id'"),
        ("patient_id,day\n,1\n", "line 2: 'patient_id' is empty"),
    ],
)
def test_malformed_clinical_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_clinical(table(tmp_path / "clinical.csv", text))
