"""Bounded multi-start Levenberg–Marquardt for the growth laws, batched over bootstrap replicates.

Every free parameter is a coordinate in [0, 1]: linear between its bounds, or logarithmic where `log_scaled`. A step
that leaves the box is cut back to its wall, and a coordinate that sits on a wall and pushes outwards is left out of the
next step (projected Levenberg–Marquardt; Kanzow, Yamashita & Fukushima 2004).

The size A0 enters linearly (its logarithm does, for residuals of logarithms), so it is solved for at every point and
its equation is never damped: Kaufman's variable projection (Ruhe & Wedin 1980, algorithm 2), written as a full step.

The loss is Σ r² + Σ precision (u - centre)²: residuals r, weighted, and whitened where errors are correlated, and a
normal prior on the coordinates u.

All replicates of a patient share the scans, so the curves of a catalogue of starts are computed once, and a replicate
descends from those whose curves fit it best. `search`, which fills the catalogue, takes every start a few steps first.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled, compiled_freely, compiled_inner
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
CONVERGED, AT_BOUND, NOT_CONVERGED = range(3)

SCOUT_STEPS = 5
FIRST_DAMPING = 1e-2
MAX_DAMPING = 1e10
TOLERANCE = 1e-6  # relative decrease of the loss below which a step counts as none
QUIET_STEPS = 2  # in a curved valley one small step is no sign of the end
FLOOR = 1e-14  # a loss of less a scan is a curve through all points
WALL = 1e-6  # a coordinate this near to a bound is at it
BOUNCE = 0.3  # how far from its wall a coordinate is moved
NEAR = 0.05  # starts whose coordinates differ by less lead to one end


class Problem(NamedTuple):
    """What every replicate shares.

    law: of kernels.growth; start, days, kinds, values, places: its timeline; row: (P,) values of the fixed parameters;
    free: (F,) columns of the free ones, A0 the last; lower, upper, log_scaled: (F,) of the free ones;
    residual: LOGARITHMS …; whitening: (T, T) lower triangle with r → whitening r, or (0, 0) for none;
    precision: (F,) of the prior on the coordinates; scouts: starts that a few steps are taken from;
    finalists, max_steps: of the descents to the end; promise: what a scout's loss may be over the best, to be followed.
    """

    law: int
    start: float
    days: Array
    kinds: Integers
    values: Array
    places: Integers
    row: Array
    free: Integers
    lower: Array
    upper: Array
    log_scaled: npt.NDArray[np.bool_]
    residual: int
    whitening: Array
    precision: Array
    scouts: int
    finalists: int
    max_steps: int
    promise: float


class Data(NamedTuple):
    """One replicate. observed: (T,) sizes or their logarithms; weights: (T,) of squares; centre: (F,) of the prior."""

    observed: Array
    weights: Array
    centre: Array


class Batch(NamedTuple):
    """B replicates. observed, weights: (B, T); centres: (B, F); results rows: (B, P), losses, statuses: (B,)."""

    observed: Array
    weights: Array
    centres: Array
    rows: Array
    losses: Array
    statuses: Integers


class Catalogue(NamedTuple):
    """K points to start from. units: (K, F) coordinates.

    curves: (K, T) log(size / A0) there less its mean, or size / A0 where residuals are of sizes; no rows where they are
    not known. squares: (K,) Σ curve²; means: (K,) what was taken off.
    """

    units: Array
    curves: Array
    squares: Array
    means: Array


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
    if problem.log_scaled[j]:
        width = math.log(upper / lower)
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
    if problem.log_scaled[j]:
        return float(math.log(value / lower) / math.log(upper / lower))
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
    timeline = Timeline(problem.start, problem.days, problem.kinds, problem.values, problem.places)
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


@compiled_inner
def linearise(problem: Problem, data: Data, unit: Array, work: Work) -> None:
    """JᵀJ and Jᵀr, prior included, where evaluate was last called."""
    for j in range(problem.free.size):
        for k in range(j + 1):
            total = 0.0
            for i in range(work.residuals.size):
                total += work.jacobian[i, j] * work.jacobian[i, k]
            work.hessian[j, k] = total
        total = 0.0
        for i in range(work.residuals.size):
            total += work.jacobian[i, j] * work.residuals[i]
        work.hessian[j, j] += problem.precision[j]
        work.gradient[j] = total + problem.precision[j] * (unit[j] - data.centre[j])


@compiled_inner
def hold_walls(unit: Array, work: Work) -> float:
    """Take coordinates that push against their wall out of the equations. Returns the largest slope left."""
    steepest = 0.0
    for j in range(unit.size):
        slope = work.gradient[j]
        outward = (unit[j] <= 0.0 and slope > 0.0) or (unit[j] >= 1.0 and slope < 0.0)
        if outward or not work.hessian[j, j] > 0.0:
            work.gradient[j] = 0.0
            for k in range(j):
                work.hessian[j, k] = 0.0
            for k in range(j + 1, unit.size):
                work.hessian[k, j] = 0.0
            work.hessian[j, j] = 1.0
        else:
            steepest = max(steepest, abs(slope))
    return steepest


@compiled_inner
def factorise(hessian: Array, damping: float, undamped: int, factor: Array) -> bool:
    """Cholesky factor of JᵀJ + damping · diag(JᵀJ) (Marquardt), equation `undamped` left as it is.

    False where it is not positive definite.
    """
    for j in range(hessian.shape[0]):
        for k in range(j + 1):
            value = hessian[j, k]
            if j == k and j != undamped:
                value *= 1.0 + damping
            for m in range(k):
                value -= factor[j, m] * factor[k, m]
            if j != k:
                factor[j, k] = value / factor[k, k]
            elif value > 0.0:
                factor[j, j] = math.sqrt(value)
            else:
                return False
    return True


@compiled_inner
def solve(factor: Array, gradient: Array, step: Array) -> None:
    """The step with (L Lᵀ) step = -gradient."""
    size = step.size
    for j in range(size):
        value = -gradient[j]
        for k in range(j):
            value -= factor[j, k] * step[k]
        step[j] = value / factor[j, j]
    for j in range(size - 1, -1, -1):
        value = step[j]
        for k in range(j + 1, size):
            value -= factor[k, j] * step[k]
        step[j] = value / factor[j, j]


@compiled_inner
def try_step(problem: Problem, data: Data, damping: float, work: Work) -> float:
    """Loss after the damped step, cut back to the box and left in work.trial; inf where there is none."""
    last = problem.free.size - 1
    undamped = -1 if problem.residual == SQUARES else last
    if not factorise(work.hessian, damping, undamped, work.factor):
        return math.inf
    solve(work.factor, work.gradient, work.step)
    for j in range(problem.free.size):
        work.trial[j] = min(max(work.unit[j] + work.step[j], 0.0), 1.0)
    return evaluate(problem, data, work.trial, work)


@compiled_inner
def descend(problem: Problem, data: Data, steps: int, work: Work) -> tuple[float, bool]:
    """Improve work.unit by at most `steps` steps. Returns the loss and whether it can fall no further."""
    loss = evaluate(problem, data, work.unit, work)
    floor = FLOOR * data.observed.size
    damping = FIRST_DAMPING
    quiet = 0
    for _ in range(steps):
        linearise(problem, data, work.unit, work)
        if loss <= floor or hold_walls(work.unit, work) == 0.0:
            return loss, True
        reached = try_step(problem, data, damping, work)
        while not reached < loss and damping < MAX_DAMPING:
            damping *= 8.0
            reached = try_step(problem, data, damping, work)
        if not reached < loss:
            return loss, True
        quiet = quiet + 1 if loss - reached < TOLERANCE * loss else 0
        damping = max(damping * 0.1, 1e-12)
        copy(work.trial, work.unit)
        loss = reached
        if quiet == QUIET_STEPS:
            return loss, True
    return loss, False


@compiled_inner
def copy(source: Array, target: Array) -> None:
    """Copy every element; a loop is quicker here than an assignment to a slice."""
    for j in range(source.size):
        target[j] = source[j]


@compiled_inner
def take(starts: Array, k: int, unit: Array) -> None:
    """Row k of starts into unit."""
    for j in range(unit.size):
        unit[j] = starts[k, j]


@compiled_inner
def put(unit: Array, k: int, starts: Array) -> None:
    """unit into row k of starts."""
    for j in range(unit.size):
        starts[k, j] = unit[j]


@compiled_inner
def least(losses: Array) -> int:
    """Where the least of losses stands."""
    best = 0
    for k in range(losses.size):
        if losses[k] < losses[best]:
            best = k
    return best


@compiled_inner
def at_wall(unit: Array) -> bool:
    """Whether any free parameter ended at one of its bounds."""
    walls = 0
    for j in range(unit.size):
        walls += not WALL < unit[j] < 1.0 - WALL
    return walls > 0


@compiled_inner
def status_of(unit: Array, converged: bool) -> int:
    """The status of a fit that ended at `unit`."""
    if not converged:
        return NOT_CONVERGED
    return AT_BOUND if at_wall(unit) else CONVERGED


@compiled_inner
def is_near(starts: Array, k: int, unit: Array) -> bool:
    """Whether start k differs from `unit` by less than NEAR in every coordinate but that of A0."""
    apart = 0.0
    for j in range(unit.size - 1):
        apart = max(apart, abs(starts[k, j] - unit[j]))
    return apart < NEAR


@compiled_inner
def drop_near(starts: Array, unit: Array, losses: Array) -> None:
    """Take starts near `unit` out of the race."""
    for k in range(losses.size):
        if losses[k] < math.inf and is_near(starts, k, unit):
            losses[k] = math.inf


@compiled_inner
def scout(problem: Problem, data: Data, count: int, work: Work) -> None:
    """Take a few steps from each of the first `count` of work.starts, in place; their losses into work.reached."""
    for k in range(count):
        take(work.starts, k, work.unit)
        work.reached[k], _ = descend(problem, data, SCOUT_STEPS, work)
        put(work.unit, k, work.starts)
    for k in range(count, work.reached.size):
        work.reached[k] = math.inf


@compiled_inner
def descend_best(problem: Problem, data: Data, work: Work) -> tuple[float, int]:
    """Follow those that the scouts brought furthest to the end, while they promise to do better than the best.

    Returns loss and status of the best, which is left in work.best.
    """
    best, status = math.inf, NOT_CONVERGED
    take(work.starts, 0, work.best)
    for _ in range(problem.finalists):
        k = least(work.reached)
        if (
            work.reached[k] == math.inf
            or work.reached[k] > problem.promise * best
            or best <= FLOOR * data.observed.size
        ):
            break
        take(work.starts, k, work.unit)
        loss, ended = descend(problem, data, problem.max_steps, work)
        work.reached[k] = math.inf
        if loss < best:
            best, status = loss, status_of(work.unit, ended)
            copy(work.unit, work.best)
            drop_near(work.starts, work.best, work.reached)
    return best, status


@compiled_inner
def bounce(problem: Problem, data: Data, loss: float, status: int, work: Work) -> tuple[float, int]:
    """Descend once more from the best, each coordinate that ended at a wall moved inwards; keep what is better.

    At a wall a curve can have lost its slope, as that of a switch so sharp that it falls between two scans.
    """
    if status != AT_BOUND:
        return loss, status
    for j in range(problem.free.size):
        u = work.best[j]
        work.unit[j] = u + BOUNCE if u <= WALL else u - BOUNCE if u >= 1.0 - WALL else u
    reached, ended = descend(problem, data, problem.max_steps, work)
    if reached < loss:
        copy(work.unit, work.best)
        return reached, status_of(work.unit, ended)
    return loss, status


@compiled_inner
def search(problem: Problem, data: Data, starts: Array, work: Work) -> tuple[float, int]:
    """Fit from all of starts: (K, F). The end is left in work.best."""
    for k in range(starts.shape[0]):
        for j in range(starts.shape[1]):
            work.starts[k, j] = starts[k, j]
    scout(problem, data, starts.shape[0], work)
    loss, status = descend_best(problem, data, work)
    return bounce(problem, data, loss, status, work)


@compiled_inner
def rank(problem: Problem, data: Data, catalogue: Catalogue, losses: Array) -> None:
    """How well the curves of a catalogue fit, into losses: (K,), but for what is common to all.

    A0 is the best within its bounds; each scan counts once, and errors are taken as uncorrelated.
    """
    last, scans = problem.free.size - 1, data.observed.size
    lower, upper = problem.lower[last], problem.upper[last]
    precision = problem.whitening[0, 0] ** 2 if problem.whitening.shape[0] > 0 else 1.0
    mean = 0.0
    for i in range(scans):
        mean += data.observed[i] / scans
    for k in range(catalogue.units.shape[0]):
        along, square = 0.0, catalogue.squares[k]
        for i in range(scans):
            along += catalogue.curves[k, i] * data.observed[i]
        if problem.residual == LOGARITHMS:
            wanted = mean - catalogue.means[k]
            missed = wanted - min(max(wanted, math.log(lower)), math.log(upper))
            loss = precision * (square - 2.0 * along + scans * missed * missed)
        else:
            size = min(max(along / square, lower), upper)
            loss = size * (size * square - 2.0 * along)
        for j in range(last):
            loss += problem.precision[j] * catalogue.units[k, j] * (catalogue.units[k, j] - 2.0 * data.centre[j])
        losses[k] = loss


@compiled_inner
def pick(problem: Problem, data: Data, catalogue: Catalogue, work: Work) -> tuple[float, int]:
    """Fit from the starts of a catalogue whose curves fit best, far from each other. The end is left in work.best."""
    rank(problem, data, catalogue, work.losses)
    count = 0
    while count < min(problem.scouts, work.losses.size):
        k = least(work.losses)
        if work.losses[k] == math.inf:
            break
        take(catalogue.units, k, work.unit)
        put(work.unit, count, work.starts)
        drop_near(catalogue.units, work.unit, work.losses)
        count += 1
    scout(problem, data, count, work)
    loss, status = descend_best(problem, data, work)
    return bounce(problem, data, loss, status, work) if problem.finalists > 1 else (loss, status)


@compiled
def fill_catalogue(problem: Problem, catalogue: Catalogue) -> None:
    """All else of a catalogue from its units."""
    scans = catalogue.curves.shape[1]
    work = new_work(problem, scans, 1)
    timeline = Timeline(problem.start, problem.days, problem.kinds, problem.values, problem.places)
    for k in range(catalogue.units.shape[0]):
        for j in range(problem.free.size):
            set_parameter(problem, j, catalogue.units[k, j], work)
        fill_log_growth(problem.law, timeline, work.row, work.state, work.model, work.by_row)
        catalogue.means[k] = np.mean(work.model) if problem.residual == LOGARITHMS else 0.0
        curve = work.model - catalogue.means[k] if problem.residual == LOGARITHMS else np.exp(work.model)
        catalogue.curves[k] = curve
        catalogue.squares[k] = np.sum(curve * curve)


@compiled_freely
def fit_batch(problem: Problem, catalogue: Catalogue, batch: Batch) -> None:
    """Fit every replicate of the batch into its rows, losses and statuses.

    From a catalogue of which no curve is known the starts are searched instead.
    """
    work = new_work(problem, batch.observed.shape[1], catalogue.units.shape[0])
    for b in range(batch.observed.shape[0]):
        data = Data(batch.observed[b], batch.weights[b], batch.centres[b])
        if catalogue.curves.shape[0] > 0:
            batch.losses[b], batch.statuses[b] = pick(problem, data, catalogue, work)
        else:
            batch.losses[b], batch.statuses[b] = search(problem, data, catalogue.units, work)
        evaluate(problem, data, work.best, work)
        batch.rows[b] = work.row
