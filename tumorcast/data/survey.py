"""What a source holds and what of it can be used, as both `prepare` and its `--dry-run` see it, before any work."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tumorcast.column_hints import hints
from tumorcast.data.balance import Balance
from tumorcast.data.readers.clinical import TREATMENT, ClinicalTable, DatedSessions, date_sessions, read_clinical
from tumorcast.data.readers.conventions import like_timepoints
from tumorcast.data.readers.files import grouped
from tumorcast.data.readers.labels import LabelRule, LabelScheme
from tumorcast.data.readers.layouts import Found, Layout, find
from tumorcast.data.readers.names import UnmatchedRow
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.errors import InputError
from tumorcast.records import Contrast

UNMATCHED_SHOWN = 10


@dataclass(frozen=True)
class Survey:
    """The scans of a source with their days, and the account of its files and tables.

    contrasts: those of a cohort made of them; expected: those that any scan has, or that were asked for.
    """

    source: Path
    found: Found
    dated: DatedSessions
    table: ClinicalTable | None
    contrasts: tuple[Contrast, ...]
    expected: tuple[Contrast, ...]

    @property
    def unmatched(self) -> tuple[UnmatchedRow, ...]:
        """Rows of all tables that fit no scan."""
        return (*self.found.unmatched, *self.dated.unmatched)

    def refuse_unmatched(self) -> None:
        """Raise InputError if rows of tables fit no scan."""
        if self.unmatched:
            rows = "; ".join(map(str, self.unmatched[:UNMATCHED_SHOWN]))
            more = len(self.unmatched) - UNMATCHED_SHOWN
            raise InputError(
                f"{len(self.unmatched)} rows of tables fit no scan: {rows}{f'; and {more} more' if more > 0 else ''}. "
                "Correct the names, or use --allow-unmatched to go on without these rows"
            )

    def balance(self) -> Balance:
        """The account of files and tables; what became of the scans is added when it is known."""
        patients = {session.patient_id for session in self.dated.sessions}
        treated = sum(bool(self.dated.treatments[name].radiotherapy) for name in patients & {*self.dated.treatments})
        read = ("patient_id", "session_id", "day", *TREATMENT.of_treatment())
        undated = [one for one in self.dated.sessions if one.patient_id in self.dated.undated]
        return Balance(
            taken=self.found.taken,
            left_out=grouped(self.source, self.found.left_out),
            undated={
                name: [one.session_id for one in undated if one.patient_id == name] for name in self.dated.undated
            },
            unmatched=tuple(map(str, self.unmatched)),
            columns=() if self.table is None else tuple(hints(self.table.header, read)),
            patients=len(patients),
            radiotherapy=None if self.table is None else treated,
            like_timepoints=tuple(map(tuple, like_timepoints(sorted(patients)))),
        )

    def warnings(self) -> Iterator[str]:
        """What the user should know before the work."""
        partial = [contrast for contrast in self.expected if contrast not in self.contrasts]
        if partial:
            asked = ",".join(self.expected)
            yield (
                f"{self.source}: {', '.join(partial)} left out, as not every scan has it; --contrasts {asked} keeps it "
                "and leaves out the scans that lack it"
            )
        clinical = self.source / "clinical.csv"
        if self.table is None and clinical.is_file():
            yield f"{clinical} was not used; name it with --clinical"


def survey(
    source: Path,
    *,
    layout: Layout = Layout.AUTO,
    clinical: Path | None = None,
    contrasts: tuple[Contrast, ...] | None = None,
    labels: LabelScheme | None = None,
) -> Survey:
    """Find and date the scans below `source`.

    contrasts: None for those that every scan has; labels: the scheme of all masks whose table says no other.
    Raises InputError as layouts.find and read_clinical do.
    """
    found = find(source, layout)
    table = None if clinical is None else read_clinical(clinical)
    dated = date_sessions((_with_labels(session, labels) for session in found.sessions), table)
    having = [set(session.images) for session in dated.sessions if session.images]
    anywhere = tuple(contrast for contrast in Contrast if any(contrast in images for images in having))
    everywhere = tuple(contrast for contrast in anywhere if all(contrast in images for images in having))
    used = () if clinical is None else (clinical.resolve(),)
    left_out = tuple(one for one in found.left_out if not used or one.path.resolve() not in used)
    found = replace(found, taken=found.taken + len(found.left_out) - len(left_out), left_out=left_out)
    return Survey(source, found, dated, table, contrasts or everywhere, contrasts or anywhere)


def _with_labels(session: SourceSession, labels: LabelScheme | None) -> SourceSession:
    if labels is None or session.labels_given:
        return session
    return replace(session, labels=LabelRule.only(labels))
