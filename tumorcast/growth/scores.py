"""Scores of forecasts that are given as quantiles. All are in the unit of y = log(v + 100 mm³), and smaller is better.

quantiles: (C, Q) of C forecasts at levels: (Q,); observed: (C,) the y that came. None may be missing: a forecast that
has no quantiles is left out before.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def dense_levels(count: int = 200) -> Array:
    """(count,) levels spread evenly, at the middle of their cells, so that a mean over them is an integral over 0 … 1.

    >>> dense_levels(4)
    array([0.125, 0.375, 0.625, 0.875])
    """
    return np.asarray((np.arange(count) + 0.5) / count, dtype=np.float64)


def crps(quantiles: Array, levels: Array, observed: Array) -> Array:
    """(C,) continuous ranked probability score, as twice the mean pinball loss (Gneiting & Ranjan 2011, eq. 7).

    2 ∫₀¹ (1[o < q(τ)] - τ) (q(τ) - o) dτ; levels should be dense_levels: with few of them the score is coarse.
    >>> crps(np.zeros((1, 200)), dense_levels(), np.array([-3.0])).round(6)  # a point forecast: the absolute error
    array([3.])
    """
    error = observed[:, None] - quantiles
    return np.asarray(2 * np.mean(np.maximum(levels * error, (levels - 1) * error), axis=1), dtype=np.float64)


def absolute_errors(medians: Array, observed: Array) -> Array:
    """(C,) |median - observed| of medians: (C,).

    >>> absolute_errors(np.array([9.0, 8.0]), np.array([9.5, 8.0]))
    array([0.5, 0. ])
    """
    return np.asarray(np.abs(medians - observed), dtype=np.float64)


def coverage(low: Array, high: Array, observed: Array) -> float:
    """The share of what came that lies within [low, high], ends included, each (C,).

    >>> coverage(np.array([8.0, 8.0]), np.array([9.0, 9.0]), np.array([9.0, 9.5]))
    0.5
    """
    return float(np.mean((low <= observed) & (observed <= high)))


def median_width(low: Array, high: Array) -> float:
    """The median over forecasts of high - low, each (C,).

    >>> median_width(np.array([8.0, 8.0, 8.0]), np.array([9.0, 9.5, 12.0]))
    1.5
    """
    return float(np.median(high - low))
