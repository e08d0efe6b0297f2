"""The names that public collections give to their scans: BraTS, LUMIERE and MU-Glioma-Post. Nothing is opened here.

docs/formats.md lists the names, the meaning of their labels and where the days come from.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path

from tumorcast.data.readers.files import folders_in, is_debris, is_named_file
from tumorcast.data.readers.labels import (
    ANY,
    DEEPBRATUMIA,
    HD_GLIO,
    NAMED_AS_UNTIL_2021,
    POST_TREATMENT,
    LabelRule,
    LabelScheme,
    rule_of,
)
from tumorcast.data.readers.source_session import IMAGE_END, ONLY_SESSION, SEG, SourceSession, counted
from tumorcast.records import Contrast

CONTRASTS = "|".join(Contrast)
BRATS_FILE = re.compile(rf"(?P<id>.+)-(?P<kind>{CONTRASTS}|{SEG}){IMAGE_END}", re.IGNORECASE)
# The names of BraTS until 2021, and of sets that follow them: UCSF-PDGM, UCSF-ALPTDG, UPENN-GBM, RHUH-GBM, UCSD-PTGBM.
KINDS = {
    **dict.fromkeys(("t1", "t1pre", "t1n"), Contrast.T1N),
    **dict.fromkeys(("t1ce", "t1c", "t1gd", "t1post"), Contrast.T1C),
    **dict.fromkeys(("t2", "t2w"), Contrast.T2W),
    **dict.fromkeys(("flair", "t2f"), Contrast.T2F),
    **dict.fromkeys(("seg", "segm", "segmentations", "tumor_segmentation", "brats_tumor_seg", "tumormask", "gtv"), SEG),
}
UNDERSCORED_FILE = re.compile(rf"(?P<id>.+?)(_brain)?_(?P<kind>{'|'.join(KINDS)}){IMAGE_END}", re.IGNORECASE)
NO_SCAN = re.compile(r"subtraction|cellular_tumor|_brain$", re.IGNORECASE)  # maps of change; parts of tumours; brains
BIDS_NAME = re.compile(r"sub-", re.IGNORECASE)
TIMEPOINT_WORDS = (
    r"(?:time(?:point)?|tp|visit|scan|ses(?:sion)?|week|month|day|fu)[-_]?\d+d?|"
    r"baseline|bl\d*|fu\d*|follow[-_]?up\d*|pre(?:[-_]?op)?|post(?:[-_]?op)?"
)
TIMEPOINTS = (  # patient and time point in a scan's name; those of a number alone only where a set is known by them
    re.compile(r"(?P<patient>.*\d.*)-(?P<session>\d{3})"),
    re.compile(rf"(?P<patient>.*\d)[-_](?P<session>{TIMEPOINT_WORDS})", re.IGNORECASE),
    re.compile(r"(?P<patient>(?:UPENN-GBM|RHUH|UCSD-PTGBM)-\d+)_(?P<session>\d{1,2})", re.IGNORECASE),
    re.compile(r"(?P<patient>BraTSReg_\d+)_(?P<session>\d\d_\d{4})", re.IGNORECASE),
)
NO_TIMEPOINT = re.compile(r"BraTS(20)?\d\d_", re.IGNORECASE)  # whose last number is the patient's
LIKE_TIMEPOINT = re.compile(
    r"(?P<patient>.*?\d)[-_](?P<session>[a-z]{0,9}\d{1,3}[a-z]?|\d{8}|\d{4}[-._]\d\d[-._]\d\d|[A-D])", re.IGNORECASE
)
MU_FILE = re.compile(rf"(brain_(?P<contrast>{CONTRASTS})|(?P<seg>tumorMask)){IMAGE_END}", re.IGNORECASE)
MU_TIMEPOINT = re.compile(r".*\d")
LUMIERE_NAMES = {"T1": Contrast.T1N, "CT1": Contrast.T1C, "T2": Contrast.T2W, "FLAIR": Contrast.T2F}
LUMIERE_WEEK = re.compile(r"week-(?P<week>\d+)(-(?P<repeat>\d+))?")
DAYS_A_WEEK = 7.0


@dataclass(frozen=True)
class NamedFile:
    """A file named as BraTS names it. scan: its id; patient: that of its folder, where the folder is the patient's."""

    scan: str
    kind: str
    path: Path
    patient: str | None
    old_name: bool

    @property
    def names(self) -> tuple[str, str]:
        """Patient and session."""
        if self.patient is None:
            return brats_names(self.scan)
        return self.patient, self.scan[len(self.patient) + 1 :]


