"""The clinical table (`--clinical FILE`): days of the scans, and treatments.

Columns: patient_id, and any of session_id, day and those of TreatmentColumns. A patient may have several rows: one a
scan, one a course of treatment, or both in one; repeated courses count once. A day without session_id is that of the
patient's only scan. A fault in a patient's rows refuses that patient's scans alone.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tumorcast.data.scans import FoundSession
from tumorcast.errors import InputError
from tumorcast.records import SourceSession, Treatment
from tumorcast.tables import Row, TreatmentColumns, read_table, rows_by_patient, treatment_of

TREATMENT = TreatmentColumns()


@dataclass(frozen=True)
class ClinicalTable:
    """What the table says: days by (patient, session), treatments by patient.

    unnamed: by patient, (line, day) of the rows that have a day and no session_id.
    faults: by patient, why their rows cannot be right; nothing else is known of such a patient.
    """

    path: Path
    days: dict[tuple[str, str], float] = field(default_factory=dict)
    treatments: dict[str, Treatment] = field(default_factory=dict)
    unnamed: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def patient_ids(self) -> frozenset[str]:
        """All patients of the table."""
        return frozenset({*self.treatments, *self.faults})

    def day(self, patient_id: str, session_id: str, *, scans: int) -> float | None:
        """Day of a scan, None when the table dates no scan of the patient, who has `scans` of them.

        Raises InputError for a patient with a fault, a scan that the table forgets while it dates others, a day without
        session_id that may be that of several scans, and one that another row contradicts.
        """
        if patient_id in self.faults:
            raise InputError(self.faults[patient_id])
        known = self._named_day(patient_id, session_id)
        for line, day in self.unnamed.get(patient_id, []):
            where = f"{self.path}, line {line}"
            if scans > 1:
                raise InputError(
                    f"{where}: a day without session_id, but {patient_id} has {scans} scans; name the scan's session_id"
                )
            if known not in {None, day}:
                raise InputError(
                    f"{where}: the only scan of {patient_id} is on day {day:g} here and {known:g} in another row; "
                    "keep one"
                )
            known = day
        if known is None and any(patient == patient_id for patient, _ in self.days):
            raise InputError(
                f"{self.path}: dates other scans of {patient_id} but not session {session_id}; "
                "add its row (session_id and day)"
            )
        return known

    def _named_day(self, patient_id: str, session_id: str) -> float | None:
        """Day of the row that names the scan.

        The table may name a session as the reader does (`001`, `ses-01`, `Timepoint_1`), by its full BraTS name
        (`P-001`), by what follows the word (`01`), or, after a spreadsheet ate the zeros, as `1`.
        """
        plain = session_id.removeprefix("ses-").removeprefix("Timepoint_")
        for name in (session_id, f"{patient_id}-{session_id}", plain, plain.lstrip("0") or "0"):
            if (patient_id, name) in self.days:
                return self.days[patient_id, name]
        return None


def read_clinical(path: Path) -> ClinicalTable:
    """Read a clinical table. Raises InputError if the file is no table or a row names no patient."""
    table = ClinicalTable(path)
    rows = read_table(path, ("patient_id",), ("session_id", "day", *TREATMENT.of_treatment()))
    for patient_id, of_patient in rows_by_patient(rows, "patient_id").items():
        try:
            treatment, days, unnamed = treatment_of(of_patient, TREATMENT), _days(of_patient), _unnamed_days(of_patient)
        except InputError as fault:
            table.faults[patient_id] = str(fault)
        else:
            table.treatments[patient_id] = treatment
            table.days.update(days)
            table.unnamed[patient_id] = unnamed
    return table


def _days(rows: list[Row]) -> dict[tuple[str, str], float]:
    days: dict[tuple[str, str], float] = {}
    for row in rows:
        day = row.number("day")
        if day is None or not row.text("session_id"):
            continue
        key = (row.identifier("patient_id"), row.identifier("session_id"))
        if days.setdefault(key, day) != day:
            raise InputError(f"{row.where}: session {key[1]} is on day {day:g} here and {days[key]:g} above; keep one")
    return days


def _unnamed_days(rows: list[Row]) -> list[tuple[int, float]]:
    days = ((row, row.number("day")) for row in rows if not row.text("session_id"))
    return [(row.line, day) for row, day in days if day is not None]


@dataclass(frozen=True)
class DatedSessions:
    """Sessions with their days settled; `refused` says per (patient, session) why a session cannot be dated.

    undated: the patients of several scans whose days only count 0, 1, 2 …
    """

    sessions: tuple[SourceSession, ...]
    refused: dict[tuple[str, str], str]
    undated: frozenset[str]


def date_sessions(sessions: Iterable[SourceSession], clinical: ClinicalTable | None) -> DatedSessions:
    """Apply the table's days and refuse what has no day, or shares its day with another scan of the patient.

    A patient whom the table does not date keeps the days of the layout. Sessions come back by patient, then day.
    """
    found = list(sessions)
    scans = Counter(session.patient_id for session in found)
    dated, refused, undated = [], {}, set()
    for session in found:
        patient_id, session_id = session.patient_id, session.session_id
        try:
            day = None if clinical is None else clinical.day(patient_id, session_id, scans=scans[patient_id])
        except InputError as fault:
            refused[patient_id, session_id] = str(fault)
            day = session.day
        if isinstance(session, FoundSession):
            told = session.fault or (session.day_fault if day is None else "")
            if told:
                refused.setdefault((patient_id, session_id), told)
            elif day is None and not session.dated and scans[patient_id] > 1:
                undated.add(patient_id)
        dated.append(session if day is None else replace(session, day=day))
    for session, twin in _twins(dated, refused):
        refused[session.patient_id, session.session_id] = (
            f"{session.patient_id}: sessions {session.session_id} and {twin.session_id} are both on "
            f"day {session.day:g}; a growth curve needs one scan a day: correct the day or remove one"
        )
    ordered = sorted(dated, key=lambda session: (session.patient_id, session.day, session.session_id))
    return DatedSessions(tuple(ordered), refused, frozenset(undated))


def _twins(
    sessions: list[SourceSession], refused: dict[tuple[str, str], str]
) -> list[tuple[SourceSession, SourceSession]]:
    first: dict[tuple[str, float], SourceSession] = {}
    pairs = []
    for session in sessions:
        if (session.patient_id, session.session_id) in refused:
            continue
        other = first.setdefault((session.patient_id, session.day), session)
        if other is not session:
            pairs += [(session, other), (other, session)]
    return pairs
