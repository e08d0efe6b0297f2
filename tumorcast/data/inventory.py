"""What a folder of scans holds, before any work: `tumorcast prepare --dry-run`. Only names and headers are read."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tumorcast.data import dicom, nifti
from tumorcast.data.clinical import ClinicalTable, DatedSessions, date_sessions, read_clinical
from tumorcast.data.layouts import LABELS, Layout, find_sessions, resolve
from tumorcast.data.scans import SEG, FoundSession, SlicedSession
from tumorcast.durable import written_whole
from tumorcast.errors import InputError, UsageError
from tumorcast.records import Contrast, SourceSession

Size = tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What a scan must have. contrasts: None for those that every scan has; one_grid: all files are of one size."""

    contrasts: tuple[Contrast, ...] | None = None
    mask: bool = True
    one_grid: bool = True


@dataclass(frozen=True)
class FoundScan:
    """One scan: its files by contrast and seg, relative to the source, and what keeps it from being used, if anything.

    size: voxels along x, y and z of its first image, None where its header cannot be read. missing: contrasts that
    other scans have, or that were asked for. dated: whether its day is a day, and no count of scans.
    """

    patient_id: str
    session_id: str
    day: float
    dated: bool
    files: dict[str, str]
    size: Size | None
    missing: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether prepare would take it up."""
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """The scan as JSON can hold it, without the patient."""
        return {
            "id": self.session_id,
            "day": self.day,
            "dated": self.dated,
            "files": self.files,
            "size": self.size,
            "missing": self.missing,
            "faults": self.faults,
            "usable": self.usable,
        }


@dataclass(frozen=True)
class Inventory:
    """All scans of a source, by patient and day: `scans` says what is known of each of `sessions`.

    contrasts: those of a cohort made of them; warnings: about the whole.
    """

    layout: Layout
    contrasts: tuple[Contrast, ...]
    sessions: tuple[SourceSession, ...]
    scans: tuple[FoundScan, ...]
    warnings: tuple[str, ...]

    @property
    def usable(self) -> int:
        """How many scans can be used."""
        return sum(scan.usable for scan in self.scans)

    def patients(self) -> Iterator[tuple[str, list[FoundScan]]]:
        """Each patient with the scans."""
        for patient_id, group in groupby(self.scans, key=lambda scan: scan.patient_id):
            yield patient_id, list(group)

    def as_dict(self) -> dict[str, Any]:
        """The inventory as JSON can hold it."""
        patients = [
            {"id": patient_id, "sessions": [scan.as_dict() for scan in scans]} for patient_id, scans in self.patients()
        ]
        return {
            "layout": str(self.layout),
            "contrasts": [str(contrast) for contrast in self.contrasts],
            "patients": patients,
            "usable": self.usable,
            "unusable": len(self.scans) - self.usable,
            "warnings": self.warnings,
        }

    def lines(self) -> Iterator[str]:
        """The inventory for people: a line a patient, below it a line a scan, and one for each fault."""
        for patient_id, scans in self.patients():
            yield f"{patient_id}: {_counted(len(scans), 'scan')}"
            for scan in scans:
                yield f"  {_line(scan)}"
                yield from (f"      {fault}" for fault in scan.faults)
        contrasts = ", ".join(self.contrasts) or "no contrast that every scan has"
        patients = _counted(sum(1 for _ in self.patients()), "patient")
        yield f"{self.layout}: {patients}, {self.usable} of {_counted(len(self.scans), 'scan')} usable; {contrasts}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _line(scan: FoundScan) -> str:
    day = f"day {scan.day:g}" if scan.dated else f"no date (counted {scan.day:g})"
    size = "" if scan.size is None else "  " + "x".join(map(str, scan.size))
    missing = f"  missing {', '.join(scan.missing)}" if scan.missing else ""
    return f"{scan.session_id}  {day}  {' '.join(scan.files) or 'no file'}{size}{missing}"


def take_inventory(
    source: Path, layout: Layout = Layout.AUTO, clinical: Path | None = None, wanted: Wanted | None = None
) -> Inventory:
    """What there is below `source`. Raises InputError as find_sessions and read_clinical do."""
    wanted = wanted or Wanted()
    layout = resolve(source, layout)
    table = None if clinical is None else read_clinical(clinical)
    dated = date_sessions(find_sessions(source, layout), table)
    having = [set(session.images) for session in dated.sessions if session.images]
    anywhere = tuple(contrast for contrast in Contrast if any(contrast in images for images in having))
    everywhere = tuple(contrast for contrast in anywhere if all(contrast in images for images in having))
    look = _Look(
        folder=source if source.is_dir() else source.parent,
        dated=dated,
        wanted=wanted,
        contrasts=wanted.contrasts or everywhere,
        expected=wanted.contrasts or anywhere,
    )
    scans = tuple(look.scan(session) for session in dated.sessions)
    return Inventory(layout, look.contrasts, dated.sessions, scans, tuple(look.warnings(table)))


@dataclass(frozen=True)
class _Look:
    """How scans are looked at. folder: to which paths are told; contrasts: of the cohort; expected: of every scan."""

    folder: Path
    dated: DatedSessions
    wanted: Wanted
    contrasts: tuple[Contrast, ...]
    expected: tuple[Contrast, ...]

    def warnings(self, table: ClinicalTable | None) -> Iterator[str]:
        left_out = [contrast for contrast in self.expected if contrast not in self.contrasts]
        if left_out:
            yield f"{', '.join(left_out)} would be left out, as not every scan has it; --contrasts keeps it instead"
        if self.dated.undated:
            patients = _counted(len(self.dated.undated), "patient")
            yield f"{patients} of several scans without dates, which count as 0, 1, 2 …; date them with --clinical FILE"
        strangers = (table.patient_ids if table else set()) - {session.patient_id for session in self.dated.sessions}
        if strangers:
            yield f"{_counted(len(strangers), 'patient')} of the clinical table without a scan"

    def scan(self, session: SourceSession) -> FoundScan:
        files: dict[str, Path] = {str(contrast): path for contrast, path in session.images.items()}
        files |= {} if session.mask is None else {SEG: session.mask}
        sizes, unreadable = _sizes(session, {kind: files[kind] for kind in (*self.contrasts, SEG) if kind in files})
        return FoundScan(
            session.patient_id,
            session.session_id,
            session.day,
            session.patient_id not in self.dated.undated,
            {kind: os.path.relpath(path, self.folder) for kind, path in files.items()},
            next(iter(sizes.values()), None),
            tuple(str(contrast) for contrast in self.expected if contrast not in session.images),
            (*self._faults(session, sizes), *unreadable),
        )

    def _faults(self, session: SourceSession, sizes: dict[str, Size]) -> Iterator[str]:
        reason = self.dated.refused.get((session.patient_id, session.session_id))
        if reason is not None:
            yield reason
        absent = [contrast for contrast in self.contrasts if contrast not in session.images]
        if absent or not session.images:
            yield f"no {', '.join(absent) or 'image'}; add it, or leave the contrast out (--contrasts)"
        if self.wanted.mask and session.mask is None:
            yield "no tumour mask (seg); add it, or use --slices all"
        if self.wanted.one_grid and len(set(sizes.values())) > 1:
            told = ", ".join(f"{kind} {_cross(size)}" for kind, size in sizes.items())
            yield f"files of different sizes ({told}); resample them, or use --register rigid"


def _cross(size: Size) -> str:
    return "x".join(map(str, size))


def _sizes(session: SourceSession, files: dict[str, Path]) -> tuple[dict[str, Size], list[str]]:
    """Voxels by contrast and seg, and why a header cannot be read. Of single slices the first speaks for all."""
    sizes: dict[str, Size] = {}
    faults = []
    for kind, path in files.items():
        try:
            size = dicom.read_size(path) if dicom.is_dicom(path) else nifti.read_header(path).dims
        except InputError as fault:
            faults.append(str(fault))
        else:
            sizes[kind] = _volume(size, len(session.slices)) if isinstance(session, SlicedSession) else _volume(size)
    return sizes, faults


def _volume(size: Size, slices: int = 1) -> Size:
    """Three sides: axes of one voxel at the end count as none, and a stack of slices is as deep as it has slices."""
    plane = size
    while len(plane) > 2 and plane[-1] == 1:
        plane = plane[:-1]
    return (*plane, slices) if len(plane) == 2 else plane


def write_table(path: Path, inventory: Inventory) -> None:
    """The scans as a sessions.csv, for correction by hand: which file is which contrast, on which day.

    A scan without a date has no day there, which is to be filled in; a DICOM series is named by one of its files.
    Raises UsageError for single slices, which a table cannot name.
    """
    if any(isinstance(session, SlicedSession) for session in inventory.sessions):
        raise UsageError(f"--table {path}: single slices cannot be named in a table; leave the option out")
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("patient", "session", "day", *Contrast, SEG, LABELS))
        for session, scan in zip(inventory.sessions, inventory.scans, strict=True):
            writer.writerow(_row(path.absolute().parent, session, dated=scan.dated))


def _row(folder: Path, session: SourceSession, *, dated: bool) -> list[str]:
    named = [*(session.images.get(contrast) for contrast in Contrast), session.mask]
    files = ["" if file is None else os.path.relpath(file, folder) for file in named]
    label_map = (session.label_map or {}) if isinstance(session, FoundSession) else {}
    labels = " ".join(f"{found}:{meant}" for found, meant in label_map.items())
    return [session.patient_id, session.session_id, f"{session.day:g}" if dated else "", *files, labels]