def brats_files(source: Path) -> Iterator[NamedFile]:
    """Every file named as BraTS names it, in 2023 and later or until 2021, below `source` or in a folder or two."""
    if not source.is_dir():
        return
    for path in sorted([*source.iterdir(), *source.glob("*/*"), *source.glob("*/*/*")]):
        new = BRATS_FILE.fullmatch(path.name)
        name = new or UNDERSCORED_FILE.fullmatch(path.name)
        if name is None or is_debris(path) or _is_no_scan(name["id"], new) or not is_named_file(path):
            continue
        owner = _in_its_place(source, path, name["id"])
        if path.parent.parent.parent == source and re.search(r"_brain_|tumormask", path.name, re.IGNORECASE):
            continue  # MU-Glioma-Post's own layout
        if owner is not None:
            kind = name["kind"].lower()
            yield NamedFile(name["id"], str(kind if new else KINDS[kind]), path, owner[0], new is None)


def _is_no_scan(scan: str, new_name: re.Match[str] | None) -> bool:
    return NO_SCAN.search(scan) is not None or (new_name is None and BIDS_NAME.match(scan) is not None)


def _in_its_place(source: Path, path: Path, scan: str) -> tuple[str | None] | None:
    """The patient whose folder the file lies in, None where the scan's name must tell; no tuple for other places."""
    folder, above = path.parent, path.parent.parent
    own = folder.name.removesuffix("_nifti")
    if folder == source or (above == source and own == scan):
        return (None,)
    patient = folder.name if above == source else above.name if above.parent == source else ""
    if patient and re.match(rf"{re.escape(patient)}[-_](?!$)", scan) and above in {source, source / patient}:
        return (patient,)
    return (None,) if above.parent == source and own == scan else None


def brats_sessions(source: Path) -> list[SourceSession]:
    """Scans named as BraTS names them; one of which a file is there twice cannot be used."""
    files: dict[tuple[str, str], dict[str, NamedFile]] = {}
    faults: dict[tuple[str, str], str] = {}
    for file in brats_files(source):
        other = files.setdefault(file.names, {}).setdefault(file.kind, file)
        if other is not file:
            faults[file.names] = f"{file.path}: the same file of the same scan as {other.path}; keep one"
    return counted(_brats_session(names, named, faults.get(names, "")) for names, named in files.items())


def _brats_session(names: tuple[str, str], files: dict[str, NamedFile], fault: str) -> SourceSession:
    any_file = next(iter(files.values()))
    old = any(file.old_name for file in files.values())
    rule = rule_of(any_file.scan, NAMED_AS_UNTIL_2021 if old else ANY)
    session = SourceSession.of_files(*names, {kind: file.path for kind, file in files.items()})
    return replace(session, labels=rule, fault=fault)


def brats_names(scan: str) -> tuple[str, str]:
    """Patient and session of a scan's name.

    >>> brats_names("BraTS-GLI-00001-002"), brats_names("PGBM-007"), brats_names("BraTS20_Training_001")
    (('BraTS-GLI-00001', '002'), ('PGBM-007', '000'), ('BraTS20_Training_001', '000'))
    >>> brats_names("100001_time1"), brats_names("RHUH-0001_0"), brats_names("UCSF-PDGM-0429_FU003d")
    (('100001', 'time1'), ('RHUH-0001', '0'), ('UCSF-PDGM-0429', 'FU003d'))
    """
    if NO_TIMEPOINT.match(scan):
        return scan, ONLY_SESSION
    name = next((name for form in TIMEPOINTS if (name := form.fullmatch(scan))), None)
    return (name["patient"], name["session"]) if name else (scan, ONLY_SESSION)


def like_timepoints(patients: Iterable[str]) -> Iterator[list[str]]:
    """Patients whose names differ in an ending alone that may be a time point.

    >>> list(like_timepoints(["P001_1", "P001_2", "P002_1", "BraTS20_Training_001", "BraTS20_Training_002"]))
    [['P001_1', 'P001_2']]
    """
    alike: dict[str, list[str]] = {}
    for patient in patients:
        name = None if NO_TIMEPOINT.match(patient) else LIKE_TIMEPOINT.fullmatch(patient)
        if name:
            alike.setdefault(name["patient"], []).append(patient)
    return (names for names in alike.values() if len(names) > 1)


