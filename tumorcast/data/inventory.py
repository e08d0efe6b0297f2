"""What a folder of scans holds, before any work: `tumorcast prepare --dry-run`.

Names, headers and masks are read, of images no more than the header: so a scan that is listed as usable fails only if
its voxels are damaged.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from tumorcast.data.imaging.geometry import AxisOrder, Grid
from tumorcast.data.readers import dicom, nifti
from tumorcast.data.readers.labels import LabelScheme, read_labels
from tumorcast.data.readers.layouts import LABELS, Layout
from tumorcast.data.readers.source_session import SEG, SourceSession
from tumorcast.data.readers.volumes import read_image, require_same_grid
from tumorcast.data.settings import TumourPart
from tumorcast.data.survey import SourceBalance, Survey, survey
from tumorcast.durable import written_whole
from tumorcast.errors import InputError, UsageError
from tumorcast.records import Contrast

Size = tuple[int, ...]


@dataclass(frozen=True)
class ScanRequirements:
    """What a scan must have.

    contrasts: None for those that every scan has; one_grid: all files lie on one grid; labels: the scheme of its mask;
    least_mm2: tumour in a slice of a scan of the patient, which is counted by the labels of `part`.
    """

    contrasts: tuple[Contrast, ...] | None = None
    mask: bool = True
    one_grid: bool = True
    labels: LabelScheme | None = None
    least_mm2: float = 0.0
    part: TumourPart = TumourPart.WHOLE


@dataclass(frozen=True)
class ListedScan:
    """One scan: its files by contrast and seg, relative to the source, and what keeps it from being used, if anything.

    size: voxels along x, y and z of its first image, None where its header cannot be read. missing: contrasts that
    other scans have, or that were asked for. dated: whether its day is a day, and no count of scans. notes: what of its
    headers does not agree with how it is read.
    """

    patient_id: str
    session_id: str
    day: float
    dated: bool
    files: dict[str, str]
    size: Size | None
    missing: tuple[str, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()

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
            "notes": self.notes,
            "usable": self.usable,
        }


@dataclass(frozen=True)
class Inventory:
    """All scans of a source, by patient and day: `scans` says what is known of each of `sessions`.

    contrasts: those of a cohort made of them; warnings: about the whole; survey: what they are of.
    """

    layout: Layout
    contrasts: tuple[Contrast, ...]
    sessions: tuple[SourceSession, ...]
    scans: tuple[ListedScan, ...]
    warnings: tuple[str, ...]
    survey: Survey
    balance: SourceBalance

    @property
    def usable(self) -> int:
        """How many scans can be used."""
        return sum(scan.usable for scan in self.scans)

    def patients(self) -> Iterator[tuple[str, list[ListedScan]]]:
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
            "balance": self.balance.as_dict(),
        }

    def lines(self) -> Iterator[str]:
        """The inventory for people: a line a patient, below it a line a scan, and one for each fault."""
        for patient_id, scans in self.patients():
            yield f"{patient_id}: {_counted(len(scans), 'scan')}"
            for scan in scans:
                yield f"  {_line(scan)}"
                yield from (f"      {text}" for text in (*scan.faults, *scan.notes))
        contrasts = ", ".join(self.contrasts) or "no contrast that every scan has"
        patients = _counted(sum(1 for _ in self.patients()), "patient")
        yield f"{self.layout}: {patients}, {self.usable} of {_counted(len(self.scans), 'scan')} usable; {contrasts}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _line(scan: ListedScan) -> str:
    day = f"day {scan.day:g}" if scan.dated else f"no date (counted {scan.day:g})"
    size = "" if scan.size is None else "  " + "x".join(map(str, scan.size))
    missing = f"  missing {', '.join(scan.missing)}" if scan.missing else ""
    return f"{scan.session_id}  {day}  {' '.join(scan.files) or 'no file'}{size}{missing}"


def take_inventory(
    source: Path, layout: Layout = Layout.AUTO, clinical: Path | None = None, required: ScanRequirements | None = None
) -> Inventory:
    """What there is below `source`. Raises InputError as survey does."""
    required = required or ScanRequirements()
    surveyed = survey(source, layout=layout, clinical=clinical, contrasts=required.contrasts, labels=required.labels)
    checks = [_ScanCheck(surveyed, required, session) for session in surveyed.dated.sessions]
    scans = tuple(_with_tumour([(check, check.scan()) for check in checks], required))
    whole = {(check.session.patient_id, check.session.session_id): check for check in checks}
    grids = {names: next(iter(check.grids.values())) for names, check in whole.items() if check.grids}
    balance = (
        surveyed.balance()
        .with_scans([(scan.patient_id, scan.session_id, "; ".join(scan.faults) or None) for scan in scans])
        .with_reading([check.labels for check in checks], None, grids if required.one_grid else {})
    )
    contents = surveyed.contents
    return Inventory(
        contents.layout,
        surveyed.contrasts,
        surveyed.dated.sessions,
        scans,
        tuple(surveyed.warnings()),
        surveyed,
        balance,
    )


def _with_tumour(checks: list[tuple["_ScanCheck", ListedScan]], required: ScanRequirements) -> Iterator[ListedScan]:
    """The scans; those of a patient without enough tumour in any slice, which prepare skips, cannot be used."""
    for _, group in groupby(checks, key=lambda pair: pair[1].patient_id):
        patient = list(group)
        largest = [check.largest_mm2 for check, _ in patient]
        shown = any(area is None or area >= required.least_mm2 for area in largest)
        for check, scan in patient:
            if shown or not required.mask or check.largest_mm2 is None:
                yield scan
                continue
            if check.absence:
                yield replace(scan, faults=(*scan.faults, check.absence))
                continue
            why = (
                f"the largest tumour slice has {check.largest_mm2:.3g} mm²"
                if check.largest_mm2
                else "its mask is empty"
            )
            reason = f"{why}, less than {required.least_mm2:g} mm²; use --slices all or a smaller --min-tumour-mm2"
            yield replace(scan, faults=(*scan.faults, reason))


@dataclass
class _ScanCheck:
    """One scan looked at; sizes, grids (by contrast and seg), notes and labels fill as its headers are read."""

    survey: Survey
    required: ScanRequirements
    session: SourceSession
    sizes: dict[str, Size] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    largest_mm2: float | None = None
    absence: str = ""

    def scan(self) -> ListedScan:
        """What is known of it."""
        session, survey = self.session, self.survey
        folder = survey.source if survey.source.is_dir() else survey.source.parent
        files: dict[str, Path] = {str(contrast): path for contrast, path in session.images.items()}
        files |= {} if session.mask is None else {SEG: session.mask}
        unreadable = list(self._read({kind: files[kind] for kind in (*survey.contrasts, SEG) if kind in files}))
        return ListedScan(
            session.patient_id,
            session.session_id,
            session.day,
            session.patient_id not in survey.dated.undated,
            {kind: os.path.relpath(path, folder) for kind, path in files.items()},
            next(iter(self.sizes.values()), None),
            tuple(str(contrast) for contrast in survey.expected if contrast not in session.images),
            (*self._faults(files), *unreadable),
            tuple(f"{', '.join(roles)}: {note}" for note, roles in self.notes.items()),
        )

    def _read(self, files: dict[str, Path]) -> Iterator[str]:
        """Read headers, and the mask; tells why a file cannot be read. Of single slices the first speaks for all."""
        for kind, path in files.items():
            try:
                self._read_file(kind, path)
            except InputError as fault:
                yield str(fault)

    def _read_file(self, kind: str, path: Path) -> None:
        if dicom.is_dicom(path):
            self.grids[kind] = dicom.read_grid(path)
            self.sizes[kind] = self.grids[kind].size
            return
        header = nifti.read_header(path)
        for note in header.notes:
            self.notes.setdefault(note, []).append(kind)
        if self.session.slices:
            self.sizes[kind] = _volume(header.dims, len(self.session.slices))
            return
        self.sizes[kind] = _volume(header.dims)
        if len(self.sizes[kind]) == 3 and len(header.dims) >= 3:
            self.grids[kind] = Grid.from_affine(header.affine, self.sizes[kind])
        if kind == SEG:
            self._read_mask(path)

    def _read_mask(self, path: Path) -> None:
        image = read_image(path).image
        mask_labels = read_labels(path, sitk.GetArrayViewFromImage(image), self.session.labels)
        self.labels = mask_labels.record()
        present = [int(label) for label in np.unique(mask_labels.labels) if label]
        if present and not set(present) & set(self.required.part.labels):
            self.absence = self.required.part.absence(present)
        if image.GetDimension() == 3:
            grid = Grid.of(image)
            lps = grid.canonical()
            followed = np.isin(AxisOrder.between(grid, lps).voxels(mask_labels.labels), self.required.part.labels)
            self.largest_mm2 = float(followed.sum(axis=(1, 2)).max() * np.prod(lps.spacing[:2]))

    def _faults(self, files: dict[str, Path]) -> Iterator[str]:
        session, contrasts = self.session, self.survey.contrasts
        reason = self.survey.dated.reason(session)
        if reason is not None:
            yield reason
        absent = [contrast for contrast in contrasts if contrast not in session.images]
        if absent or not session.images:
            yield f"no {', '.join(absent) or 'image'}; add it, or leave the contrast out (--contrasts)"
        if self.required.mask and session.mask is None:
            yield "no tumour mask (seg); add it, or use --slices all"
        if self.required.one_grid:
            yield from self._faults_of_grids(files)

    def _faults_of_grids(self, files: dict[str, Path]) -> Iterator[str]:
        """Why its files do not lie on one grid."""
        if len({tuple(sorted(size)) for size in self.sizes.values()}) > 1:
            sizes = ", ".join(f"{kind} {_cross(size)}" for kind, size in self.sizes.items())
            yield f"files of different sizes ({sizes}); resample them, or use --register rigid"
            return
        kinds = list(self.grids)
        if not kinds:
            return
        lps = self.grids[kinds[0]].canonical()
        for kind in kinds[1:]:
            grid = self.grids[kind]
            try:
                require_same_grid(files[kind], AxisOrder.between(grid, lps).grid(grid), files[kinds[0]].name, lps)
            except InputError as fault:
                yield str(fault)


def _cross(size: Size) -> str:
    return "x".join(map(str, size))


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
    if any(session.slices for session in inventory.sessions):
        raise UsageError(f"--table {path}: single slices cannot be named in a table; leave the option out")
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("patient", "session", "day", *Contrast, SEG, LABELS))
        for session, scan in zip(inventory.sessions, inventory.scans, strict=True):
            writer.writerow(_row(path.absolute().parent, session, dated=scan.dated))


def _row(folder: Path, session: SourceSession, *, dated: bool) -> list[str]:
    named = [*(session.images.get(contrast) for contrast in Contrast), session.mask]
    files = ["" if file is None else os.path.relpath(file, folder) for file in named]
    rule = session.labels
    labels = str(rule.usual[0]) if len(rule.usual) == 1 and not rule.others else ""
    return [session.patient_id, session.session_id, f"{session.day:g}" if dated else "", *files, labels]
