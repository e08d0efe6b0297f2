"""Where the files of each scan lie: the layouts that are known, found by looking or named by the user.

Of NIfTI files only names are looked at here, of DICOM files the headers. docs/formats.md describes each layout.
slices  single 2D slices as in the paper's own code: `training/PID_SLICE/brats_train_PID_t1n_SLICE_w.nii.gz`, the same
        in `validation/` and `testing/`, where masks lie in `test_labels/PID_SLICE-label.nii.gz`.
table   `sessions.csv` with columns patient, session, day, and file columns t1n, t1c, t2w, t2f, seg relative to
        the table; without file columns the files are `{patient}/{session}/{patient}_{session}-t1n.nii.gz` and so on.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import assert_never

from tumorcast.counted import counted
from tumorcast.data.readers import conventions
from tumorcast.data.readers.bids import find_bids, has_bids_images
from tumorcast.data.readers.dicom import series_in
from tumorcast.data.readers.dicom_header import has_mark
from tumorcast.data.readers.dicom_scans import find_dicom, has_dicom
from tumorcast.data.readers.files import LeftOut, account, files_below, folders_in, is_debris, is_folder, is_named_file
from tumorcast.data.readers.labels import LabelRule, LabelScheme, parsed, rule_of
from tumorcast.data.readers.names import UnmatchedRow
from tumorcast.data.readers.source_session import ONLY_SESSION, SEG, LayoutFiles, SliceFiles, SourceSession
from tumorcast.errors import InputError, UsageError
from tumorcast.records import Contrast
from tumorcast.tables import Row, read_table


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
    rf"brats_train_(?P<patient>.+)_(?P<kind>{conventions.CONTRASTS}|{SEG})_(?P<number>\d+)_w\.nii(\.gz)?"
)
SLICE_PARTS = ("training", "validation", "testing")
SLICE_LABELS = "test_labels"
TABLE_NAME = "sessions.csv"
TABLE_SUFFIXES = (".csv", ".tsv")
LABELS = "labels"
LOOKED_FOR = (
    "brats ({id}/{id}-t1n.nii.gz … {id}-seg.nii.gz or {id}_t1.nii.gz, or these files in one folder, or in folders of "
    "patients, as 100001/100001_time1_t1ce.nii.gz), "
    "bids (sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz), "
    "lumiere (Patient-001/week-000), "
    "mu-glioma-post (P/T/P_T_brain_t1c.nii.gz), "
    "slices (training/PID_SLICE/brats_train_PID_t1n_SLICE_w.nii.gz), "
    f"table ({TABLE_NAME} with columns patient, session, day), "
    "dicom (a folder a patient with series below it)"
)


@dataclass(frozen=True)
class SourceContents:
    """What lies below a source. taken: how many files its scans and tables are made of; left_out: all the others."""

    layout: Layout
    sessions: tuple[SourceSession, ...]
    taken: int
    left_out: tuple[LeftOut, ...]
    unmatched: tuple[UnmatchedRow, ...] = ()


def find_scans(source: Path, layout: Layout = Layout.AUTO) -> SourceContents:
    """Every scan below `source`, by patient and session, and what becomes of every file there.

    Raises InputError if the source is missing, no layout or more than one fits, or a table is malformed. A scan that
    lacks files is returned with those it has: it is for prepare to refuse it without stopping the others.
    """
    layout = _resolved(source, layout)
    read = _read(source, layout)
    sessions = _ordered(source, layout, read.sessions)
    taken = {path for session in sessions for path in _files_of(session)} | read.taken
    reason = f"not among the files that the layout {layout} takes (docs/formats.md)"
    left_out = account(read.root or source, taken, read.left_out, reason, is_dicom=has_mark)
    if source.is_dir() and layout is not Layout.BIDS:  # whose sourcedata and derivatives are data sets by rule
        left_out = tuple(_of_other_sources(source, taken, left_out))
    return SourceContents(layout, tuple(sessions), len(taken), left_out, tuple(read.unmatched))


def _of_other_sources(source: Path, taken: set[Path], left_out: Sequence[LeftOut]) -> Iterator[LeftOut]:
    """The files left out; those of a folder that is a source of its own, and of which nothing was taken, are lost."""
    having = {path.relative_to(source).parts[0] for path in taken if path.is_relative_to(source)}
    others = {folder: name for folder in folders_in(source) if folder.name not in having and (name := _fits(folder))}
    for file in left_out:
        other = next((folder for folder in others if folder in file.path.parents), None)
        if other is None:
            yield file
        else:
            yield LeftOut(
                file.path, f"{other.name} is a source of its own ({others[other]}): prepare it alone", lost=True
            )


def _fits(folder: Path) -> str:
    """The layouts that a folder looks like by itself, and not as part of a source; empty where it is none."""
    several = {Layout.BRATS, Layout.BIDS, Layout.LUMIERE, Layout.MU_GLIOMA_POST, Layout.TABLE}
    return ", ".join(layout for layout, fits in EVIDENCE.items() if layout in several and fits(folder))


def _ordered(source: Path, layout: Layout, sessions: Iterable[SourceSession]) -> list[SourceSession]:
    ordered = sorted(map(_nameable, sessions), key=lambda session: (session.patient_id, session.session_id))
    if not ordered:
        raise InputError(f"{source}: no scan found in the layout {layout}; known layouts: {LOOKED_FOR}")
    return ordered


def _nameable(session: SourceSession) -> SourceSession:
    """The scan; one whose name no file of ours can hold is a scan that cannot be used."""
    names = (session.patient_id, session.session_id)
    plain = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    if plain == list(names):
        return session
    fault = f"{'/'.join(plain)}: its name is not UTF-8; rename its files and folder"
    return replace(session, patient_id=plain[0], session_id=plain[1], fault=fault)


def _files_of(session: SourceSession) -> Iterator[Path]:
    yield from session.images.values()
    if session.mask is not None:
        yield session.mask
    for files in session.slices:
        yield from files.images.values()
        yield from [] if files.mask is None else [files.mask]


def _resolved(source: Path, layout: Layout) -> Layout:
    """`layout`, with `auto` settled. Raises InputError if the source is missing, or no layout or more than one fits."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give the folder that holds the scans, or a sessions.csv")
    return _detect(source) if layout is Layout.AUTO else layout


