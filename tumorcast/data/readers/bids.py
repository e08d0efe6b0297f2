"""Data sets in BIDS: raw images, masks among the derivatives, dates in sessions.tsv or scans.tsv.

Only the names of BIDS 1.10 that concern a tumour's MRI are known here; pybids would bring a database for them.
docs/formats.md says which files are taken.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

from tumorcast.data.readers.files import folders_in, is_named_file
from tumorcast.data.readers.names import UnmatchedRow, met
from tumorcast.data.readers.source_session import ONLY_SESSION, SEG, LayoutFiles, SourceSession, counted, several_masks
from tumorcast.errors import InputError
from tumorcast.records import Contrast
from tumorcast.tables import Row, read_table

DERIVATIVES = "derivatives"
FILE = re.compile(r"(?P<entities>([a-zA-Z]+-[a-zA-Z0-9+]+_)+)(?P<suffix>[a-zA-Z0-9]+)\.nii(\.gz)?")
WEIGHTED = {"T2w": Contrast.T2W, "FLAIR": Contrast.T2F}
MASKS = ("dseg", "mask")  # a probseg is no mask
TUMOUR = re.compile(r"tumou?r|lesion|gli(o|al)|gbm|brats|enhanc|^l$", re.IGNORECASE)
OTHER = re.compile(r"brain|aseg|aparc|tissue|head|skull|face|csf|^(gm|wm|bg)$", re.IGNORECASE)
# Pipelines whose dseg is of tissues, with a name that does not say so.
ANATOMICAL = re.compile(
    r"s?f?mriprep|freesurfer|fastsurfer|mriqc|qsi(prep|recon)|synthseg|cat12|micapipe", re.IGNORECASE
)


@dataclass(frozen=True)
class BidsFile:
    """A file with a name of BIDS: its entities, and its suffix."""

    path: Path
    entities: dict[str, str]
    suffix: str

    @property
    def contrast(self) -> Contrast | None:
        """What it shows; None for what is no contrast of ours, or not its magnitude."""
        if self.entities.get("part", "mag") != "mag":
            return None
        if self.suffix == "T1w":
            return Contrast.T1C if "ce" in self.entities else Contrast.T1N
        return WEIGHTED.get(self.suffix)

    @property
    def space(self) -> str | None:
        """The space it was resampled to; None for the scanner's own."""
        return self.entities.get("space")

    @property
    def rank(self) -> tuple[int, int, str]:
        """Of several files of one contrast the lowest is meant: the plainest name, then the last run."""
        run = re.sub(r"[^0-9]", "", self.entities.get("run", "")) or "0"
        return len(self.entities), -int(run), self.path.name

    @property
    def _named(self) -> list[str]:
        return [value for key, value in self.entities.items() if key in {"desc", "label", "seg", "atlas"}]

    @property
    def says_tumour(self) -> bool:
        """Whether it is a mask and its name tells that it is of a tumour."""
        return self.suffix in MASKS and any(TUMOUR.search(word) for word in self._named)

    @property
    def may_be_tumour(self) -> bool:
        """Whether it is a mask and its name does not tell that it is of something else."""
        other = "hemi" in self.entities or "atlas" in self.entities or any(OTHER.search(word) for word in self._named)
        return self.suffix in MASKS and not other


@dataclass(frozen=True, order=True)
class Visit:
    """One session of one subject, by the names of their folders."""

    subject: str
    session: str

    @property
    def folder(self) -> Path:
        """The session's folder below the root of a data set; the subject's where there are no sessions."""
        return Path(self.subject) if self.session == ONLY_SESSION else Path(self.subject, self.session)

    def files(self, root: Path) -> list[BidsFile]:
        """The session's volumes below `root`, those beside each other or in `anat`."""
        files = []
        folder = root / self.folder
        for path in [*sorted((folder / "anat").glob("*.nii*")), *sorted(folder.glob("*.nii*"))]:
            name = FILE.fullmatch(path.name)
            if name and is_named_file(path) and path.name.startswith("_".join(self.folder.parts) + "_"):
                entities = dict(pair.split("-", 1) for pair in name["entities"].strip("_").split("_"))
                files.append(BidsFile(path, entities, name["suffix"]))
        return files


