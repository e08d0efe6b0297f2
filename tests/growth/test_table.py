import logging
from pathlib import Path

import pytest

from tumorcast.errors import InputError
from tumorcast.growth.table import SizeColumns, read_sizes

HEADER = "patient_id,day,area_mm2,rt_start_day,rt_end_day\n"


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "sizes.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_in_any_order_and_other_columns(tmp_path: Path) -> None:
    text = "role,day,patient_id,area_mm2\nheld_out,30,B,3\ntrain,9.5,A,1\ntrain,-5,B,2\n"
    first, second = read_sizes(table(tmp_path, text))
    assert (first.patient_id, first.days.tolist(), first.sizes.tolist()) == ("B", [-5.0, 30.0], [2.0, 3.0])
    assert (second.patient_id, second.size_name, second.treatment.radiotherapy) == ("A", "area_mm2", ())


@pytest.mark.parametrize(
    ("cells", "expected"),
    [("28,", (28.0, 70.0)), (",70", (28.0, 70.0)), ("28,60", (28.0, 60.0)), ("0,", (0.0, 42.0))],
)
def test_radiotherapy_lasts_42_days_unless_told(tmp_path: Path, cells: str, expected: tuple[float, float]) -> None:
    (series,) = read_sizes(table(tmp_path, f"{HEADER}A,0,5,{cells}\nA,9,5,,\n"))
    (course,) = series.treatment.radiotherapy
    assert (course.start_days, course.end_days) == expected


def test_two_courses(tmp_path: Path) -> None:
    (series,) = read_sizes(table(tmp_path, f"{HEADER}A,0,5,200,230\nA,9,5,28,70\nA,20,5,28,70\n"))
    assert [course.start_days for course in series.treatment.radiotherapy] == [28.0, 200.0]


def test_columns_may_be_named(tmp_path: Path) -> None:
    columns = SizeColumns(patient_id="who", day="when", size="volume", rt_start_day="rt")
    (series,) = read_sizes(table(tmp_path, "who,when,volume,rt\nA,0,5,3\n"), columns)
    assert series.size_name == "volume" and series.treatment.radiotherapy[0].start_days == 3.0


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (series,) = read_sizes(table(tmp_path, b"\xef\xbb\xbfpatient_id,day,area_mm2\r\nA,0,5\r\n\r\n"))
    assert series.sizes.tolist() == [5.0]


def test_a_table_separated_by_tabs(tmp_path: Path) -> None:
    path = tmp_path / "sizes.tsv"
    path.write_text(f"{HEADER}A,0,5,28,\nA,9,,,\nA,20,7,,\n".replace(",", "\t"))
    (series,) = read_sizes(path)
    assert (series.days.tolist(), series.sizes.tolist()) == ([0.0, 20.0], [5.0, 7.0])
    assert series.treatment.radiotherapy[0].end_days == 70.0


def test_empty_sizes_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (series,) = read_sizes(table(tmp_path, f"{HEADER}A,0,5,,\nA,9,,,\nB,9,,,\n"))
    assert series.days.tolist() == [0.0]
    assert "2 of 3 rows have no 'area_mm2'; left out, and with them 1 patients" in caplog.text


def test_complete_response_is_valid(tmp_path: Path) -> None:
    (series,) = read_sizes(table(tmp_path, f"{HEADER}A,0,5,,\nA,9,0,,\n"))
    assert series.sizes.tolist() == [5.0, 0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header with patient_id, day, area_mm2"),
        ("\n\n", "is empty"),
        (HEADER, "has a header and no rows"),
        (
            "patient_id,day,volume\nA,0,1\n",
            "no column 'area_mm2'; found 'patient_id', 'day', 'volume'; name the columns",
        ),
        ("patient_id;day;area_mm2\nA;0;1\n", "found 'patient_id;day;area_mm2'"),
        ("patient_id,day,day,area_mm2\nA,0,0,1\n", "column 'day' stands twice"),
        (f"{HEADER}A,0,-3,,\n", "line 2: 'area_mm2' is -3; a size is zero or more"),
        (f"{HEADER}A,0,1,,\nA,5,nan,,\n", "line 3: 'area_mm2' is 'nan', not a finite number"),
        (f"{HEADER}A,0,inf,,\n", "'area_mm2' is 'inf', not a finite number"),
        (f"{HEADER}A,0,large,,\n", "line 2: 'area_mm2' is 'large', not a number"),
        (f"{HEADER}A,monday,1,,\n", "'day' is 'monday', not a number"),
        (f"{HEADER}A,,1,,\n", "'day' is empty"),
        (f"{HEADER},0,1,,\n", "'patient_id' is empty"),
        (f"{HEADER}A/B,0,1,,\n", "'patient_id' is 'A/B'; give a name without slashes"),
        (f"{HEADER}A,3,1,,\nA,0,1,,\nA,3,2,,\n", "lines 2 and 4: patient A has two sizes on day 3"),
        (f"{HEADER}A,3,1,70,28\n", "radiotherapy ends on day 28, before its start on day 70"),
        (f"{HEADER}A,3,1,28,70\nA,4,1,29,70\n", "from day 28 to 70 and from day 29, which overlap"),
        (f"{HEADER}A,3,1,soon,\n", "'rt_start_day' is 'soon'"),
        (f"{HEADER}A,3\n", "line 2: 2 cells under 5 column names"),
        (f"{HEADER}A,3,,,\n", "no row has a value in column 'area_mm2'"),
        (b"\xff\xfe\x00binary\x00", "is not CSV in UTF-8"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InputError) as fault:
        read_sizes(path)
    assert message in str(fault.value) and str(path) in str(fault.value)


def test_a_radiotherapy_column_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'rt'; found"):
        read_sizes(table(tmp_path, f"{HEADER}A,0,1,,\n"), SizeColumns(rt_start_day="rt"))


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_unreadable_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_sizes(tmp_path / name)


def test_many_rows(tmp_path: Path) -> None:
    rows = "".join(f"P{i % 100},{i},1.5,,\n" for i in range(100_000))
    series = read_sizes(table(tmp_path, HEADER + rows))
    assert len(series) == 100 and {one.days.size for one in series} == {1000}


def test_real_tables(shared_data: Path) -> None:
    (series,) = read_sizes(shared_data / "dmg_pid1.csv")
    assert series.days.tolist() == [0, 92, 142, 191, 218, 296, 366]
    assert series.treatment.radiotherapy[0].end_days == 70.0
    patients = read_sizes(shared_data / "mu_glioma_post" / "volumes.csv", SizeColumns(size="whole_mm3"))
    assert len(patients) == 20 and sum(one.days.size for one in patients) == 83  # needs the core, which 89 scans lack
