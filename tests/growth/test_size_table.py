import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tumorcast.errors import InputError
from tumorcast.growth.size_table import PatientScans, SizeColumns, SizeTable, read_sizes
from tumorcast.records import ChemotherapyCourse, RadiotherapyCourse, SizeSeries, Status

HEADER = "patient_id,day,area_mm2,rt_start_day,rt_end_day\n"
SOUND = "Z,0,5,,\nZ,9,6,,\n"  # a patient without fault


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "sizes.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def only(read: SizeTable) -> SizeSeries:
    (series,) = read.series
    assert read.outcomes == ()
    return series


def test_rows_in_any_order_and_other_columns(tmp_path: Path) -> None:
    text = "role,day,patient_id,area_mm2\nheld_out,30,B,3\ntrain,9.5,A,1\ntrain,-5,B,2\n"
    first, second = read_sizes(table(tmp_path, text)).series
    assert (first.patient_id, first.days.tolist(), first.sizes.tolist()) == ("B", [-5.0, 30.0], [2.0, 3.0])
    assert (second.patient_id, second.size_name, second.treatment.radiotherapy) == ("A", "area_mm2", ())


@given(
    zero=st.integers(-100_000, 100_000),
    scans=st.dictionaries(st.integers(-999, 999), st.floats(0, 1e6), min_size=1, max_size=8),
    random=st.randoms(),
)
def test_days_count_from_any_zero_and_rows_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, zero: int, scans: dict[int, float], random: object
) -> None:
    rows = [f"A,{day + zero},{size!r},{zero + 5},\n" for day, size in scans.items()]
    random.shuffle(rows)  # type: ignore[attr-defined]
    series = only(read_sizes(table(tmp_path_factory.getbasetemp(), HEADER + "".join(rows))))
    assert dict(zip(series.days - zero, series.sizes, strict=True)) == scans
    assert np.all(np.diff(series.days) > 0)
    assert series.treatment.radiotherapy == (RadiotherapyCourse(zero + 5.0, zero + 47.0),)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [("28,", (28.0, 70.0)), (",70", (28.0, 70.0)), ("28,60", (28.0, 60.0)), ("0,", (0.0, 42.0))],
)
def test_radiotherapy_lasts_42_days_unless_told(tmp_path: Path, cells: str, expected: tuple[float, float]) -> None:
    series = only(read_sizes(table(tmp_path, f"{HEADER}A,0,5,{cells}\nA,9,5,,\n")))
    (course,) = series.treatment.radiotherapy
    assert (course.start_days, course.end_days) == expected


def test_two_courses(tmp_path: Path) -> None:
    series = only(read_sizes(table(tmp_path, f"{HEADER}A,0,5,200,230\nA,9,5,28,70\nA,20,5,28,70\n")))
    assert [course.start_days for course in series.treatment.radiotherapy] == [28.0, 200.0]


def test_no_radiotherapy(tmp_path: Path) -> None:
    assert only(read_sizes(table(tmp_path, HEADER + SOUND))).treatment.radiotherapy == ()


def test_every_column_of_treatment(tmp_path: Path) -> None:
    columns = "rt_start_day,rt_end_day,dose,fractions,chemo_start_day,chemo_end_day,resection_day"
    text = (
        f"patient_id,day,area_mm2,{columns}\n"
        "A,0,9,17,,6000 cGy,30,26,65,\nA,50,8,17,,,,26,65,40\nA,,,200,210,25 Gy,5,,,\nA,120,7,17,,,,100,,190\n"
        "B,0,9,,,,,,,\n"
    )
    treated, untreated = read_sizes(table(tmp_path, text)).series
    assert treated.days.tolist() == [0.0, 50.0, 120.0]
    assert treated.treatment.radiotherapy == (
        RadiotherapyCourse(17.0, 59.0, 60.0, 30),
        RadiotherapyCourse(200.0, 210.0, 25.0, 5),
    )
    assert treated.treatment.chemotherapy == (ChemotherapyCourse(26.0, 65.0), ChemotherapyCourse(100.0, math.inf))
    assert treated.treatment.resection_days == (40.0, 190.0)
    assert untreated.treatment.chemotherapy == untreated.treatment.resection_days == ()


