"""A cohort in which each patient's last scan is hidden, and the pairs by which what was made without it is judged."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, assert_never

import h5py
import numpy as np

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort, SessionInfo, SizeMeasure
from tumorcast.durable import sha256_of
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.comparison import TargetMode
from tumorcast.evaluation.experiments.cases import spread_evenly
from tumorcast.evaluation.experiments.folder import unit_name
from tumorcast.evaluation.followup import AFFINE_TOLERANCE_MM
from tumorcast.evaluation.pairs import Pair
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.plan import PatientPlan, PlannedSlice, Unit, plan_patient
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.model import GrowthModel, fixed
from tumorcast.growth.prior import SHIPPED, shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster
from tumorcast.settings import ForecastSettings

LARGEST_RATIO = 21.0  # what `--relative-change` allows


class KnownCohort(Cohort):
    """A cohort file as it was before each patient's last scan, of which nothing can be read.

    What was done to the patient in between is taken as planned, and so as known.
    """

    def sessions(self, patient_id: str) -> list[SessionInfo]:
        """The patient's scans but the last, in the order of days."""
        return super().sessions(patient_id)[:-1]

    def _session(self, patient_id: str, session_id: str) -> h5py.Group:
        """Every reading of a scan comes here. Raises ValueError for the hidden one."""
        if session_id not in {info.id for info in self.sessions(patient_id)}:
            raise ValueError(f"{patient_id}, session {session_id}: not known before the last scan")
        return super()._session(patient_id, session_id)


def check_levels(engine: Engine, levels: Iterable[int]) -> None:
    """Raises UsageError if a noise level is higher than the model was trained for."""
    known, highest = engine.info.noise_levels, max(levels)
    if highest > known:
        raise UsageError(
            f"noise_level = {highest} exceeds the {known} levels that the model was trained for; give lower ones in "
            "--config or --grid"
        )


@dataclass(frozen=True)
class Followed:
    """A patient's slices before and at the last scan. plan: of the last known scan; pairs: one a slice of the plan."""

    plan: PatientPlan
    pairs: tuple[Pair, ...]

    @property
    def ratio(self) -> float:
        """The later tumour's area over the present one's, of all slices together."""
        return sum(pair.later.area_mm2 for pair in self.pairs) / sum(pair.now.area_mm2 for pair in self.pairs)

    @property
    def day(self) -> float:
        """Of the scan that is forecast from."""
        return self.pairs[0].day

    @property
    def later_day(self) -> float:
        """Of the scan that is the truth."""
        return self.pairs[0].later_day

    def matches(self, other: "Followed") -> bool:
        """Whether both are the same slices, with the same masks on the same grid."""
        return len(self.pairs) == len(other.pairs) and all(map(_same, self.pairs, other.pairs))

    def forecast(self, engine: Engine, targets: PatientTargets, settings: ForecastSettings) -> list[SliceForecast]:
        """An ensemble of each slice, in the order of the pairs."""
        unit = Unit(self.plan.patient_id, self.plan.session_id, self.plan.slices, 0, 0, settings.members)
        return list(forecast_unit(unit, [pair.now for pair in self.pairs], targets, engine, settings).values())


def _same(a: Pair, b: Pair) -> bool:
    return a.planned.source_slice == b.planned.source_slice and all(
        np.array_equal(one.labels > 0, two.labels > 0) and np.allclose(one.affine, two.affine, atol=AFFINE_TOLERANCE_MM)
        for one, two in ((a.now, b.now), (a.later, b.later))
    )


