"""Where the files of each scan lie: the layouts that are known, found by looking or named by the user.

Of NIfTI files only names are looked at here, of DICOM files the headers. docs/formats.md describes each layout.
slices  single 2D slices as in the paper's own code: `training/PID_SLICE/brats_train_PID_t1n_SLICE_w.nii.gz`, the same
        in `validation/` and `testing/`, where masks lie in `test_labels/PID_SLICE-label.nii.gz`.
table   `sessions.csv` with columns patient, session, day, and file columns t1n, t1c, t2w, t2f, seg relative to
        the table; without file columns the files are `{patient}/{session}/{patient}_{session}-t1n.nii.gz` and so on.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import assert_never

from tumorcast.data import schemes
from tumorcast.data.bids import bids_sessions, is_bids
from tumorcast.data.dicom_scans import dicom_sessions, has_dicom
from tumorcast.data.scans import ONLY_SESSION, SEG, FoundSession, SlicedSession, SliceFiles, found_session, is_file
from tumorcast.errors import InputError
from tumorcast.records import Contrast, SourceSession
from tumorcast.tables import Row, read_table

__all__ = ["SEG", "FoundSession", "Layout", "SliceFiles", "SlicedSession", "find_sessions", "resolve"]


class Layout(StrEnum):
    """How the source folder is laid out; `auto` looks. Of LUMIERE's three spaces it takes that of the atlas."""

    AUTO = "auto"
    BRATS = "brats"
    BIDS = "bids"
    LUMIERE = "lumiere"
    LUMIERE_HD_GLIO = "lumiere-hd-glio"
    LUMIERE_NATIVE = "lumiere-native"
    MU_GLIOMA_POST = "mu-glioma-post"
    SLICES = "slices"
    TABLE = "table"
    DICOM = "dicom"


SLICE_FOLDER = re.compile(r"(?P<patient>.+)_(?P<number>\d+)")
SLICE_FILE = re.compile(
    rf"brats_train_(?P<patient>.+)_(?P<kind>{schemes.CONTRASTS}|{SEG})_(?P<number>\d+)_w\.nii(\.gz)?"
)
SLICE_PARTS = ("training", "validation", "testing")
SLICE_LABELS = "test_labels"
TABLE_NAME = "sessions.csv"
TABLE_SUFFIXES = (".csv", ".tsv")
LABELS = "labels"
LABEL_PAIR = re.compile(r"(?P<found>[0-9]{1,3}):(?P<meant>[0-3])")
LOOKED_FOR = (
    "brats ({id}/{id}-t1n.nii.gz … {id}-seg.nii.gz or {id}_t1.nii.gz, or these files in one folder), "
    "bids (sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz), "
    "lumiere (Patient-001/week-000), "
    "mu-glioma-post (P/T/P_T_brain_t1c.nii.gz), "
    "slices (training/PID_SLICE/brats_train_PID_t1n_SLICE_w.nii.gz), "
    f"table ({TABLE_NAME} with columns patient, session, day), "
    "dicom (a folder a patient with series below it)"
)


def find_sessions(source: Path, layout: Layout = Layout.AUTO) -> list[SourceSession]:
    """Every scan below `source`, by patient and session.

    Raises InputError if the source is missing, no layout or more than one fits, or a table is malformed. A scan that
    lacks files is returned with those it has: it is for prepare to refuse it without stopping the others.
    """
    layout = resolve(source, layout)
    sessions = _read(source, layout)
    if not sessions:
        raise InputError(f"{source}: no scan found in the layout {layout}; known layouts: {LOOKED_FOR}")
    return sorted(sessions, key=lambda session: (session.patient_id, session.session_id))