def test_columns_may_be_named(tmp_path: Path) -> None:
    columns = SizeColumns(
        patient_id="who",
        day="when",
        size="volume",
        rt_start_day="rt",
        rt_fractions="n",
        rt_dose="gy",
        chemo_start_day="c0",
        chemo_end_day="c1",
        resection_day="op",
    )
    series = only(read_sizes(table(tmp_path, "who,when,volume,rt,n,gy,c0,c1,op\nA,0,5,3,15,40,1,2,-9\n"), columns))
    assert series.size_name == "volume"
    assert series.treatment.radiotherapy == (RadiotherapyCourse(3.0, 24.0, 40.0, 15),)
    assert series.treatment.chemotherapy == (ChemotherapyCourse(1.0, 2.0),)
    assert series.treatment.resection_days == (-9.0,)


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    series = only(read_sizes(table(tmp_path, b"\xef\xbb\xbfpatient_id,day,area_mm2\r\nA,0,5\r\n\r\n")))
    assert series.sizes.tolist() == [5.0]


def test_a_table_separated_by_tabs(tmp_path: Path) -> None:
    path = tmp_path / "sizes.tsv"
    path.write_text(f"{HEADER}A,0,5,28,\nA,9,,,\nA,20,7,,\n".replace(",", "\t"))
    series = only(read_sizes(path))
    assert (series.days.tolist(), series.sizes.tolist()) == ([0.0, 20.0], [5.0, 7.0])
    assert series.treatment.radiotherapy[0].end_days == 70.0


def test_empty_sizes_are_left_out_and_counted(tmp_path: Path) -> None:
    read = read_sizes(table(tmp_path, f"{HEADER}A,0,5,,\nA,9,,,\nA,,,3,\nB,9,,,\n"))
    assert [one.days.tolist() for one in read.series] == [[0.0]]
    assert read.counts == {"A": PatientScans(3, 2, 1), "B": PatientScans(1, 1, 1)}
    (outcome,) = read.outcomes
    assert (outcome.patient_id, outcome.status) == ("B", Status.SKIPPED)
    assert outcome.reason == "no scan has a value in column 'area_mm2'"


def test_one_scan_and_a_complete_response_are_valid(tmp_path: Path) -> None:
    one, gone = read_sizes(table(tmp_path, f"{HEADER}A,3,5,,\nB,0,5,,\nB,9,0,,\n")).series
    assert (one.days.tolist(), one.sizes.tolist()) == ([3.0], [5.0])
    assert gone.sizes.tolist() == [5.0, 0.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("A,0,-3,,\n", "line 2: 'area_mm2' is -3"),
        ("A,0,1,,\nA,5,nan,,\n", "line 3: 'area_mm2' is 'nan', not a finite number"),
        ("A,0,inf,,\n", "'area_mm2' is 'inf', not a finite number"),
        ("A,0,1e999,,\n", "'area_mm2' is '1e999', not a finite number"),
        ("A,0,large,,\n", "line 2: 'area_mm2' is 'large', not a number"),
        ("A,monday,1,,\n", "'day' is 'monday', not a number"),
        ("A,nan,1,,\n", "'day' is 'nan', not a finite number"),
        ("A,,1,,\n", "line 2: 'day' is empty"),
        ("A/B,0,1,,\n", "'patient_id' is 'A/B'; give a name without slashes"),
        ("A,3,1,,\nA,0,1,,\nA,3,2,,\n", "lines 2 and 4: patient A has two sizes on day 3"),
        ("A,7,1,,\nA,7,2,,\nA,7,3,,\n", "lines 2 and 3: patient A has two sizes on day 7"),
        ("A,3,1,70,28\n", "line 2: radiotherapy ends on day 28, before its start on day 70"),
        ("A,3,1,28,70\nA,4,1,29,71\n", "line 2: radiotherapy from day 28 to 70 overlaps with that of line 3"),
        ("A,3,1,soon,\n", "line 2: 'rt_start_day' is 'soon', not a number"),
    ],
)
def test_a_fault_of_one_patient_does_not_stop_the_others(tmp_path: Path, rows: str, message: str) -> None:
    path = table(tmp_path, HEADER + rows + SOUND)
    read = read_sizes(path)
    assert [one.patient_id for one in read.series] == ["Z"]
    (outcome,) = read.outcomes
    assert (outcome.patient_id, outcome.status) == (rows.split(",", maxsplit=1)[0], Status.FAILED)
    assert message in outcome.reason and str(path) in outcome.reason and "\n" not in outcome.reason


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("dose", "6000", "line 2: 'dose' is '6000', not a dose above 0 and up to 200 Gy"),
        ("fractions", "12.5", "line 2: 'fractions' is '12.5', not a whole number from 1"),
        ("chemo_end_day", "65", "line 2: chemotherapy ends on day 65 and has no start"),
        ("resection_day", "never", "line 2: 'resection_day' is 'never', not a number"),
    ],
)
def test_a_treatment_that_cannot_be_fails_its_patient(tmp_path: Path, column: str, cell: str, message: str) -> None:
    read = read_sizes(table(tmp_path, f"patient_id,day,area_mm2,{column}\nA,0,1,{cell}\nZ,0,1,\n"))
    assert [one.patient_id for one in read.series] == ["Z"]
    assert message in read.outcomes[0].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header with patient_id, day, area_mm2"),
        ("\n\n", "is empty"),
        (HEADER, "has a header and no rows"),
        (
            "patient_id,day,volume\nA,0,1\n",
            "no column 'area_mm2'; found 'patient_id', 'day', 'volume'; name the ones that are there (--size-column",
        ),
        ("patient_id;day;area_mm2\nA;0;1\n", "found 'patient_id;day;area_mm2'"),
        ("patient_id,day,day,area_mm2\nA,0,0,1\n", "column 'day' stands twice"),
        ("patient_id,day,area_mm2,dose,dose\nA,0,1,2,2\n", "column 'dose' stands twice"),
        (f"{HEADER}{SOUND},0,1,,\n", "line 4: 'patient_id' is empty"),
        (f"{HEADER}{SOUND}A,3\n", "line 4: 2 cells under 5 column names"),
        (b"\xff\xfe\x00binary\x00", "is not CSV in UTF-8"),
    ],
)
def test_a_fault_of_the_file_stops_all(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InputError) as fault:
        read_sizes(path)
    assert message in str(fault.value) and str(path) in str(fault.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("A,0,-3,,\n", "line 2: 'area_mm2' is -3; a size is zero or more; correct it or leave it blank"),
        (
            "S,0,,,\nA,0,1,9,\nA,0,2,9,\nB,0,x,,\nC,,1,,\n",
            "lines 3 and 4: patient A has two sizes on day 0; keep one (and 2 more patients failed)",
        ),
        ("A,3,,,\nB,4,,,\n", "no scan has a value in column 'area_mm2'; name another one"),
    ],
)
def test_a_table_of_no_use_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    path = table(tmp_path, HEADER + rows)
    with pytest.raises(InputError) as fault:
        read_sizes(path)
    assert str(fault.value).startswith(str(path)) and str(fault.value).endswith(message)


