"""Multi-start bounded Levenberg–Marquardt for the growth law, batched over bootstrap replicates.

Every parameter is a coordinate in [0, 1]: linear between its bounds, or logarithmic where `log_scaled`. A step that
leaves the box is cut back to its wall, and a coordinate that sits on a wall and pushes outwards is left out of the next
step (projected Levenberg–Marquardt; Kanzow, Yamashita & Fukushima 2004). Equal bounds fix a parameter. The loss is the
sum of r², r = model - observed.

A start is first taken a few steps; only the most promising ones are then followed to the end.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled, compiled_parallel, parallel_range
from tumorcast.kernels.growth import PARAMETERS, Timeline, fill_jacobian, fill_sizes

Array = npt.NDArray[np.float64]

CONVERGED, AT_BOUND, NOT_CONVERGED = range(3)

SCOUT_STEPS = 8
FINALISTS = 4
FIRST_DAMPING = 1e-2
MAX_DAMPING = 1e12
TOLERANCE = 1e-9  # relative decrease of the loss below which a step counts as none
QUIET_STEPS = 3  # in a curved valley one small step is no sign of the end
WALL = 1e-6  # a coordinate this near to a bound is at it


class Problem(NamedTuple):
    """What every replicate shares.

    days: (T,), the first of them the origin; courses: (C,) starting days of radiotherapy;
    lower, upper, log_scaled: (6,); max_steps: of the descent from one of the best starts.
    """

    days: Array
    courses: Array
    lower: Array
    upper: Array
    log_scaled: npt.NDArray[np.bool_]
    max_steps: int


class Fits(NamedTuple):
    """Where the results of B replicates go. rows: (B, 6) parameters; losses, statuses: (B,)."""

    rows: Array
    losses: Array
    statuses: npt.NDArray[np.int64]


class Work(NamedTuple):
    """Memory of one replicate, so that the loops allocate nothing. T times, 6 parameters."""

    row: Array  # (6,) parameters
    scale: Array  # (6,) ∂ parameter / ∂ coordinate
    model: Array  # (T,)
    jacobian: Array  # (T, 6)
    hessian: Array  # (6, 6) JᵀJ
    factor: Array  # (6, 6)
    gradient: Array  # (6,) Jᵀr
    step: Array  # (6,)
    trial: Array  # (6,) coordinates


@compiled
def new_work(times: int) -> Work:
    """Memory for `times` observations."""
    p = PARAMETERS
    return Work(
        np.empty(p),
        np.empty(p),
        np.empty(times),
        np.empty((times, p)),
        np.empty((p, p)),
        np.empty((p, p)),
        np.empty(p),
        np.empty(p),
        np.empty(p),
    )


@compiled
def timeline(problem: Problem) -> Timeline:
    """The clock of the problem; put together here because numba's parallel loops take no nested tuples."""
    return Timeline(problem.days[0], problem.courses)


@compiled
def to_row(problem: Problem, unit: Array, row: Array, scale: Array) -> None:
    """Parameters of the coordinates unit: (6,) into row, and ∂ row / ∂ unit into scale."""
    for j in range(PARAMETERS):
        lower, upper = problem.lower[j], problem.upper[j]
        if problem.log_scaled[j]:
            width = math.log(upper / lower)
            row[j] = lower * math.exp(width * unit[j])
            scale[j] = width * row[j]
        else:
            row[j] = lower + (upper - lower) * unit[j]
            scale[j] = upper - lower
        row[j] = upper if unit[j] >= 1.0 else min(row[j], upper)  # rounding must not leave the box


@compiled
def loss_at(problem: Problem, observed: Array, unit: Array, work: Work) -> float:
    """Sum of squared residuals; leaves the parameters and the model's sizes in `work`."""
    to_row(problem, unit, work.row, work.scale)
    fill_sizes(problem.days, timeline(problem), work.row, work.model)
    total = 0.0
    for i in range(observed.size):
        residual = work.model[i] - observed[i]
        total += residual * residual
    return total


@compiled
def linearise(problem: Problem, observed: Array, work: Work) -> None:
    """JᵀJ and Jᵀr at the point where loss_at was last called."""
    fill_jacobian(problem.days, timeline(problem), work.row, work.model, work.jacobian)
    work.hessian[:] = 0.0
    work.gradient[:] = 0.0
    for i in range(observed.size):
        residual = work.model[i] - observed[i]
        for j in range(PARAMETERS):
            work.jacobian[i, j] *= work.scale[j]
            work.gradient[j] += work.jacobian[i, j] * residual
            for k in range(j + 1):
                work.hessian[j, k] += work.jacobian[i, j] * work.jacobian[i, k]


@compiled
def hold_walls(unit: Array, work: Work) -> float:
    """Take coordinates that push against their wall out of the equations. Returns the largest slope left."""
    steepest = 0.0
    for j in range(PARAMETERS):
        slope = work.gradient[j]
        outward = (unit[j] <= 0.0 and slope > 0.0) or (unit[j] >= 1.0 and slope < 0.0)
        if outward or work.hessian[j, j] == 0.0:
            work.gradient[j] = 0.0
            work.hessian[j, :] = 0.0
            work.hessian[:, j] = 0.0
            work.hessian[j, j] = 1.0
        else:
            steepest = max(steepest, abs(slope))
    return steepest


