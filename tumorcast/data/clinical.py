"""The clinical table (`--clinical FILE`): days of the scans and of radiotherapy.

Columns: patient_id, and any of session_id, day, rt_start_day, rt_end_day. A patient may have several rows: one a scan,
one a course of radiotherapy, or both in one; repeated courses count once. A day without session_id is that of the
patient's only scan.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tumorcast.data.layouts import UndatedSession
from tumorcast.errors import InputError
from tumorcast.records import RadiotherapyCourse, SourceSession, Treatment
from tumorcast.tables import Row, radiotherapy_course, read_table, treatment_of

RADIOTHERAPY_COLUMNS = ("rt_start_day", "rt_end_day")


@dataclass(frozen=True)
class ClinicalTable:
    """What the table says: days by (patient, session), treatments by patient.

    unnamed: by patient, (line, day) of the rows that have a day and no session_id.
    """

    path: Path
    days: dict[tuple[str, str], float] = field(default_factory=dict)
    treatments: dict[str, Treatment] = field(default_factory=dict)
    unnamed: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def day(self, patient_id: str, session_id: str, *, scans: int) -> float | None:
        """Day of a scan, None when the table dates no scan of the patient, who has `scans` of them.

        Raises InputError for a scan that the table forgets while it dates others, a day without session_id that may be
        that of several scans, and one that another row contradicts.
        """
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

        The table may name a session as the reader does (`001`), by its full BraTS name (`P-001`), or, after a
        spreadsheet ate the zeros, as `1`.
        """
        for name in (session_id, f"{patient_id}-{session_id}", session_id.lstrip("0") or "0"):
            if (patient_id, name) in self.days:
                return self.days[patient_id, name]
        return None


def read_clinical(path: Path) -> ClinicalTable:
    """Read a clinical table. Raises InputError naming the row that cannot be right."""
    rows = read_table(path, ("patient_id",), ("session_id", "day", *RADIOTHERAPY_COLUMNS))
    courses: dict[str, set[RadiotherapyCourse]] = {}
    for row in rows:
        of_patient = courses.setdefault(row.identifier("patient_id"), set())
        course = radiotherapy_course(row, *RADIOTHERAPY_COLUMNS)
        if course is not None:
            of_patient.add(course)
    treatments = {patient: treatment_of(known, f"{path}: patient {patient}") for patient, known in courses.items()}
    return ClinicalTable(path, _days(rows), treatments, _unnamed_days(rows))


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


def _unnamed_days(rows: list[Row]) -> dict[str, list[tuple[int, float]]]:
    unnamed: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        day = row.number("day")
        if day is not None and not row.text("session_id"):
            unnamed.setdefault(row.identifier("patient_id"), []).append((row.line, day))
    return unnamed


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
        if day is None and isinstance(session, UndatedSession) and scans[patient_id] > 1:
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
