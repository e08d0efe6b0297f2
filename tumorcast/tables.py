"""CSV tables with a header, and the treatments that their cells record.

Only the csv module: the tables are small, and a message on a fault names its line.
"""

import csv
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

from tumorcast.errors import InputError
from tumorcast.records import ChemotherapyCourse, RadiotherapyCourse, Treatment

logger = logging.getLogger(__name__)

RADIOTHERAPY_DAYS = 42.0  # the length of a course of which only one end is known (arXiv 2509.09610)
FRACTIONS_A_WEEK = 5  # so that the usual 30 fractions take those 42 days
DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
MOST_GY = 200.0  # more than any course; 6000 without a unit is meant in cGy
BLANK = frozenset({"", "n/a", "na", "n.a."})  # what stands in a cell for nothing, in small letters; BIDS wants n/a
PER_GY = {"cgy": 100.0, "gy": 1.0, "": 1.0}  # the units of a dose
# Identifiers name groups and files, and stand in cells of tables.
FORBIDDEN_IN_IDS = "/\\\0\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@dataclass(frozen=True)
class Row:
    """One row of a table: `path` and `line` are for messages, `cells` maps column to stripped text."""

    path: Path
    line: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        """The cell's text, empty when the column is absent or the cell blank."""
        return self.cells.get(column, "")

    def filled(self, column: str) -> str:
        """The cell's text. Raises InputError if it is blank."""
        text = self.text(column)
        if not text:
            raise InputError(f"{self.where}: '{column}' is empty; every row needs it")
        return text

    def identifier(self, column: str) -> str:
        """A patient's or session's identifier. Raises InputError if it is blank or cannot be a name in a file."""
        name = self.filled(column)
        if name in {".", ".."} or any(character in name for character in FORBIDDEN_IN_IDS):
            raise InputError(f"{self.where}: '{column}' is {name!r}; give a name without slashes, tabs and line breaks")
        return name

    def number(self, column: str) -> float | None:
        """The cell as a finite number, None when blank. Raises InputError for text, NaN and infinity."""
        text = self.text(column)
        return self._finite(column, text) if text else None

    def day(self, column: str) -> float | None:
        """The cell as days from any zero, None when blank. Raises InputError for a number that is a date: 20200131.

        >>> Row(Path("a.csv"), 2, {"day": "84"}).day("day")
        84.0
        """
        day = self.number(column)
        if day is not None and DATE.fullmatch(f"{day:.0f}") and day.is_integer():
            raise self._refusal(column, "a date and no count of days; give days since one scan of the patient")
        return day

    def dose_gy(self, column: str) -> float | None:
        """The cell as a dose in Gy, None when blank or, with a warning, in words (as `46 + 14 Gy`).

        Raises InputError for a number that cannot be the dose of a course.

        >>> [Row(Path("a.csv"), 2, {"dose": text}).dose_gy("dose") for text in ("60", "60 Gy", "6000 cGy")]
        [60.0, 60.0, 60.0]
        """
        text = self.text(column).lower()
        if not text:
            return None
        unit = next(unit for unit in PER_GY if text.endswith(unit))
        number = self._number_or_warning(column, text.removesuffix(unit))
        if number is None:
            return None
        dose = number / PER_GY[unit]
        if not 0 < dose <= MOST_GY:
            raise self._refusal(column, f"not a dose above 0 and up to {MOST_GY:g} Gy (as 60, 60 Gy or 6000 cGy)")
        return dose

    def fractions(self, column: str) -> int | None:
        """The cell as a number of fractions, None when blank or, with a warning, in words (as `15+5`).

        Raises InputError for a number that is not whole and positive.
        """
        text = self.text(column)
        count = self._number_or_warning(column, text) if text else None
        if count is None:
            return None
        if count < 1 or not count.is_integer():
            raise self._refusal(column, "not a whole number from 1")
        return int(count)

    def _number_or_warning(self, column: str, number: str) -> float | None:
        """The number; None with a warning where it is none: clinical tables have such cells, and are of use without."""
        try:
            return self._finite(column, number)
        except InputError as fault:
            logger.warning("%s; taken as unknown", fault)
            return None

    def _finite(self, column: str, number: str) -> float:
        """The number, which is the cell's text or a part of it."""
        try:
            value = float(number)
        except ValueError:
            raise self._refusal(column, "not a number") from None
        if not math.isfinite(value):
            raise self._refusal(column, "not a finite number")
        return value

    def _refusal(self, column: str, fault: str) -> InputError:
        return InputError(f"{self.where}: '{column}' is {self.text(column)!r}, {fault}; correct it or leave it blank")

    @property
    def where(self) -> str:
        """Path and line, as messages name them."""
        return f"{self.path}, line {self.line}"


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, remedy: str = "add it"
) -> list[Row]:
    """All rows of a table with a header, without those in which every cell is blank.

    Cells are separated by tabs in a file that ends in .tsv, by commas in any other.
    required, optional: the columns the caller looks at; others may be there. remedy: what to do about a missing one.
    Raises InputError, naming the file and the line, for a file that is missing, empty or not CSV in UTF-8, a required
    column that is missing, a used one that stands twice, and a row with more or fewer cells than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=_delimiter(path), skipinitialspace=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, required, remedy)
            _check_repeats(path, header, {*required, *optional})
            return [_row(path, reader.line_num, header, cells) for cells in reader if any(map(_cell, cells))]
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror}); give a CSV table") from None
    except (UnicodeDecodeError, csv.Error) as fault:
        raise InputError(f"{path}: is not CSV in UTF-8 ({fault}); save it as such") from None


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _check_header(path: Path, header: list[str], required: Sequence[str], remedy: str) -> None:
    if not any(header):
        raise InputError(f"{path}: is empty; expected a header with {', '.join(required)}")
    missing = [name for name in required if name not in header]
    if missing:
        separator = "tabs" if _delimiter(path) == "\t" else "commas"
        raise InputError(
            f"{path}: no column {_quoted(missing)}; found {_quoted(header)}; {remedy}, "
            f"with columns separated by {separator}"
        )


def _check_repeats(path: Path, header: list[str], used: set[str]) -> None:
    repeated = [name for name, count in Counter(header).items() if count > 1 and name in used]
    if repeated:
        raise InputError(f"{path}: column {_quoted(repeated)} stands twice in the header; rename one")


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _row(path: Path, line: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise InputError(f"{path}, line {line}: {len(cells)} cells under {len(header)} column names; make them agree")
    return Row(path, line, dict(zip(header, map(_cell, cells), strict=True)))


def _cell(text: str) -> str:
    """A cell's text, empty where it says that nothing is known."""
    stripped = text.strip()
    return "" if stripped.lower() in BLANK else stripped