def _read(source: Path, layout: Layout) -> LayoutFiles:  # noqa: PLR0911 - one line a layout
    match layout:
        case Layout.BRATS:
            return LayoutFiles(conventions.brats_sessions(source))
        case Layout.BIDS:
            return find_bids(source)
        case Layout.LUMIERE:
            return LayoutFiles(conventions.lumiere_sessions(source, conventions.LUMIERE_ATLAS))
        case Layout.LUMIERE_HD_GLIO:
            return LayoutFiles(conventions.lumiere_sessions(source, conventions.LUMIERE_HD_GLIO))
        case Layout.LUMIERE_NATIVE:
            return LayoutFiles(conventions.lumiere_sessions(source, conventions.LUMIERE_NATIVE))
        case Layout.MU_GLIOMA_POST:
            return LayoutFiles(conventions.mu_glioma_sessions(source))
        case Layout.SLICES:
            return LayoutFiles(list(_slices(source)))
        case Layout.TABLE:
            return _table(source)
        case Layout.DICOM:
            return find_dicom(source)
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
            below = [str(folder) for folder in folders_in(source) if _fits(folder)]
            hint = f"; give {' or '.join(below[:3])}, which looks like one" if below else ""
            there = _what_is_there(source)
            raise InputError(f"{source}: no known layout found{there}{hint}; looked for {LOOKED_FOR}")
        case _:
            names = ", ".join(fitting)
            raise InputError(f"{source}: fits several layouts ({names}); name one with --layout. Known: {LOOKED_FOR}")


def _what_is_there(source: Path) -> str:
    """How many files of which endings there are, for people who look for theirs."""
    if source.is_file():
        return ": it is a file, and a folder of scans or a table of them (.csv, .tsv) is needed"
    paths = [item for item in files_below(source) if isinstance(item, Path)] if source.is_dir() else []
    ends = Counter("".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else [path.suffix]) for path in paths)
    counts = ", ".join(f"{count} {end or 'without ending'}" for end, count in ends.most_common(5))
    return f" among {counted(len(paths), 'file')} ({counts})" if counts else " (the folder is empty)"


def _any(items: Iterable[object]) -> bool:
    return any(True for _ in items)


def _evidence_of_brats(source: Path) -> Iterator[Path]:
    """Images with names of BraTS. A mask is no evidence, as people put one beside scans of any layout.

    Where a sessions.csv stands, neither are images in folders of folders, which it may well name.
    """
    images = (file.path for file in conventions.brats_files(source) if file.kind != SEG)
    named = _table_path(source).is_file()
    return (path for path in images if not named or source in (path.parent, path.parent.parent))


