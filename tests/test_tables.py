"""The reader of CSV tables that cohorts and growth fits share: every fault is told by file, line and remedy."""

import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tumorcast.errors import InputError
from tumorcast.records import ChemotherapyCourse, RadiotherapyCourse, Treatment
from tumorcast.tables import RADIOTHERAPY_DAYS, Row, TreatmentColumns, read_table, rows_by_patient, treatment_of

DAYS = st.floats(-1e6, 1e6)
COLUMNS = TreatmentColumns(
    rt_start_day="a",
    rt_end_day="b",
    rt_dose="dose",
    rt_fractions="n",
    chemo_start_day="c",
    chemo_end_day="d",
    resection_day="r",
)


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def row(**cells: str) -> Row:
    return Row(Path("t.csv"), 7, cells)


def rows(*told: dict[str, str]) -> list[Row]:
    return [Row(Path("t.csv"), line, cells) for line, cells in enumerate(told, start=2)]


def treatment(*told: dict[str, str]) -> Treatment:
    return treatment_of(rows(*told), COLUMNS)


def fault_of(*told: dict[str, str]) -> str:
    with pytest.raises(InputError) as fault:
        treatment(*told)
    return str(fault.value)


def test_rows_keep_their_line_through_blank_rows_and_quoted_line_breaks(tmp_path: Path) -> None:
    path = table(tmp_path, b'\xef\xbb\xbf id , note\r\n\r\nA, "x, y"\r\n , \r\nB,"two\r\nlines"\r\nC,\r\n')
    found = read_table(path, ("id",))
    assert [(one.line, one.text("id")) for one in found] == [(3, "A"), (6, "B"), (7, "C")]
    assert found[0].text("note") == "x, y"
    assert found[2].text("note") == found[2].text("absent") == ""
    assert found[0].where == f"{path}, line 3"


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
        ("id,when\nA,1\n", "no column 'day'; found 'id', 'when'"),
        ("id;day\nA;1\n", "no column 'id', 'day'; found 'id;day'"),
        ("id,day,id\nA,1,B\n", "column 'id' stands twice in the header"),
        ("id,day,end,end\nA,1,2,3\n", "column 'end' stands twice"),
        ("id,day\nA,1\nB\n", "line 3: 1 cells under 2 column names"),
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
    with pytest.raises(InputError, match="found 'id'; choose another"):
        read_table(table(tmp_path, "id\nA\n"), ("day",), remedy="choose another")


@pytest.mark.parametrize("suffix", [".tsv", ".TSV"])
def test_a_tsv_is_separated_by_tabs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("id\tday\tnote\nA\t\t1,5\n")
    (only,) = read_table(path, ("id", "day"))
    assert only.cells == {"id": "A", "day": "", "note": "1,5"}
    path.write_text("id,day\nA,1\n")
    with pytest.raises(InputError, match=r"'id,day'; .* by tabs"):
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
    with pytest.raises(InputError, match=f"line 7: 'day' is '{text}', .*{message}"):
        row(day=text).number("day")


def test_a_blank_number_is_none() -> None:
    assert row(day="").number("day") is None and row().number("day") is None


@pytest.mark.parametrize("name", ["A/B", "A\\B", ".", "..", "A\0"])
def test_an_identifier_is_fit_to_name_a_file(name: str) -> None:
    with pytest.raises(InputError, match=r"t.csv, line 7: 'id' is "):
        row(id=name).identifier("id")


def test_a_blank_identifier() -> None:
    with pytest.raises(InputError, match="line 7: 'id' is empty"):
        row(id="").identifier("id")


def test_rows_go_to_their_patients_in_the_order_of_the_table() -> None:
    told = rows({"id": "B", "x": "1"}, {"id": "A", "x": "2"}, {"id": "B", "x": "3"})
    found = rows_by_patient(told, "id")
    assert {name: [one.text("x") for one in of_patient] for name, of_patient in found.items()} == {
        "B": ["1", "3"],
        "A": ["2"],
    }
    assert list(found) == ["B", "A"]
    with pytest.raises(InputError, match="line 2: 'id' is empty"):
        rows_by_patient(rows({"x": "1"}), "id")


