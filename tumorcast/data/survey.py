"""What a source holds and what of it can be used, as both `prepare` and its `--dry-run` see it, before any work.

Both end with the balance: what was found, what was taken, and why the rest was not.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tumorcast.column_hints import hints
from tumorcast.counted import counted
from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.readers.clinical import TREATMENT, ClinicalTable, DatedSessions, date_sessions, read_clinical
from tumorcast.data.readers.conventions import like_timepoints
from tumorcast.data.readers.files import LeftOutGroup, grouped
from tumorcast.data.readers.labels import SCHEMES, LabelRule, LabelScheme
from tumorcast.data.readers.layouts import Layout, SourceContents, find_scans
from tumorcast.data.readers.names import UnmatchedRow
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.errors import InputError
from tumorcast.records import Contrast

UNMATCHED_SHOWN = 10
PLAIN = ("no image", "left by the operating system")  # reasons that are counted and not listed
SHOWN = 20  # lines of one kind


@dataclass(frozen=True)
class SourceBalance:
    """An account of a source.

    taken, left_out: files; undated: by patient, the scans without dates; unmatched: rows of tables that fit no scan;
    columns: hints at those that look like treatment; radiotherapy: patients of whom any is known, None without a table;
    like_timepoints: patients who may be time points of one; usable, unusable: by patient, scans, and of the latter the
    reason; labels: masks by scheme and whether it was assumed; heads: scans whose head stands for the brain, None where
    images were not read; apart: scans that do not lie on the grid of their patient's first.
    """

    taken: int
    left_out: tuple[LeftOutGroup, ...]
    undated: Mapping[str, Sequence[str]]
    unmatched: tuple[str, ...]
    columns: tuple[str, ...]
    patients: int
    radiotherapy: int | None
    like_timepoints: tuple[tuple[str, ...], ...]
    usable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unusable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    labels: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    heads: int | None = None
    apart: tuple[str, ...] = ()

    @property
    def lost(self) -> int:
        """Files that may have been meant, and could not be read."""
        return sum(group.count for group in self.left_out if group.lost)

    @property
    def found(self) -> int:
        """All files."""
        return self.taken + sum(group.count for group in self.left_out)

    def with_scans(self, scans: Sequence[tuple[str, str, str | None]]) -> "SourceBalance":
        """With what became of each scan: patient, session, and why it cannot be used, None where it can."""
        usable: dict[str, list[str]] = {}
        unusable: dict[str, dict[str, str]] = {}
        for patient, session, reason in scans:
            if reason is None:
                usable.setdefault(patient, []).append(session)
            else:
                unusable.setdefault(patient, {})[session] = reason
        return replace(self, usable=usable, unusable=unusable)

    def with_reading(
        self, labels: Sequence[Mapping[str, Any]], brains: Sequence[str] | None, grids: Mapping[tuple[str, str], Grid]
    ) -> "SourceBalance":
        """With what was read: each mask's record, where each brain is from, and each scan's grid."""
        counted = Counter((record["scheme"], bool(record["assumed"])) for record in labels if record)
        heads = None if brains is None else sum(brain == BrainMask.HEAD for brain in brains)
        return replace(self, labels=counted, heads=heads, apart=tuple(grids_apart(grids)))

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "files": {"found": self.found, "taken": self.taken, "left_out": self.found - self.taken, "lost": self.lost},
            "left_out": [group.as_dict() for group in self.left_out],
            "usable": self.usable,
            "unusable": self.unusable,
            "undated": self.undated,
            "unmatched_rows": self.unmatched,
            "columns": self.columns,
            "radiotherapy": {"known": self.radiotherapy, "patients": self.patients},
            "like_timepoints": self.like_timepoints,
            "labels": [{"scheme": name, "assumed": assumed, "masks": n} for (name, assumed), n in self.labels.items()],
            "heads": self.heads,
            "apart": self.apart,
        }

    def kept(self) -> dict[str, Any]:
        """What the cohort file keeps: numbers, and names of patients and scans, no names of files and no row's text."""
        account = self.as_dict()
        names = ("files", "undated", "radiotherapy", "like_timepoints", "labels", "heads")
        left_out: Counter[tuple[str, bool]] = Counter()
        for group in self.left_out:
            left_out[group.place, group.lost] += group.count
        return {name: account[name] for name in names} | {
            "left_out": [{"place": place, "lost": lost, "count": n} for (place, lost), n in sorted(left_out.items())],
            "unusable": {patient: list(sessions) for patient, sessions in self.unusable.items()},
            "unmatched_rows": len(self.unmatched),
            "apart": len(self.apart),
        }

    def lines(self) -> Iterator[str]:
        """The balance for people, what was left out patient by patient."""
        scans = sum(map(len, self.usable.values()))
        total = scans + sum(map(len, self.unusable.values()))
        plain = sum(group.count for group in self.left_out if group.reason in PLAIN)
        yield (
            f"balance: {counted(self.found, 'file')} found, {self.taken} taken, {self.found - self.taken} left out "
            f"({counted(plain, 'of them no image', 'of them no images')}); "
            f"{scans} of {counted(total, 'scan')} of {counted(self.patients, 'patient')}"
        )
        yield from _some(f"  left out{_of(group.place)}: {group.line()}" for group in self._reported_groups())
        for patient, sessions in self.unusable.items():
            yield from (f"  not used: {patient} {session}: {reason}" for session, reason in sessions.items())
        yield from _some(
            f"  no dates: {patient}: {', '.join(sessions)}, counted 0, 1, 2 …; date them with --clinical FILE"
            for patient, sessions in sorted(self.undated.items())
        )
        yield from _some(f"  row that fits no scan: {row}" for row in self.unmatched)
        yield from (f"  {hint}" for hint in self.columns)
        if self.radiotherapy is not None:
            yield f"  radiotherapy known for {self.radiotherapy} of {counted(self.patients, 'patient')}"
        yield from (
            f"  {', '.join(names)}: read as {len(names)} patients; if they are time points of one, say so in a table: "
            "prepare SOURCE --dry-run --table sessions.csv"
            for names in self.like_timepoints
        )
        yield from self._assumptions()

    def _reported_groups(self) -> list[LeftOutGroup]:
        """The groups worth a line, those that may be lost first; what is no image is only counted."""
        return sorted((group for group in self.left_out if group.reason not in PLAIN), key=lambda group: not group.lost)

    def _assumptions(self) -> Iterator[str]:
        for (name, assumed), count in sorted(self.labels.items()):
            meaning = f" ({SCHEMES[name]})" if name in SCHEMES else ""
            doubt = ", assumed from the labels that are there; --labels names another scheme" if assumed else ""
            yield f"  labels of {counted(count, 'mask')} read as {name}{meaning}{doubt}"
        if len({name for name, assumed in self.labels if assumed}) > 1:
            yield "  masks were read by several schemes: if they are of one data set, say which with --labels"
        if self.heads:
            heads = counted(self.heads, "scan holds", "scans hold")
            yield f"  {heads} the head: it stands for the brain; --brain-tool or --brain inner"
        yield from _some(f"  {line}" for line in self.apart)


