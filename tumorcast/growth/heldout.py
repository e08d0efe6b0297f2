"""Forecasts of scans that were held out, each from what came before it, and their scores."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.durable import written_whole
from tumorcast.growth.forecast import LEVELS, GrowthForecast
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.population.history import from_log, to_log
from tumorcast.growth.population.kinds import floored
from tumorcast.growth.population.pool import pooled
from tumorcast.growth.scores import absolute_errors, coverage, crps, median_width
from tumorcast.records import FitStatus, Forecaster, SizeSeries

Array = npt.NDArray[np.float64]

PRINTED_LEVELS = np.arange(5, 100, 5) / 100.0  # q05 … q95
INTERVAL_90 = np.array([0.05, 0.5, 0.95])


class HeldOut(StrEnum):
    """Which scans are held out: every one that has two earlier ones, or each patient's last."""

    ROLLING = "rolling"
    LAST = "last"

    def counts(self, scans: int) -> range:
        """After how many scans of a patient who has so many a forecast of the next is made."""
        match self:
            case HeldOut.ROLLING:
                return range(2, scans)
            case HeldOut.LAST:
                return range(max(scans - 1, 1), scans)


@dataclass(frozen=True)
class HeldOutForecast:
    """One scan that was held out. In the unit of the sizes: observed, persistence (the last size known).

    scans_given: from how many; irregularity: coefficient of variation of the intervals between them and to the target.
    log_quantiles, persistence_log_quantiles: (200,) y = log(v + 100 mm³) at forecast.LEVELS, of the forecaster and of
    calibrated persistence, which is not known without a prior. None is below log(100 mm³), that of no tumour.
    """

    patient_id: str
    day: float
    size_name: str
    observed: float
    persistence: float
    status: FitStatus
    scans_given: int
    irregularity: float
    log_quantiles: Array
    persistence_log_quantiles: Array | None

    @property
    def truth(self) -> float:
        """y of the scan."""
        return float(to_log(np.array(self.observed), self.size_name))

    def quantiles(self, levels: Array) -> Array:
        """(Q,) of the size."""
        return from_log(np.interp(levels, LEVELS, self.log_quantiles), self.size_name)


def forecast_scan(model: GrowthModel, series: SizeSeries, scan: int, first: int = 0) -> HeldOutForecast:
    """The scan of that index forecast from those of `first` … scan - 1. The model's prior must not know the patient."""
    known = series.part(first, scan)
    day, prior = float(series.days[scan]), model.prior_for(series)
    forecast = model.forecast(known)
    reference = GrowthForecast(forecast.fit, prior, Forecaster.PERSISTENCE) if prior else None
    return HeldOutForecast(
        patient_id=series.patient_id,
        day=day,
        size_name=series.size_name,
        observed=float(series.sizes[scan]),
        persistence=float(known.sizes[-1]),
        status=forecast.fit.status,
        scans_given=scan - first,
        irregularity=_irregularity(series.days[first : scan + 1]),
        log_quantiles=floored(forecast.log_quantiles(np.array([day]))[0]),
        persistence_log_quantiles=floored(pooled(reference.contributions(day))) if reference else None,
    )


def forecast_held_out(model: GrowthModel, series: SizeSeries, which: HeldOut) -> list[HeldOutForecast]:
    """All forecasts of one patient."""
    return [forecast_scan(model, series, scan) for scan in which.counts(series.days.size)]


def _irregularity(days: Array) -> float:
    intervals = np.diff(days)
    return float(np.std(intervals) / np.mean(intervals))


def scores(forecasts: Sequence[HeldOutForecast]) -> dict[str, Any]:
    """Scores over forecasts, in y = log(v + 100 mm³); persistence is the calibrated one. None where there is none."""
    truth = np.array([forecast.truth for forecast in forecasts])
    persistence = [forecast.persistence_log_quantiles for forecast in forecasts]
    own = mean_scores(np.array([forecast.log_quantiles for forecast in forecasts]), truth)
    other = mean_scores(np.array([quantiles for quantiles in persistence if quantiles is not None]), truth)
    table: dict[str, Any] = {"scans_scored": len(forecasts)}
    for name, value in own.items():
        table |= {name: value, f"{name}_persistence": other[name]}
    return table


def mean_scores(quantiles: Array, truth: Array) -> dict[str, float | None]:
    """crps, mae, coverage90 and width90 over C forecasts, quantiles: (C, 200) y at forecast.LEVELS, of truth: (C,).

    mae is of the medians, width90 the median of the 90 % intervals'. None where C = 0.
    """
    if not len(quantiles):
        return dict.fromkeys(("crps", "mae", "coverage90", "width90"))
    low, middle, high = (np.array([np.interp(level, LEVELS, row) for row in quantiles]) for level in INTERVAL_90)
    return {
        "crps": float(np.mean(crps(quantiles, LEVELS, truth))),
        "mae": float(np.mean(absolute_errors(middle, truth))),
        "coverage90": coverage(low, high, truth),
        "width90": median_width(low, high),
    }


def write_forecasts(path: Path, forecasts: Sequence[HeldOutForecast]) -> None:
    """A CSV table with a row a forecast: patient_id, day, observed, persistence, status, q05 … q95; sizes as given."""
    names = [f"q{round(100 * level):02d}" for level in PRINTED_LEVELS]
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "day", "observed", "persistence", "status", *names])
        for forecast in forecasts:
            sizes = (f"{size:.10g}" for size in (forecast.observed, forecast.persistence))
            quantiles = (f"{size:.6g}" for size in forecast.quantiles(PRINTED_LEVELS))
            writer.writerow([forecast.patient_id, f"{forecast.day:g}", *sizes, str(forecast.status), *quantiles])