def rows_by_patient(rows: Iterable[Row], column: str) -> dict[str, list[Row]]:
    """The rows of each patient, in the order of the table. Raises InputError where `column` names no patient."""
    patients: dict[str, list[Row]] = {}
    for row in rows:
        patients.setdefault(row.filled(column), []).append(row)
    return patients


@dataclass(frozen=True, kw_only=True)
class TreatmentColumns:
    """The names of the columns that record treatment; each may be absent, and each cell blank."""

    rt_start_day: str = "rt_start_day"
    rt_end_day: str = "rt_end_day"
    rt_dose: str = "dose"
    rt_fractions: str = "fractions"
    chemo_start_day: str = "chemo_start_day"
    chemo_end_day: str = "chemo_end_day"
    resection_day: str = "resection_day"

    def of_treatment(self) -> list[str]:
        """All of them."""
        return [getattr(self, field.name) for field in fields(TreatmentColumns)]

    def renamed(self) -> list[str]:
        """Those that do not bear their default name: a column that the user named was meant."""
        pairs = ((getattr(self, field.name), field.default) for field in fields(TreatmentColumns))
        return [name for name, default in pairs if name != default]


def treatment_of(rows: Sequence[Row], columns: TreatmentColumns) -> Treatment:
    """The treatment of one patient, of whom one row or many may record the same course or resection.

    A course of radiotherapy of which one date is known lasts its fractions at five a week, or 42 days where they are
    not known; chemotherapy without an end goes on. Courses of chemotherapy that overlap are joined, as the question is
    only whether there is any. Dose and fractions without a date are not used, with a warning.
    Raises InputError for a cell that is no number, a course that ends before it starts, chemotherapy with an end and no
    start, and courses of radiotherapy that overlap.
    >>> rows = [Row(Path("a.csv"), 2, {"rt_start_day": "28", "dose": "60 Gy"}), Row(Path("a.csv"), 3, {})]
    >>> treatment_of(rows, TreatmentColumns()).radiotherapy
    (RadiotherapyCourse(start_days=28.0, end_days=70.0, dose_gy=60.0, fractions=None),)
    """
    resections = {row.day(columns.resection_day) for row in _distinct(rows, columns.resection_day)}
    return Treatment(
        _radiotherapy(_radiotherapy_records(rows, columns)),
        _chemotherapy(_chemotherapy_records(rows, columns)),
        tuple(sorted(day for day in resections if day is not None)),
    )


def _distinct(rows: Sequence[Row], *columns: str) -> Iterable[Row]:
    """The rows with anything in these columns; of those with the same cells there, the first."""
    distinct: dict[tuple[str, ...], Row] = {}
    for row in rows:
        distinct.setdefault(tuple(map(row.text, columns)), row)
    return (row for texts, row in distinct.items() if any(texts))


