"""Closed-form tumour size under a growth law with treatment, and its derivatives (growth model of arXiv 2509.09610).

Living cells L and, for every course k of radiotherapy at t_k, the cells D_k that it killed:
    dL/dt   = g(L) L - c L          c: chemotherapy's rate, on its days
    g(L)    = λ                     exponential, the paper's
            = λ (1 - L / K)         logistic
            = λ (1 - ln L / ln K)   Gompertz
    at t_k:   D_k = (1 - S^w) L,  L ← S^w L     w: the course's dose weight, 1 unless doses are known
    dD_k/dt = -λ_decay tanh(slope (t - t_k - delay)) D_k
    at a resection: L and every D_k ← ρ L, ρ D_k
    size    = L + Σ_k D_k
L is counted in units of its value when the clock starts (the first scan, or a treatment before it), and so is K: λ is
then the growth rate at that size in every law, and K → ∞ is exponential growth in all. Only living cells crowd each
other, so that every law has a closed form between two events, and a course has the paper's:
    D_k(τ) = D_k(0) exp(E(τ)),  E(τ) = (λ_decay / slope) [log cosh(slope·delay) - log cosh(slope (τ - delay))]
The walk below goes from event to event and carries logarithms, since E passes 10⁴ inside the paper's own bounds,
and their derivatives.

A row of parameters is (λ, λ_decay, delay, slope, S, c, K, A0, ρ₁ … ρ_R): per day, per day, days, per day, none,
per day, none, unit of size, none. A0 is the size on the origin's day, so that a patient first scanned after
radiotherapy needs no size from before it.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled, compiled_inner

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

RATE, DECAY_RATE, DELAY, SLOPE, SURVIVAL, CHEMO_RATE, CAPACITY, INITIAL_SIZE = range(8)
PARAMETERS = 8  # and one a resection after them
EXPONENTIAL, LOGISTIC, GOMPERTZ = range(3)
SCAN, ORIGIN, RADIOTHERAPY, CHEMO_ON, CHEMO_OFF, RESECTION = range(6)
LOG_2 = math.log(2.0)
MAX_EXPONENT = 150.0  # exp(150) is far above any tumour, and its fourth power is still a finite float64


class Timeline(NamedTuple):
    """A patient's events in order of time; on one day, scans come before treatments.

    start: the day the clock starts; scans before it are reached backwards.
    days: (N,); kinds: (N,) SCAN …; values: (N,) a course's dose weight; indices: (N,) which scan, course or resection.
    """

    start: float
    days: Array
    kinds: Integers
    values: Array
    indices: Integers


class State(NamedTuple):
    """Memory of a walk: the cells killed by each of C courses, and derivatives by each of P parameters.

    killed: (C,) log of D_k when the course began, resections since included; began: (C,) days.
    terms, turned, aged: (C,) of the day last observed: the size of D_k, tanh(slope (τ - delay)), E(τ) / λ_decay.
    of_living: (P,); of_killed: (C, P); of_total, of_origin: (P,). All are of logarithms.
    """

    killed: Array
    began: Array
    terms: Array
    turned: Array
    aged: Array
    of_living: Array
    of_killed: Array
    of_total: Array
    of_origin: Array


@compiled
def new_state(courses: int, parameters: int) -> State:
    """Memory for a walk with so many courses and parameters."""
    return State(
        np.empty(courses),
        np.empty(courses),
        np.empty(courses),
        np.empty(courses),
        np.empty(courses),
        np.empty(parameters),
        np.empty((courses, parameters)),
        np.empty(parameters),
        np.empty(parameters),
    )


@compiled_inner
def clear(values: Array) -> None:
    """Set every element to zero; a loop is quicker here than an assignment to a slice."""
    for j in range(values.size):
        values[j] = 0.0


@compiled_inner
def log_cosh_and_slope(x: float) -> tuple[float, float]:
    """log cosh x, without overflow for large |x| and without cancellation for small, and its derivative tanh x."""
    magnitude = abs(x)
    if magnitude > 20.0:  # beyond, exp(-2 |x|) is below the rounding of |x|
        return magnitude - LOG_2, math.copysign(1.0, x)
    decayed = math.exp(-magnitude)
    gone = 1.0 - decayed
    return math.log1p(gone * gone / (2.0 * decayed)), math.copysign(gone * (1.0 + decayed) / (1.0 + decayed**2), x)


@compiled_inner
def grow_exponential(elapsed: float, chemo: float, row: Array, log_living: float, of_living: Array) -> float:
    """Log of L after `elapsed` days; chemo is 1 on chemotherapy's days, else 0."""
    of_living[RATE] += elapsed
    of_living[CHEMO_RATE] -= chemo * elapsed
    return float(log_living + (row[RATE] - chemo * row[CHEMO_RATE]) * elapsed)


