"""The scan that a forecast is judged by: which one of the truth cohort, and whether it is on the forecast's grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.data.cohort import Cohort, CohortSlice, SessionInfo
from tumorcast.errors import InputError
from tumorcast.evaluation.pairs import Pair
from tumorcast.forecasting.plan import PlannedSlice
from tumorcast.forecasting.targets import SAME_DAY
from tumorcast.records import FloatArray

AFFINE_TOLERANCE_MM = 1e-2


class NoTruthError(InputError):
    """A patient has no later scan to be judged by: left out, not failed."""


@dataclass(frozen=True)
class LaterScan:
    """A scan of the truth cohort. days_off: its day less the day aimed at; None where the forecast aims at no day."""

    session: SessionInfo
    days_off: float | None


def check_cohort(archive: MapArchive, cohort: Cohort) -> None:
    """Raises InputError where no patient could be judged: none in common, other contrasts, or no dates to go by."""
    patients = archive.patients()
    names = {patient.patient_id for patient in patients}
    if names.isdisjoint(cohort.patient_ids()):
        raise InputError(
            f"{cohort.path}: none of the {len(names)} patients of {archive.path} ({_some(names)}) is among its "
            f"{len(cohort.patient_ids())} ({_some(set(cohort.patient_ids()))}); give the cohort with their later scans"
        )
    theirs, ours = archive.provenance.get("contrasts"), [str(name) for name in cohort.contrasts]
    if theirs is not None and theirs != ours:
        raise InputError(
            f"{cohort.path}: contrasts {', '.join(ours)}, but {archive.path} was forecast from {', '.join(theirs)}; "
            f"prepare it with --contrasts {','.join(theirs)}"
        )
    if not cohort.dated and any(patient.target_day is not None for patient in patients):
        raise InputError(
            f"{cohort.path}: its scans have no dates, but {archive.path} forecasts a day; prepare it with --clinical"
        )


def _some(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (" …" if len(names) > len(shown) else "")


def later_scan(cohort: Cohort, patient: PatientForecast, max_days_off: float) -> LaterScan:
    """The scan with a mask, after the one forecast from, that is nearest to the target day; the first if there is none.

    Raises NoTruthError if there is no such scan, or it is more than max_days_off away; InputError if the scan forecast
    from has another day in the cohort.
    """
    infos = cohort.sessions(patient.patient_id)
    for info in infos:
        if info.id == patient.session_id and abs(info.day - patient.day) > SAME_DAY:
            raise InputError(
                f"{cohort.path}: session {info.id} is of day {info.day:g}, but of day {patient.day:g} in the archive; "
                "prepare both from the same dates"
            )
    later = [info for info in infos if info.day > patient.day + SAME_DAY and _has_mask(info)]
    if not later:
        raise NoTruthError(f"no scan with a mask after day {patient.day:g} in {cohort.path}")
    if patient.target_day is None:
        return LaterScan(later[0], None)
    target = patient.target_day
    nearest = min(later, key=lambda info: abs(info.day - target))
    off = nearest.day - target
    if abs(off) > max_days_off:
        raise NoTruthError(
            f"the forecast is of day {target:g}, and the nearest later scan, {nearest.id}, of day {nearest.day:g}: "
            f"{abs(off):g} days off, more than {max_days_off:g} (--max-days-off)"
        )
    return LaterScan(nearest, off)


def _has_mask(info: SessionInfo) -> bool:
    """Whether the scan's tumour was outlined, be it to find none."""
    return not np.isnan(info.volume_mm3) or bool(info.n_slices and np.isfinite(info.area_mm2).any())


def judged_pairs(
    archive: MapArchive, cohort: Cohort, patient: PatientForecast, later: LaterScan
) -> Iterator[tuple[SliceForecast, Pair]]:
    """The patient's forecast slices that the later scan has too, with a mask, each beside the truth.

    Raises InputError if the two are on different grids.
    """
    info = later.session
    for name in archive.slice_names(patient.patient_id):  # one at a time: kept members may be many
        forecast = archive.slice(patient.patient_id, name)
        found = np.flatnonzero(info.source_slice == forecast.source_slice)
        if found.size and np.isfinite(info.area_mm2[found[0]]) and (forecast.labels > 0).any():
            truth = cohort.slice(patient.patient_id, info.id, int(found[0]))
            _check_grid(archive, cohort, forecast, truth)
            yield forecast, _pair(patient, info, forecast, truth)


def _check_grid(archive: MapArchive, cohort: Cohort, forecast: SliceForecast, truth: CohortSlice) -> None:
    same = forecast.labels.shape == truth.labels.shape and np.allclose(
        forecast.affine, truth.affine, rtol=0.0, atol=AFFINE_TOLERANCE_MM
    )
    if not same:
        raise InputError(
            f"different grids: {archive.path} has {_grid_told(forecast)}, {cohort.path} has {_grid_told(truth)}; "
            "register the scans to one grid, and prepare both with the same --image-size"
        )


def _grid_told(one: SliceForecast | CohortSlice) -> str:
    rows, columns = one.labels.shape
    return f"{rows} x {columns} pixels, affine {_plain(one.affine)}"


def _plain(affine: FloatArray) -> list[list[Any]]:
    rounded: list[list[Any]] = np.round(affine[:3], 2).tolist()
    return rounded


def _pair(patient: PatientForecast, info: SessionInfo, forecast: SliceForecast, truth: CohortSlice) -> Pair:
    """The present slice is that of the archive; its index in the cohort it came from is not known, and not needed."""
    pixel_mm = float(np.linalg.norm(forecast.affine[:3, 0]))
    now = CohortSlice(
        forecast.image,
        forecast.labels,
        forecast.brain,
        forecast.affine,
        float(forecast.present_mm2),
        float(forecast.brain.sum() * pixel_mm**2),
        int(forecast.source_slice),
    )
    place = PlannedSlice(0, int(forecast.source_slice))
    days = patient.day, info.day
    return Pair(patient.patient_id, patient.session_id, info.id, *days, place, now, truth, pixel_mm)
