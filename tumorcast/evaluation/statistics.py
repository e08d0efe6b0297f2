"""Estimates over patients with intervals, and paired differences: a patient is the unit, and counts once.

Arrays are (P,), a value a patient, NaN where a patient has none. Intervals are 95 % percentile bootstrap intervals of
RESAMPLES resamples of the patients, from a fixed seed.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
NO_VALUE = "–"


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

    def text(self, digits: int, *, signed: bool = False) -> str:
        """The figure and its interval, where there are any.

        >>> Estimate(0.25, 0.125, 0.5, 9).text(2), Estimate(0.5, float("nan"), float("nan"), 1).text(1, signed=True)
        ('0.25 [0.12, 0.50]', '+0.5')
        """
        if self.patients == 0:
            return NO_VALUE
        form = f"{'+' if signed else ''}.{digits}f"
        interval = "" if np.isnan(self.low) else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.value:{form}}{interval}"


@dataclass(frozen=True)
class Difference:
    """Of two methods, paired over patients. p: of Wilcoxon's signed-rank test, 1 where no patient differs."""

    estimate: Estimate
    p: float

    def text(self, digits: int, *, higher_is_better: bool | None = None, least_patients: int = 2) -> str:
        """The difference with its interval and p; "–" where no patient has both.

        Where it is said what is better: ✔ if the first is better and ✘ if it is worse, the interval excludes zero, and
        there are least_patients.

        >>> Difference(Estimate(0.25, 0.125, 0.5, 9), 0.004).text(2, higher_is_better=False)
        '+0.25 [+0.12, +0.50] ✘, p 0.004'
        """
        found = self.estimate
        if found.patients == 0:
            return NO_VALUE
        is_marked = higher_is_better is not None and found.excludes_zero and found.patients >= least_patients
        mark = f" {'✔' if (found.value > 0) == higher_is_better else '✘'}" if is_marked else ""
        return f"{found.text(digits, signed=True)}{mark}, p {self.p:.2g}"


def patient_mean(values: Sequence[float]) -> float:
    """The mean of a patient's values that are no NaN; NaN where all are."""
    has_value = [value for value in values if not np.isnan(value)]
    return float(np.mean(has_value)) if has_value else float("nan")


def mean_of(values: Floats) -> Estimate:
    """The mean over patients."""
    return estimate(not_nan(values), np.mean)


def median_of(values: Floats) -> Estimate:
    """The median over patients."""
    return estimate(not_nan(values), np.median)


def not_nan(values: Floats) -> Floats:
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
    differences = not_nan(ours - other)
    if differences.size == 0:
        return Difference(mean_of(differences), float("nan"))
    p = float(stats.wilcoxon(differences).pvalue) if np.any(differences != 0) else 1.0
    return Difference(mean_of(differences), p)
