"""Where the files of each scan lie: three layouts, found by looking or named by the user. Nothing is opened here.

brats   `{id}/{id}-t1n.nii.gz` … `{id}-seg.nii.gz`, or the same files in one flat folder. An id ending in three
        digits after a part with a digit (`BraTS-GLI-00001-002`) is a time point of one patient; `PGBM-007` is none.
slices  single 2D slices as in the paper's own code: `training/PID_SLICE/brats_train_PID_t1n_SLICE_w.nii.gz`, the same
        in `validation/` and `testing/`, where masks lie in `test_labels/PID_SLICE-label.nii.gz`.
table   `sessions.csv` with columns patient, session, day, and file columns t1n, t1c, t2w, t2f, seg relative to
        the table; without file columns the files are `{patient}/{session}/{patient}_{session}-t1n.nii.gz` and so on.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import assert_never

from tumorcast.errors import InputError
from tumorcast.records import Contrast, SourceSession
from tumorcast.tables import Row, read_table


class Layout(StrEnum):
    """How the source folder is laid out; `auto` looks."""

    AUTO = "auto"
    BRATS = "brats"
    SLICES = "slices"
    TABLE = "table"


@dataclass(frozen=True)
class SliceFiles:
    """The files of one 2D slice; `number` is its index in the volume it was cut from."""

    number: int
    images: dict[Contrast, Path]
    mask: Path | None


@dataclass(frozen=True)
class SlicedSession(SourceSession):
    """A scan that lies on disk slice by slice, in the order of slice numbers.

    `images` holds the first slice's files of the contrasts that every slice has, `mask` the first slice's mask if every
    slice has one, so that both say what the whole session has.
    """

    slices: tuple[SliceFiles, ...] = ()


@dataclass(frozen=True)
class UndatedSession(SourceSession):
    """A scan of a layout without dates: `day` counts the patient's scans 0, 1, 2 … until a clinical table dates it."""


SEG = "seg"
CONTRASTS = "|".join(Contrast)
BRATS_FILE = re.compile(rf"(?P<id>.+)-(?P<kind>{CONTRASTS}|{SEG})\.nii(\.gz)?")
BRATS_TIMEPOINT = re.compile(r"(?P<patient>.*\d.*)-(?P<session>\d{3})")
SLICE_FOLDER = re.compile(r"(?P<patient>.+)_(?P<number>\d+)")
SLICE_FILE = re.compile(rf"brats_train_(?P<patient>.+)_(?P<kind>{CONTRASTS}|{SEG})_(?P<number>\d+)_w\.nii(\.gz)?")
SLICE_PARTS = ("training", "validation", "testing")
SLICE_LABELS = "test_labels"
TABLE_NAME = "sessions.csv"
TABLE_SUFFIXES = (".csv", ".tsv")
ONLY_SESSION = "000"
LOOKED_FOR = (
    "brats ({id}/{id}-t1n.nii.gz … {id}-seg.nii.gz, or these files in one folder), "
    "slices (training/PID_SLICE/brats_train_PID_t1n_SLICE_w.nii.gz), "
    f"table ({TABLE_NAME} with columns patient, session, day)"
)


