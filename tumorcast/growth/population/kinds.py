"""The kinds of patients among which the state-space mixture weighs: a grid, and curves of a growth law.

kernels/state_space.py says what a kind's columns are.
"""

import math
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import special

from tumorcast.growth.laws import Exponential, Response, row_of, timeline_of
from tumorcast.growth.population.history import SIZE_OFFSET_MM3, CompanionScale, History, companion_excess
from tumorcast.kernels import growth as growth_kernels
from tumorcast.kernels import state_space as kernels
from tumorcast.records import Treatment

Array = npt.NDArray[np.float64]

FLOOR = math.log(SIZE_OFFSET_MM3)  # y where nothing is seen
CEILING = math.log(1e6)  # most of a brain: no tumour is larger, however long a law goes on


def floored(log_sizes: Array) -> Array:
    """(…,) y: (…,), none below that of 0 mm³, which no scan can measure: what any forecast is scored as.

    >>> floored(np.array([3.0, 5.0])).round(3)
    array([4.605, 5.   ])
    """
    return np.asarray(np.maximum(log_sizes, FLOOR), dtype=np.float64)


# The grid of kinds: sd of noise; sd of departures and the days in which they wane; sd of the growth rate per 100 days
# and the days in which it changes (a passing rate, a trend); redraws a year.
NOISE = (0.03, 0.08, 0.2, 0.45, 1.0)
DEPARTURE = (0.03, 0.2, 0.5, 1.0, 1.8)
DEPARTURE_DAYS = (40.0, 250.0, 1500.0)
RATE = (0.03, 0.2, 0.5, 1.2)
RATE_DAYS = (150.0, 2000.0)
REDRAWS = (0.1, 1.0)
# Of those that follow a law: noise, departures that wane in 150 days, and how far the rate is off its curve's.
LAWFUL_NOISE = (0.02, 0.06, 0.15)
LAWFUL_DEPARTURE = (0.02, 0.15)
LAWFUL_REDRAWS = (0.03, 0.3)
LAWFUL_DEPARTURE_DAYS, LAWFUL_RATE = 150.0, 0.15
CURVES = 128
# Mean and sd over law-abiding patients, before any is seen: rate per day, logs of decay rate per day, delay in days,
# slope per day, survival. As estimate_prior.FIRST_PRIOR but for the delay, which is 60 days there: with that a course
# would double most tumours before it shrinks them, and one still to come would be forecast as growth.
CURVE_MEANS = np.array([0.003, *np.log([0.02, 25.0, 0.05, 0.3])])
CURVE_SDS = np.array([0.004, 0.7, 0.6, 0.7, 0.8])
MOST_SURVIVAL = 0.95
LAWFUL_SHARE = 0.3  # at least; costs a patient who follows none at most 0.36 nats


@cache
def grid_of_kinds() -> Array:
    """(K, 7) all kinds, the columns as in the kernels: those without a law first."""
    free = [(*kind, -1.0) for kind in product(NOISE, DEPARTURE, DEPARTURE_DAYS, RATE, RATE_DAYS, REDRAWS)]
    lawful = [
        (noise, departure, LAWFUL_DEPARTURE_DAYS, LAWFUL_RATE, 1.0, redraws, float(curve))
        for noise, departure, redraws, curve in product(LAWFUL_NOISE, LAWFUL_DEPARTURE, LAWFUL_REDRAWS, range(CURVES))
    ]
    return np.array(free + lawful, dtype=np.float64)


def is_lawful(kinds: Array) -> npt.NDArray[np.bool_]:
    """(K,) which of kinds: (K, 7) follow a growth law."""
    return np.asarray(kinds[:, kernels.LAW] >= 0)


@cache
def curves() -> Array:
    """(CURVES, P) rows of the exponential law, spread evenly over what is likely (an additive recurrence)."""
    rates, *logs = CURVE_MEANS[:, None] + CURVE_SDS[:, None] * special.ndtri(spread_points(CURVES, CURVE_MEANS.size)).T
    decay, delay, slope, survival = np.exp(logs)
    responses = [Response(*each) for each in zip(decay, delay, slope, np.minimum(survival, MOST_SURVIVAL), strict=True)]
    return np.array([row_of(Exponential(rate, response), 1.0) for rate, response in zip(rates, responses, strict=True)])


