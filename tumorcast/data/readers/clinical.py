"""The clinical table (`--clinical FILE`): days of the scans, and treatments.

Columns: patient_id, and any of session_id, day and those of TreatmentColumns. A patient may have several rows: one a
scan, one a course of treatment, or both in one; repeated courses count once. A day without session_id is that of the
patient's only scan. A fault in a patient's rows refuses that patient's scans alone. Names meet by the rule of names.py;
rows that fit no scan are listed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tumorcast.data.readers.names import UnmatchedRow, meeting, met
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.errors import InputError
from tumorcast.records import Treatment
from tumorcast.tables import Row, TreatmentColumns, read_table, rows_by_patient, treatment_of

TREATMENT = TreatmentColumns()


@dataclass(frozen=True)
class ClinicalTable:
    """A clinical table as read. header: all columns, where it has rows; rows: by the patient's name in the table."""

    path: Path
    header: tuple[str, ...]
    rows: dict[str, list[Row]]

    def fitted(self, sessions: Iterable[SourceSession]) -> "FittedTable":
        """What the table says of these scans, by their own names."""
        scans: dict[str, list[str]] = {}
        for session in sessions:
            scans.setdefault(session.patient_id, []).append(session.session_id)
        patients = meeting(self.rows, scans)
        by_scan: dict[str, list[Row]] = {}
        fitted = FittedTable(self.path)
        for name, rows in self.rows.items():
            if name in patients:
                by_scan.setdefault(patients[name], []).extend(rows)
            else:
                several = met(name, scans)
                why = f"may be {' or '.join(several)}, or another row is nearer" if several else "no such patient"
                fitted.unmatched.extend(UnmatchedRow(row.where, f"patient {name}: {why}") for row in rows)
        for patient_id, rows in by_scan.items():
            fitted.add(patient_id, sorted(rows, key=lambda row: row.line), scans[patient_id])
        return fitted


@dataclass(frozen=True)
class FittedTable:
    """What a table says of scans: days by (patient, session), treatments by patient, both named as the scans are.

    unnamed: by patient, (line, day) of the rows that have a day and no session_id.
    faults: by patient, why their rows cannot be right; nothing else is known of such a patient.
    unmatched: rows that fit no scan.
    """

    path: Path
    days: dict[tuple[str, str], float] = field(default_factory=dict)
    treatments: dict[str, Treatment] = field(default_factory=dict)
    unnamed: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    unmatched: list[UnmatchedRow] = field(default_factory=list)

    def add(self, patient_id: str, rows: list[Row], scans: Sequence[str]) -> None:
        """Read the rows of a patient, who has these scans."""
        try:
            treatment, unnamed = treatment_of(rows, TREATMENT), _unnamed_days(rows)
            days, unmatched = _days(patient_id, rows, scans)
        except InputError as fault:
            self.faults[patient_id] = str(fault)
            return
        self.treatments[patient_id], self.unnamed[patient_id] = treatment, unnamed
        self.days.update({(patient_id, session): day for session, day in days.items()})
        self.unmatched.extend(unmatched)

    def day(self, patient_id: str, session_id: str, *, scans: int) -> float | None:
        """Day of a scan, None when the table dates no scan of the patient, who has `scans` of them.

        Raises InputError for a patient with a fault, a scan that the table forgets while it dates others, a day without
        session_id that may be that of several scans, and one that another row contradicts.
        """
        if patient_id in self.faults:
            raise InputError(self.faults[patient_id])
        known = self.days.get((patient_id, session_id))
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


def read_clinical(path: Path) -> ClinicalTable:
    """Read a clinical table. Raises InputError if the file is no table or a row names no patient."""
    rows = read_table(path, ("patient_id",), ("session_id", "day", *TREATMENT.of_treatment()))
    header = tuple(rows[0].cells) if rows else ()
    return ClinicalTable(path, header, rows_by_patient(rows, "patient_id"))


