"""Forecasts of a known size by several methods, and their scores.

The methods are the forecasters of `tumorcast fit` on one prior, the growth law of the patient alone, and a straight
line. Errors, widths and scores are in y = log(v + 100 mm³), of volumes or of the spheres of areas, unless named
otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from tumorcast.counted import counted
from tumorcast.errors import InputError
from tumorcast.evaluation.experiments.base import Row, Table, spread_evenly, unit_name
from tumorcast.evaluation.experiments.report_tables import numbers
from tumorcast.evaluation.metrics import COVERAGE_90, DISTANCE, Metric
from tumorcast.growth.forecast import LEVELS
from tumorcast.growth.heldout import INTERVAL_90, HeldOutForecast, forecast_scan
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.population.baselines import line_through, within_a_brain
from tumorcast.growth.population.history import from_log, to_log
from tumorcast.growth.scores import absolute_errors, crps, median_width
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, PatientOutcome, SizeSeries

Floats = npt.NDArray[np.float64]

FEWEST_SCANS = 3  # two to forecast from, and the one that is held out
OUTSIDE_90 = 0.1  # the share that a 90 % interval leaves out


def interval_score(low: float, high: float, truth: float) -> float:
    """Score of the 90 % interval, less is better.

    Formula: its width, and 20 times by how much the truth lies outside, in y.
    Reference: [Gneiting & Raftery 2007](https://doi.org/10.1198/016214506000001437), eq. 43.
    Missing: no value of a point forecast.

    >>> interval_score(1.0, 3.0, 3.5)
    12.0
    """
    return high - low + 2 / OUTSIDE_90 * max(low - truth, truth - high, 0.0)


ERROR = Metric("error", "error, log", 3, False, DISTANCE, absolute_errors)
CRPS = Metric("crps", "CRPS", 3, False, DISTANCE, crps)
COVERED = COVERAGE_90.called("covered", "truth in the 90 % interval")
WIDTH = Metric("width", "width, log", 2, None, DISTANCE, median_width)
INTERVAL_SCORE = Metric("interval_score", "interval score", 2, False, DISTANCE, interval_score)


class SizeMethod(StrEnum):
    """A method that forecasts a size.

    ALONE: the growth law fitted to the patient alone, as in the paper, without a population. PAPER: the paper's own
    fit, faults included. LINE: a straight line through ln size of the last two scans; it has no interval.
    """

    COMBINED = "combined"
    POOLED = "pooled"
    MECHANISTIC = "mechanistic"
    ALONE = "alone"
    PAPER = "paper"
    PERSISTENCE = "persistence"
    LINE = "line"

    @property
    def label(self) -> str:
        """The method in the words of a table."""
        return LABELS[self]

    @property
    def plain_label(self) -> str:
        """The label without the marks that make it bold."""
        return self.label.replace("**", "")


LABELS = {
    SizeMethod.COMBINED: "**combined**",
    SizeMethod.POOLED: "pool",
    SizeMethod.MECHANISTIC: "growth law with a population",
    SizeMethod.ALONE: "growth law, the patient alone",
    SizeMethod.PAPER: "the paper's fit, faults included",
    SizeMethod.PERSISTENCE: "persistence, calibrated",
    SizeMethod.LINE: "straight line, last two scans",
}


@dataclass(frozen=True)
class SizeForecasts:
    """One scan forecast by several methods from the same earlier ones.

    scan: the scan, as the default forecaster has it. quantiles: (200,) y at forecast.LEVELS by method; of LINE, which
    has no interval, (1,).
    """

    scan: HeldOutForecast
    quantiles: dict[SizeMethod, Floats]


def forecast_by(
    methods: Sequence[SizeMethod], model: GrowthModel, series: SizeSeries, target: int, first: int = 0
) -> SizeForecasts:
    """The scan number `target` forecast from those of `first` … target - 1. model: its settings and prior are used."""
    scan = forecast_scan(replace(model, forecaster=Forecaster.COMBINED), series, target, first)
    assert scan.persistence_log_quantiles is not None, "a model with a prior"
    quantiles: dict[SizeMethod, Floats] = {}
    for method in methods:
        match method:
            case SizeMethod.COMBINED:
                quantiles[method] = scan.log_quantiles
            case SizeMethod.POOLED:
                pool = replace(model, forecaster=Forecaster.POOLED)
                quantiles[method] = forecast_scan(pool, series, target, first).log_quantiles
            case SizeMethod.PERSISTENCE:
                quantiles[method] = scan.persistence_log_quantiles
            case SizeMethod.LINE:
                quantiles[method] = np.array([straight_line(series.part(first, target), scan.day)])
            case SizeMethod.MECHANISTIC | SizeMethod.ALONE | SizeMethod.PAPER:
                quantiles[method] = forecast_scan(_growth_law(method, model), series, target, first).log_quantiles
            case _:
                assert_never(method)
    return SizeForecasts(scan, quantiles)


def _growth_law(method: SizeMethod, model: GrowthModel) -> GrowthModel:
    """The growth law alone: with the model's prior, without one, or as the paper fits it."""
    if method is SizeMethod.MECHANISTIC:
        return replace(model, forecaster=Forecaster.MECHANISTIC)
    settings = model.settings
    if method is SizeMethod.PAPER:
        kept = {"replicates": settings.replicates, "seed": settings.seed, "law": settings.law}
        settings = FitSettings.paper().model_copy(update=kept)
    return GrowthModel(settings, Forecaster.MECHANISTIC, fixed_prior(None))


def straight_line(known: SizeSeries, day: float) -> float:
    """y on a day by the line through the last two y, at most that of a brain, at least of none; one scan persists.

    >>> y = straight_line(SizeSeries("P", "a_mm3", np.array([0.0, 10.0]), np.array([900.0, 1900.0])), 20.0)
    >>> round(float(np.exp(y)) - 100.0, 6)
    3900.0
    """
    y = line_through(known.days[-2:], to_log(known.sizes, known.size_name)[-2:], day)
    return float(within_a_brain(np.array(y)))


@dataclass(frozen=True)
class SizeData:
    """The patients of an experiment on sizes.

    provenance: of the sizes, for the record. left_out: patients who could not be read, with reasons. most: at most
    so many units, spread evenly over the patients.
    """

    series: Sequence[SizeSeries]
    provenance: dict[str, Any]
    left_out: Sequence[PatientOutcome] = ()
    most: int | None = None

    def units(self) -> dict[str, SizeSeries]:
        """The patients with FEWEST_SCANS or more, by a name that can be a file's.

        Raises InputError if there are none.
        """
        long_enough = [series for series in self.series if series.days.size >= FEWEST_SCANS]
        if not long_enough:
            raise InputError(
                f"none of {counted(len(self.series), 'patient')} has {FEWEST_SCANS} scans with a known size, two to "
                "forecast from "
                "and one to forecast; give a cohort or a table with more of them"
            )
        return {unit_name(series.patient_id): series for series in spread_evenly(long_enough, self.most)}

    def left_out_table(self) -> list[Table]:
        """Who is not in the tables, and why; empty where all are."""
        few = f"fewer than {FEWEST_SCANS} scans with a known size"
        lines: list[tuple[str, ...]] = [(outcome.patient_id, outcome.reason) for outcome in self.left_out]
        lines += [(series.patient_id, few) for series in self.series if series.days.size < FEWEST_SCANS]
        return [Table("Left out", ("patient", "reason"), lines)] if lines else []


def scored(forecasts: SizeForecasts) -> dict[str, Row]:
    """Each method's forecast and its scores, by its name."""
    scan = forecasts.scan
    return {str(method): _scored(y, scan.truth, scan.size_name) for method, y in forecasts.quantiles.items()}


def _scored(quantiles: Floats, truth: float, size_name: str) -> Row:
    """low, median, high: sizes of the 5, 50 and 95 % quantiles; a point has no interval, and its CRPS is its error."""
    if quantiles.size == 1:
        (point,) = quantiles.tolist()
        return {"median": float(from_log(quantiles, size_name)[0]), "error": point - truth, "crps": abs(point - truth)}
    low, median, high = np.interp(INTERVAL_90, LEVELS, quantiles).tolist()
    sizes = from_log(np.array([low, median, high]), size_name).tolist()
    return {
        **dict(zip(("low", "median", "high"), sizes, strict=True)),
        "error": median - truth,
        "crps": float(crps(quantiles[None], LEVELS, np.array([truth]))[0]),
        "covered": float(low <= truth <= high),
        "width": high - low,
        "interval_score": interval_score(low, high, truth),
    }


def of_method(rows: Iterable[Row], method: SizeMethod, name: str) -> Floats:
    """(P,) a score of a method in rows that have `methods`; NaN where it has none."""
    return numbers(row["methods"].get(str(method), {}).get(name) for row in rows)