@pytest.mark.parametrize("role", ["rt_start_day", "rt_dose", "rt_fractions", "chemo_end_day", "resection_day"])
def test_a_column_of_treatment_that_was_named_must_exist(tmp_path: Path, role: str) -> None:
    with pytest.raises(InputError, match="'mine'; found 'patient_id'"):
        read_sizes(table(tmp_path, f"{HEADER}A,0,1,,\n"), SizeColumns(**{role: "mine"}))


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_unreadable_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_sizes(tmp_path / name)


@pytest.mark.slow
def test_many_rows(tmp_path: Path) -> None:
    rows = "".join(f"P{i % 100},{i},1.5,28,70\n" for i in range(100_000))
    series = read_sizes(table(tmp_path, HEADER + rows)).series
    assert len(series) == 100 and {one.days.size for one in series} == {1000}
    assert {one.treatment.radiotherapy for one in series} == {(RadiotherapyCourse(28.0, 70.0),)}


def test_the_published_patient(shared_data: Path) -> None:
    series = only(read_sizes(shared_data / "dmg_pid1.csv"))
    assert series.days.tolist() == [0, 92, 142, 191, 218, 296, 366]
    assert series.treatment.radiotherapy == (RadiotherapyCourse(28.0, 70.0),)


def test_a_real_cohort(shared_data: Path) -> None:
    path = shared_data / "mu_glioma_post" / "volumes.csv"
    read = read_sizes(path, SizeColumns(size="enhancing_oedema_mm3"))
    assert read.outcomes == () and len(read.series) == 40 and sum(one.days.size for one in read.series) == 172
    treatments = {one.patient_id: one.treatment for one in read.series}
    assert all(len(one.radiotherapy) == len(one.chemotherapy) == 1 for one in treatments.values())
    doses = [one.radiotherapy[0].dose_gy for one in treatments.values()]
    assert (doses.count(60.0), doses.count(40.0), doses.count(None)) == (35, 3, 2)
    assert treatments["PatientID_0083"].radiotherapy == (RadiotherapyCourse(11.0, 29.0, 40.0, 15),)
    assert treatments["PatientID_0083"].chemotherapy == (ChemotherapyCourse(8.0, 29.0),)
    assert treatments["PatientID_0033"].radiotherapy == (RadiotherapyCourse(20.0, 61.0),)


def test_patients_without_the_size_asked_for_are_skipped(shared_data: Path) -> None:
    read = read_sizes(shared_data / "mu_glioma_post" / "volumes.csv", SizeColumns(size="whole_mm3"))
    assert len(read.series) == 20 and sum(one.days.size for one in read.series) == 83  # 89 scans lack the core
    assert [one.status for one in read.outcomes] == [Status.SKIPPED] * 20