def _days(patient_id: str, rows: list[Row], scans: Sequence[str]) -> tuple[dict[str, float], list[UnmatchedRow]]:
    """The days of a patient's scans, and the rows that name a session which there is not."""
    days: dict[str, float] = {}
    unmatched = []
    for row, name in [(row, row.identifier("session_id")) for row in rows if row.text("session_id")]:
        day, sessions = row.day("day"), _sessions_met(patient_id, name, scans)
        if len(sessions) != 1:
            why = f"may be {' or '.join(sessions)}" if sessions else f"no such scan; there are {', '.join(scans)}"
            unmatched.append(UnmatchedRow(row.where, f"patient {patient_id}, session {name}: {why}"))
        elif day is not None and days.setdefault(sessions[0], day) != day:
            raise InputError(
                f"{row.where}: session {name} is on day {day:g} here and {days[sessions[0]]:g} above; keep one"
            )
    return days, unmatched


def _sessions_met(patient_id: str, name: str, scans: Sequence[str]) -> list[str]:
    """The scans that a session's name in a table meets: by itself, or behind the patient's (`P-001`, `sub-1_ses-2`)."""
    sessions = met(name, scans)
    if sessions:
        return sessions
    whole = {f"{patient_id}{mark}{scan}": scan for scan in scans for mark in "-_"}
    return list(dict.fromkeys(whole[match] for match in met(name, whole)))


def _unnamed_days(rows: list[Row]) -> list[tuple[int, float]]:
    days = ((row, row.day("day")) for row in rows if not row.text("session_id"))
    return [(row.line, day) for row, day in days if day is not None]


@dataclass(frozen=True)
class DatedSessions:
    """Sessions with their days settled; `refused` says per (patient, session) why a session cannot be dated.

    undated: the patients of several scans whose days only count 0, 1, 2 …; treatments: by patient;
    unmatched: rows of the clinical table that fit no scan.
    """

    sessions: tuple[SourceSession, ...]
    refused: dict[tuple[str, str], str]
    undated: frozenset[str]
    treatments: dict[str, Treatment] = field(default_factory=dict)
    unmatched: tuple[UnmatchedRow, ...] = ()

    def reason(self, session: SourceSession) -> str | None:
        """Why a session cannot be dated; None if it can."""
        return self.refused.get((session.patient_id, session.session_id))


def date_sessions(sessions: Iterable[SourceSession], clinical: ClinicalTable | None) -> DatedSessions:
    """Apply the table's days and refuse what has no day, or shares its day with another scan of the patient.

    A patient whom the table does not date keeps the days of the layout. Sessions come back by patient, then day.
    """
    listed = list(sessions)
    table = None if clinical is None else clinical.fitted(listed)
    scans = Counter(session.patient_id for session in listed)
    dated, refused, undated = [], {}, set()
    for session in listed:
        patient_id, session_id = session.patient_id, session.session_id
        try:
            day = None if table is None else table.day(patient_id, session_id, scans=scans[patient_id])
        except InputError as fault:
            refused[patient_id, session_id] = str(fault)
            day = session.day
        if fault_of_layout := session.fault or (session.day_fault if day is None else ""):
            refused.setdefault((patient_id, session_id), fault_of_layout)
        elif day is None and not session.dated and scans[patient_id] > 1:
            undated.add(patient_id)
        dated.append(session if day is None else replace(session, day=day))
    for session, twin in _twins(dated, refused):
        refused[session.patient_id, session.session_id] = (
            f"{session.patient_id}: sessions {session.session_id} and {twin.session_id} are both on "
            f"day {session.day:g}; a growth curve needs one scan a day: correct the day or remove one"
        )
    ordered = sorted(dated, key=lambda session: (session.patient_id, session.day, session.session_id))
    if table is None:
        return DatedSessions(tuple(ordered), refused, frozenset(undated))
    return DatedSessions(tuple(ordered), refused, frozenset(undated), table.treatments, tuple(table.unmatched))


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
