"""The pictures of an archive, for `show`: patient by patient, so that one that is damaged does not cost the others."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tumorcast.archive.maps import MapArchive
from tumorcast.records import PatientOutcome, Status
from tumorcast.report.plots import save_slice, slice_record
from tumorcast.report.volume_plots import save_volume, volume_record
from tumorcast.running.outcomes import attempt


@dataclass(frozen=True)
class Shown:
    """The pictures of a patient, and their numbers: a record a slice, and one a horizon of the volume."""

    pictures: list[Path]
    volumes: list[dict[str, Any]]
    slices: list[dict[str, Any]]


@dataclass(frozen=True)
class ShownArchive:
    """What was drawn of the patients with a forecast, and how each of them fared; the others have none."""

    patients: list[Shown]
    outcomes: list[PatientOutcome]
    without_forecast: int


def show_archive(archive: MapArchive, out: Path, contour: float) -> ShownArchive:
    """Write a PNG for each volume and each slice of an archive into folder `out`."""
    patient_ids = archive.patient_ids()
    drawn = [
        attempt(patient_id, partial(_show_patient, archive, patient_id, out, contour)) for patient_id in patient_ids
    ]
    outcomes = [
        one if isinstance(one, PatientOutcome) else PatientOutcome(patient_id, Status.OK)
        for patient_id, one in zip(patient_ids, drawn, strict=True)
    ]
    without = {outcome.patient_id for outcome in archive.outcomes()} - set(patient_ids)
    return ShownArchive([one for one in drawn if isinstance(one, Shown)], outcomes, len(without))


def _show_patient(archive: MapArchive, patient_id: str, out: Path, contour: float) -> Shown:
    """All pictures of a patient. Raises InputError before any is drawn if a part cannot be read."""
    contrasts = archive.provenance["contrasts"]
    patient, volume, slices = archive.patient(patient_id), archive.volume(patient_id), archive.slices(patient_id)
    pictures = [] if volume is None else [save_volume(patient, volume, contrasts, contour, out)]
    pictures += [save_slice(patient, forecast, contrasts, out) for forecast in slices]
    records = [] if volume is None else volume_record(patient_id, volume, contour)
    return Shown(pictures, records, [slice_record(patient_id, forecast) for forecast in slices])
