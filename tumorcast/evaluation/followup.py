"""Follow-ups: a slice of an earlier scan and the same slice of the later scan that judges what was forecast from it.

Several follow-ups of one patient are a tuple, of the same two scans. Which scan is the later one: the next (grown_
followups), the patient's last (last_followups), or the one nearest to the day that an archive forecasts (later_scan).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.counted import counted
from tumorcast.data.cohort import Cohort, CohortSlice, SessionInfo
from tumorcast.data.imaging.geometry import pixel_size_mm
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.plan import PlannedSlice, Unit, plan_patient
from tumorcast.forecasting.targets import SAME_DAY, PatientTargets
from tumorcast.records import FloatArray
from tumorcast.settings import ForecastSettings

LEAST_GROWTH = 1.1
AFFINE_TOLERANCE_MM = 1e-2


class TargetSize(StrEnum):
    """Which later size is given to members or outlines: the true one, or the one that was forecast."""

    TRUE = "truth"
    FORECAST = "ode"

    @property
    def label(self) -> str:
        """The size in words."""
        return "true size" if self is TargetSize.TRUE else "forecast size"


@dataclass(frozen=True)
class FollowUp:
    """One slice of a patient at two dates. session_id: of the earlier scan, in which `planned` is the slice.

    Without a later scan, `later` is `now` again, and later_id is session_id.
    """

    patient_id: str
    session_id: str
    later_id: str
    day: float
    later_day: float
    planned: PlannedSlice
    now: CohortSlice
    later: CohortSlice
    pixel_mm: float

    @property
    def is_known(self) -> bool:
        """Whether there is a later scan."""
        return self.later_id != self.session_id

    @property
    def ratio(self) -> float:
        """The later tumour's area over the present one's."""
        return self.later.area_mm2 / self.now.area_mm2

    def unit(self, members: int) -> Unit:
        """The slice as a unit of work of so many members."""
        return Unit(self.patient_id, self.session_id, (self.planned,), 0, 0, members)


def area_ratio(followups: Sequence[FollowUp]) -> float:
    """The later tumour's area over the present one's, of all slices of a patient together."""
    return float(sum(one.later.area_mm2 for one in followups) / sum(one.now.area_mm2 for one in followups))


def forecast_followups(
    followups: Sequence[FollowUp], targets: PatientTargets, engine: Engine, settings: ForecastSettings
) -> list[SliceForecast]:
    """An ensemble of each slice of a patient, in their order. targets: as many as `settings` has members."""
    first = followups[0]
    planned = tuple(one.planned for one in followups)
    unit = Unit(first.patient_id, first.session_id, planned, 0, 0, settings.members)
    return list(forecast_unit(unit, [one.now for one in followups], targets, engine, settings).values())


def same_slices(ours: Sequence[FollowUp], others: Sequence[FollowUp]) -> bool:
    """Whether both are the same slices, with the same masks on the same grid."""
    return len(ours) == len(others) and all(map(_same, ours, others))


def _same(a: FollowUp, b: FollowUp) -> bool:
    return a.planned.source_slice == b.planned.source_slice and all(
        np.array_equal(one.labels > 0, two.labels > 0) and np.allclose(one.affine, two.affine, atol=AFFINE_TOLERANCE_MM)
        for one, two in ((a.now, b.now), (a.later, b.later))
    )


def grown_followups(cohort: Cohort, patient_id: str, count: int) -> list[FollowUp]:
    """Successive scans in the slice where the later tumour is largest, at most `count`, those that grew most first.

    They count if the tumour grew by a tenth at least, by area in the source's pixels and in the prepared ones.
    """
    grown = [one for one in _successive(cohort, patient_id) if _has_grown(one)]
    return sorted(grown, key=lambda one: -one.ratio)[:count]


def _successive(cohort: Cohort, patient_id: str) -> Iterator[FollowUp]:
    sessions = [info for info in cohort.sessions(patient_id) if info.n_slices]
    for before, after in itertools.pairwise(sessions):
        largest = int(np.argmax(np.nan_to_num(after.area_mm2)))
        number = int(after.source_slice[largest])
        found = np.flatnonzero(before.source_slice == number)
        if found.size:
            planned = PlannedSlice(int(found[0]), number)
            now = cohort.slice(patient_id, before.id, planned.index)
            later = cohort.slice(patient_id, after.id, largest)
            days = before.day, after.day
            yield FollowUp(patient_id, before.id, after.id, *days, planned, now, later, cohort.pixel_mm)


def _has_grown(followup: FollowUp) -> bool:
    before, after = int((followup.now.labels > 0).sum()), int((followup.later.labels > 0).sum())
    return followup.now.area_mm2 > 0 < before and followup.ratio >= LEAST_GROWTH and after >= LEAST_GROWTH * before


def latest_followup(cohort: Cohort, patient_id: str) -> FollowUp | None:
    """The latest of a patient's grown_followups.

    Without one: the last scan where its tumour is largest, not is_known; None where it shows no tumour.
    """
    sessions = cohort.sessions(patient_id)
    grown = grown_followups(cohort, patient_id, len(sessions))
    if grown:
        return max(grown, key=lambda one: one.later_day)
    plan = plan_patient(cohort, patient_id, 1)
    if not plan.slices:
        return None
    (planned,), last = plan.slices, sessions[-1]
    now = cohort.slice(patient_id, last.id, planned.index)
    return FollowUp(patient_id, last.id, last.id, last.day, last.day, planned, now, now, cohort.pixel_mm)


def followed_patients(cohort: Cohort) -> list[str]:
    """The patients with two scans or more, in the order of the file. Raises InputError if there is none."""
    names = [name for name in cohort.patient_ids() if len(cohort.sessions(name)) > 1]
    if not names:
        raise InputError(f"{cohort.path}: no patient has two scans, and so a later one to judge by; give one that has")
    return names


def last_followups(cohort: Cohort, patient_id: str, slices: int | None) -> tuple[FollowUp, ...]:
    """The last scan and the one before, in the slices with most tumour before, at most `slices`, that both have.

    Raises InputError if there is none.
    """
    known = cohort.before_last_scan()
    plan = plan_patient(known, patient_id, slices)
    if not plan.slices:
        raise InputError(f"{cohort.path}: the last scan but one of {patient_id} shows no tumour; give scans with masks")
    followups = tuple(_last(cohort, known, patient_id, plan.slices))
    if not followups:
        numbers = ", ".join(str(planned.source_slice) for planned in plan.slices)
        raise InputError(
            f"{cohort.path}: the last scan of {patient_id} has no slice {numbers} with a mask, where the "
            "tumour was largest before; prepare the cohort with --slices all"
        )
    return followups


def counterparts(cohort: Cohort, followups: Sequence[FollowUp]) -> tuple[FollowUp, ...]:
    """The same slices of the same last scans as last_followups found in another cohort file.

    Raises InputError if they are not here, or have another mask or grid.
    """
    patient_id, first, known = followups[0].patient_id, followups[0], cohort.before_last_scan()
    before, after = known.sessions(patient_id)[-1], cohort.sessions(patient_id)[-1]
    found = [(before.id, before.day), (after.id, after.day)]
    if found != [(first.session_id, first.day), (first.later_id, first.later_day)]:
        raise InputError(
            f"{cohort.path}: the last scans of {patient_id} are {found}, and not those of the other cohort, "
            f"{first.session_id} of day {first.day:g} and {first.later_id} of day {first.later_day:g}; "
            "prepare both from the same scans"
        )
    numbers = [one.planned.source_slice for one in followups]
    planned = [PlannedSlice(int(index), n) for n in numbers for index in np.flatnonzero(before.source_slice == n)]
    same = tuple(_last(cohort, known, patient_id, planned))
    if not same_slices(same, followups):
        raise InputError(
            f"{cohort.path}: slices {numbers} of {patient_id} are missing, or have other masks or another grid "
            "than in the other cohort; prepare both with the same --image-size and --slices"
        )
    return same


def _last(cohort: Cohort, known: Cohort, patient_id: str, slices: Sequence[PlannedSlice]) -> Iterator[FollowUp]:
    """Those of the slices that the last scan has too, with a mask."""
    before, after = known.sessions(patient_id)[-1], cohort.sessions(patient_id)[-1]
    days = before.day, after.day
    for planned in slices:
        for index in np.flatnonzero((after.source_slice == planned.source_slice) & np.isfinite(after.area_mm2)):
            now = known.slice(patient_id, before.id, planned.index)
            later = cohort.slice(patient_id, after.id, int(index))
            yield FollowUp(patient_id, before.id, after.id, *days, planned, now, later, cohort.pixel_mm)


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
            f"{cohort.path}: none of the {counted(len(names), 'patient')} of {archive.path} ({_some(names)}) is "
            "among its "
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


def archive_followups(
    archive: MapArchive, cohort: Cohort, patient: PatientForecast, later: LaterScan
) -> Iterator[tuple[SliceForecast, FollowUp]]:
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
            yield forecast, _archived(patient, info, forecast, truth)


def _check_grid(archive: MapArchive, cohort: Cohort, forecast: SliceForecast, truth: CohortSlice) -> None:
    same = forecast.labels.shape == truth.labels.shape and np.allclose(
        forecast.affine, truth.affine, rtol=0.0, atol=AFFINE_TOLERANCE_MM
    )
    if not same:
        raise InputError(
            f"different grids: {archive.path} has {_grid_of(forecast)}, {cohort.path} has {_grid_of(truth)}; "
            "register the scans to one grid, and prepare both with the same --image-size"
        )


def _grid_of(one: SliceForecast | CohortSlice) -> str:
    rows, columns = one.labels.shape
    return f"{rows} x {columns} pixels, affine {_rounded(one.affine)}"


def _rounded(affine: FloatArray) -> list[list[Any]]:
    rounded: list[list[Any]] = np.round(affine[:3], 2).tolist()
    return rounded


def _archived(patient: PatientForecast, info: SessionInfo, forecast: SliceForecast, truth: CohortSlice) -> FollowUp:
    """The present slice is that of the archive; its index in the cohort it came from is not known, and not needed."""
    pixel_mm = pixel_size_mm(forecast.affine)
    now = CohortSlice(
        forecast.image,
        forecast.labels,
        forecast.brain,
        forecast.affine,
        float(forecast.present_mm2),
        float(forecast.brain.sum() * pixel_mm**2),
        int(forecast.source_slice),
    )
    planned = PlannedSlice(0, int(forecast.source_slice))
    days = patient.day, info.day
    return FollowUp(patient.patient_id, patient.session_id, info.id, *days, planned, now, truth, pixel_mm)