@compiled_inner
def mean_growth(x: float) -> tuple[float, float]:
    """φ(x) = (eˣ - 1) / x and the derivative of its logarithm."""
    if abs(x) < 1e-4:
        return 1.0 + x * (0.5 + x / 6.0), 0.5 + x / 12.0
    above = math.expm1(x)
    return above / x, (above + 1.0) / above - 1.0 / x


@compiled_inner
def grow_logistic(elapsed: float, chemo: float, row: Array, log_living: float, of_living: Array) -> float:
    """As grow_exponential: the Bernoulli equation dL/dt = (λ - c) L - (λ/K) L²."""
    rate, capacity = row[RATE], row[CAPACITY]
    net = rate - chemo * row[CHEMO_RATE]
    if net * elapsed > MAX_EXPONENT:
        elapsed = MAX_EXPONENT / net  # capacity was reached long ago
    x = net * elapsed
    phi, slope = mean_growth(x)
    crowding = rate / capacity * math.exp(min(log_living, MAX_EXPONENT)) * phi * elapsed
    share = crowding / (1.0 + crowding)
    for j in range(of_living.size):
        of_living[j] *= 1.0 - share
    through_net = elapsed * (1.0 - share * slope)
    of_living[RATE] += through_net - share / rate
    of_living[CHEMO_RATE] -= chemo * through_net
    of_living[CAPACITY] += share / capacity
    return float(log_living + x - math.log1p(crowding))


@compiled_inner
def grow_gompertz(elapsed: float, chemo: float, row: Array, log_living: float, of_living: Array) -> float:
    """As grow_exponential: d ln L / dt = α (κ - ln L) - c, with κ = ln K and α = λ / κ."""
    kappa = math.log(row[CAPACITY])
    alpha = row[RATE] / kappa
    closed = -math.expm1(min(-alpha * elapsed, MAX_EXPONENT))  # the share of the way to capacity
    left = 1.0 - closed
    gap = kappa - log_living
    mean_days = closed / alpha
    by_alpha = gap * elapsed * left - chemo * row[CHEMO_RATE] * (elapsed * left - mean_days) / alpha
    for j in range(of_living.size):
        of_living[j] *= left
    of_living[RATE] += by_alpha / kappa
    of_living[CHEMO_RATE] -= chemo * mean_days
    of_living[CAPACITY] += (closed - by_alpha * alpha / kappa) / row[CAPACITY]
    return float(log_living + gap * closed - chemo * row[CHEMO_RATE] * mean_days)


@compiled_inner
def grow(law: int, elapsed: float, chemo: float, row: Array, log_living: float, of_living: Array) -> float:
    """Log of L after `elapsed` days without an event; its derivatives are carried along in of_living: (P,)."""
    if law == EXPONENTIAL:
        return grow_exponential(elapsed, chemo, row, log_living, of_living)
    if law == LOGISTIC:
        return grow_logistic(elapsed, chemo, row, log_living, of_living)
    return grow_gompertz(elapsed, chemo, row, log_living, of_living)


@compiled_inner
def irradiate(k: int, day: float, weight: float, row: Array, log_living: float, state: State) -> float:
    """Course k splits L into survivors, whose log is returned, and killed cells, which `state` keeps."""
    survival = row[SURVIVAL]
    log_share = weight * math.log(survival)
    dead = -math.expm1(log_share)
    state.began[k] = day
    state.killed[k] = log_living + math.log(dead) if dead > 0.0 else -math.inf
    for j in range(row.size):
        state.of_killed[k, j] = state.of_living[j]
    if dead > 0.0:
        state.of_killed[k, SURVIVAL] -= weight * math.exp(log_share) / (survival * dead)
    state.of_living[SURVIVAL] += weight / survival
    return log_living + log_share


@compiled_inner
def age_killed(k: int, day: float, delayed: tuple[float, float], row: Array, state: State) -> float:
    """Log of D_k on `day`; what its derivatives share is left in `state`."""
    slope = row[SLOPE]
    after, state.turned[k] = log_cosh_and_slope(slope * (day - state.began[k] - row[DELAY]))
    state.aged[k] = (delayed[0] - after) / slope
    state.terms[k] = state.killed[k] + row[DECAY_RATE] * state.aged[k]
    return float(state.terms[k])


@compiled_inner
def add_killed(k: int, day: float, delayed: tuple[float, float], share: float, row: Array, state: State) -> None:
    """Add share · ∂ log D_k to of_total, after age_killed on the same day."""
    slope, delay, decay, after = row[SLOPE], row[DELAY], row[DECAY_RATE], state.turned[k]
    total = state.of_total
    for j in range(row.size):
        total[j] += share * state.of_killed[k, j]
    total[DECAY_RATE] += share * state.aged[k]
    total[DELAY] += share * decay * (delayed[1] + after)
    turn = delay * delayed[1] - (day - state.began[k] - delay) * after - state.aged[k]
    total[SLOPE] += share * decay * turn / slope


