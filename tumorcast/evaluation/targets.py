"""Sizes that members aim at in an evaluation: the true later one, or one forecast from the scans so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, assert_never

import numpy as np

from tumorcast.data.cohort import Cohort, SizeMeasure
from tumorcast.durable import sha256_of
from tumorcast.errors import InputError
from tumorcast.evaluation.followup import FollowUp, TargetSize, area_ratio
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.prior import SHIPPED, shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, SizeSeries
from tumorcast.settings import ForecastSettings

LARGEST_RATIO = 21.0  # what `--relative-change` allows


def targets_from_past(
    growth: GrowthModel, series: SizeSeries, settings: ForecastSettings, *, day: float, later_day: float
) -> PatientTargets:
    """Sizes drawn for `later_day` from a fit of the scans up to `day`, and of no later one.

    series: all known sizes of the patient; settings: members and seed, its own target is not used. Raises InputError if
    no scan is of `day`.
    """
    known = series.part(0, int(np.searchsorted(series.days, day, side="right")))
    horizon = {"horizon_days": later_day - day, "relative_change": None}
    return PatientTargets.drawn(growth.forecast(known), day, settings.model_copy(update=horizon))


@dataclass(frozen=True)
class TargetDraw:
    """What the forecasts of one patient aim at. settings: with the change, or the days ahead, that are asked for."""

    settings: ForecastSettings
    draw: Callable[[ForecastSettings], PatientTargets]


@dataclass(frozen=True)
class TargetSource:
    """Where target sizes come from. growth: fits and forecasts them for TargetSize.FORECAST, from the scans before
    the last alone.
    """

    target: TargetSize
    growth: GrowthModel
    size: SizeMeasure = SizeMeasure.VOLUME_MM3

    @classmethod
    def shipped(cls, target: TargetSize) -> Self:
        """Sizes are forecast by the default forecaster with the prior that tumorcast has with it."""
        return cls(target, GrowthModel(FitSettings(), Forecaster.COMBINED, fixed_prior(shipped_prior())))

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        if self.target is TargetSize.TRUE:
            return {"target": str(self.target)}
        growth = {"forecaster": str(self.growth.forecaster), "fit": self.growth.settings.model_dump(mode="json")}
        return {"target": str(self.target), "size": str(self.size), "prior_sha256": sha256_of(SHIPPED), **growth}

    def check(self, cohort: Cohort) -> None:
        """Raises InputError where sizes are to be forecast, and the scans have no dates."""
        if self.target is TargetSize.FORECAST and not cohort.dated:
            raise InputError(
                f"{cohort.path}: its scans have no dates, so sizes cannot be forecast; prepare it with --clinical, or "
                "aim at the true later size (--target truth)"
            )

    def of(self, cohort: Cohort, followups: Sequence[FollowUp], base: ForecastSettings) -> TargetDraw:
        """What a patient's forecasts aim at. cohort: of which the last scan is not looked at.

        Raises InputError for a true size that cannot be aimed at, or where no size is known to forecast from.
        """
        first = followups[0]
        match self.target:
            case TargetSize.TRUE:
                return _true_size(followups, base)
            case TargetSize.FORECAST:
                days = {"horizon_days": first.later_day - first.day, "relative_change": None}
                forecast = self._growth_forecast(cohort.before_last_scan(), first.patient_id)
                settings = base.model_copy(update=days)
                return TargetDraw(settings, lambda one: PatientTargets.drawn(forecast, first.day, one))
            case _:
                assert_never(self.target)

    def _growth_forecast(self, known: Cohort, patient_id: str) -> GrowthForecast:
        series = known.size_series(patient_id, self.size)
        if not series.days.size:
            raise InputError(
                f"{known.path}: {patient_id} has no known {self.size} before the last scan, so none can be forecast; "
                "aim at the true later size (--target truth)"
            )
        return self.growth.forecast(series)


def _true_size(followups: Sequence[FollowUp], base: ForecastSettings) -> TargetDraw:
    ratio = area_ratio(followups)
    if not 0 < ratio <= LARGEST_RATIO:
        raise InputError(
            f"{followups[0].patient_id}: the tumour's area comes to {ratio:g} times that before, and a "
            f"forecast aims at more than 0 and at most {LARGEST_RATIO:g} times; leave the patient out"
        )
    change = {"horizon_days": None, "relative_change": ratio - 1}
    return TargetDraw(base.model_copy(update=change), PatientTargets.fixed)
