"""Bounded Levenberg–Marquardt for the loss of residuals.py.

A step that leaves the box is cut back to its wall, and a coordinate that sits on a wall and pushes outwards is left out
of the next step (projected Levenberg–Marquardt; Kanzow, Yamashita & Fukushima 2004). The equation of A0, which is
solved for at every point, is never damped: Kaufman's variable projection (Ruhe & Wedin 1980, algorithm 2), written as a
full step.
"""

import math

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled_inner
from tumorcast.kernels.residuals import SQUARES, Data, Problem, Work, evaluate

Array = npt.NDArray[np.float64]

FIRST_DAMPING = 1e-2
MAX_DAMPING = 1e10
TOLERANCE = 1e-6  # relative decrease of the loss below which a step counts as none
HOPELESS = 1e-5  # of the loss: a step that promised less and failed is not tried again, shorter
QUIET_STEPS = 2  # in a curved valley one small step is no sign of the end
FLOOR = 1e-14  # a loss of less a scan is a curve through all points
SQUARES_FLOOR = 1e-20  # of a sum of fourth powers


@compiled_inner
def floor_of(problem: Problem, data: Data) -> float:
    """The loss below which a curve goes through all points."""
    return (SQUARES_FLOOR if problem.residual == SQUARES else FLOOR) * data.observed.size


@compiled_inner
def linearise(problem: Problem, data: Data, unit: Array, work: Work) -> None:
    """JᵀJ and Jᵀr, prior included, where evaluate was last called.

    Where residuals are squared errors e² the Hessian has half as much again as JᵀJ, from e ∇e² of each.
    """
    curvature = 1.5 if problem.residual == SQUARES else 1.0
    for j in range(problem.free.size):
        for k in range(j + 1):
            total = 0.0
            for i in range(work.residuals.size):
                total += work.jacobian[i, j] * work.jacobian[i, k]
            work.hessian[j, k] = curvature * total
        total = 0.0
        for i in range(work.residuals.size):
            total += work.jacobian[i, j] * work.residuals[i]
        work.hessian[j, j] += problem.precision[j]
        work.gradient[j] = total + problem.precision[j] * (unit[j] - data.centre[j])


@compiled_inner
def hold_walls(unit: Array, held: int, work: Work) -> float:
    """Take coordinates that push against their wall, and coordinate `held`, out of the equations.

    Returns the largest slope left.
    """
    steepest = 0.0
    for j in range(unit.size):
        slope = work.gradient[j]
        outward = (unit[j] <= 0.0 and slope > 0.0) or (unit[j] >= 1.0 and slope < 0.0)
        if j == held or outward or not work.hessian[j, j] > 0.0:
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
def worth_trying(reached: float, loss: float, work: Work) -> bool:
    """Whether the last step, which failed, should be tried shorter: not where it promised next to nothing."""
    if reached == math.inf:  # there may have been no step
        return True
    promised = 0.0
    for j in range(work.step.size):
        promised -= 2.0 * work.gradient[j] * work.step[j]
    return promised > HOPELESS * loss


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
def descend(problem: Problem, data: Data, steps: int, held: int, work: Work) -> tuple[float, bool]:
    """Improve work.unit by at most `steps` steps, coordinate `held` left as it is (-1: none).

    Returns the loss and whether it can fall no further.
    """
    loss = evaluate(problem, data, work.unit, work)
    floor = floor_of(problem, data)
    damping = FIRST_DAMPING
    quiet = 0
    for _ in range(steps):
        linearise(problem, data, work.unit, work)
        if loss <= floor or hold_walls(work.unit, held, work) == 0.0:
            return loss, True
        reached = try_step(problem, data, damping, work)
        while not reached < loss and damping < MAX_DAMPING and worth_trying(reached, loss, work):
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