@dataclass(frozen=True)
class _Roots:
    """Where images and masks are taken from. asked: the user named the pipeline, so that its masks are believed."""

    raw: Path
    pipeline: Path
    asked: bool = False

    def masks(self, visit: Visit) -> list[BidsFile]:
        """Masks of a tumour in the session: segmentations, or where there is none binary masks."""
        tissue = ANATOMICAL.match(self.pipeline.name) is not None
        candidates = [
            file
            for file in visit.files(self.pipeline)
            if file.says_tumour or (file.may_be_tumour and (self.asked or (file.suffix == MASKS[0] and not tissue)))
        ]
        segmentations = [file for file in candidates if file.suffix == MASKS[0]]
        return segmentations or candidates

    def images(self, visit: Visit, mask: BidsFile | None) -> dict[Contrast, Path]:
        """The images that go with the mask: the pipeline's in the mask's space, or the raw ones."""
        raw = _images(visit.files(self.raw))
        space = None if mask is None else mask.space
        derived = _images(file for file in visit.files(self.pipeline) if file.space == space)
        resampled = space not in {None, "orig", "T1w"} and bool(derived)
        return derived if resampled or len(derived) > len(raw) else raw


def _images(files: Iterable[BidsFile]) -> dict[Contrast, Path]:
    best: dict[Contrast, Path] = {}
    for file in sorted(files, key=lambda file: file.rank):
        if file.contrast is not None:
            best.setdefault(file.contrast, file.path)
    return best


def has_bids_images(source: Path) -> bool:
    """Whether a folder has subjects with images, or is a pipeline's within such a data set."""
    roots = [source, source.absolute().parents[1]] if source.absolute().parent.name == DERIVATIVES else [source]
    return any(file.contrast for root in roots for file in volumes_below(root))


def volumes_below(root: Path) -> Iterator[BidsFile]:
    """All volumes of a raw data set, or of a pipeline's derivatives."""
    for visit in visits_below(root):
        yield from visit.files(root)


def visits_below(root: Path) -> Iterator[Visit]:
    """Every session of every subject of a data set."""
    for subject in folders_in(root):
        if subject.name.startswith("sub-"):
            sessions = [folder.name for folder in folders_in(subject) if folder.name.startswith("ses-")]
            yield from (Visit(subject.name, session) for session in sessions or [ONLY_SESSION])


def find_bids(source: Path) -> LayoutFiles:
    """Scans of a raw data set, or of the folder of one pipeline in its `derivatives`, and what dates them.

    Raises InputError where several pipelines have masks of a tumour.
    """
    roots = _roots(source)
    visits = sorted({*visits_below(roots.raw), *visits_below(roots.pipeline)})
    layout_files, sessions = LayoutFiles(root=roots.raw), []
    for subject in dict.fromkeys(visit.subject for visit in visits):
        of_subject = [visit for visit in visits if visit.subject == subject]
        sessions += _dated(
            roots.raw / subject, [_session(roots, visit) for visit in of_subject], layout_files.unmatched
        )
        tables = [
            roots.raw / subject / f"{subject}_sessions.tsv",
            *(_scans_table_of(roots.raw, visit) for visit in of_subject),
        ]
        layout_files.taken |= {path for path in tables if path.is_file()}
    layout_files.sessions = sessions
    return layout_files


def _scans_table_of(root: Path, visit: Visit) -> Path:
    return root / visit.folder / f"{'_'.join(visit.folder.parts)}_scans.tsv"


def _session(roots: _Roots, visit: Visit) -> SourceSession:
    masks = roots.masks(visit)
    mask = masks[0] if masks else None
    files: dict[str, Path] = {str(contrast): path for contrast, path in roots.images(visit, mask).items()}
    session = SourceSession.of_files(visit.subject, visit.session, files | ({} if mask is None else {SEG: mask.path}))
    return replace(session, fault=several_masks(masks[0].path, masks[1].path)) if len(masks) > 1 else session


