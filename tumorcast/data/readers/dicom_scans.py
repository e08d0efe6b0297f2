"""Folders of DICOM series as scans of patients.

A patient is a folder below the source, by whose name the cohort knows it: PatientID and PatientName are not looked at.
A session is all of a patient's series of one date. Dates only serve to tell days, and leave this module as such.

Which contrast a series shows its header tells, by rules that docs/formats.md has in words. The description is what a
technician typed, so it is matched loosely; what no word tells, the times of the sequence do. Nothing of a header is
kept or shown: a description may name a patient.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import groupby
from pathlib import Path

from tumorcast.data.readers.dicom import SEVERAL_FRAMES, FolderContents, series_in
from tumorcast.data.readers.dicom_header import (
    DATES,
    FRAMES,
    PIXEL_SPACING,
    SERIES_NUMBER,
    STUDY_UID,
    TAGS,
    THICKNESS,
    DicomHeader,
    has_mark,
    number,
)
from tumorcast.data.readers.files import LeftOut, folders_in, is_debris
from tumorcast.data.readers.source_session import SEG, LayoutFiles, SourceSession, counted, several_masks
from tumorcast.records import Contrast

# A word of a description; a digit, a letter or a plus beside it would make another word.
WORD = r"(?<![a-z0-9+])(?:{})(?![a-z0-9+])"
NO_ANATOMY = re.compile(
    WORD.format(
        r"loc\w*|scout|survey|calib\w*|shim|dwi|dti|diff\w*|adc|e?trace\w*|perf\w*|dsc|dce|asl|swi|swan|mag|pha\w*|"
        r"min\W?ip|mip|mpr|reformat\w*|mra|mrv|tof|angio\w*|fmri|bold|mrs|spectro\w*|sub\w*|screen\w*|gre|hemo|b0|fieldmap|"
        r"\w*mask\w*|s?dt1|[ns]?r?cb[fv]|mtt|ttp|ktrans"
    )
    + r"|t2\s*(\*|star)|ep2d"
)
FLAIR = re.compile(r"flair|tirm|dark\W?fl")
T2 = re.compile(r"t2")
T1 = re.compile(r"t1|mp\W?rage|bravo|spgr|vibe|tfl|tfe")
AFTER = re.compile(
    WORD.format(r"post\w*|gad\w*|gd|km|ce|contrast|enh\w*|cm|dotarem|gadovist|t1c|t1ce|t1gd|t1post")
    + r"|\+\W?c\b|\bc\W?\+|\+\W?gd"
)
BEFORE = re.compile(WORD.format(r"pre\w*|w\W?o|without|non\w*|no|nativ\w*|ohne|plain"))
NO_AGENT = ("", "no", "none", "n", "0")
NO_IMAGE = ("LOCALIZER", "PROJECTION IMAGE", "MIP", "MPR", "ADC", "SUBTRACTION", "DERIVED\\SECONDARY\\OTHER")
LONG_ECHO_MS = 60.0  # above: T2-weighted; T1-weighted sequences are below SHORT_ECHO_MS
SHORT_ECHO_MS = 30.0
LONG_REPETITION_MS = 2000.0
SHORT_REPETITION_MS = 1200.0
FLAIR_INVERSION_MS = 1500.0  # water is nulled at 2000 to 2800 ms, white matter of an MPRAGE is prepared by some 900
FEWEST_IMAGES = 5  # fewer are a localizer, a report or a screen
MASK = re.compile(r".*(seg|mask).*\.nii(\.gz)?", re.IGNORECASE)
NO_TUMOUR = re.compile(r"brain|head|skull|bet|face|tissue|csf", re.IGNORECASE)  # whose masks are no tumours


SEGMENTATIONS = {  # modality, and what makes a NIfTI mask of it
    "SEG": "a DICOM segmentation, which is not read; make a NIfTI mask of it (dcmqi's segimage2itkimage)",
    "RTSTRUCT": "contours of radiotherapy, which are not read; make a NIfTI mask (plastimatch convert, rt-utils)",
}


@dataclass(frozen=True)
class _Series:
    """One series in one folder. contrast: None where it is none of ours; day: None without a date."""

    files: tuple[Path, ...]
    contrast: Contrast | None
    modality: str
    frames: float
    day: date | None
    study: str
    voxel_mm3: float
    number: float

    @classmethod
    def of(cls, headers: list[DicomHeader]) -> "_Series":
        """What the first image of a series says of it."""
        first = headers[0]
        tags = {name: first.text(tag) for name, tag in TAGS.items()}
        voxel = math.prod(number(part) for part in (*first.text(PIXEL_SPACING).split("\\"), first.text(THICKNESS)))
        return cls(
            tuple(header.path for header in headers),
            contrast_of(tags) if len(headers) >= FEWEST_IMAGES else None,
            tags["modality"],
            number(first.text(FRAMES) or "1"),
            next((day for tag in DATES if (day := _date(first.text(tag))) is not None), None),
            first.text(STUDY_UID),
            voxel if math.isfinite(voxel) else math.inf,
            number(first.text(SERIES_NUMBER)),
        )

    @property
    def path(self) -> Path:
        """The first of its files, by which it is named."""
        return self.files[0]

    @property
    def rank(self) -> tuple[float, int, float, Path]:
        """Of several series of one contrast the lowest is meant: smallest voxels, most images, first in the study."""
        return self.voxel_mm3, -len(self.files), self.number, self.path

    def why_left_out(self, *, masked: bool) -> tuple[str, bool]:
        """Why it was not taken, and whether what was meant may be lost. masked: whether the scan has another mask."""
        if self.modality in SEGMENTATIONS:
            return SEGMENTATIONS[self.modality], not masked
        if self.modality == "MR" and self.frames > 1:
            return SEVERAL_FRAMES, True
        if self.contrast is not None:
            return "another series of the same contrast was taken (smaller voxels, more images, or earlier)", False
        if len(self.files) < FEWEST_IMAGES:
            return f"a series of fewer than {FEWEST_IMAGES} images", False
        return "a series that its header does not tell to be T1, T1 after contrast, T2 or FLAIR", False


def has_dicom(source: Path) -> bool:
    """Whether any folder of a patient has a DICOM file."""
    folders = (folder for patient in folders_in(source) for folder in _folders(patient, set()))
    return any(has_mark(path) for folder in folders for path in sorted(folder.iterdir()))


def find_dicom(source: Path) -> LayoutFiles:
    """Scans of a folder with a folder for each patient, below which DICOM series lie in any way; links are followed."""
    layout_files, seen = LayoutFiles(), set[Path]()
    layout_files.sessions = [
        session for patient in _new_folders(source, seen) for session in _patient(patient, layout_files, seen)
    ]
    return layout_files


def _folders(patient: Path, seen: set[Path]) -> Iterator[Path]:
    """The patient's folder and all below it, by name, each once, whatever links lead to it."""
    yield patient
    for folder in _new_folders(patient, seen):
        yield from _folders(folder, seen)