def mu_glioma_folders(source: Path) -> Iterator[tuple[str, str, dict[str, Path]]]:
    """(patient, time point, files) of every folder of MU-Glioma-Post, as the FeTS tool writes them."""
    for patient in folders_in(source):
        for timepoint in folders_in(patient):
            files = _mu_glioma_files(timepoint, f"{patient.name}_{timepoint.name}_")
            if files and MU_TIMEPOINT.fullmatch(timepoint.name):
                yield patient.name, timepoint.name, files


def _mu_glioma_files(folder: Path, stem: str) -> dict[str, Path]:
    files = {}
    for path in sorted(folder.iterdir()):
        name = MU_FILE.fullmatch(path.name.removeprefix(stem))
        if name and path.name.startswith(stem) and is_named_file(path):
            files[(name["contrast"] or SEG).lower()] = path
    return files


def mu_glioma_sessions(source: Path) -> list[SourceSession]:
    """Scans of MU-Glioma-Post: its names carry an order and no days."""
    sessions = counted(starmap(SourceSession.of_files, mu_glioma_folders(source)))
    return [replace(session, labels=LabelRule.only(POST_TREATMENT)) for session in sessions]


@dataclass(frozen=True)
class LumiereFiles:
    """Which of LUMIERE's files are meant.

    images: their place in the folder of a week, {name} being CT1 and so on, {small} the same in small letters;
    labels: of the mask.
    """

    images: str
    mask: str
    labels: LabelScheme

    def of_week(self, week: Path) -> dict[str, Path]:
        """The files of a week that are there, by contrast and seg."""
        files: dict[str, Path] = {SEG: week / self.mask}
        for name, contrast in LUMIERE_NAMES.items():
            files[contrast] = week / self.images.format(name=name, small=name.lower())
        return {kind: path for kind, path in files.items() if is_named_file(path)}


# Each is of one space, so that contrasts and mask lie on one grid: the atlas, the scan's T1, or each contrast's own.
LUMIERE_ATLAS = LumiereFiles(
    "DeepBraTumIA-segmentation/atlas/skull_strip/{small}_skull_strip.nii.gz",
    "DeepBraTumIA-segmentation/atlas/segmentation/seg_mask.nii.gz",
    DEEPBRATUMIA,
)
LUMIERE_HD_GLIO = LumiereFiles(
    "HD-GLIO-AUTO-segmentation/registered/{name}_r2s_bet_reg.nii.gz",
    "HD-GLIO-AUTO-segmentation/registered/segmentation.nii.gz",
    HD_GLIO,
)
LUMIERE_NATIVE = LumiereFiles(
    "{name}.nii.gz", "DeepBraTumIA-segmentation/native/segmentation/ct1_seg_mask.nii.gz", DEEPBRATUMIA
)


def lumiere_weeks(source: Path) -> Iterator[tuple[str, Path]]:
    """(patient, folder) of every week in LUMIERE's `Imaging`, or in the folder that holds it."""
    imaging = source / "Imaging" if (source / "Imaging").is_dir() else source
    for patient in folders_in(imaging):
        if patient.name.startswith("Patient-"):
            yield from ((patient.name, week) for week in folders_in(patient) if LUMIERE_WEEK.fullmatch(week.name))


def lumiere_sessions(source: Path, files: LumiereFiles) -> list[SourceSession]:
    """Scans of LUMIERE, dated by their weeks. A week without the files asked for is a scan without them."""
    return [
        replace(
            SourceSession.of_files(patient, week.name, files.of_week(week)),
            day=lumiere_day(week.name),
            dated=True,
            labels=LabelRule.only(files.labels),
        )
        for patient, week in lumiere_weeks(source)
    ]


def lumiere_day(week: str) -> float:
    """Days of a week's folder. The scans of one week are put a day apart, in their order.

    >>> lumiere_day("week-044"), lumiere_day("week-000-1"), lumiere_day("week-000-2")
    (308.0, 0.0, 1.0)
    """
    name = LUMIERE_WEEK.fullmatch(week)
    assert name is not None
    return DAYS_A_WEEK * int(name["week"]) + (int(name["repeat"]) - 1 if name["repeat"] else 0)