def find_sessions(source: Path, layout: Layout = Layout.AUTO) -> list[SourceSession]:
    """Every scan below `source`, by patient and session.

    Raises InputError if the source is missing, no layout or more than one fits, or a table is malformed. A scan that
    lacks files is returned with those it has: it is for prepare to refuse it without stopping the others.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give the folder that holds the scans, or a sessions.csv")
    layout = _detect(source) if layout is Layout.AUTO else layout
    sessions = _read(source, layout)
    if not sessions:
        raise InputError(f"{source}: no scan found in the layout {layout}; known layouts: {LOOKED_FOR}")
    return sorted(sessions, key=lambda session: (session.patient_id, session.session_id))


def _read(source: Path, layout: Layout) -> list[SourceSession]:
    match layout:
        case Layout.BRATS:
            return _brats(source)
        case Layout.SLICES:
            return list(_slices(source))
        case Layout.TABLE:
            return _table(source)
        case Layout.AUTO:
            raise ValueError("auto is resolved before reading")
        case _:
            assert_never(layout)


def _detect(source: Path) -> Layout:
    fitting = [layout for layout, fits in _evidence(source).items() if fits]
    match fitting:
        case [layout]:
            return layout
        case []:
            raise InputError(f"{source}: no known layout found; looked for {LOOKED_FOR}")
        case _:
            names = ", ".join(fitting)
            raise InputError(f"{source}: fits several layouts ({names}); name one with --layout. Known: {LOOKED_FOR}")


def _evidence(source: Path) -> dict[Layout, bool]:
    return {
        Layout.BRATS: any(True for _ in _brats_files(source)),
        Layout.SLICES: any(True for _ in _slice_folders(source)),
        Layout.TABLE: _table_path(source).is_file(),
    }


def _brats_files(source: Path) -> Iterable[tuple[str, str, Path]]:
    """(id, contrast or seg, path) of every file named as BraTS names it."""
    if not source.is_dir():
        return
    for path in sorted([*source.iterdir(), *source.glob("*/*")]):
        name = BRATS_FILE.fullmatch(path.name)
        if name and (path.parent == source or path.parent.name == name["id"]) and path.is_file():
            yield name["id"], name["kind"], path


def _brats(source: Path) -> list[SourceSession]:
    files: dict[str, dict[str, Path]] = {}
    for scan, kind, path in _brats_files(source):
        other = files.setdefault(scan, {}).setdefault(kind, path)
        if other != path:
            raise InputError(f"{path}: the same file of the same scan as {other}; keep one")
    sessions = [_session(*_brats_names(scan), 0.0, found) for scan, found in files.items()]
    return [with_ordinal for group in _by_patient(sessions) for with_ordinal in _ordinal_days(group)]


def _brats_names(scan: str) -> tuple[str, str]:
    """Patient and session of a BraTS id.

    >>> _brats_names("BraTS-GLI-00001-002"), _brats_names("PGBM-007"), _brats_names("TCGA-FG-6692")
    (('BraTS-GLI-00001', '002'), ('PGBM-007', '000'), ('TCGA-FG-6692', '000'))
    """
    name = BRATS_TIMEPOINT.fullmatch(scan)
    return (name["patient"], name["session"]) if name else (scan, ONLY_SESSION)


def _by_patient(sessions: list[SourceSession]) -> list[list[SourceSession]]:
    ordered = sorted(sessions, key=lambda session: (session.patient_id, session.session_id))
    return [list(group) for _, group in groupby(ordered, key=lambda session: session.patient_id)]


def _ordinal_days(sessions: list[SourceSession]) -> list[SourceSession]:
    """BraTS carries no dates: the ordinal stands in until a clinical table says better."""
    return [
        UndatedSession(session.patient_id, session.session_id, float(ordinal), session.images, session.mask)
        for ordinal, session in enumerate(sessions)
    ]


def _session(patient: str, session: str, day: float, files: dict[str, Path]) -> SourceSession:
    images = {contrast: files[contrast] for contrast in Contrast if contrast in files}
    return SourceSession(patient, session, day, images, files.get(SEG))


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


def _table(source: Path) -> list[SourceSession]:
    path = _table_path(source)
    rows = read_table(path, ("patient", "session", "day"), (*Contrast, SEG))
    sessions: dict[tuple[str, str], SourceSession] = {}
    for row in rows:
        session = _table_session(row)
        key = (session.patient_id, session.session_id)
        if sessions.setdefault(key, session) is not session:
            raise InputError(f"{row.where}: patient {key[0]}, session {key[1]} has a row above; keep one")
    return list(sessions.values())


def _table_session(row: Row) -> SourceSession:
    patient, session, day = row.identifier("patient"), row.identifier("session"), row.number("day")
    if day is None:
        raise InputError(f"{row.where}: no day; give the day of the scan on the patient's own clock")
    named = any(kind in row.cells for kind in (*Contrast, SEG))
    files = _named_files(row) if named else _conventional_files(row.path.parent, patient, session)
    return _session(patient, session, day, files)


def _named_files(row: Row) -> dict[str, Path]:
    return {kind: row.path.parent / row.text(kind) for kind in (*Contrast, SEG) if row.text(kind)}


def _conventional_files(folder: Path, patient: str, session: str) -> dict[str, Path]:
    stem = folder / patient / session / f"{patient}_{session}"
    places = {kind: [Path(f"{stem}-{kind}{end}") for end in (".nii.gz", ".nii")] for kind in (*Contrast, SEG)}
    return {str(kind): path for kind, paths in places.items() for path in paths if path.is_file()}