def test_only_columns_with_another_name_are_renamed() -> None:
    assert TreatmentColumns().renamed() == []
    assert TreatmentColumns(rt_dose="gy", resection_day="surgery").renamed() == ["gy", "surgery"]
    assert len(COLUMNS.of_treatment()) == 7


@pytest.mark.parametrize(
    ("text", "gy"),
    [
        ("60", 60.0),
        ("60 Gy", 60.0),
        ("60Gy", 60.0),
        ("59.4 gy", 59.4),
        ("6000 cGy", 60.0),
        ("4005cgy", 40.05),
        ("200", 200.0),
        ("", None),
    ],
)
def test_a_dose_is_read_in_gy(text: str, gy: float | None) -> None:
    assert row(dose=text).dose_gy("dose") == gy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("6000", "'6000', not a dose above 0 and up to 200 Gy"),
        ("0", "not a dose above 0"),
        ("-2 Gy", "not a dose above 0"),
    ],
)
def test_what_is_no_dose(text: str, message: str) -> None:
    with pytest.raises(InputError) as fault:
        row(dose=text).dose_gy("dose")
    assert str(fault.value).startswith("t.csv, line 7: 'dose' is ") and message in str(fault.value)


@pytest.mark.parametrize("text", ["high", "Gy", "46 + 14 Gy", "60 mGy", "nan Gy"])
def test_a_dose_in_words_is_unknown_and_told(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert row(dose=text).dose_gy("dose") is None
    assert f"t.csv, line 7: 'dose' is {text!r}, not a" in caplog.text and "taken as unknown" in caplog.text


@pytest.mark.parametrize("text", ["15+5", "nan"])
def test_fractions_in_words_are_unknown_and_told(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert row(n=text).fractions("n") is None
    assert "taken as unknown" in caplog.text


@pytest.mark.parametrize("text", ["30.5", "0", "-3"])
def test_fractions_are_whole(text: str) -> None:
    with pytest.raises(InputError, match=f"'n' is '{text}', not a whole"):
        row(n=text).fractions("n")
    assert row(n="30.0").fractions("n") == 30 and row(n="").fractions("n") is None


@given(start=DAYS, length=st.floats(0, 1000))
def test_a_course_of_two_known_ends_is_taken_as_given(start: float, length: float) -> None:
    end = start + length
    assert treatment({"a": repr(start), "b": repr(end), "n": "3"}).radiotherapy == (
        RadiotherapyCourse(start, end, None, 3),
    )


@given(day=DAYS)
def test_a_course_of_one_known_end_keeps_it_and_lasts_42_days(day: float) -> None:
    assert RADIOTHERAPY_DAYS == 42
    assert treatment({"a": repr(day)}).radiotherapy == (RadiotherapyCourse(day, day + 42),)
    assert treatment({"a": "", "b": repr(day)}).radiotherapy == (RadiotherapyCourse(day - 42, day),)


@given(day=DAYS, weeks=st.integers(1, 10))
def test_five_fractions_last_a_week(day: float, weeks: int) -> None:
    n = 5 * weeks
    from_start, to_end = treatment({"a": repr(day), "n": str(n)}), treatment({"b": repr(day), "n": str(n)})
    assert from_start.radiotherapy == (RadiotherapyCourse(day, day + 7 * weeks, None, n),)
    assert to_end.radiotherapy == (RadiotherapyCourse(day - 7 * weeks, day, None, n),)


def test_thirty_fractions_are_the_default_length() -> None:
    (with_fractions,), (without,) = treatment({"a": "28", "n": "30"}).radiotherapy, treatment({"a": "28"}).radiotherapy
    assert with_fractions.end_days == without.end_days == 70.0


def test_no_known_date_is_no_course(caplog: pytest.LogCaptureFixture) -> None:
    assert treatment({"a": "", "day": "3"}) == treatment({}) == treatment() == Treatment()
    assert caplog.text == ""


def test_a_dose_without_a_date_is_not_used_and_told(caplog: pytest.LogCaptureFixture) -> None:
    assert treatment({"dose": "60"}) == Treatment()
    assert "t.csv, line 2: a dose or fractions of radiotherapy without a date are not used; add a date" in caplog.text


@pytest.mark.parametrize(
    "told",
    [
        [{"a": "28", "b": "70", "dose": "60", "n": "30"}] * 3,
        [{"a": "28", "b": "70", "dose": "60"}, {"a": "28", "b": "70.0", "n": "30"}],
        [{"a": "28"}, {}, {"a": "28", "b": "70", "dose": "60 Gy", "n": "30"}, {"b": "70"}],
        [{"a": "28", "n": "30"}, {"b": "70", "dose": "6000 cGy"}],
        [{"a": "28"}, {"a": "28", "dose": "60", "n": "30"}],
    ],
)
def test_rows_fill_in_what_others_leave_blank(told: list[dict[str, str]]) -> None:
    for order in (told, told[::-1]):
        assert treatment(*order).radiotherapy == (RadiotherapyCourse(28.0, 70.0, 60.0, 30),)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 100)), max_size=6), st.randoms())