def resolve(source: Path, layout: Layout) -> Layout:
    """`layout`, with `auto` settled. Raises InputError if the source is missing, or no layout or more than one fits."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give the folder that holds the scans, or a sessions.csv")
    return _detect(source) if layout is Layout.AUTO else layout


def _read(source: Path, layout: Layout) -> Sequence[SourceSession]:  # noqa: PLR0911 - one line a layout
    match layout:
        case Layout.BRATS:
            return schemes.brats_sessions(source)
        case Layout.BIDS:
            return bids_sessions(source)
        case Layout.LUMIERE:
            return schemes.lumiere_sessions(source, schemes.LUMIERE_ATLAS)
        case Layout.LUMIERE_HD_GLIO:
            return schemes.lumiere_sessions(source, schemes.LUMIERE_HD_GLIO)
        case Layout.LUMIERE_NATIVE:
            return schemes.lumiere_sessions(source, schemes.LUMIERE_NATIVE)
        case Layout.MU_GLIOMA_POST:
            return schemes.mu_glioma_sessions(source)
        case Layout.SLICES:
            return list(_slices(source))
        case Layout.TABLE:
            return _table(source)
        case Layout.DICOM:
            return dicom_sessions(source)
        case Layout.AUTO:
            raise ValueError("auto is resolved before reading")
        case _:
            assert_never(layout)


def _detect(source: Path) -> Layout:
    fitting = [layout for layout, fits in EVIDENCE.items() if fits(source)]
    match fitting:
        case [layout]:
            return layout
        case [] if has_dicom(source):  # looked for last, as files must be opened for it
            return Layout.DICOM
        case []:
            raise InputError(f"{source}: no known layout found; looked for {LOOKED_FOR}")
        case _:
            names = ", ".join(fitting)
            raise InputError(f"{source}: fits several layouts ({names}); name one with --layout. Known: {LOOKED_FOR}")


def _any(found: Iterable[object]) -> bool:
    return any(True for _ in found)


EVIDENCE: dict[Layout, Callable[[Path], bool]] = {
    Layout.BRATS: lambda source: _any(schemes.brats_files(source)),
    Layout.BIDS: is_bids,
    Layout.LUMIERE: lambda source: _any(schemes.lumiere_weeks(source)),
    Layout.MU_GLIOMA_POST: lambda source: _any(schemes.mu_glioma_folders(source)),
    Layout.SLICES: lambda source: _any(_slice_folders(source)),
    Layout.TABLE: lambda source: _table_path(source).is_file(),
}


def _slice_folders(source: Path) -> Iterable[tuple[str, int, Path]]:
    for part in SLICE_PARTS:
        for folder in sorted(source.glob(f"{part}/*/")):
            name = SLICE_FOLDER.fullmatch(folder.name)
            if name:
                yield name["patient"], int(name["number"]), folder


def _slices(source: Path) -> Iterable[SourceSession]:
    """One session a patient: its slices of all parts, stacked by slice number."""
    found = sorted(_slice_folders(source), key=lambda item: (item[0], item[1]))
    for patient, group in groupby(found, key=lambda item: item[0]):
        slices = [_slice_files(source, patient, number, folder) for _, number, folder in group]
        _refuse_twice(patient, [files.number for files in slices])
        yield _sliced_session(patient, tuple(slices))


def _slice_files(source: Path, patient: str, number: int, folder: Path) -> SliceFiles:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = SLICE_FILE.fullmatch(path.name)
        if name and (name["patient"] != patient or int(name["number"]) != number):
            raise InputError(f"{path}: the file's patient and slice differ from its folder's; rename one of them")
        if name:
            files[name["kind"]] = path
    label = source / SLICE_LABELS / f"{folder.name}-label.nii.gz"
    mask = files.get(SEG, label if label.is_file() else None)
    return SliceFiles(number, {contrast: files[contrast] for contrast in Contrast if contrast in files}, mask)


def _sliced_session(patient: str, slices: tuple[SliceFiles, ...]) -> SlicedSession:
    first = slices[0]
    common = {kind: path for kind, path in first.images.items() if all(kind in files.images for files in slices)}
    mask = first.mask if all(files.mask is not None for files in slices) else None
    return SlicedSession(patient, ONLY_SESSION, 0.0, common, mask, slices)


def _refuse_twice(patient: str, numbers: list[int]) -> None:
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise InputError(f"{patient}: slice {twice[0]} lies in more than one of {', '.join(SLICE_PARTS)}; keep one")


def _table_path(source: Path) -> Path:
    return source if source.suffix.lower() in TABLE_SUFFIXES else source / TABLE_NAME


def _table(source: Path) -> list[FoundSession]:
    path = _table_path(source)
    rows = read_table(path, ("patient", "session", "day"), (*Contrast, SEG, LABELS))
    sessions: dict[tuple[str, str], FoundSession] = {}
    for row in rows:
        session = _table_session(row)
        key = (session.patient_id, session.session_id)
        if sessions.setdefault(key, session) is not session:
            raise InputError(f"{row.where}: patient {key[0]}, session {key[1]} has a row above; keep one")
    return list(sessions.values())


def _table_session(row: Row) -> FoundSession:
    patient, session, day = row.identifier("patient"), row.identifier("session"), row.number("day")
    if day is None:
        raise InputError(f"{row.where}: no day; give the day of the scan on the patient's own clock")
    named = any(kind in row.cells for kind in (*Contrast, SEG))
    files = _named_files(row) if named else _conventional_files(row.path.parent, patient, session)
    return replace(found_session(patient, session, files), day=day, dated=True, label_map=_label_map(row))


def _label_map(row: Row) -> dict[int, int] | None:
    """What the labels of the row's mask mean, as `1:3 2:1 4:0`; None where the cell is blank."""
    pairs = [LABEL_PAIR.fullmatch(word) for word in row.text(LABELS).split()]
    labels = {int(pair["found"]): int(pair["meant"]) for pair in pairs if pair}
    if len(labels) < len(pairs):
        raise InputError(
            f"{row.where}: '{LABELS}' is {row.text(LABELS)!r}; write the mask's labels with those of BraTS 2023 "
            "(0 none, 1 core, 2 oedema, 3 enhancing), as 1:3 2:1 4:0, or leave it blank"
        )
    return labels or None


def _named_files(row: Row) -> dict[str, Path]:
    return {kind: row.path.parent / row.text(kind) for kind in (*Contrast, SEG) if row.text(kind)}


def _conventional_files(folder: Path, patient: str, session: str) -> dict[str, Path]:
    stem = folder / patient / session / f"{patient}_{session}"
    places = {kind: [Path(f"{stem}-{kind}{end}") for end in (".nii.gz", ".nii")] for kind in (*Contrast, SEG)}
    return {str(kind): path for kind, paths in places.items() for path in paths if is_file(path)}