EVIDENCE: dict[Layout, Callable[[Path], bool]] = {
    Layout.BRATS: lambda source: _any(_evidence_of_brats(source)),
    Layout.BIDS: has_bids_images,
    Layout.LUMIERE: lambda source: _any(conventions.lumiere_weeks(source)),
    Layout.MU_GLIOMA_POST: lambda source: any(
        set(files) - {SEG} for *_, files in conventions.mu_glioma_folders(source)
    ),
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
    folders = sorted(_slice_folders(source), key=lambda item: (item[0], item[1]))
    for patient, group in groupby(folders, key=lambda item: item[0]):
        slices = [_slice_files(source, patient, number, folder) for _, number, folder in group]
        _refuse_twice(patient, [files.number for files in slices])
        yield _sliced_session(patient, tuple(slices))


def _slice_files(source: Path, patient: str, number: int, folder: Path) -> SliceFiles:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_debris(path):
            continue
        name = SLICE_FILE.fullmatch(path.name)
        if name and (name["patient"] != patient or int(name["number"]) != number):
            raise InputError(f"{path}: the file's patient and slice differ from its folder's; rename one of them")
        if name:
            files[name["kind"]] = path
    label = source / SLICE_LABELS / f"{folder.name}-label.nii.gz"
    mask = files.get(SEG, label if label.is_file() else None)
    return SliceFiles(number, {contrast: files[contrast] for contrast in Contrast if contrast in files}, mask)


def _sliced_session(patient: str, slices: tuple[SliceFiles, ...]) -> SourceSession:
    first = slices[0]
    common = {kind: path for kind, path in first.images.items() if all(kind in files.images for files in slices)}
    mask = first.mask if all(files.mask is not None for files in slices) else None
    return SourceSession(patient, ONLY_SESSION, 0.0, common, mask, labels=rule_of(patient), slices=slices)


def _refuse_twice(patient: str, numbers: list[int]) -> None:
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise InputError(f"{patient}: slice {twice[0]} lies in more than one of {', '.join(SLICE_PARTS)}; keep one")


def _table_path(source: Path) -> Path:
    return source if source.suffix.lower() in TABLE_SUFFIXES else source / TABLE_NAME


def _table(source: Path) -> LayoutFiles:
    path = _table_path(source)
    rows = read_table(path, ("patient", "session", "day"), (*Contrast, SEG, LABELS))
    sessions: dict[tuple[str, str], SourceSession] = {}
    for row in rows:
        session = _table_session(row)
        key = (session.patient_id, session.session_id)
        if sessions.setdefault(key, session) is not session:
            raise InputError(f"{row.where}: patient {key[0]}, session {key[1]} has a row above; keep one")
    return LayoutFiles(list(sessions.values()), {path, *_series_of(sessions.values())})


def _series_of(sessions: Iterable[SourceSession]) -> Iterator[Path]:
    """All files of the DICOM series that a table names by one file, or by their folder."""
    for session in sessions:
        for path in _files_of(session):
            folder = path if is_folder(path) else path.parent
            if path == folder or has_mark(path):
                for headers in series_in(folder).series.values():
                    files = [header.path for header in headers]
                    yield from files if path == folder or path in files else []


def _table_session(row: Row) -> SourceSession:
    patient, session, day = row.identifier("patient"), row.identifier("session"), row.day("day")
    if day is None:
        raise InputError(f"{row.where}: no day; give the day of the scan on the patient's own clock")
    named = any(kind in row.cells for kind in (*Contrast, SEG))
    files = _named_files(row) if named else _conventional_files(row.path.parent, patient, session)
    scheme = _labels(row)
    dated = replace(SourceSession.of_files(patient, session, files), day=day, dated=True)
    return dated if scheme is None else replace(dated, labels=LabelRule.only(scheme), labels_given=True)


def _labels(row: Row) -> LabelScheme | None:
    """What the labels of the row's mask mean; None where the cell is blank."""
    if not row.text(LABELS):
        return None
    try:
        return parsed(f"'{LABELS}'", row.text(LABELS))
    except UsageError as fault:
        raise InputError(f"{row.where}: {fault}, or leave it blank") from None


def _named_files(row: Row) -> dict[str, Path]:
    return {kind: row.path.parent / row.text(kind) for kind in (*Contrast, SEG) if row.text(kind)}


def _conventional_files(folder: Path, patient: str, session: str) -> dict[str, Path]:
    stem = folder / patient / session / f"{patient}_{session}"
    candidates = {kind: [Path(f"{stem}-{kind}{end}") for end in (".nii.gz", ".nii")] for kind in (*Contrast, SEG)}
    return {str(kind): path for kind, paths in candidates.items() for path in paths if is_named_file(path)}
