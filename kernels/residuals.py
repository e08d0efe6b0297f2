"""The loss of a growth law's fit to one patient's sizes, and its derivatives.

Every free parameter is a coordinate in [0, 1]: linear between its bounds, or logarithmic where
`log_widths` is not 0.

The size A0 enters linearly (its logarithm does, for residuals of logarithms), so it is solved for at every point:
variable projection (Golub & Pereyra 1973; least_squares.py takes the step).

The loss is Σ r² + Σ precision (u - centre)²: residuals r, weighted, and whitened where errors are correlated, and a
normal prior on the coordinates u.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled, compiled_inner
from tumorcast.kernels.growth import (
    INITIAL_SIZE,
    MAX_EXPONENT,
    RADIOTHERAPY,
    State,
    Timeline,
    fill_log_growth,
    new_state,
)

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LOGARITHMS, DIFFERENCES, SQUARES = range(3)  # r = log model - log size; model - size; (model - size)², the paper's


class Problem(NamedTuple):
    """What every replicate shares.

    law: of kernels.growth; start, days, kinds, values, indices: its timeline; row: (P,) values of the fixed parameters;
    free: (F,) columns of the free ones, A0 the last; lower, upper: (F,) of the free ones; log_widths: (F,)
    log(upper / lower) of those that are scaled logarithmically, 0 of the others;
    residual: LOGARITHMS …; whitening: (T, T) lower triangle with r → whitening r, or (0, 0) for none;
    precision: (F,) of the prior on the coordinates; scouts: starts that a few steps are taken from;
    finalists, max_steps: of the descents to the end; promise: what a scout's loss may be over the best, to be followed.
    delay: which free parameter is the delay of the dying cells, -1 where none is; kinks: (K,) increasing coordinates
    of delays at which the dying cells of a course begin to vanish on the day of a scan.
    """

    law: int
    start: float
    days: Array
    kinds: Integers
    values: Array
    indices: Integers
    row: Array
    free: Integers
    lower: Array
    upper: Array
    log_widths: Array
    residual: int
    whitening: Array
    precision: Array
    scouts: int
    finalists: int
    max_steps: int
    promise: float
    delay: int
    kinks: Array


class Data(NamedTuple):
    """One replicate. observed: (T,) sizes or their logarithms; weights: (T,) of squares; centre: (F,) of the prior."""

    observed: Array
    weights: Array
    centre: Array


class Work(NamedTuple):
    """Memory of one thread, so that the loops allocate nothing. T scans, P parameters, F of them free, K starts."""

    state: State
    row: Array  # (P,) parameters
    scale: Array  # (F,) ∂ parameter / ∂ coordinate
    model: Array  # (T,) log(size / A0)
    by_row: Array  # (T, P) derivatives of model
    residuals: Array  # (T,)
    jacobian: Array  # (T, F) ∂ r / ∂ u
    hessian: Array  # (F, F) JᵀJ
    factor: Array  # (F, F)
    gradient: Array  # (F,) Jᵀr
    step: Array  # (F,)
    unit: Array  # (F,) the point of a descent
    trial: Array  # (F,) the point after a step
    best: Array  # (F,) where the best descent ended
    starts: Array  # (K, F)
    losses: Array  # (K,) by which starts are chosen
    reached: Array  # (K,) after the scouts' steps


@compiled
def new_work(problem: Problem, scans: int, starts: int) -> Work:
    """Memory for the problem."""
    p, f = problem.row.size, problem.free.size
    return Work(
        new_state(int(np.sum(problem.kinds == RADIOTHERAPY)), p),
        problem.row.copy(),
        np.empty(f),
        np.empty(scans),
        np.empty((scans, p)),
        np.empty(scans),
        np.empty((scans, f)),
        np.empty((f, f)),
        np.empty((f, f)),
        np.empty(f),
        np.empty(f),
        np.empty(f),
        np.empty(f),
        np.empty(f),
        np.empty((starts, f)),
        np.empty(starts),
        np.empty(starts),
    )


@compiled_inner
def set_parameter(problem: Problem, j: int, u: float, work: Work) -> None:
    """Free parameter j from its coordinate, and its scale."""
    lower, upper = problem.lower[j], problem.upper[j]
    width = problem.log_widths[j]
    if width > 0.0:
        value = lower * math.exp(width * u)
        work.scale[j] = width * value
    else:
        value = lower + (upper - lower) * u
        work.scale[j] = upper - lower
    work.row[problem.free[j]] = upper if u >= 1.0 else min(value, upper)  # rounding must not leave the box


@compiled_inner
def coordinate(problem: Problem, j: int, value: float) -> float:
    """The coordinate of a value of free parameter j, cut back to [0, 1]."""
    lower, upper = problem.lower[j], problem.upper[j]
    value = min(max(value, lower), upper)
    if problem.log_widths[j] > 0.0:
        return float(math.log(value / lower) / problem.log_widths[j])
    return float((value - lower) / (upper - lower))


@compiled_inner
def whiten(problem: Problem, columns: int, work: Work) -> None:
    """r and the first `columns` of J times the whitening matrix, from the last row up, in place."""
    matrix = problem.whitening
    for i in range(matrix.shape[0] - 1, -1, -1):
        total = 0.0
        for k in range(i + 1):
            total += matrix[i, k] * work.residuals[k]
        work.residuals[i] = total
        for j in range(columns):
            total = 0.0
            for k in range(i + 1):
                total += matrix[i, k] * work.jacobian[k, j]
            work.jacobian[i, j] = total


@compiled_inner
def fill_log_residuals(problem: Problem, data: Data, work: Work) -> None:
    """Residuals and derivatives of log sizes, as if A0 were 1."""
    last = problem.free.size - 1
    for i in range(data.observed.size):
        root = math.sqrt(data.weights[i])
        work.residuals[i] = root * (work.model[i] - data.observed[i])
        work.jacobian[i, last] = root
        for j in range(last):
            work.jacobian[i, j] = root * work.by_row[i, problem.free[j]] * work.scale[j]
    if problem.whitening.shape[0] > 0:
        whiten(problem, last + 1, work)


@compiled_inner
def project_log_size(problem: Problem, unit: Array, work: Work) -> None:
    """Solve for log A0, set its coordinate, and add it to the residuals."""
    last = problem.free.size - 1
    along, across = 0.0, 0.0
    for i in range(work.residuals.size):
        along += work.jacobian[i, last] * work.residuals[i]
        across += work.jacobian[i, last] * work.jacobian[i, last]
    wanted = math.exp(min(max(-along / across, -MAX_EXPONENT), MAX_EXPONENT))
    unit[last] = coordinate(problem, last, wanted)
    set_parameter(problem, last, unit[last], work)
    log_size = math.log(work.row[INITIAL_SIZE])
    per_unit = work.scale[last] / work.row[INITIAL_SIZE]
    for i in range(work.residuals.size):
        work.residuals[i] += log_size * work.jacobian[i, last]
        work.jacobian[i, last] *= per_unit


@compiled_inner
def project_size(problem: Problem, data: Data, unit: Array, work: Work) -> None:
    """Solve for A0 where residuals are differences of sizes, and set its coordinate. work.model holds size / A0."""
    last = problem.free.size - 1
    along, across = 0.0, 0.0
    for i in range(data.observed.size):
        along += data.weights[i] * work.model[i] * data.observed[i]
        across += data.weights[i] * work.model[i] * work.model[i]
    unit[last] = coordinate(problem, last, along / across)
    set_parameter(problem, last, unit[last], work)


@compiled_inner
def fill_size_residuals(problem: Problem, data: Data, unit: Array, work: Work) -> None:
    """Residuals and derivatives of sizes, or of their squared errors."""
    last = problem.free.size - 1
    for i in range(data.observed.size):
        work.model[i] = math.exp(work.model[i])
    if problem.residual == DIFFERENCES:
        project_size(problem, data, unit, work)
    size = work.row[INITIAL_SIZE]
    for i in range(data.observed.size):
        root = math.sqrt(data.weights[i])
        error = size * work.model[i] - data.observed[i]
        slope = root * work.model[i]
        if problem.residual == SQUARES:
            slope *= 2.0 * error
            error *= error
        work.residuals[i] = root * error
        work.jacobian[i, last] = slope * work.scale[last]
        for j in range(last):
            work.jacobian[i, j] = slope * size * work.by_row[i, problem.free[j]] * work.scale[j]


@compiled_inner
def evaluate(problem: Problem, data: Data, unit: Array, work: Work) -> float:
    """The loss at unit: (F,), whose last coordinate is solved for; residuals and derivatives are left in `work`."""
    for j in range(problem.free.size):
        set_parameter(problem, j, unit[j], work)
    timeline = Timeline(problem.start, problem.days, problem.kinds, problem.values, problem.indices)
    fill_log_growth(problem.law, timeline, work.row, work.state, work.model, work.by_row)
    if problem.residual == LOGARITHMS:
        fill_log_residuals(problem, data, work)
        project_log_size(problem, unit, work)
    else:
        fill_size_residuals(problem, data, unit, work)
    loss = 0.0
    for i in range(data.observed.size):
        loss += work.residuals[i] * work.residuals[i]
    for j in range(problem.free.size):
        off = unit[j] - data.centre[j]
        loss += problem.precision[j] * off * off
    return loss
