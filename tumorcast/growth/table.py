"""Sizes and radiotherapy dates from a CSV file, one row a scan.

Only the csv module: a table of sizes is small, and a fault in it must be told by its line.
"""

import csv
import logging
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from tumorcast.errors import InputError
from tumorcast.records import RadiotherapyCourse, SizeSeries, Treatment

RADIOTHERAPY_DAYS = 42.0  # the length of a course of which only one end is known (arXiv 2509.09610)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SizeColumns:
    """The names of the columns. Those of radiotherapy may be absent under their default names, not under others."""

    patient_id: str = "patient_id"
    day: str = "day"
    size: str = "area_mm2"
    rt_start_day: str = "rt_start_day"
    rt_end_day: str = "rt_end_day"

    def required(self) -> list[str]:
        """The columns that must be there: a column named by the user was meant."""
        default = SizeColumns()
        named = [name for name in (self.rt_start_day, self.rt_end_day) if name not in default.optional()]
        return [self.patient_id, self.day, self.size, *named]

    def optional(self) -> list[str]:
        """The columns of radiotherapy."""
        return [self.rt_start_day, self.rt_end_day]


DEFAULT_COLUMNS = SizeColumns()


@dataclass(frozen=True)
class _Row:
    """One line of the table, as read. size: None where the cell is empty (not measured)."""

    line: int
    patient_id: str
    day: float
    size: float | None
    course: RadiotherapyCourse | None


def read_sizes(path: Path, columns: SizeColumns = DEFAULT_COLUMNS) -> list[SizeSeries]:
    """The size series of every patient in a CSV file with a header, in the order of their first row.

    Rows may come in any order; other columns are not looked at. An empty size is a scan on which it was not measured,
    and is left out. A course of radiotherapy stands on any or all of the patient's rows; different dates are different
    courses; one end alone is completed to 42 days.
    Raises InputError, naming the file and the line, for a file that is missing, empty or not CSV, a missing column, a
    cell that is no number, a negative or NaN size, a day given twice, radiotherapy that ends before it starts, and
    courses that overlap.
    """
    rows = _read_rows(path, columns)
    patients: dict[str, list[_Row]] = {}
    for row in rows:
        patients.setdefault(row.patient_id, []).append(row)
    series = [_series(path, columns, of_patient) for of_patient in patients.values()]
    measured = [one for one in series if one.days.size > 0]
    if not measured:
        raise InputError(f"{path}: no row has a value in column '{columns.size}'; name another one")
    _log_left_out(path, columns, rows, len(series) - len(measured))
    return measured


def _log_left_out(path: Path, columns: SizeColumns, rows: list[_Row], patients: int) -> None:
    empty = sum(row.size is None for row in rows)
    if empty:
        logger.warning(
            "%s: %d of %d rows have no '%s'; left out, and with them %d patients",
            path,
            empty,
            len(rows),
            columns.size,
            patients,
        )


def _read_rows(path: Path, columns: SizeColumns) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, columns, header)
            rows = [_row(path, columns, header, cells, reader.line_num) for cells in reader if any(cells)]
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror}); give a CSV file of sizes") from None
    except (UnicodeDecodeError, csv.Error) as fault:
        raise InputError(f"{path}: is not CSV in UTF-8 ({fault}); save it as such") from None
    if not rows:
        raise InputError(f"{path}: has a header and no rows; give at least one scan")
    return rows


def _check_header(path: Path, columns: SizeColumns, header: list[str]) -> None:
    if not any(header):
        raise InputError(f"{path}: is empty; expected a header with {', '.join(columns.required())}")
    missing = [name for name in columns.required() if name not in header]
    if missing:
        raise InputError(
            f"{path}: no column {_quoted(missing)}; found {_quoted(header)}; name the columns to read, or add these"
        )
    used = {*columns.required(), *columns.optional()}
    repeated = [name for name, count in Counter(header).items() if count > 1 and name in used]
    if repeated:
        raise InputError(f"{path}: column {_quoted(repeated)} stands twice in the header; rename one")


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _row(path: Path, columns: SizeColumns, header: list[str], cells: list[str], line: int) -> _Row:
    if len(cells) != len(header):
        raise InputError(f"{path}, line {line}: {len(cells)} cells under {len(header)} column names; make them agree")
    values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
    where = f"{path}, line {line}"
    if not values[columns.patient_id]:
        raise InputError(f"{where}: '{columns.patient_id}' is empty; every row needs its patient")
    day = _number(where, columns.day, values[columns.day])
    if day is None:
        raise InputError(f"{where}: '{columns.day}' is empty; every scan needs its day")
    size = _number(where, columns.size, values[columns.size])
    if size is not None and size < 0:
        raise InputError(f"{where}: '{columns.size}' is {size:g}; a size is zero or more")
    return _Row(line, values[columns.patient_id], day, size, _course(where, columns, values))


def _number(where: str, column: str, text: str) -> float | None:
    """The number in a cell; None if the cell is empty. Raises InputError for text, NaN and infinity."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: '{column}' is '{text}', not a number; correct it or leave it empty") from None
    if not math.isfinite(value):
        raise InputError(f"{where}: '{column}' is '{text}', not a finite number; correct it or leave it empty")
    return value


def _course(where: str, columns: SizeColumns, values: dict[str, str]) -> RadiotherapyCourse | None:
    start = _number(where, columns.rt_start_day, values.get(columns.rt_start_day, ""))
    end = _number(where, columns.rt_end_day, values.get(columns.rt_end_day, ""))
    if start is None and end is None:
        return None
    if start is None or end is None:
        start = start if end is None else end - RADIOTHERAPY_DAYS
        assert start is not None
        end = start + RADIOTHERAPY_DAYS
    if end < start:
        raise InputError(f"{where}: radiotherapy ends on day {end:g}, before its start on day {start:g}; correct one")
    return RadiotherapyCourse(start, end)


def _series(path: Path, columns: SizeColumns, rows: list[_Row]) -> SizeSeries:
    """One patient's series; empty if no size was measured."""
    patient_id = rows[0].patient_id
    treatment = _treatment(path, rows)
    measured = sorted((row for row in rows if row.size is not None), key=lambda row: row.day)
    for earlier, later in pairwise(measured):
        if earlier.day == later.day:
            raise InputError(
                f"{path}, lines {earlier.line} and {later.line}: patient {patient_id} has two sizes "
                f"on day {later.day:g}; keep one"
            )
    days = np.array([row.day for row in measured])
    sizes = np.array([row.size for row in measured], dtype=np.float64)
    return SizeSeries(patient_id, columns.size, days, sizes, treatment)


def _treatment(path: Path, rows: list[_Row]) -> Treatment:
    courses = sorted({row.course for row in rows if row.course is not None}, key=lambda course: course.start_days)
    for earlier, later in pairwise(courses):
        if later.start_days < earlier.end_days:
            raise InputError(
                f"{path}: patient {rows[0].patient_id} has radiotherapy from day {earlier.start_days:g} to "
                f"{earlier.end_days:g} and from day {later.start_days:g}, which overlap; give one date per course"
            )
    return Treatment(tuple(courses))
