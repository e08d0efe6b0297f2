"""Who forecasts a size: the forecasters of `tumorcast fit` on one prior, the patient alone, and a straight line."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt

from tumorcast.growth.heldout import HeldOutForecast, forecast_scan
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.population.history import log_sizes, to_log
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, SizeSeries

Floats = npt.NDArray[np.float64]

LARGEST_MM3 = 1.5e6  # a brain: a straight line is followed no further


class SizeMethod(StrEnum):
    """Who forecasts. ALONE: the growth law fitted to the patient alone, as in the paper, without a population.

    PAPER: the paper's own fit, faults included. LINE: a straight line through ln size of the last two scans; it has no
    interval.
    """

    POOLED = "pooled"
    MECHANISTIC = "mechanistic"
    ALONE = "alone"
    PAPER = "paper"
    PERSISTENCE = "persistence"
    LINE = "line"

    @property
    def told(self) -> str:
        """The method in the words of a table."""
        return TOLD[self]


TOLD = {
    SizeMethod.POOLED: "**pooled**",
    SizeMethod.MECHANISTIC: "growth law with a population",
    SizeMethod.ALONE: "growth law, the patient alone",
    SizeMethod.PAPER: "the paper's fit, faults included",
    SizeMethod.PERSISTENCE: "persistence, calibrated",
    SizeMethod.LINE: "straight line, last two scans",
}


@dataclass(frozen=True)
class SizeForecasts:
    """One scan forecast by several methods from the same earlier ones.

    scan: the scan, as the pooled forecaster has it. said: (200,) y at forecast.LEVELS by method; of LINE, which has no
    interval, (1,).
    """

    scan: HeldOutForecast
    said: dict[SizeMethod, Floats]


def forecast_by(
    methods: Sequence[SizeMethod], model: GrowthModel, series: SizeSeries, place: int, first: int = 0
) -> SizeForecasts:
    """The scan at `place` forecast from those of `first` … place - 1. model: its settings and prior are used."""
    scan = forecast_scan(replace(model, forecaster=Forecaster.POOLED), series, place, first)
    assert scan.persistence_log_quantiles is not None, "a model with a prior"
    said: dict[SizeMethod, Floats] = {}
    for method in methods:
        match method:
            case SizeMethod.POOLED:
                said[method] = scan.log_quantiles
            case SizeMethod.PERSISTENCE:
                said[method] = scan.persistence_log_quantiles
            case SizeMethod.LINE:
                said[method] = np.array([straight_line(series.part(first, place), scan.day)])
            case SizeMethod.MECHANISTIC | SizeMethod.ALONE | SizeMethod.PAPER:
                said[method] = forecast_scan(_growth_law(method, model), series, place, first).log_quantiles
            case _:
                assert_never(method)
    return SizeForecasts(scan, said)


def _growth_law(method: SizeMethod, model: GrowthModel) -> GrowthModel:
    """The growth law alone: with the model's prior, without one, or as the paper fits it."""
    if method is SizeMethod.MECHANISTIC:
        return replace(model, forecaster=Forecaster.MECHANISTIC)
    settings = model.settings
    if method is SizeMethod.PAPER:
        told = {"replicates": settings.replicates, "seed": settings.seed, "law": settings.law}
        settings = FitSettings.paper().model_copy(update=told)
    return GrowthModel(settings, Forecaster.MECHANISTIC, fixed_prior(None))


def straight_line(known: SizeSeries, day: float) -> float:
    """y on a day by the line through the last two y, at most that of LARGEST_MM3, at least of none; one scan persists.

    >>> told = straight_line(SizeSeries("P", "a_mm3", np.array([0.0, 10.0]), np.array([900.0, 1900.0])), 20.0)
    >>> round(float(np.exp(told)) - 100.0, 6)
    3900.0
    """
    y = to_log(known.sizes, known.size_name)
    slope = float(np.diff(y[-2:])[0] / np.diff(known.days[-2:])[0]) if known.days.size > 1 else 0.0
    limits = log_sizes(np.array([0.0, LARGEST_MM3]))
    return float(np.clip(y[-1] + slope * (day - known.days[-1]), *limits))