@compiled
def factorise(hessian: Array, damping: float, factor: Array) -> bool:
    """Cholesky factor of JᵀJ + damping · diag(JᵀJ) (Marquardt); False where it is not positive definite."""
    for j in range(PARAMETERS):
        for k in range(j + 1):
            value = hessian[j, k] * (1.0 + damping) if j == k else hessian[j, k]
            for m in range(k):
                value -= factor[j, m] * factor[k, m]
            if j != k:
                factor[j, k] = value / factor[k, k]
            elif value > 0.0:
                factor[j, j] = math.sqrt(value)
            else:
                return False
    return True


@compiled
def solve(factor: Array, gradient: Array, step: Array) -> None:
    """The step with (L Lᵀ) step = -gradient."""
    for j in range(PARAMETERS):
        value = -gradient[j]
        for k in range(j):
            value -= factor[j, k] * step[k]
        step[j] = value / factor[j, j]
    for j in range(PARAMETERS - 1, -1, -1):
        value = step[j]
        for k in range(j + 1, PARAMETERS):
            value -= factor[k, j] * step[k]
        step[j] = value / factor[j, j]


@compiled
def try_step(problem: Problem, observed: Array, unit: Array, damping: float, work: Work) -> float:
    """Loss after the damped step, cut back to the box and left in work.trial; inf where there is none."""
    if not factorise(work.hessian, damping, work.factor):
        return math.inf
    solve(work.factor, work.gradient, work.step)
    for j in range(PARAMETERS):
        work.trial[j] = min(max(unit[j] + work.step[j], 0.0), 1.0)
    return loss_at(problem, observed, work.trial, work)


@compiled
def descend(problem: Problem, observed: Array, unit: Array, steps: int, work: Work) -> tuple[float, bool]:
    """Improve unit: (6,) in place by at most `steps` steps. Returns the loss and whether it can fall no further."""
    loss = loss_at(problem, observed, unit, work)
    floor = TOLERANCE * TOLERANCE * float(np.dot(observed, observed))
    damping = FIRST_DAMPING
    quiet = 0
    for _ in range(steps):
        linearise(problem, observed, work)
        if loss <= floor or hold_walls(unit, work) == 0.0:
            return loss, True
        reached = try_step(problem, observed, unit, damping, work)
        while not reached < loss and damping < MAX_DAMPING:
            damping *= 5.0
            reached = try_step(problem, observed, unit, damping, work)
        if not reached < loss:
            return loss, True
        quiet = quiet + 1 if loss - reached < TOLERANCE * loss else 0
        damping = max(damping * 0.1, 1e-12)
        unit[:] = work.trial
        loss = reached
        if quiet == QUIET_STEPS:
            return loss, True
    return loss, False


@compiled
def scout(problem: Problem, observed: Array, units: Array, losses: Array, work: Work) -> None:
    """A few steps from every start: units (K, 6) and losses (K,) in place."""
    for k in range(units.shape[0]):
        losses[k], _ = descend(problem, observed, units[k], SCOUT_STEPS, work)


@compiled
def finish(problem: Problem, observed: Array, units: Array, losses: Array, work: Work) -> tuple[int, bool]:
    """Follow the best starts to the end. Returns the index of the winner and whether it converged."""
    best, best_loss, converged = 0, math.inf, False
    for _ in range(min(FINALISTS, losses.size)):
        k = int(np.argmin(losses))
        loss, ended = descend(problem, observed, units[k], problem.max_steps, work)
        losses[k] = math.inf
        if loss < best_loss:
            best, best_loss, converged = k, loss, ended
    return best, converged


@compiled
def at_wall(problem: Problem, unit: Array) -> bool:
    """Whether any parameter that was free ended at one of its bounds."""
    walls = 0
    for j in range(PARAMETERS):
        walls += problem.lower[j] < problem.upper[j] and not WALL < unit[j] < 1.0 - WALL
    return walls > 0


@compiled
def fit_one(problem: Problem, observed: Array, starts: Array, row: Array) -> tuple[float, int]:
    """Best fit of observed: (T,) from starts: (K, 6) coordinates, into row: (6,). Returns the loss and the status."""
    work = new_work(observed.size)
    units = starts.copy()
    losses = np.empty(units.shape[0])
    scout(problem, observed, units, losses, work)
    best, converged = finish(problem, observed, units, losses, work)
    loss = loss_at(problem, observed, units[best], work)
    row[:] = work.row
    if not converged:
        return loss, NOT_CONVERGED
    return loss, AT_BOUND if at_wall(problem, units[best]) else CONVERGED


@compiled_parallel
def fit_batch(problem: Problem, observed: Array, starts: Array, out: Fits) -> None:
    """fit_one for each of observed: (B, T) from its own starts: (B, K, 6), into out."""
    rows, losses, statuses = out.rows, out.losses, out.statuses  # what a parallel loop writes into a tuple is lost
    for b in parallel_range(observed.shape[0]):
        losses[b], statuses[b] = fit_one(problem, observed[b], starts[b], rows[b])