@compiled_inner
def observe(
    day: float, courses: int, delayed: tuple[float, float], row: Array, log_living: float, state: State
) -> float:
    """Log of L + Σ D_k; of_total becomes its derivatives, the mean of the terms' weighted by the terms."""
    peak = log_living
    for k in range(courses):
        peak = max(peak, age_killed(k, day, delayed, row, state))
    living = math.exp(log_living - peak)
    total = living
    for k in range(courses):
        state.terms[k] = math.exp(state.terms[k] - peak)
        total += state.terms[k]
    for j in range(row.size):
        state.of_total[j] = living / total * state.of_living[j]
    for k in range(courses):
        if state.terms[k] > 0.0:
            add_killed(k, day, delayed, state.terms[k] / total, row, state)
    return peak + math.log(total)


@compiled_inner
def cut(index: int, courses: int, row: Array, log_living: float, state: State) -> float:
    """A resection leaves the share ρ of every kind of cell; returns the log of L."""
    column = PARAMETERS + index
    log_left = math.log(row[column])
    state.of_living[column] += 1.0 / row[column]
    for k in range(courses):
        state.killed[k] += log_left
        state.of_killed[k, column] += 1.0 / row[column]
    return log_living + log_left


@compiled_inner
def fill_log_growth(law: int, timeline: Timeline, row: Array, state: State, out: Array, jacobian: Array) -> None:
    """log(size / A0) on the days of the scans into out: (T,), its derivatives into jacobian: (T, P).

    The column of A0 is left at zero.
    """
    delayed = log_cosh_and_slope(row[SLOPE] * row[DELAY])
    log_living, chemo, courses, origin = 0.0, 0.0, 0, 0.0
    previous = timeline.start
    clear(state.of_living)
    clear(state.of_origin)
    for event in range(timeline.days.size):
        day, kind, index = timeline.days[event], timeline.kinds[event], timeline.indices[event]
        if day != previous:
            log_living = grow(law, day - previous, chemo, row, log_living, state.of_living)
        if kind == SCAN:
            out[index] = observe(day, courses, delayed, row, log_living, state)
            for j in range(row.size):
                jacobian[index, j] = state.of_total[j]
        elif kind == ORIGIN:
            origin = observe(day, courses, delayed, row, log_living, state)
            for j in range(row.size):
                state.of_origin[j] = state.of_total[j]
        elif kind == RADIOTHERAPY:
            log_living = irradiate(courses, day, timeline.values[event], row, log_living, state)
            courses += 1
        elif kind == RESECTION:
            log_living = cut(index, courses, row, log_living, state)
        else:
            chemo = 1.0 if kind == CHEMO_ON else 0.0
        previous = day
        if day < timeline.start:  # back to the start of the clock
            log_living, previous = 0.0, timeline.start
            clear(state.of_living)
    for i in range(out.size):
        out[i] = min(out[i] - origin, MAX_EXPONENT)
        for j in range(row.size):
            jacobian[i, j] -= state.of_origin[j]


@compiled
def fill_derivatives(law: int, timeline: Timeline, row: Array, out: Array, jacobian: Array) -> None:
    """fill_log_growth with memory of its own."""
    state = new_state(int(np.sum(timeline.kinds == RADIOTHERAPY)), row.size)
    fill_log_growth(law, timeline, row, state, out, jacobian)


@compiled
def fill_log_growths(law: int, timeline: Timeline, rows: Array, growth: Array, by_rate: Array) -> None:
    """log(size / A0) for each of rows: (B, P), into growth: (B, T), and its derivative by λ into by_rate: (B, T)."""
    state = new_state(int(np.sum(timeline.kinds == RADIOTHERAPY)), rows.shape[1])
    jacobian = np.empty((growth.shape[1], rows.shape[1]))
    for b in range(rows.shape[0]):
        fill_log_growth(law, timeline, rows[b], state, growth[b], jacobian)
        for i in range(growth.shape[1]):
            by_rate[b, i] = jacobian[i, RATE]


@compiled
def fill_sizes(law: int, timeline: Timeline, rows: Array, out: Array) -> None:
    """Sizes on the days of the timeline's scans for each of rows: (B, P), into out: (B, T), in the unit of A0."""
    courses = int(np.sum(timeline.kinds == RADIOTHERAPY))
    state = new_state(courses, rows.shape[1])
    jacobian = np.empty((out.shape[1], rows.shape[1]))
    for b in range(rows.shape[0]):
        fill_log_growth(law, timeline, rows[b], state, out[b], jacobian)
        for i in range(out.shape[1]):
            out[b, i] = rows[b, INITIAL_SIZE] * math.exp(out[b, i])