def grids_apart(grids: Mapping[tuple[str, str], Grid]) -> Iterator[str]:
    """A line a scan that lies more than a voxel from its patient's first. grids: by patient and session."""
    first: dict[str, tuple[str, Grid]] = {}
    for (patient, session), grid in grids.items():
        lps = grid.canonical()
        other, reference = first.setdefault(patient, (session, lps))
        distance = lps.apart_mm(reference)
        if distance > max(reference.spacing):
            yield (
                f"{patient}: scan {session} lies up to {distance:.3g} mm from the grid of scan {other}, so one slice "
                "is not one place in both; --register rigid brings them together"
            )


def _some(lines: Iterator[str]) -> Iterator[str]:
    shown = list(lines)
    yield from shown[:SHOWN]
    if len(shown) > SHOWN:
        yield f"  … and {len(shown) - SHOWN} more of this kind (--json has all)"


def _of(place: str) -> str:
    return f" of {place}" if place else ""


@dataclass(frozen=True)
class Survey:
    """The scans of a source with their days, and the account of its files and tables.

    contrasts: those of a cohort made of them; expected: those that any scan has, or that were asked for.
    """

    source: Path
    contents: SourceContents
    dated: DatedSessions
    table: ClinicalTable | None
    contrasts: tuple[Contrast, ...]
    expected: tuple[Contrast, ...]

    @property
    def unmatched(self) -> tuple[UnmatchedRow, ...]:
        """Rows of all tables that fit no scan."""
        return (*self.contents.unmatched, *self.dated.unmatched)

    def refuse_unmatched(self) -> None:
        """Raise InputError if rows of tables fit no scan."""
        if self.unmatched:
            rows = "; ".join(map(str, self.unmatched[:UNMATCHED_SHOWN]))
            more = len(self.unmatched) - UNMATCHED_SHOWN
            raise InputError(
                f"{counted(len(self.unmatched), 'row of tables fits', 'rows of tables fit')} no scan: "
                f"{rows}{f'; and {more} more' if more > 0 else ''}. "
                "Correct the names, or use --allow-unmatched to go on without these rows"
            )

    def balance(self) -> SourceBalance:
        """The account of files and tables; what became of the scans is added when it is known."""
        patients = {session.patient_id for session in self.dated.sessions}
        treated = sum(bool(self.dated.treatments[name].radiotherapy) for name in patients & {*self.dated.treatments})
        read = ("patient_id", "session_id", "day", *TREATMENT.of_treatment())
        undated = [session for session in self.dated.sessions if session.patient_id in self.dated.undated]
        return SourceBalance(
            taken=self.contents.taken,
            left_out=grouped(self.source, self.contents.left_out),
            undated={
                name: [session.session_id for session in undated if session.patient_id == name]
                for name in self.dated.undated
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
    Raises InputError as layouts.find_scans and read_clinical do.
    """
    contents = find_scans(source, layout)
    table = None if clinical is None else read_clinical(clinical)
    dated = date_sessions((_with_labels(session, labels) for session in contents.sessions), table)
    having = [set(session.images) for session in dated.sessions if session.images]
    anywhere = tuple(contrast for contrast in Contrast if any(contrast in images for images in having))
    everywhere = tuple(contrast for contrast in anywhere if all(contrast in images for images in having))
    used = () if clinical is None else (clinical.resolve(),)
    left_out = tuple(file for file in contents.left_out if not used or file.path.resolve() not in used)
    contents = replace(contents, taken=contents.taken + len(contents.left_out) - len(left_out), left_out=left_out)
    return Survey(source, contents, dated, table, contrasts or everywhere, contrasts or anywhere)


def _with_labels(session: SourceSession, labels: LabelScheme | None) -> SourceSession:
    if labels is None or session.labels_given:
        return session
    return replace(session, labels=LabelRule.only(labels))