def _new_folders(parent: Path, seen: set[Path]) -> list[Path]:
    """The folders in a folder that were not seen yet, under any name; now they were."""
    folders = []
    for folder in folders_in(parent):
        if (target := folder.resolve()) not in seen:
            seen.add(target)
            folders.append(folder)
    return folders


def _patient(patient: Path, layout_files: LayoutFiles, seen: set[Path]) -> list[SourceSession]:
    contents = {folder: series_in(folder) for folder in _folders(patient, seen)}
    series = [_Series.of(headers) for item in contents.values() for headers in item.series.values()]
    dates = sorted({item.day for item in series if item.day is not None})
    groups = [group for day in dates for group in _visits([item for item in series if item.day == day])]
    undated = sorted((item for item in series if item.day is None), key=lambda item: (item.study, item.path))
    groups += [list(group) for _, group in groupby(undated, key=lambda item: item.study)]
    groups = [group for group in groups if any(item.modality not in SEGMENTATIONS for item in group)]
    folders = [_folders_of(group, patient) for group in groups]
    sessions = []
    for ordinal, (group, own) in enumerate(zip(groups, folders, strict=True), 1):
        elsewhere = {folder for others in folders if others is not own for folder in others}
        sessions.append(_session(patient, f"{ordinal:03d}", group, own - elsewhere))
    masked = bool(sessions) and all(session.mask is not None for session in sessions)
    layout_files.left_out += _left_out(contents, masked=masked)
    for session in sessions:
        _take_files(session, series, layout_files)
    layout_files.left_out += [
        LeftOut(path, *item.why_left_out(masked=masked))
        for item in series
        for path in item.files
        if path not in layout_files.taken
    ]
    dates = [group[0].day for group in groups if group[0].day is not None]
    if not dates:
        return counted(sessions)
    days = [float((day - dates[0]).days) for day in dates]  # a day a visit, of which two may have one
    fault = f"{patient}: a study without a date beside dated ones; date the scans with --clinical, or in a sessions.csv"
    return [
        *(replace(session, day=day, dated=True) for session, day in zip(sessions, days, strict=False)),
        *(replace(session, day_fault=fault) for session in sessions[len(days) :]),
    ]


def _visits(series: list[_Series]) -> list[list[_Series]]:
    """The series of one date by study, where two studies show the same; else they are one visit.

    Of patients whose dates were all made alike, two visits are so kept apart.
    """
    studies = {item.study for item in series}
    shown = [item.contrast for study in studies for item in _first_of_each([s for s in series if s.study == study])]
    if len(shown) == len(set(shown)):
        return [series]
    return [[item for item in series if item.study == study] for study in dict.fromkeys(item.study for item in series)]