@dataclass(frozen=True)
class FollowedCohort:
    """One cohort file, read twice: `known` for all that makes something, `truth` for what judges it."""

    known: KnownCohort
    truth: Cohort

    @classmethod
    def open(cls, path: Path, stack: ExitStack) -> Self:
        """The file, closed with the stack. Raises InputError if no patient has two scans."""
        found = cls(stack.enter_context(KnownCohort.open(path)), stack.enter_context(Cohort.open(path)))
        if not found.units(None):
            raise InputError(f"{path}: no patient has two scans, and so a later one to judge by; give one that has")
        return found

    def units(self, count: int | None) -> dict[str, str]:
        """By unit, the patients with two scans or more, in the order of the file; `count`, spread evenly, or all."""
        names = [name for name in self.truth.patient_ids() if self.known.sessions(name)]
        return {unit_name(name): name for name in spread_evenly(names, count)}

    def follow(self, patient_id: str, slices: int) -> Followed:
        """The slices with most tumour of the last known scan, at most `slices`, those that the last scan has too.

        Raises InputError if there is none.
        """
        plan = plan_patient(self.known, patient_id, slices)
        if not plan.slices:
            raise InputError(
                f"{self.truth.path}: the last scan but one of {patient_id} shows no tumour; give scans with masks"
            )
        pairs = tuple(self._pairs(patient_id, self.known.sessions(patient_id)[-1], plan.slices))
        if not pairs:
            numbers = ", ".join(str(place.source_slice) for place in plan.slices)
            raise InputError(
                f"{self.truth.path}: the last scan of {patient_id} has no slice {numbers} with a mask, where the "
                "tumour was largest before; prepare the cohort with --slices all"
            )
        return Followed(PatientPlan(patient_id, plan.session_id, tuple(pair.planned for pair in pairs)), pairs)

    def counterpart(self, other: Followed) -> Followed:
        """The same slices of the same scans as `other`, which was followed in another cohort file.

        Raises InputError if they are not here, or have another mask or grid.
        """
        patient_id, pair = other.plan.patient_id, other.pairs[0]
        known, later = self.known.sessions(patient_id)[-1], self.truth.sessions(patient_id)[-1]
        told = [(known.id, known.day), (later.id, later.day)]
        if told != [(pair.session_id, pair.day), (pair.later_id, pair.later_day)]:
            raise InputError(
                f"{self.truth.path}: the last scans of {patient_id} are {told}, and not those of the other cohort, "
                f"{pair.session_id} of day {pair.day:g} and {pair.later_id} of day {pair.later_day:g}; "
                "prepare both from the same scans"
            )
        numbers = [place.source_slice for place in other.plan.slices]
        places = tuple(
            PlannedSlice(int(index), n) for n in numbers for index in np.flatnonzero(known.source_slice == n)
        )
        found = Followed(PatientPlan(patient_id, known.id, places), tuple(self._pairs(patient_id, known, places)))
        if not found.matches(other):
            raise InputError(
                f"{self.truth.path}: slices {numbers} of {patient_id} are missing, or have other masks or another grid "
                "than in the other cohort; prepare both with the same --image-size and --slices"
            )
        return found

    def _pairs(self, patient_id: str, known: SessionInfo, places: Sequence[PlannedSlice]) -> Iterator[Pair]:
        """Those of the slices that the last scan has too, with a mask."""
        later = self.truth.sessions(patient_id)[-1]
        for place in places:
            for index in np.flatnonzero((later.source_slice == place.source_slice) & np.isfinite(later.area_mm2)):
                now = self.known.slice(patient_id, known.id, place.index)
                then = self.truth.slice(patient_id, later.id, int(index))
                days = known.day, later.day
                yield Pair(patient_id, known.id, later.id, *days, place, now, then, self.truth.pixel_mm)


@dataclass(frozen=True)
class Aim:
    """What the forecasts of one patient aim at. settings: with the change, or the days ahead, that are asked for."""

    settings: ForecastSettings
    draw: Callable[[ForecastSettings], PatientTargets]


@dataclass(frozen=True)
class SizeSource:
    """Whence sizes come. growth: fits and forecasts them for TargetMode.ODE, from the scans before the last alone."""

    mode: TargetMode
    growth: GrowthModel
    size: SizeMeasure = SizeMeasure.VOLUME_MM3

    @classmethod
    def shipped(cls, mode: TargetMode) -> Self:
        """Sizes are forecast by the pooled forecaster with the prior that tumorcast has with it."""
        return cls(mode, GrowthModel(FitSettings(), Forecaster.POOLED, fixed(shipped_prior())))

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        if self.mode is TargetMode.TRUTH:
            return {"target": str(self.mode)}
        told = {"forecaster": str(self.growth.forecaster), "fit": self.growth.settings.model_dump(mode="json")}
        return {"target": str(self.mode), "size": str(self.size), "prior_sha256": sha256_of(SHIPPED), **told}

    def check(self, cohort: Cohort) -> None:
        """Raises InputError where sizes are to be forecast, and the scans have no dates."""
        if self.mode is TargetMode.ODE and not cohort.dated:
            raise InputError(
                f"{cohort.path}: its scans have no dates, so sizes cannot be forecast; prepare it with --clinical, or "
                "aim at the true later size (--target truth)"
            )

    def aim(self, known: Cohort, followed: Followed, base: ForecastSettings) -> Aim:
        """What a patient's forecasts aim at. Raises InputError for a true size that cannot be aimed at."""
        match self.mode:
            case TargetMode.TRUTH:
                return self._aim_at_truth(followed, base)
            case TargetMode.ODE:
                days = {"horizon_days": followed.later_day - followed.day, "relative_change": None}
                forecast = self._growth_forecast(known, followed.plan.patient_id)
                settings = base.model_copy(update=days)
                return Aim(settings, lambda one: PatientTargets.drawn(forecast, followed.day, one))
            case _:
                assert_never(self.mode)

    def _growth_forecast(self, known: Cohort, patient_id: str) -> GrowthForecast:
        series = known.size_series(patient_id, self.size)
        if not series.days.size:
            raise InputError(
                f"{known.path}: {patient_id} has no known {self.size} before the last scan, so none can be forecast; "
                "aim at the true later size (--target truth)"
            )
        return self.growth.forecast(series)

    def _aim_at_truth(self, followed: Followed, base: ForecastSettings) -> Aim:
        if not 0 < followed.ratio <= LARGEST_RATIO:
            raise InputError(
                f"{followed.plan.patient_id}: the tumour's area comes to {followed.ratio:g} times that before, and a "
                f"forecast aims at more than 0 and at most {LARGEST_RATIO:g} times; leave the patient out"
            )
        change = {"horizon_days": None, "relative_change": followed.ratio - 1}
        return Aim(base.model_copy(update=change), PatientTargets.fixed)
