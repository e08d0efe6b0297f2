"""Closed-form tumour size under exponential growth with radiotherapy (arXiv 2509.09610, growth model).

Notation of the paper, generalised to any number of courses k that start at t_k; τ = t - t_k:
    living   A_l(t) = A0 exp(λ (t - t0)) Sⁿ                 n = courses started before t
    dying    A_d,k(t) = (1 - S) A_l(t_k) exp(E(τ))          the cells that course k killed
    E(τ) = (λ_decay / slope) [log cosh(slope·delay) - log cosh(slope (τ - delay))]
    size = A_l + Σ_k A_d,k
Sizes are kept as logarithms until the end: E passes 10⁴ inside the paper's own bounds.

A row of parameters is (λ, λ_decay, delay, slope, S, A0), per day, per day, days, per day, none, unit of size. A0 is the
size on the origin's day, so with no course before the origin this is the paper's model, and a patient first scanned
after radiotherapy needs no size from before it.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled

Array = npt.NDArray[np.float64]

RATE, DECAY_RATE, DELAY, SLOPE, SURVIVAL, INITIAL_SIZE = range(6)
PARAMETERS = 6
SHAPE_PARAMETERS = 5  # all but A0, which only scales
LOG_2 = math.log(2.0)
MAX_EXPONENT = 300.0  # exp(300) is far above any tumour, and its square is still a finite float64


class Timeline(NamedTuple):
    """The patient's clock. origin: the day of A0; courses: (C,) starting days of radiotherapy, in order."""

    origin: float
    courses: Array


@compiled
def log_cosh(x: float) -> float:
    """log cosh x without overflow for large |x| and without cancellation for small."""
    magnitude = abs(x)
    if magnitude < 1.0:
        half = math.sinh(0.5 * magnitude)
        return math.log1p(2.0 * half * half)
    return magnitude - LOG_2 + math.log1p(math.exp(-2.0 * magnitude))


@compiled
def dying_exponent(elapsed: float, row: Array) -> float:
    """E(τ): the log of what is left of killed cells `elapsed` days after their course began."""
    slope, delay = row[SLOPE], row[DELAY]
    return float(row[DECAY_RATE] / slope * (log_cosh(slope * delay) - log_cosh(slope * (elapsed - delay))))


@compiled
def courses_before(day: float, timeline: Timeline) -> int:
    """How many courses started before `day`. On the very day nothing has changed yet."""
    count = 0
    while count < timeline.courses.size and timeline.courses[count] < day:
        count += 1
    return count


@compiled
def log_living(day: float, origin: float, count: int, row: Array) -> float:
    """log A_l / A0 with `count` courses behind."""
    grown = row[RATE] * (day - origin)
    if count > 0:
        grown += count * math.log(row[SURVIVAL])
    return float(grown)


@compiled
def log_dying(day: float, timeline: Timeline, k: int, row: Array) -> float:
    """log A_d,k / A0 of the cells that course `k` killed; -inf where it kills none (S = 1)."""
    if row[SURVIVAL] >= 1.0:
        return -math.inf
    start = timeline.courses[k]
    living = log_living(start, timeline.origin, k, row)
    return living + math.log1p(-row[SURVIVAL]) + dying_exponent(day - start, row)


@compiled
def log_shape(day: float, timeline: Timeline, row: Array) -> float:
    """log size / A0 as if the origin came before every course: the log of the sum over living and dying cells."""
    count = courses_before(day, timeline)
    peak = log_living(day, timeline.origin, count, row)
    total = 1.0
    for k in range(count):
        term = log_dying(day, timeline, k, row)
        if term <= peak:
            total += math.exp(term - peak)
        else:
            total = total * math.exp(peak - term) + 1.0
            peak = term
    return peak + math.log(total)


@compiled
def log_growth(day: float, timeline: Timeline, row: Array) -> float:
    """log of size(day) / A0, where A0 = size(origin)."""
    value = log_shape(day, timeline, row)
    if courses_before(timeline.origin, timeline) == 0:
        return value
    return value - log_shape(timeline.origin, timeline, row)


@compiled
def size_at(day: float, timeline: Timeline, row: Array) -> float:
    """Tumour size on `day`, in the unit of A0; finite for every row (MAX_EXPONENT)."""
    return float(row[INITIAL_SIZE] * math.exp(min(log_growth(day, timeline, row), MAX_EXPONENT)))


@compiled
def fill_sizes(days: Array, timeline: Timeline, row: Array, out: Array) -> None:
    """size_at for each of days: (T,) into out: (T,)."""
    for i in range(days.size):
        out[i] = size_at(days[i], timeline, row)


@compiled
def fill_trajectories(days: Array, timeline: Timeline, rows: Array, out: Array) -> None:
    """fill_sizes for each of rows: (B, 6), into out: (B, T)."""
    for b in range(rows.shape[0]):
        fill_sizes(days, timeline, rows[b], out[b])


@compiled
def fill_changes(day: float, timeline: Timeline, rows: Array, out: Array) -> None:
    """size(day) / size(origin) of each of rows: (B, 6), into out: (B,). A0 cancels, so none is divided by."""
    for b in range(rows.shape[0]):
        out[b] = math.exp(min(log_growth(day, timeline, rows[b]), MAX_EXPONENT))


@compiled
def add_dying_gradient(elapsed: float, k: int, weight: float, row: Array, out: Array) -> None:
    """Add weight · ∂ log A_d,k to out: (5,), all but what the living cells' growth before the course gives."""
    slope, delay, decay, survival = row[SLOPE], row[DELAY], row[DECAY_RATE], row[SURVIVAL]
    before = math.tanh(slope * delay)
    after = math.tanh(slope * (elapsed - delay))
    exponent = dying_exponent(elapsed, row)
    out[DECAY_RATE] += weight * exponent / decay
    out[DELAY] += weight * decay * (before + after)
    out[SLOPE] += weight * (decay * (delay * before - (elapsed - delay) * after) - exponent) / slope
    out[SURVIVAL] += weight * (k / survival - 1.0 / (1.0 - survival))


@compiled
def add_shape_gradient(day: float, timeline: Timeline, sign: float, row: Array, out: Array) -> None:
    """Add sign · ∂ log_shape / ∂ (λ, λ_decay, delay, slope, S) to out: (5,).

    The log of a sum has as its gradient the mean of the terms' gradients, weighted by the terms.
    """
    origin = timeline.origin
    total = log_shape(day, timeline, row)
    count = courses_before(day, timeline)
    share = sign * math.exp(log_living(day, origin, count, row) - total)
    out[RATE] += share * (day - origin)
    out[SURVIVAL] += share * count / row[SURVIVAL]
    if row[SURVIVAL] >= 1.0:
        return
    for k in range(count):
        start = timeline.courses[k]
        share = sign * math.exp(log_dying(day, timeline, k, row) - total)
        out[RATE] += share * (start - origin)
        add_dying_gradient(day - start, k, share, row, out)


@compiled
def fill_jacobian(days: Array, timeline: Timeline, row: Array, sizes: Array, out: Array) -> None:
    """∂ size / ∂ parameters into out: (T, 6). sizes: (T,) as fill_sizes gave them; A0 > 0."""
    shifted = courses_before(timeline.origin, timeline) > 0
    for i in range(days.size):
        out[i, :] = 0.0
        add_shape_gradient(days[i], timeline, 1.0, row, out[i])
        if shifted:
            add_shape_gradient(timeline.origin, timeline, -1.0, row, out[i])
        out[i, INITIAL_SIZE] = 1.0 / row[INITIAL_SIZE]
        for j in range(PARAMETERS):
            out[i, j] *= sizes[i]