def _roots(source: Path) -> _Roots:
    if source.absolute().parent.name == DERIVATIVES:
        dataset = source.absolute().parents[1]
        if any(True for _ in volumes_below(dataset)):
            return _Roots(dataset, source, asked=True)
    pipelines = [_Roots(source, folder) for folder in folders_in(source / DERIVATIVES)]
    having = [roots for roots in pipelines if any(roots.masks(visit) for visit in visits_below(roots.pipeline))]
    if len(having) > 1:
        names = ", ".join(roots.pipeline.name for roots in having)
        raise InputError(
            f"{source / DERIVATIVES}: tumour masks of several pipelines ({names}); choose: --derivatives NAME"
        )
    return having[0] if having else _Roots(source, source)


def _dated(folder: Path, sessions: list[SourceSession], unmatched: list[UnmatchedRow]) -> list[SourceSession]:
    """The subject's sessions with days: those recorded, or those since the first date; else they are counted."""
    try:
        times = _recorded_times(folder, sessions, unmatched)
        days = _days(folder, times)
    except InputError as error:
        return [replace(session, day_fault=str(error)) for session in counted(sessions)]
    if not days:
        return counted(sessions)
    missing = f"{folder}: other sessions are dated, but not this one; add it to {folder.name}_sessions.tsv"
    return [
        replace(session, day=days[session.session_id], dated=True)
        if session.session_id in days
        else replace(session, day_fault=missing)
        for session in counted(sessions)
    ]


def _recorded_times(
    folder: Path, sessions: list[SourceSession], unmatched: list[UnmatchedRow]
) -> dict[str, float | date]:
    """What is recorded of each session: its day, or its date."""
    listed = _sessions_table(folder, [session.session_id for session in sessions], unmatched)
    times = {session.session_id: listed.get(session.session_id, _scans_table(folder, session)) for session in sessions}
    return {session: time for session, time in times.items() if time is not None}


def _sessions_table(folder: Path, sessions: list[str], unmatched: list[UnmatchedRow]) -> dict[str, float | date]:
    path = folder / f"{folder.name}_sessions.tsv"
    if not is_named_file(path):
        return {}
    times: dict[str, float | date] = {}
    for row in read_table(path, ("session_id",), ("days", "acq_time")):
        name = row.identifier("session_id")
        days = row.day("days")
        time = _date(row) if days is None else days
        known = met(name, sessions)
        if len(known) != 1:
            unmatched.append(UnmatchedRow(row.where, f"session {name}: no folder of it with scans"))
        elif time is not None:
            times[known[0]] = time
    return times


def _scans_table(folder: Path, session: SourceSession) -> date | None:
    """The first date of the session's anatomical images, or of its other files where those have none."""
    path = _scans_table_of(folder.parent, Visit(folder.name, session.session_id))
    if not is_named_file(path):
        return None
    rows = read_table(path, ("filename",), ("acq_time",))
    dates = [(not row.text("filename").startswith("anat/"), day) for row in rows if (day := _date(row)) is not None]
    return min(dates)[1] if dates else None


def _date(row: Row) -> date | None:
    """The date in acq_time. Its text is kept out of the message: a date of a scan tells of a patient."""
    text = row.text("acq_time")
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        raise InputError(f"{row.where}: 'acq_time' is no date; write YYYY-MM-DDThh:mm:ss, or n/a") from None


def _days(folder: Path, times: dict[str, float | date]) -> dict[str, float]:
    days = {session: time for session, time in times.items() if not isinstance(time, date)}
    dates = {session: time for session, time in times.items() if isinstance(time, date)}
    if days and dates:
        raise InputError(f"{folder}: some sessions have a day and others a date; fill the column 'days' for all")
    first = min(dates.values(), default=date.min)
    return days | {session: float((time - first).days) for session, time in dates.items()}
