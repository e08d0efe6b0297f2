"""Figures over patients, with intervals: a patient is the unit, and counts once however many pairs of scans it has.

Arrays are (P,), a value a patient, NaN where a patient has none. Intervals are 95 % percentile bootstrap intervals of
RESAMPLES resamples of the patients, from a fixed seed.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval [low, high], NaN of fewer than two patients. patients: how many have it."""

    value: float
    low: float
    high: float
    patients: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def told(self, digits: int, *, signed: bool = False) -> str:
        """The figure and its interval, where there are any.

        >>> Estimate(0.25, 0.125, 0.5, 9).told(2), Estimate(0.5, float("nan"), float("nan"), 1).told(1, signed=True)
        ('0.25 [0.12, 0.50]', '+0.5')
        """
        if self.patients == 0:
            return "–"
        form = f"{'+' if signed else ''}.{digits}f"
        interval = "" if np.isnan(self.low) else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.value:{form}}{interval}"


@dataclass(frozen=True)
class Difference:
    """Of two methods, paired over patients. p: of Wilcoxon's signed-rank test, 1 where no patient differs."""

    estimate: Estimate
    p: float


def mean_of(values: Floats) -> Estimate:
    """The mean over patients."""
    return estimate(known(values), np.mean)


def median_of(values: Floats) -> Estimate:
    """The median over patients."""
    return estimate(known(values), np.median)


def known(values: Floats) -> Floats:
    """The values that are no NaN."""
    return values[~np.isnan(values)]


def estimate(values: npt.NDArray[Any], statistic: Callable[..., Any]) -> Estimate:
    """A statistic of values (P, …), one row a patient; it takes `axis`, the patients'.

    A statistic that some resamples do not have, NaN, has no interval.
    """
    if len(values) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    value = float(statistic(values, axis=0))
    if len(values) == 1:
        return Estimate(value, float("nan"), float("nan"), 1)
    rows = np.arange(len(values))
    with warnings.catch_warnings(action="ignore", category=stats.DegenerateDataWarning):  # the interval is NaN then
        found = stats.bootstrap(
            (rows,),
            lambda picks, axis: statistic(values[np.moveaxis(picks, axis, 0)], axis=0),
            n_resamples=RESAMPLES,
            batch=1000,
            vectorized=True,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(SEED),
        )
    low, high = found.confidence_interval
    return Estimate(value, float(low), float(high), len(values))


def difference(ours: Floats, other: Floats) -> Difference:
    """ours - other, over the patients that have both."""
    differences = known(ours - other)
    if differences.size == 0:
        return Difference(mean_of(differences), float("nan"))
    p = float(stats.wilcoxon(differences).pvalue) if np.any(differences != 0) else 1.0
    return Difference(mean_of(differences), p)
