"""Multi-start fits, batched over bootstrap replicates.

All replicates of a patient share the scans, so the curves of a catalogue of starts are computed once, and a replicate
descends from those whose curves fit it best. `search`, which fills the catalogue, takes every start a few steps first.

A delay at which dying cells begin to vanish on the day of a scan is a kink of the loss, and minima lie on it. So each
fit ends with a descent along the nearest kink (`follow_kink`).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled, compiled_freely, compiled_inner
from tumorcast.kernels.growth import Timeline, fill_log_growth
from tumorcast.kernels.least_squares import copy, descend, floor_of
from tumorcast.kernels.residuals import LOGARITHMS, Data, Problem, Work, evaluate, new_work, set_parameter

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CONVERGED, AT_BOUND, NOT_CONVERGED = range(3)

SCOUT_STEPS = 5
WALL = 1e-6  # a coordinate this near to a bound is at it
BOUNCE = 0.3  # how far from its wall a coordinate is moved
KINK_NEAR = 0.05  # within this of a kink a descent may have been caught by it
NEAR = 0.05  # starts whose coordinates differ by less lead to one end


class ReplicateBatch(NamedTuple):
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
        work.reached[k], _ = descend(problem, data, SCOUT_STEPS, -1, work)
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
        if work.reached[k] == math.inf or work.reached[k] > problem.promise * best or best <= floor_of(problem, data):
            break
        take(work.starts, k, work.unit)
        loss, ended = descend(problem, data, problem.max_steps, -1, work)
        work.reached[k] = math.inf
        if loss < best:
            best, status = loss, status_of(work.unit, ended)
            copy(work.unit, work.best)
            drop_near(work.starts, work.best, work.reached)
    return best, status


@compiled_inner
def descend_again(problem: Problem, data: Data, loss: float, status: int, work: Work) -> tuple[float, int]:
    """Descend from work.unit; loss and status of its end, left in work.best, or those of the best where it is worse."""
    reached, ended = descend(problem, data, problem.max_steps, -1, work)
    if reached < loss:
        copy(work.unit, work.best)
        return reached, status_of(work.unit, ended)
    return loss, status


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
    return descend_again(problem, data, loss, status, work)


@compiled_inner
def follow_kink(problem: Problem, data: Data, loss: float, status: int, work: Work) -> tuple[float, int]:
    """Descend once more from the best with the delay held at the nearest kink, then set free; keep what is better.

    Where the dying cells vanish from the day of a scan on, the loss has a valley with a sharp floor: steps that leave
    the floor are cut short, and a descent ends far up the valley. Along the floor it is smooth.
    """
    if problem.kinks.size == 0 or loss <= floor_of(problem, data):
        return loss, status
    kink = problem.kinks[0]
    for i in range(problem.kinks.size):
        if abs(problem.kinks[i] - work.best[problem.delay]) < abs(kink - work.best[problem.delay]):
            kink = problem.kinks[i]
    if abs(kink - work.best[problem.delay]) > KINK_NEAR:
        return loss, status
    copy(work.best, work.unit)
    work.unit[problem.delay] = kink
    descend(problem, data, problem.max_steps, problem.delay, work)
    return descend_again(problem, data, loss, status, work)


@compiled_inner
def search(problem: Problem, data: Data, starts: Array, work: Work) -> tuple[float, int]:
    """Fit from all of starts: (K, F). The end is left in work.best."""
    for k in range(starts.shape[0]):
        for j in range(starts.shape[1]):
            work.starts[k, j] = starts[k, j]
    scout(problem, data, starts.shape[0], work)
    loss, status = descend_best(problem, data, work)
    loss, status = bounce(problem, data, loss, status, work)
    return follow_kink(problem, data, loss, status, work)


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
    if problem.finalists > 1:
        loss, status = bounce(problem, data, loss, status, work)
    return follow_kink(problem, data, loss, status, work)


@compiled
def fill_catalogue(problem: Problem, catalogue: Catalogue) -> None:
    """All else of a catalogue from its units."""
    scans = catalogue.curves.shape[1]
    work = new_work(problem, scans, 1)
    timeline = Timeline(problem.start, problem.days, problem.kinds, problem.values, problem.indices)
    for k in range(catalogue.units.shape[0]):
        for j in range(problem.free.size):
            set_parameter(problem, j, catalogue.units[k, j], work)
        fill_log_growth(problem.law, timeline, work.row, work.state, work.model, work.by_row)
        catalogue.means[k] = np.mean(work.model) if problem.residual == LOGARITHMS else 0.0
        curve = work.model - catalogue.means[k] if problem.residual == LOGARITHMS else np.exp(work.model)
        catalogue.curves[k] = curve
        catalogue.squares[k] = np.sum(curve * curve)


@compiled_freely
def fit_batch(problem: Problem, catalogue: Catalogue, batch: ReplicateBatch) -> None:
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
