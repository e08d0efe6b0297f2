"""A patient's fit and bootstrap by lmfit: the same model, one start, and confidence intervals. Slow; the reference."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tumorcast.growth.bootstrap import Noise, Resampling, Stream, draw, patient_rng
from tumorcast.growth.laws import BoundsPreset
from tumorcast.growth.lmfit_reference import LmfitResult, fit_with_lmfit
from tumorcast.growth.problem import PLACE_OF_STATUS, PatientProblem
from tumorcast.kernels import growth as kernels
from tumorcast.records import FitStatus, GrowthFit

Array = npt.NDArray[np.float64]

WALL = 1e-4  # of the range: so near to a bound a parameter is at it


def fit_by_lmfit(problem: PatientProblem, resampling: Resampling, replicates: int, seed: int) -> GrowthFit:
    """The best fit with its intervals, and each replicate's, from the same start."""
    best = _fit(problem, problem.series.sizes, np.ones_like(problem.series.sizes), intervals=True)
    row = _in_unit_of_sizes(problem, [best], problem.series.sizes[None])[0]
    rng = patient_rng(seed, problem.series.patient_id, Stream.NOISE)
    drawn = draw(rng, replicates, problem.series.sizes, problem.sizes(row.reshape(1, -1))[0], resampling)
    fits = [_fit(problem, *one, intervals=False) for one in zip(drawn.sizes, drawn.weights, strict=True)]
    intervals = dict(best.intervals)
    if "initial_size" in intervals:
        low, high = intervals["initial_size"]
        intervals["initial_size"] = (low * problem.scale, high * problem.scale)
    return GrowthFit(
        series=problem.series,
        law=problem.law,
        parameter_names=problem.names,
        parameters=row,
        replicates=_in_unit_of_sizes(problem, fits, drawn.sizes),
        replicate_status=np.array([PLACE_OF_STATUS[_status(problem, fit)] for fit in fits], dtype=np.uint8),
        loss=best.loss,
        loss_name=str(problem.noise),
        status=_status(problem, best),
        origin_day=problem.origin_day,
        deviations=np.zeros(replicates),
        doses=problem.bounds is BoundsPreset.DEFAULT,
        notes=(f"lmfit: {best.message}",),
        intervals=intervals,
    )


def _fit(problem: PatientProblem, sizes: Array, weights: Array, *, intervals: bool) -> LmfitResult:
    observed, roots = problem.observed(sizes), np.sqrt(weights)

    def residuals(row: Array) -> Array:
        model = problem.sizes(row.reshape(1, -1))[0]
        match problem.noise:
            case Noise.LOGNORMAL:
                return np.asarray(roots * (np.log(model) - observed))
            case Noise.ADDITIVE:
                return np.asarray(roots * (model - observed))
            case Noise.PAPER:
                return np.asarray(roots * np.square(model - observed))

    lower, upper = (np.array([getattr(bound, side) for bound in problem.columns]) for side in ("lower", "upper"))
    return fit_with_lmfit(residuals, problem.names, lower, upper, problem.customary_start, intervals=intervals)


def _in_unit_of_sizes(problem: PatientProblem, fits: Sequence[LmfitResult], sizes: Array) -> Array:
    rows = np.stack([fit.parameters for fit in fits])
    rows[:, [kernels.INITIAL_SIZE]] *= problem.scales(sizes)
    return rows


def _status(problem: PatientProblem, fit: LmfitResult) -> FitStatus:
    if not fit.converged:
        return FitStatus.NOT_CONVERGED
    for value, (lower, upper) in zip(fit.parameters, problem.columns, strict=True):
        near = WALL * (upper - lower)
        if lower < upper and not lower + near < value < upper - near:
            return FitStatus.AT_BOUND
    return FitStatus.CONVERGED
