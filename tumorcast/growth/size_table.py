"""Sizes and treatments from a CSV or TSV file, one row a scan, with a balance of its scans.

A patient with a fault does not stop the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from tumorcast.counted import counted
from tumorcast.errors import InputError
from tumorcast.records import PatientOutcome, SizeSeries, Status
from tumorcast.tables import Row, TreatmentColumns, read_table, rows_by_patient, treatment_of

NO_SIZE = "no size"
PATIENTS_NAMED = 5  # in a line; the record names all


@dataclass(frozen=True, kw_only=True)
class SizeColumns(TreatmentColumns):
    """The names of the columns. Those of treatment may be absent under their default names, not under others.

    companion: of another compartment's size, used where it is there; empty for none.
    """

    patient_id: str = "patient_id"
    day: str = "day"
    size: str = "area_mm2"
    companion: str = ""

    def required(self) -> list[str]:
        """The columns that must be there."""
        return [self.patient_id, self.day, self.size, *self.renamed()]


DEFAULT_COLUMNS = SizeColumns()


@dataclass(frozen=True)
class PatientScans:
    """What there is of one patient. rows: of a table, of which some may tell of treatment alone; None without one.

    unmeasured: the scans that have no size.
    """

    rows: int | None
    scans: int
    unmeasured: int


@dataclass(frozen=True)
class SizeTable:
    """What a table says of a cohort, in the order of the patients' first rows.

    series: of the patients who can be used. outcomes: of the others, FAILED for a fault in their own rows and SKIPPED
    where no scan of theirs was measured. counts: of every patient. header: the names of all columns.
    """

    series: tuple[SizeSeries, ...]
    outcomes: tuple[PatientOutcome, ...] = ()
    counts: Mapping[str, PatientScans] = field(default_factory=dict)
    header: tuple[str, ...] = ()


def read_sizes(path: Path, columns: SizeColumns = DEFAULT_COLUMNS) -> SizeTable:
    """The size series of every patient in a CSV file with a header.

    Rows may come in any order, days may count from any zero, and other columns are not looked at. An empty size is a
    scan on which it was not measured, and is left out; a row with neither day nor size tells of treatment alone. How
    treatments are read, `treatment_of` says.
    A cell that is no number, a negative size, a missing day, one given twice or a treatment that cannot be fails its
    patient. Raises InputError, naming the file and the line, for a file that is missing, empty or not CSV, a missing
    column, a row without patient or with more or fewer cells than the header, and where no patient can be used.
    """
    optional = [*columns.of_treatment(), *([columns.companion] if columns.companion else [])]
    rows = read_table(
        path,
        columns.required(),
        optional,
        remedy="name the ones that are there (--size-column, --id-column, --day-column …), or add it",
    )
    if not rows:
        raise InputError(f"{path}: has a header and no rows; give at least one scan")
    patients = rows_by_patient(rows, columns.patient_id)
    read = [_series_or_outcome(patient_id, of_patient, columns) for patient_id, of_patient in patients.items()]
    table = SizeTable(
        tuple(patient for patient in read if isinstance(patient, SizeSeries)),
        tuple(patient for patient in read if isinstance(patient, PatientOutcome)),
        {patient_id: _count(of_patient, columns) for patient_id, of_patient in patients.items()},
        tuple(rows[0].cells),
    )
    if not table.series:
        raise InputError(_why_none(path, columns, table.outcomes))
    return table


def _why_none(path: Path, columns: SizeColumns, outcomes: Iterable[PatientOutcome]) -> str:
    reasons = [outcome.reason for outcome in outcomes if outcome.status is Status.FAILED]
    if not reasons:
        return f"{path}: no scan has a value in column '{columns.size}'; name another one"
    first, *others = reasons
    return f"{first} (and {len(others)} more patients failed)" if others else first


def _count(rows: list[Row], columns: SizeColumns) -> PatientScans:
    measured = sum(bool(row.text(columns.size)) for row in rows)
    unmeasured = sum(bool(row.text(columns.day)) and not row.text(columns.size) for row in rows)
    return PatientScans(len(rows), measured + unmeasured, unmeasured)


def _series_or_outcome(patient_id: str, rows: list[Row], columns: SizeColumns) -> SizeSeries | PatientOutcome:
    try:
        series = _series(rows, columns)
    except InputError as fault:
        return PatientOutcome(patient_id, Status.FAILED, str(fault))
    if series.days.size:
        return series
    return PatientOutcome(patient_id, Status.SKIPPED, f"no scan has a value in column '{columns.size}'")


def _series(rows: list[Row], columns: SizeColumns) -> SizeSeries:
    """One patient's series; empty if no size was measured."""
    patient_id = rows[0].identifier(columns.patient_id)
    measured = sorted(_measured(rows, columns), key=lambda scan: scan[0])
    for (day, _, _, earlier), (next_day, _, _, later) in pairwise(measured):
        if day == next_day:
            raise InputError(
                f"{later.path}, lines {earlier.line} and {later.line}: patient {patient_id} has two sizes "
                f"on day {day:g}; keep one"
            )
    days, sizes, companion = (np.array([scan[k] for scan in measured], np.float64) for k in (0, 1, 2))
    known = companion if np.isfinite(companion).any() else None
    return SizeSeries(patient_id, columns.size, days, sizes, treatment_of(rows, columns), known)


