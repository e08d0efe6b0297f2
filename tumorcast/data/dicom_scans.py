"""Folders of DICOM series as scans of patients.

A patient is a folder below the source, by whose name the cohort knows it: PatientID and PatientName are not looked at.
A session is all of a patient's series of one date. Dates only serve to tell days, and leave this module as such.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import groupby
from pathlib import Path

from tumorcast.data.dicom import DATES, PIXEL_SPACING, SERIES_NUMBER, STUDY_UID, THICKNESS, series_in
from tumorcast.data.dicom_header import DicomHeader, has_mark
from tumorcast.data.scans import SEG, FoundSession, counted, folders_in, found_session, several_masks
from tumorcast.data.series import TAGS, contrast_of, number
from tumorcast.records import Contrast

FEWEST_IMAGES = 5  # fewer are a localizer, a report or a screen
MASK_NAMES = ("*seg*.nii", "*seg*.nii.gz", "*mask*.nii", "*mask*.nii.gz")


@dataclass(frozen=True)
class _Series:
    """One series in one folder. contrast: None where it is none of ours; day: None where no date is told."""

    path: Path
    contrast: Contrast | None
    day: date | None
    study: str
    voxel_mm3: float
    images: int
    number: float

    @classmethod
    def of(cls, headers: list[DicomHeader]) -> "_Series":
        """What the first image of a series says of it."""
        first = headers[0]
        tags = {name: first.text(tag) for name, tag in TAGS.items()}
        voxel = math.prod(number(part) for part in (*first.text(PIXEL_SPACING).split("\\"), first.text(THICKNESS)))
        return cls(
            first.path,
            contrast_of(tags) if len(headers) >= FEWEST_IMAGES else None,
            next((day for tag in DATES if (day := _date(first.text(tag))) is not None), None),
            first.text(STUDY_UID),
            voxel if math.isfinite(voxel) else math.inf,
            len(headers),
            number(first.text(SERIES_NUMBER)),
        )

    @property
    def rank(self) -> tuple[float, int, float, Path]:
        """Of several series of one contrast the lowest is meant: smallest voxels, most images, first in the study."""
        return self.voxel_mm3, -self.images, self.number, self.path


def has_dicom(source: Path) -> bool:
    """Whether any folder of a patient has a DICOM file."""
    folders = (folder for patient in folders_in(source) for folder in _folders(patient))
    return any(has_mark(path) for folder in folders for path in sorted(folder.iterdir()))


def dicom_sessions(source: Path) -> list[FoundSession]:
    """Scans of a folder with a folder for each patient, below which DICOM series lie in any way."""
    return [session for patient in folders_in(source) for session in _patient(patient)]


def _folders(patient: Path) -> Iterator[Path]:
    """The patient's folder and all below it, by name."""
    yield patient
    for folder in folders_in(patient):
        if not folder.is_symlink():
            yield from _folders(folder)


def _patient(patient: Path) -> list[FoundSession]:
    series = [one for folder in _folders(patient) for one in _series_in(folder)]
    dates = sorted({one.day for one in series if one.day is not None})
    groups = [[one for one in series if one.day == day] for day in dates]
    undated = sorted((one for one in series if one.day is None), key=lambda one: (one.study, one.path))
    groups += [list(group) for _, group in groupby(undated, key=lambda one: one.study)]
    found = [_session(patient, f"{place:03d}", group, alone=len(groups) == 1) for place, group in enumerate(groups, 1)]
    if not dates:
        return counted(found)
    days = [float((day - dates[0]).days) for day in dates]
    fault = f"{patient}: a study without a date beside dated ones; date the scans with --clinical, or in a sessions.csv"
    return [
        *(replace(session, day=day, dated=True) for session, day in zip(found, days, strict=False)),
        *(replace(session, day_fault=fault) for session in found[len(days) :]),
    ]


def _series_in(folder: Path) -> list[_Series]:
    """The series of a folder. Damaged files are left for the reading of the series to refuse."""
    return [_Series.of(headers) for headers in series_in(folder)[0].values()]


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _session(patient: Path, name: str, series: list[_Series], *, alone: bool) -> FoundSession:
    files: dict[str, Path] = {}
    for one in sorted(series, key=lambda one: one.rank):
        if one.contrast is not None:
            files.setdefault(one.contrast, one.path)
    masks = _masks(patient, series, alone=alone)
    found = found_session(patient.name, name, files | ({SEG: masks[0]} if masks else {}))
    return replace(found, fault=several_masks(*masks[:2])) if len(masks) > 1 else found


def _masks(patient: Path, series: list[_Series], *, alone: bool) -> list[Path]:
    """NIfTI masks beside the session's series or a folder up; those in the patient's own folder if it is `alone`."""
    folders = {folder for one in series for folder in (one.path.parent, one.path.parent.parent)}
    inside = [folder for folder in folders if patient in folder.parents or (alone and folder == patient)]
    return sorted({path for folder in inside for name in MASK_NAMES for path in folder.glob(name)})
