"""Follow-ups in three dimensions: a patient's whole present tumour and the later scan that judges what was forecast."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import MapArchive, PatientForecast, VolumeForecast
from tumorcast.arrival.crop import signed_distance_mm
from tumorcast.data.cohort import Cohort
from tumorcast.errors import InputError
from tumorcast.evaluation.followup import AFFINE_TOLERANCE_MM, LaterScan, NoTruthError, later_scan
from tumorcast.evaluation.metrics import Mask
from tumorcast.records import SessionVolume


@dataclass(frozen=True)
class VolumeFollowUp:
    """The scan forecast from and the later one, on one grid; masks and maps of it are (Z, Y, X), Z from the feet up."""

    present: SessionVolume
    later: SessionVolume

    @classmethod
    def of(cls, present: SessionVolume, later: SessionVolume) -> Self:
        """Of two scans. Raises InputError if they are on different grids, or the present one shows no tumour."""
        same = present.labels.shape == later.labels.shape and np.allclose(
            present.affine, later.affine, rtol=0.0, atol=AFFINE_TOLERANCE_MM
        )
        if not same:
            raise InputError(
                f"different grids of the volumes: {_grid_of(present)} now, {_grid_of(later)} later; register the scans "
                "to one grid, and prepare both with the same --voxel-mm"
            )
        if not present.labels.any():
            raise InputError("the present volume shows no tumour")
        return cls(present, later)

    @property
    def before(self) -> Mask:
        """The present outline."""
        return self.present.tumour

    @property
    def after(self) -> Mask:
        """The later outline."""
        return self.later.tumour

    @cached_property
    def brain(self) -> Mask:
        """Brain and present tumour: where a tumour can be."""
        return self.present.brain | self.before

    @cached_property
    def candidates(self) -> Mask:
        """The brain outside the present outline."""
        return self.brain & ~self.before

    @cached_property
    def new(self) -> Mask:
        """New tumour: the later outline within the candidates."""
        return self.after & self.candidates

    @cached_property
    def distance_mm(self) -> npt.NDArray[np.float32]:
        """To the present outline, negative within."""
        return signed_distance_mm(self.before, self.voxel_mm)

    @cached_property
    def in_seen_slices(self) -> Mask:
        """(Z, 1, 1) the axial slices that show tumour now."""
        return np.asarray(self.before.any(axis=(1, 2), keepdims=True))

    @property
    def voxel_mm(self) -> float:
        """Side of a voxel."""
        return self.present.voxel_mm


def _grid_of(volume: SessionVolume) -> str:
    return f"{' x '.join(map(str, volume.labels.shape))} voxels, affine {np.round(volume.affine[:3], 2).tolist()}"


@dataclass(frozen=True)
class JudgedHorizon:
    """What of a volume's forecast is judged, and by which scan. number: of the horizon in the forecast."""

    number: int
    later: LaterScan


def judged_horizon(
    cohort: Cohort, patient: PatientForecast, forecast: VolumeForecast, max_days_off: float
) -> JudgedHorizon:
    """The horizon that has a later scan next to its day, and that scan; of a forecast of no day, the first later scan.

    Raises NoTruthError if none has, as later_scan does for each.
    """
    found, reasons = [], []
    for number, ahead in enumerate(forecast.horizon_days.tolist()):
        aimed = replace(patient, target_day=None if np.isnan(ahead) else patient.day + ahead)
        try:
            found.append(JudgedHorizon(number, later_scan(cohort, aimed, max_days_off)))
        except NoTruthError as reason:
            reasons.append(reason)
    if not found:
        raise reasons[0]
    return min(found, key=lambda one: abs(one.later.days_off or 0.0))


def archived_volume(archive: MapArchive, patient_id: str) -> VolumeForecast:
    """The forecast of a patient's volume. Raises NoTruthError if the archive holds none."""
    forecast = archive.volume(patient_id)
    if forecast is None:
        raise NoTruthError(f"{archive.path} has slices of the patient, and no volume")
    return forecast


def volume_followup(cohort: Cohort, patient_id: str, forecast: VolumeForecast, later: LaterScan) -> VolumeFollowUp:
    """The archive's present volume beside the later scan's.

    Raises NoTruthError if the cohort keeps no volume of that scan, InputError if the two are on different grids.
    """
    volume = cohort.volume(patient_id, later.session.id)
    if volume is None:
        raise NoTruthError(
            f"{cohort.path} keeps no volume of session {later.session.id}; prepare it with --voxel-mm "
            f"{forecast.voxel_mm:g}"
        )
    present = SessionVolume(forecast.image, forecast.labels, forecast.brain > 0, forecast.affine, volume.coarsest_mm)
    return VolumeFollowUp.of(present, volume)
