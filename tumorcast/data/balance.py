"""The balance that `prepare` and its `--dry-run` end with: what was found, what was taken, and why the rest was not."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.readers.files import LeftOutGroup
from tumorcast.data.readers.labels import SCHEMES

PLAIN = ("no image", "left by the operating system")  # reasons that are counted and not told
SHOWN = 20  # lines of one kind


@dataclass(frozen=True)
class Balance:
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

    def with_scans(self, scans: Sequence[tuple[str, str, str | None]]) -> "Balance":
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
    ) -> "Balance":
        """With what reading told: each mask's record, where each brain is from, and each scan's grid."""
        counted = Counter((one["scheme"], bool(one["assumed"])) for one in labels if one)
        heads = None if brains is None else sum(brain == BrainMask.HEAD for brain in brains)
        return replace(self, labels=counted, heads=heads, apart=tuple(apart(grids)))

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
            "labels": [{"scheme": name, "assumed": told, "masks": n} for (name, told), n in self.labels.items()],
            "heads": self.heads,
            "apart": self.apart,
        }

    def kept(self) -> dict[str, Any]:
        """What the cohort file keeps: numbers, and names of patients and scans, no names of files and no row's text."""
        told = self.as_dict()
        names = ("files", "undated", "radiotherapy", "like_timepoints", "labels", "heads")
        left_out: Counter[tuple[str, bool]] = Counter()
        for group in self.left_out:
            left_out[group.place, group.lost] += group.count
        return {name: told[name] for name in names} | {
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
            f"balance: {self.found} files found, {self.taken} taken, {self.found - self.taken} left out "
            f"({plain} of them no images); "
            f"{scans} of {total} scans of {self.patients} patients"
        )
        yield from _some(f"  left out{_of(group.place)}: {group.line()}" for group in self._told_of())
        for patient, sessions in self.unusable.items():
            yield from (f"  not used: {patient} {session}: {reason}" for session, reason in sessions.items())
        yield from _some(
            f"  no dates: {patient}: {', '.join(sessions)}, counted 0, 1, 2 …; date them with --clinical FILE"
            for patient, sessions in sorted(self.undated.items())
        )
        yield from _some(f"  row that fits no scan: {row}" for row in self.unmatched)
        yield from (f"  {hint}" for hint in self.columns)
        if self.radiotherapy is not None:
            yield f"  radiotherapy known for {self.radiotherapy} of {self.patients} patients"
        yield from (
            f"  {', '.join(names)}: read as {len(names)} patients; if they are time points of one, say so in a table: "
            "prepare SOURCE --dry-run --table sessions.csv"
            for names in self.like_timepoints
        )
        yield from self._assumptions()

    def _told_of(self) -> list[LeftOutGroup]:
        """The groups worth a line, those that may be lost first; what is no image is only counted."""
        return sorted((one for one in self.left_out if one.reason not in PLAIN), key=lambda one: not one.lost)

    def _assumptions(self) -> Iterator[str]:
        for (name, assumed), count in sorted(self.labels.items()):
            meaning = f" ({SCHEMES[name]})" if name in SCHEMES else ""
            doubt = ", assumed from the labels that are there; --labels names another scheme" if assumed else ""
            yield f"  labels of {count} masks read as {name}{meaning}{doubt}"
        if len({name for name, assumed in self.labels if assumed}) > 1:
            yield "  masks were read by several schemes: if they are of one data set, say which with --labels"
        if self.heads:
            yield f"  {self.heads} scans hold the head: it stands for the brain; --brain-tool or --brain inner"
        yield from _some(f"  {line}" for line in self.apart)


def apart(grids: Mapping[tuple[str, str], Grid]) -> Iterator[str]:
    """A line a scan that lies more than a voxel from its patient's first. grids: by patient and session."""
    first: dict[str, tuple[str, Grid]] = {}
    for (patient, session), grid in grids.items():
        upright = grid.canonical()
        other, reference = first.setdefault(patient, (session, upright))
        distance = upright.apart_mm(reference)
        if distance > max(reference.spacing):
            yield (
                f"{patient}: scan {session} lies up to {distance:.3g} mm from the grid of scan {other}, so one slice "
                "is not one place in both; --register rigid brings them together"
            )


def _some(lines: Iterator[str]) -> Iterator[str]:
    told = list(lines)
    yield from told[:SHOWN]
    if len(told) > SHOWN:
        yield f"  … and {len(told) - SHOWN} more lines of this kind (--json has all)"


def _of(place: str) -> str:
    return f" of {place}" if place else ""
