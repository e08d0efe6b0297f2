"""The names that public collections give to their scans: BraTS, LUMIERE and MU-Glioma-Post. Nothing is opened here.

docs/formats.md lists the names, the meaning of their labels and where the days come from.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path

from tumorcast.data.scans import ONLY_SESSION, SEG, FoundSession, counted, folders_in, found_session
from tumorcast.errors import InputError
from tumorcast.records import Contrast

CONTRASTS = "|".join(Contrast)
BRATS_FILE = re.compile(rf"(?P<id>.+)-(?P<kind>{CONTRASTS}|{SEG})\.nii(\.gz)?")
BRATS_TIMEPOINT = re.compile(r"(?P<patient>.*\d.*)-(?P<session>\d{3})")
BRATS_2021 = {"t1": Contrast.T1N, "t1ce": Contrast.T1C, "t2": Contrast.T2W, "flair": Contrast.T2F, SEG: SEG}
BRATS_2021_FILE = re.compile(rf"(?P<id>.+)_(?P<kind>{'|'.join(BRATS_2021)})\.nii(\.gz)?")
MU_FILE = re.compile(rf"(brain_(?P<contrast>{CONTRASTS})|(?P<seg>tumorMask))\.nii(\.gz)?", re.IGNORECASE)
MU_TIMEPOINT = re.compile(r".*\d")
MU_LABELS = {1: 1, 2: 2, 3: 3, 4: 0}  # 4 is the resection cavity, also in masks without a 3
LUMIERE_NAMES = {"T1": Contrast.T1N, "CT1": Contrast.T1C, "T2": Contrast.T2W, "FLAIR": Contrast.T2F}
LUMIERE_WEEK = re.compile(r"week-(?P<week>\d+)(-(?P<repeat>\d+))?")
DAYS_A_WEEK = 7.0


def brats_files(source: Path) -> Iterator[tuple[str, str, Path]]:
    """(id, contrast or seg, path) of every file named as BraTS names it: in 2023 and later, or until 2021."""
    if not source.is_dir():
        return
    for path in sorted([*source.iterdir(), *source.glob("*/*")]):
        name = BRATS_FILE.fullmatch(path.name) or BRATS_2021_FILE.fullmatch(path.name)
        if name and (path.parent == source or path.parent.name == name["id"]) and path.is_file():
            yield name["id"], BRATS_2021.get(name["kind"], name["kind"]), path


def brats_sessions(source: Path) -> list[FoundSession]:
    """Scans named as BraTS names them. Raises InputError where a file of a scan is there twice."""
    files: dict[str, dict[str, Path]] = {}
    for scan, kind, path in brats_files(source):
        other = files.setdefault(scan, {}).setdefault(kind, path)
        if other != path:
            raise InputError(f"{path}: the same file of the same scan as {other}; keep one")
    return counted(found_session(*brats_names(scan), found) for scan, found in files.items())


def brats_names(scan: str) -> tuple[str, str]:
    """Patient and session of a BraTS id.

    >>> brats_names("BraTS-GLI-00001-002"), brats_names("PGBM-007"), brats_names("BraTS2021_00000")
    (('BraTS-GLI-00001', '002'), ('PGBM-007', '000'), ('BraTS2021_00000', '000'))
    """
    name = BRATS_TIMEPOINT.fullmatch(scan)
    return (name["patient"], name["session"]) if name else (scan, ONLY_SESSION)


def mu_glioma_folders(source: Path) -> Iterator[tuple[str, str, dict[str, Path]]]:
    """(patient, time point, files) of every folder of MU-Glioma-Post, as the FeTS tool writes them."""
    for patient in folders_in(source):
        for timepoint in folders_in(patient):
            files = _mu_glioma_files(timepoint, f"{patient.name}_{timepoint.name}_")
            if files and MU_TIMEPOINT.fullmatch(timepoint.name):
                yield patient.name, timepoint.name, files


def _mu_glioma_files(folder: Path, stem: str) -> dict[str, Path]:
    files = {}
    for path in sorted(folder.glob("*.nii*")):
        name = MU_FILE.fullmatch(path.name.removeprefix(stem))
        if name and path.name.startswith(stem) and path.is_file():
            files[(name["contrast"] or SEG).lower()] = path
    return files


def mu_glioma_sessions(source: Path) -> list[FoundSession]:
    """Scans of MU-Glioma-Post: its names carry an order and no days."""
    found = counted(starmap(found_session, mu_glioma_folders(source)))
    return [replace(session, label_map=MU_LABELS) for session in found]


# What is 1, 2 and 3 for DeepBraTumIA is told by the volumes that come with each of its masks: enhancing, necrotic or
# non-enhancing, oedema. HD-GLIO has 1 for what is bright on FLAIR and does not enhance, 2 for what does.
DEEPBRATUMIA = {1: 3, 2: 1, 3: 2}
HD_GLIO = {1: 2, 2: 3}


@dataclass(frozen=True)
class LumiereFiles:
    """Which of LUMIERE's files are meant.

    images: their place in the folder of a week, {name} being CT1 and so on, {small} the same in small letters;
    label_map: of the mask, to BraTS labels.
    """

    images: str
    mask: str
    label_map: dict[int, int]

    def of_week(self, week: Path) -> dict[str, Path]:
        """The files of a week that are there, by contrast and seg."""
        files: dict[str, Path] = {SEG: week / self.mask}
        for name, contrast in LUMIERE_NAMES.items():
            files[contrast] = week / self.images.format(name=name, small=name.lower())
        return {kind: path for kind, path in files.items() if path.is_file()}


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


def lumiere_sessions(source: Path, files: LumiereFiles) -> list[FoundSession]:
    """Scans of LUMIERE, dated by their weeks. A week without the files asked for is a scan without them."""
    return [
        replace(
            found_session(patient, week.name, files.of_week(week)),
            day=lumiere_day(week.name),
            dated=True,
            label_map=files.label_map,
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
