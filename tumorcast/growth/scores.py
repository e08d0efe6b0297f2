"""How good a forecast given as quantiles is. All are in the unit of y = log(v + 100 mm³), and smaller is better.

quantiles: (C, Q) of C forecasts at levels: (Q,); truth: (C,) what came.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tumorcast.growth.population.history import Case, History, next_scan_cases

Array = npt.NDArray[np.float64]


def dense_levels(count: int = 200) -> Array:
    """(count,) levels spread evenly, at the middle of their cells, so that a mean over them is an integral over 0 … 1.

    >>> dense_levels(4)
    array([0.125, 0.375, 0.625, 0.875])
    """
    return np.asarray((np.arange(count) + 0.5) / count, dtype=np.float64)


def rolling_cases(histories: Sequence[History]) -> list[Case]:
    """Every scan that has two earlier ones, forecast from all that came before it."""
    return next_scan_cases(histories, earlier=2)


def last_cases(histories: Sequence[History]) -> list[Case]:
    """The last scan of every patient with three or more, forecast from all that came before it."""
    final = {case.patient: case for case in rolling_cases(histories)}
    return list(final.values())


def crps(quantiles: Array, levels: Array, truth: Array) -> Array:
    """(C,) continuous ranked probability score, as twice the mean pinball loss (Gneiting & Ranjan 2011, eq. 7).

    levels should be dense_levels; with few of them the score is coarse.
    >>> crps(np.zeros((1, 200)), dense_levels(), np.array([-3.0])).round(6)  # a point forecast: the absolute error
    array([3.])
    """
    error = truth[:, None] - quantiles
    return np.asarray(2 * np.mean(np.maximum(levels * error, (levels - 1) * error), axis=1), dtype=np.float64)


def absolute_errors(medians: Array, truth: Array) -> Array:
    """(C,) of the medians: (C,)."""
    return np.asarray(np.abs(medians - truth), dtype=np.float64)


def coverage(low: Array, high: Array, truth: Array) -> float:
    """The share of truths within [low, high], each (C,)."""
    return float(np.mean((low <= truth) & (truth <= high)))


def median_width(low: Array, high: Array) -> float:
    """The median over forecasts of high - low, each (C,)."""
    return float(np.median(high - low))


def ratio_interval(
    scores: Array, reference: Array, patients: Sequence[int], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of mean(scores) / mean(reference), each (C,): patients are drawn, with all their cases."""
    _, index = np.unique(np.asarray(patients), return_inverse=True)
    sums, reference_sums = np.bincount(index, scores), np.bincount(index, reference)
    drawn = np.random.default_rng(seed).integers(0, sums.size, (draws, sums.size))
    low, high = np.quantile(sums[drawn].sum(axis=1) / reference_sums[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)