def test_courses_that_follow_each_other_come_in_order_and_once(pairs: list, random: Random) -> None:
    courses, end = [], 0.0
    for gap, length in pairs:
        courses.append(RadiotherapyCourse(end + gap, end + gap + length))
        end = courses[-1].end_days  # as rounded
    shuffled = [{"a": repr(one.start_days), "b": repr(one.end_days)} for one in courses * 2]
    random.shuffle(shuffled)
    assert treatment(*shuffled).radiotherapy == tuple(courses)


def test_a_course_that_ends_before_it_starts() -> None:
    assert fault_of({}, {"a": "70", "b": "28"}) == (
        "t.csv, line 3: radiotherapy ends on day 28, before its start on day 70; correct one"
    )


def test_courses_that_overlap() -> None:
    assert fault_of({"a": "29", "b": "71"}, {"a": "28", "b": "70"}) == (
        "t.csv, line 3: radiotherapy from day 28 to 70 overlaps with that of line 2, from day 29 to 71; "
        "give each course one pair of dates, one dose and one number of fractions"
    )


@pytest.mark.parametrize("other", [{"dose": "50"}, {"n": "25"}])
@pytest.mark.parametrize("end", ["28", "70"])
def test_one_course_told_in_two_ways(other: dict[str, str], end: str) -> None:
    first = {"a": "28", "b": end, "dose": "60", "n": "30"}
    assert f"line 2: radiotherapy from day 28 to {end} overlaps with that of line 3" in fault_of(first, first | other)


def test_chemotherapy_without_an_end_goes_on() -> None:
    assert treatment({"c": "-3"}).chemotherapy == (ChemotherapyCourse(-3.0, math.inf),)
    assert treatment({"c": "26"}, {"c": "26", "d": "65"}).chemotherapy == (ChemotherapyCourse(26.0, 65.0),)


def test_courses_of_chemotherapy_that_overlap_are_joined() -> None:
    told = [{"c": "100", "d": "130"}, {"c": "26", "d": "65"}, {"c": "50", "d": "80"}, {"c": "110", "d": "120"}]
    assert treatment(*told).chemotherapy == (ChemotherapyCourse(26.0, 80.0), ChemotherapyCourse(100.0, 130.0))
    assert treatment(*told, {"c": "70"}).chemotherapy == (ChemotherapyCourse(26.0, math.inf),)


def test_chemotherapy_that_cannot_be() -> None:
    assert fault_of({"d": "65"}) == (
        "t.csv, line 2: chemotherapy ends on day 65 and has no start; give its start, or no end"
    )
    assert fault_of({"c": "65", "d": "26"}) == (
        "t.csv, line 2: chemotherapy ends on day 26, before its start on day 65; correct one"
    )
    assert "'c' is 'soon', not a number" in fault_of({"c": "soon"})
    assert "'d' is 'inf', not a finite number" in fault_of({"c": "1", "d": "inf"})


def test_resections_come_in_order_and_once() -> None:
    assert treatment({"r": "90"}, {"r": "-4"}, {}, {"r": "90.0"}).resection_days == (-4.0, 90.0)
    assert "line 3: 'r' is 'nan', not a finite number" in fault_of({"r": "90"}, {"r": "nan"})
