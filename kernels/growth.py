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

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled

Array = npt.NDArray[np.float64]

RATE, DECAY_RATE, DELAY, SLOPE, SURVIVAL, INITIAL_SIZE = range(6)
PARAMETERS = 6
SHAPE_PARAMETERS = 5  # all but A0, which only scales
LOG_2 = math.log(2.0)
MAX_EXPONENT = 300.0  # exp(300) is far above any tumour, and its square is still a finite float64


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
    return row[DECAY_RATE] / slope * (log_cosh(slope * delay) - log_cosh(slope * (elapsed - delay)))


@compiled
def courses_before(day: float, courses: Array) -> int:
    """How many of the ordered starting days lie before `day`. On the very day nothing has changed yet."""
    count = 0
    while count < courses.size and courses[count] < day:
        count += 1
    return count


@compiled
def log_living(day: float, origin: float, count: int, row: Array) -> float:
    """log A_l / A0 with `count` courses behind."""
    if count == 0:
        return row[RATE] * (day - origin)
    return row[RATE] * (day - origin) + count * math.log(row[SURVIVAL])


@compiled
def log_dying(day: float, origin: float, courses: Array, k: int, row: Array) -> float:
    """log A_d,k / A0 of the cells that course `k` killed; -inf where it kills none (S = 1)."""
    if row[SURVIVAL] >= 1.0:
        return -math.inf
    at_start = log_living(courses[k], origin, k, row)
    return at_start + math.log1p(-row[SURVIVAL]) + dying_exponent(day - courses[k], row)


@compiled
def log_shape(day: float, origin: float, courses: Array, row: Array) -> float:
    """log size / A0 as if the origin came before every course. courses: (C,) starting days in order."""
    count = courses_before(day, courses)
    peak = log_living(day, origin, count, row)
    total = 1.0
    for k in range(count):
        term = log_dying(day, origin, courses, k, row)
        if term <= peak:
            total += math.exp(term - peak)
        else:
            total = total * math.exp(peak - term) + 1.0
            peak = term
    return peak + math.log(total)


@compiled
def log_growth(day: float, origin: float, courses: Array, row: Array) -> float:
    """log of size(day) / A0, where A0 = size(origin)."""
    value = log_shape(day, origin, courses, row)
    if courses.size == 0 or courses[0] >= origin:
        return value
    return value - log_shape(origin, origin, courses, row)


@compiled
def size_at(day: float, origin: float, courses: Array, row: Array) -> float:
    """Tumour size on `day`, in the unit of A0; finite for every row (MAX_EXPONENT)."""
    return row[INITIAL_SIZE] * math.exp(min(log_growth(day, origin, courses, row), MAX_EXPONENT))


@compiled
def fill_sizes(days: Array, origin: float, courses: Array, row: Array, out: Array) -> None:
    """size_at for each of days: (T,) into out: (T,)."""
    for i in range(days.size):
        out[i] = size_at(days[i], origin, courses, row)


@compiled
def fill_trajectories(days: Array, origin: float, courses: Array, rows: Array, out: Array) -> None:
    """fill_sizes for each of rows: (B, 6), into out: (B, T)."""
    for b in range(rows.shape[0]):
        fill_sizes(days, origin, courses, rows[b], out[b])


@compiled
def fill_changes(day_from: float, day_to: float, courses: Array, rows: Array, out: Array) -> None:
    """size(day_to) / size(day_from) of each of rows: (B, 6), into out: (B,). A0 cancels, so none is divided by."""
    for b in range(rows.shape[0]):
        out[b] = math.exp(min(log_growth(day_to, day_from, courses, rows[b]), MAX_EXPONENT))


@compiled
def add_dying_gradient(elapsed: float, at_start: float, k: int, weight: float, row: Array, out: Array) -> None:
    """Add weight · ∂ log A_d,k to out: (5,). at_start: days from the origin to the course's start."""
    slope, delay, decay, survival = row[SLOPE], row[DELAY], row[DECAY_RATE], row[SURVIVAL]
    before = math.tanh(slope * delay)
    after = math.tanh(slope * (elapsed - delay))
    exponent = dying_exponent(elapsed, row)
    out[RATE] += weight * at_start
    out[DECAY_RATE] += weight * exponent / decay
    out[DELAY] += weight * decay * (before + after)
    out[SLOPE] += weight * (decay * (delay * before - (elapsed - delay) * after) - exponent) / slope
    out[SURVIVAL] += weight * (k / survival - 1.0 / (1.0 - survival))


@compiled
def add_shape_gradient(day: float, origin: float, courses: Array, sign: float, row: Array, out: Array) -> None:
    """Add sign · ∂ log_shape / ∂ (λ, λ_decay, delay, slope, S) to out: (5,).

    The log of a sum has as its gradient the mean of the terms' gradients, weighted by the terms.
    """
    total = log_shape(day, origin, courses, row)
    count = courses_before(day, courses)
    share = sign * math.exp(log_living(day, origin, count, row) - total)
    out[RATE] += share * (day - origin)
    out[SURVIVAL] += share * count / row[SURVIVAL]
    if row[SURVIVAL] >= 1.0:
        return
    for k in range(count):
        share = sign * math.exp(log_dying(day, origin, courses, k, row) - total)
        add_dying_gradient(day - courses[k], courses[k] - origin, k, share, row, out)


@compiled
def fill_jacobian(days: Array, origin: float, courses: Array, row: Array, sizes: Array, out: Array) -> None:
    """∂ size / ∂ parameters into out: (T, 6). sizes: (T,) as fill_sizes gave them; A0 > 0."""
    for i in range(days.size):
        out[i, :] = 0.0
        add_shape_gradient(days[i], origin, courses, 1.0, row, out[i])
        if courses.size > 0 and courses[0] < origin:
            add_shape_gradient(origin, origin, courses, -1.0, row, out[i])
        out[i, INITIAL_SIZE] = 1.0 / row[INITIAL_SIZE]
        for j in range(PARAMETERS):
            out[i, j] *= sizes[i]