def spread_points(count: int, dimensions: int) -> Array:
    """(count, dimensions) points that fill the unit cube evenly: multiples of the powers of a root, less their whole
    parts, the root being that of x^(dimensions + 1) = x + 1 (Roberts 2018).

    >>> spread_points(2, 1).ravel().round(3)
    array([0.118, 0.736])
    """
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    return np.asarray((0.5 + np.outer(np.arange(1, count + 1), steps)) % 1.0)


def scans_of(
    history: History, companion: CompanionScale | None, ahead_days: Array, *, step_by_step: bool = False
) -> kernels.Scans:
    """The history as the kernels take it, and the days that are forecast, ahead_days: (H,) after the last scan.

    An operation counts for a day that is forecast if it lies after the last scan, or step by step if it lies after the
    day before; of several the last. One on the day of a scan comes after it.
    """
    days = np.append(history.days, history.days[-1] + ahead_days)
    before = np.append(-np.inf, days[:-1])
    if not step_by_step:
        before[history.days.size :] = history.days[-1]
    operation = np.full(days.size, np.inf)
    for day in sorted(history.treatment.resection_days):
        operation[1:] = np.where((before[1:] <= day) & (day < days[1:]), day, operation[1:])
    gaps = np.full(history.days.size, np.nan) if history.companion is None else history.companion - history.log_sizes
    then = operation[np.isfinite(operation)]
    growth, by_rate = (np.zeros((CURVES, days.size + then.size)) for _ in range(2))
    only_rt = Treatment(history.treatment.radiotherapy)
    timeline = timeline_of(only_rt, float(history.days[0]), np.append(days, then))
    growth_kernels.fill_log_growths(growth_kernels.EXPONENTIAL, timeline, curves(), growth, by_rate)
    growth_then, by_rate_then = np.zeros((CURVES, days.size)), np.zeros((CURVES, days.size))
    growth_then[:, np.isfinite(operation)] = growth[:, days.size :]
    by_rate_then[:, np.isfinite(operation)] = by_rate[:, days.size :]
    return kernels.Scans(
        days,
        history.log_sizes,
        companion_excess(companion, gaps),
        operation,
        np.ascontiguousarray(growth[:, : days.size]),
        np.ascontiguousarray(by_rate[:, : days.size]),
        growth_then,
        by_rate_then,
        FLOOR,
    )


def is_nothing(log_sizes: Array) -> npt.NDArray[np.bool_]:
    """(…,) whether so little was measured, below 10 mm³, that it is taken for nothing."""
    return np.asarray(log_sizes <= FLOOR + kernels.NOTHING)


def ceiling_of(history: History) -> float:
    """The y that no forecast exceeds: of most of a brain, or of twice what was measured if that is more."""
    return max(CEILING, float(history.log_sizes.max()) + math.log(2.0))


def first_weights(kinds: Array) -> Array:
    """(K,) before any patient is seen: uniform, and so that those that follow a law have their share."""
    lawful = is_lawful(kinds)
    return np.asarray(np.where(lawful, LAWFUL_SHARE / lawful.sum(), (1 - LAWFUL_SHARE) / (~lawful).sum()))


def with_lawful_share(weights: Array, kinds: Array) -> Array:
    """(K,) weights in which those that follow a law have their share at least, in part spread evenly over them.

    What irregular patients make likely among the laws says little of patients who do follow one.
    """
    lawful = is_lawful(kinds)
    learnt = float(weights[lawful].sum())
    added = np.where(lawful, weights + LAWFUL_SHARE / lawful.sum(), weights)
    share = max(learnt, LAWFUL_SHARE)
    return np.asarray(np.where(lawful, added * share / added[lawful].sum(), added * (1 - share) / added[~lawful].sum()))
