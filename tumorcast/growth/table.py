"""Sizes and radiotherapy dates from a CSV or TSV file, one row a scan."""

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from tumorcast.errors import InputError
from tumorcast.records import RadiotherapyCourse, SizeSeries
from tumorcast.tables import Row, radiotherapy_course, read_table, treatment_of

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
    cell that is no number, a blank patient or one with slashes, a negative or NaN size, a day given twice, radiotherapy
    that ends before it starts, and courses that overlap.
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
    table = read_table(path, columns.required(), columns.optional(), remedy="name the columns to read, or add it")
    if not table:
        raise InputError(f"{path}: has a header and no rows; give at least one scan")
    return [_row(columns, row) for row in table]


def _row(columns: SizeColumns, row: Row) -> _Row:
    patient_id, day, size = row.identifier(columns.patient_id), row.number(columns.day), row.number(columns.size)
    if day is None:
        raise InputError(f"{row.where}: '{columns.day}' is empty; every scan needs its day")
    if size is not None and size < 0:
        raise InputError(f"{row.where}: '{columns.size}' is {size:g}; a size is zero or more")
    return _Row(row.line, patient_id, day, size, radiotherapy_course(row, columns.rt_start_day, columns.rt_end_day))


def _series(path: Path, columns: SizeColumns, rows: list[_Row]) -> SizeSeries:
    """One patient's series; empty if no size was measured."""
    patient_id = rows[0].patient_id
    courses = (row.course for row in rows if row.course is not None)
    treatment = treatment_of(courses, f"{path}: patient {patient_id}")
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
