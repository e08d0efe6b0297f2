"""CSV tables with a header, and the courses of radiotherapy that their cells give.

Only the csv module: the tables are small, and a fault in one must be told by its line.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tumorcast.errors import InputError
from tumorcast.records import RadiotherapyCourse, Treatment

RADIOTHERAPY_DAYS = 42.0  # the length of a course of which only one end is known (arXiv 2509.09610)
FORBIDDEN_IN_IDS = "/\\\0"  # identifiers name groups and files


@dataclass(frozen=True)
class Row:
    """One row of a table: `path` and `line` are for messages, `cells` maps column to stripped text."""

    path: Path
    line: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        """The cell's text, empty when the column is absent or the cell blank."""
        return self.cells.get(column, "")

    def identifier(self, column: str) -> str:
        """A patient's or session's identifier. Raises InputError if it is blank or cannot be a name in a file."""
        name = self.text(column)
        if not name:
            raise InputError(f"{self.where}: '{column}' is empty; every row needs it")
        if name in {".", ".."} or any(character in name for character in FORBIDDEN_IN_IDS):
            raise InputError(f"{self.where}: '{column}' is {name!r}; give a name without slashes")
        return name

    def number(self, column: str) -> float | None:
        """The cell as a finite number, None when blank. Raises InputError for text, NaN and infinity."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            raise InputError(
                f"{self.where}: '{column}' is {text!r}, not a number; correct it or leave it blank"
            ) from None
        if not math.isfinite(value):
            raise InputError(f"{self.where}: '{column}' is {text!r}, not a finite number; correct it or leave it blank")
        return value

    @property
    def where(self) -> str:
        """The place in the table, as messages name it."""
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
            return [_row(path, reader.line_num, header, cells) for cells in reader if any(map(str.strip, cells))]
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
    return Row(path, line, dict(zip(header, (cell.strip() for cell in cells), strict=True)))


def radiotherapy_course(row: Row, start_column: str, end_column: str) -> RadiotherapyCourse | None:
    """The course that a row gives by its first and last day, None when both are blank.

    A course of which one end is known lasts RADIOTHERAPY_DAYS. Raises InputError for a cell that is no number and a
    course that ends before it starts.
    >>> radiotherapy_course(Row(Path("a.csv"), 2, {"start": "", "end": "70"}), "start", "end")
    RadiotherapyCourse(start_days=28.0, end_days=70.0)
    """
    start, end = row.number(start_column), row.number(end_column)
    if start is None:
        return None if end is None else RadiotherapyCourse(end - RADIOTHERAPY_DAYS, end)
    end = start + RADIOTHERAPY_DAYS if end is None else end
    if end < start:
        raise InputError(
            f"{row.where}: radiotherapy ends on day {end:g}, before its start on day {start:g}; correct one"
        )
    return RadiotherapyCourse(start, end)


def treatment_of(courses: Iterable[RadiotherapyCourse], where: str) -> Treatment:
    """The treatment of one patient from the courses of all of their rows: in order, each once.

    where: the table and the patient, for the message. Raises InputError for courses that overlap.
    >>> courses = [RadiotherapyCourse(90.0, 99.0), RadiotherapyCourse(0.0, 42.0), RadiotherapyCourse(90.0, 99.0)]
    >>> [course.start_days for course in treatment_of(courses, "a.csv: patient A").radiotherapy]
    [0.0, 90.0]
    """
    ordered = sorted(set(courses), key=lambda course: (course.start_days, course.end_days))
    for earlier, later in pairwise(ordered):
        if later.start_days < earlier.end_days:
            raise InputError(
                f"{where} has radiotherapy from day {earlier.start_days:g} to {earlier.end_days:g} and from day "
                f"{later.start_days:g}, which overlap; give one date per course"
            )
    return Treatment(tuple(ordered))