def _measured(rows: Iterable[Row], columns: SizeColumns) -> Iterable[tuple[float, float, float, Row]]:
    """Day, size, companion (NaN where it is not known) and row of the scans on which the size was measured."""
    for row in rows:
        day, size = row.day(columns.day), row.number(columns.size)
        if size is None:
            continue
        if day is None:
            raise InputError(f"{row.where}: '{columns.day}' is empty; every scan needs its day: add it")
        if size < 0:
            raise InputError(
                f"{row.where}: '{columns.size}' is {size:g}; a size is zero or more; correct it or leave it blank"
            )
        yield day, size, _companion(row, columns), row


def _companion(row: Row, columns: SizeColumns) -> float:
    value = row.number(columns.companion) if columns.companion else None
    if value is not None and value < 0:
        raise InputError(f"{row.where}: '{columns.companion}' is {value:g}; a size is zero or more; correct it")
    return np.nan if value is None else value


@dataclass(frozen=True)
class SizeBalance:
    """Scans and patients of a source, and those that were used.

    rows: of the table; None of a cohort file. left_out: by reason and patient, how many scans. known: by treatment, how
    many of the patients used. hints: columns that are not read and look as if they should be.
    """

    rows: int | None
    patients: int
    patients_used: int
    scans: int
    scans_used: int
    left_out: Mapping[str, Mapping[str, int]]
    known: Mapping[str, int]
    hints: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: SizeTable, outcomes: Sequence[PatientOutcome], hints: Sequence[str] = ()) -> Self:
        """The balance of a table whose patients fared so; those without an outcome were used."""
        fates = {outcome.patient_id: outcome.status for outcome in outcomes}
        left_out: dict[str, dict[str, int]] = {}
        for patient_id, counts in table.counts.items():
            fate = fates.get(patient_id, Status.OK)
            reason, lost = (NO_SIZE, counts.unmeasured) if fate is Status.OK else (f"patient {fate}", counts.scans)
            if lost:
                left_out.setdefault(reason, {})[patient_id] = lost
        used = [each.treatment for each in table.series if fates.get(each.patient_id, Status.OK) is Status.OK]
        scans = sum(counts.scans for counts in table.counts.values())
        rows = [counts.rows for counts in table.counts.values() if counts.rows is not None]
        return cls(
            rows=sum(rows) if rows else None,
            patients=len(table.counts),
            patients_used=len(used),
            scans=scans,
            scans_used=scans - sum(sum(lost.values()) for lost in left_out.values()),
            left_out=left_out,
            known={
                "radiotherapy": sum(bool(treatment.radiotherapy) for treatment in used),
                "chemotherapy": sum(bool(treatment.chemotherapy) for treatment in used),
                "resection": sum(bool(treatment.resection_days) for treatment in used),
            },
            hints=tuple(hints),
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        rows = "" if self.rows is None else f"{counted(self.rows, 'row')} read: "
        first = (
            f"{rows}{counted(self.scans, 'scan')} of {counted(self.patients, 'patient')}; "
            f"{counted(self.scans_used, 'scan')} of {counted(self.patients_used, 'patient')} used"
        )
        lost = [
            f"{counted(sum(of.values()), 'scan')} left out, {reason}: {_named(of)}"
            for reason, of in self.left_out.items()
        ]
        patients = f"of {counted(self.patients_used, 'patient')}"
        known = (f"{treatment} known for {count} {patients}" for treatment, count in self.known.items())
        return [first, *lost, ", ".join(known)]


def _named(counts: Mapping[str, int]) -> str:
    """Patients with their scans.

    >>> _named({"P1": 2, "P2": 1})
    'P1 (2), P2 (1)'
    """
    named = [f"{patient_id} ({count})" for patient_id, count in counts.items()]
    more = [f"and {counted(len(named) - PATIENTS_NAMED, 'more patient')}"] if len(named) > PATIENTS_NAMED else []
    return ", ".join(named[:PATIENTS_NAMED] + more)
