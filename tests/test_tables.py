"""The reader of CSV tables that cohorts and growth fits share: every fault is told by file, line and remedy."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tumorcast.errors import InputError
from tumorcast.records import RadiotherapyCourse
from tumorcast.tables import RADIOTHERAPY_DAYS, Row, radiotherapy_course, read_table, treatment_of

DAYS = st.floats(-1e6, 1e6)


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def row(**cells: str) -> Row:
    return Row(Path("t.csv"), 7, cells)


def test_rows_keep_their_line_through_blank_rows_and_quoted_line_breaks(tmp_path: Path) -> None:
    path = table(tmp_path, b'\xef\xbb\xbf id , note\r\n\r\nA, "x, y"\r\n , \r\nB,"two\r\nlines"\r\nC,\r\n')
    rows = read_table(path, ("id",))
    assert [(one.line, one.text("id")) for one in rows] == [(3, "A"), (6, "B"), (7, "C")]
    assert rows[0].text("note") == "x, y"
    assert rows[2].text("note") == rows[2].text("absent") == ""
    assert rows[0].where == f"{path}, line 3"


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, "id,day"), ("id",)) == []


def test_columns_that_are_not_used_may_repeat_or_lack_a_name(tmp_path: Path) -> None:
    (only,) = read_table(table(tmp_path, "id,note,note,,\nA,1,2,,\n"), ("id",), ("day",))
    assert only.text("id") == "A"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected a header with id, day"),
        ("\n\n", "is empty"),
        ("id,when\nA,1\n", "no column 'day'; found 'id', 'when'; add it, with columns separated by commas"),
        ("id;day\nA;1\n", "no column 'id', 'day'; found 'id;day'"),
        ("id,day,id\nA,1,B\n", "column 'id' stands twice in the header; rename one"),
        ("id,day,end,end\nA,1,2,3\n", "column 'end' stands twice"),
        ("id,day\nA,1\nB\n", "line 3: 1 cells under 2 column names; make them agree"),
        ("id,day\nA,1,5\n", "line 2: 3 cells under 2 column names"),
        (b"\xff\xfe\x00id", "is not CSV in UTF-8"),
        (f"id,day\nA,{'1' * 200_000}\n", "is not CSV in UTF-8 (field larger than field limit"),
    ],
)
def test_faults_of_the_file(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = table(tmp_path, content)
    with pytest.raises(InputError) as fault:
        read_table(path, ("id", "day"), ("end",))
    assert message in str(fault.value) and str(path) in str(fault.value)


def test_the_caller_may_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 'id'; choose another, with columns"):
        read_table(table(tmp_path, "id\nA\n"), ("day",), remedy="choose another")


@pytest.mark.parametrize("suffix", [".tsv", ".TSV"])
def test_a_tsv_is_separated_by_tabs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("id\tday\tnote\nA\t\t1,5\n")
    (only,) = read_table(path, ("id", "day"))
    assert only.cells == {"id": "A", "day": "", "note": "1,5"}
    path.write_text("id,day\nA,1\n")
    with pytest.raises(InputError, match="found 'id,day'; add it, with columns separated by tabs"):
        read_table(path, ("id", "day"))


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / name, ("id",))


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back_exactly(value: float) -> None:
    assert row(day=repr(value)).number("day") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [("soon", "not a number"), ("1,5", "not a number"), ("nan", "not a finite"), ("-inf", "finite")],
)
def test_a_cell_that_is_no_number(text: str, message: str) -> None:
    with pytest.raises(
        InputError, match=f"t.csv, line 7: 'day' is '{text}', .*{message}.*correct it or leave it blank"
    ):
        row(day=text).number("day")


def test_a_blank_number_is_none() -> None:
    assert row(day="").number("day") is None and row().number("day") is None


@pytest.mark.parametrize("name", ["A/B", "A\\B", ".", "..", "A\0"])
def test_an_identifier_is_fit_to_name_a_file(name: str) -> None:
    with pytest.raises(InputError, match=r"t.csv, line 7: 'id' is .*; give a name without slashes"):
        row(id=name).identifier("id")


def test_a_blank_identifier() -> None:
    with pytest.raises(InputError, match="line 7: 'id' is empty"):
        row(id="").identifier("id")


@given(start=DAYS, length=st.floats(0, 1000))
def test_a_course_of_two_known_ends_is_taken_as_given(start: float, length: float) -> None:
    end = start + length
    assert radiotherapy_course(row(a=repr(start), b=repr(end)), "a", "b") == RadiotherapyCourse(start, end)


@given(day=DAYS)
def test_a_course_of_one_known_end_keeps_it_and_lasts_42_days(day: float) -> None:
    from_start = radiotherapy_course(row(a=repr(day)), "a", "b")
    to_end = radiotherapy_course(row(a="", b=repr(day)), "a", "b")
    assert RADIOTHERAPY_DAYS == 42
    assert from_start == RadiotherapyCourse(day, day + 42)
    assert to_end == RadiotherapyCourse(day - 42, day)


def test_no_known_end_is_no_course() -> None:
    assert radiotherapy_course(row(a="", day="3"), "a", "b") is None


def test_a_course_that_ends_before_it_starts() -> None:
    with pytest.raises(
        InputError, match="line 7: radiotherapy ends on day 28, before its start on day 70; correct one"
    ):
        radiotherapy_course(row(a="70", b="28"), "a", "b")


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=6), st.randoms())
def test_courses_that_follow_each_other_come_in_order_and_once(pairs: list, random) -> None:
    courses, end = [], 0.0
    for gap, length in pairs:
        courses.append(RadiotherapyCourse(end + gap, end + gap + length))
        end = courses[-1].end_days  # as rounded
    shuffled = courses * 2
    random.shuffle(shuffled)
    found = treatment_of(shuffled, "a.csv: patient A").radiotherapy
    assert set(found) == set(courses)
    assert [one.start_days for one in found] == sorted(one.start_days for one in set(courses))


def test_courses_that_overlap() -> None:
    with pytest.raises(InputError) as fault:
        treatment_of([RadiotherapyCourse(29.0, 70.0), RadiotherapyCourse(28.0, 70.0)], "a.csv: patient A")
    assert str(fault.value) == (
        "a.csv: patient A has radiotherapy from day 28 to 70 and from day 29, which overlap; give one date per course"
    )
