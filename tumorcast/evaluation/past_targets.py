"""Sizes to aim at as a forecast would have had them on a past day, whatever scans came after it."""

import numpy as np

from tumorcast.forecasting.targets import PatientTargets
from tumorcast.growth.model import GrowthModel
from tumorcast.records import SizeSeries
from tumorcast.settings import ForecastSettings


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