def _first_of_each(series: list[_Series]) -> list[_Series]:
    """One series a contrast."""
    return list({item.contrast: item for item in series if item.contrast is not None}.values())


def _take_files(session: SourceSession, series: list[_Series], layout_files: LayoutFiles) -> None:
    """Put the files of the scan's series, and its mask, among those that were taken."""
    firsts = set(session.images.values())
    layout_files.taken |= {path for item in series if item.path in firsts for path in item.files}
    layout_files.taken |= {session.mask} if session.mask is not None else set()


def _left_out(contents: dict[Path, FolderContents], *, masked: bool) -> Iterator[LeftOut]:
    """The DICOM files that are in no series."""
    for folder_contents in contents.values():
        for path, fault in folder_contents.faults.items():
            yield LeftOut(path, str(fault).removeprefix(f"{path}: "), lost=True)
        for path, modality in folder_contents.pictureless.items():
            reason = SEGMENTATIONS.get(modality)
            yield LeftOut(path, reason or "a DICOM file without an image", lost=reason is not None and not masked)
        for path, first in folder_contents.copies.items():
            yield LeftOut(path, f"holds the image of {first.name} once more")


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _session(patient: Path, name: str, series: list[_Series], folders: set[Path]) -> SourceSession:
    """A scan of these series. folders: those in which a mask is that of this scan."""
    files: dict[str, Path] = {}
    for item in sorted(series, key=lambda item: item.rank):
        if item.contrast is not None:
            files.setdefault(item.contrast, item.path)
    masks = _masks(folders)
    session = SourceSession.of_files(patient.name, name, files | ({SEG: masks[0]} if masks else {}))
    return replace(session, fault=several_masks(*masks[:2])) if len(masks) > 1 else session


def _folders_of(series: list[_Series], patient: Path) -> set[Path]:
    """The folders that hold series, and those above up to the patient's."""
    above = {folder for item in series for folder in item.path.parents}
    return {folder for folder in above if folder == patient or patient in folder.parents}


def _masks(folders: set[Path]) -> list[Path]:
    """NIfTI masks in folders that hold series of one scan alone."""
    named = (path for folder in folders for path in folder.iterdir() if MASK.fullmatch(path.name))
    return sorted(path for path in named if not NO_TUMOUR.search(path.name) and not is_debris(path))


def contrast_of(tags: Mapping[str, str]) -> Contrast | None:
    """What a series shows, None for what is none of the four contrasts. tags: of TAGS, blank where absent.

    >>> [contrast_of({"modality": "MR", "description": text}) for text in ("Ax T1 POST", "AX T2 FLAIR", "DWI b1000")]
    [<Contrast.T1C: 't1c'>, <Contrast.T2F: 't2f'>, None]
    """
    words = (tags.get("description") or tags.get("protocol") or "").lower().replace("_", " ")
    kinds = tags.get("image_type", "").upper()
    if tags.get("modality") != "MR" or NO_ANATOMY.search(words) or any(kind in kinds for kind in NO_IMAGE):
        return None
    weighted = _by_words(words) or _by_times(tags)
    if weighted is not Contrast.T1N:
        return weighted
    return Contrast.T1C if _after_contrast(words, tags.get("agent", "")) else Contrast.T1N


def _by_words(words: str) -> Contrast | None:
    """The weighting that a description tells; a "T1 FLAIR" is weighted by T1."""
    if T1.search(words) and not T2.search(words):
        return Contrast.T1N
    if FLAIR.search(words):
        return Contrast.T2F
    return Contrast.T2W if T2.search(words) else None


def _by_times(tags: Mapping[str, str]) -> Contrast | None:
    """The weighting that follows from the times of a sequence that is no echo-planar one."""
    repetition, echo, inversion = (number(tags.get(f"{name}_ms", "")) for name in ("repetition", "echo", "inversion"))
    if "EP" in tags.get("sequence", "").upper():
        return None
    if echo >= LONG_ECHO_MS and repetition >= LONG_REPETITION_MS:
        return Contrast.T2F if inversion >= FLAIR_INVERSION_MS else Contrast.T2W
    prepared = 0 < inversion < FLAIR_INVERSION_MS
    return Contrast.T1N if echo <= SHORT_ECHO_MS and (repetition <= SHORT_REPETITION_MS or prepared) else None


def _after_contrast(words: str, agent: str) -> bool:
    """Whether contrast agent was given: as the words tell, or where they tell nothing or both, as the header does."""
    after, before = AFTER.search(words) is not None, BEFORE.search(words) is not None
    return after if after != before else agent.strip().lower() not in NO_AGENT