@dataclass(frozen=True)
class _CourseRecord:
    """A course as the table records it, NaN for what is blank; `row` is the first row of it."""

    row: Row
    start: float
    end: float
    dose_gy: float = math.nan
    fractions: float = math.nan

    @property
    def cells(self) -> tuple[float, ...]:
        return self.start, self.end, self.dose_gy, self.fractions

    @property
    def dated(self) -> bool:
        return not (math.isnan(self.start) and math.isnan(self.end))

    def agrees(self, other: "_CourseRecord") -> bool:
        """Whether both may be one course: a date in common and nothing against it. (Nothing is true of a NaN.)"""
        if not (self.start == other.start or self.end == other.end):
            return False
        return not any(mine < theirs or mine > theirs for mine, theirs in zip(self.cells, other.cells, strict=True))

    def filled_from(self, other: "_CourseRecord") -> "_CourseRecord":
        pairs = zip(self.cells, other.cells, strict=True)
        return _CourseRecord(self.row, *(theirs if math.isnan(mine) else mine for mine, theirs in pairs))


def _radiotherapy_records(rows: Sequence[Row], columns: TreatmentColumns) -> list[_CourseRecord]:
    start, end, dose, fractions = columns.rt_start_day, columns.rt_end_day, columns.rt_dose, columns.rt_fractions
    return [
        _CourseRecord(row, *map(_or_nan, (row.day(start), row.day(end), row.dose_gy(dose), row.fractions(fractions))))
        for row in _distinct(rows, start, end, dose, fractions)
    ]


def _chemotherapy_records(rows: Sequence[Row], columns: TreatmentColumns) -> list[_CourseRecord]:
    start, end = columns.chemo_start_day, columns.chemo_end_day
    return [_CourseRecord(row, *map(_or_nan, (row.day(start), row.day(end)))) for row in _distinct(rows, start, end)]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _merged(records: Iterable[_CourseRecord]) -> list[_CourseRecord]:
    """Each dated course once, with what any row has of it. Those of two dates come first, for others to join them."""
    courses: list[_CourseRecord] = []
    for record in sorted(records, key=lambda record: math.isnan(record.start) + math.isnan(record.end)):
        index = next((k for k, course in enumerate(courses) if course.agrees(record)), None)
        if index is not None:
            courses[index] = courses[index].filled_from(record)
        elif record.dated:
            courses.append(record)
    return courses


def _radiotherapy(records: list[_CourseRecord]) -> tuple[RadiotherapyCourse, ...]:
    courses = _merged(_completed(course) for course in _merged(records))
    if records and not courses:
        logger.warning(
            "%s: a dose or fractions of radiotherapy without a date are not used; add a date", records[0].row.where
        )
    ordered = sorted(courses, key=lambda course: (course.start, course.end))
    for earlier, later in pairwise(ordered):
        _check_apart(earlier, later)
    return tuple(_radiotherapy_course(course) for course in ordered)


def _completed(course: _CourseRecord) -> _CourseRecord:
    """Both dates of a course of radiotherapy, of which at least one is known."""
    length = RADIOTHERAPY_DAYS if math.isnan(course.fractions) else course.fractions * 7 / FRACTIONS_A_WEEK
    start = course.end - length if math.isnan(course.start) else course.start
    end = course.start + length if math.isnan(course.end) else course.end
    _check_order(course.row, "radiotherapy", start, end)
    return replace(course, start=start, end=end)


def _check_order(row: Row, what: str, start: float, end: float) -> None:
    if end < start:
        raise InputError(f"{row.where}: {what} ends on day {end:g}, before its start on day {start:g}; correct one")


def _check_apart(earlier: _CourseRecord, later: _CourseRecord) -> None:
    if later.start < earlier.end or (later.start, later.end) == (earlier.start, earlier.end):
        raise InputError(
            f"{earlier.row.where}: radiotherapy from day {earlier.start:g} to {earlier.end:g} overlaps with that of "
            f"line {later.row.line}, from day {later.start:g} to {later.end:g}; give each course one pair of dates, "
            "one dose and one number of fractions"
        )


def _radiotherapy_course(record: _CourseRecord) -> RadiotherapyCourse:
    dose = None if math.isnan(record.dose_gy) else record.dose_gy
    fractions = None if math.isnan(record.fractions) else int(record.fractions)
    return RadiotherapyCourse(record.start, record.end, dose, fractions)


def _chemotherapy(records: list[_CourseRecord]) -> tuple[ChemotherapyCourse, ...]:
    joined: list[ChemotherapyCourse] = []
    for course in sorted(map(_chemotherapy_course, _merged(records)), key=lambda course: course.start_days):
        if joined and course.start_days <= joined[-1].end_days:
            joined[-1] = replace(joined[-1], end_days=max(joined[-1].end_days, course.end_days))
        else:
            joined.append(course)
    return tuple(joined)


def _chemotherapy_course(record: _CourseRecord) -> ChemotherapyCourse:
    if math.isnan(record.start):
        raise InputError(
            f"{record.row.where}: chemotherapy ends on day {record.end:g} and has no start; give its start, or no end"
        )
    end = math.inf if math.isnan(record.end) else record.end
    _check_order(record.row, "chemotherapy", record.start, end)
    return ChemotherapyCourse(record.start, end)
