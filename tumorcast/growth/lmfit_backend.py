"""Fit and bootstrap of one patient by lmfit, the reference that users know, with its confidence intervals.

The same model as the kernels', from one start and with derivatives by differences: slow, and imported only by
`--method lmfit`. `fit_with_lmfit` knows no growth law: any residuals will do.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import lmfit
import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from tumorcast.growth.bootstrap import Noise, Resampling, Stream, draw, patient_rng
from tumorcast.growth.laws import BoundsPreset
from tumorcast.growth.problem import STATUS_CODES, PatientProblem
from tumorcast.kernels import growth as kernels
from tumorcast.records import FitStatus, GrowthFit

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
MAX_EVALUATIONS = 10_000
LARGEST_RESIDUAL = 1e6
MARGIN = 1e-6  # of the range: on a bound itself the gradient of lmfit's sine transform is zero, and no search leaves it
# What lmfit and the linear algebra below it raise where an interval or a step cannot be had.
FAULTS = (lmfit.MinimizerException, np.linalg.LinAlgError, ArithmeticError, ValueError, TypeError, IndexError)
WALL = 1e-4  # of the range: so near to a bound a parameter is at it


@dataclass(frozen=True)
class LmfitResult:
    """The end of a search by lmfit.

    parameters: (P,) in the order and unit of the start; loss: Σ residual² there.
    converged: whether leastsq says so; if not, the parameters are the best it has tried, and there are no intervals.
    message: lmfit's words on the search, and ours where an interval is missing.
    intervals: by name, the (2.5 %, 97.5 %) limits within the bounds; a parameter that is fixed, or for which none
    could be had, is absent.
    """

    parameters: Array
    loss: float
    converged: bool
    message: str
    intervals: dict[str, Interval] = field(default_factory=dict)


def fit_with_lmfit(
    residuals: Callable[[Array], Array],
    names: Sequence[str],
    lower: Array,
    upper: Array,
    start: Array,
    *,
    intervals: bool,
) -> LmfitResult:
    """Minimise Σ residuals² from one start with lmfit's `leastsq`.

    residuals: of parameters: (P,), gives (T,); names: P Python identifiers; lower, upper, start: (P,). Where the bounds
    of a parameter are equal it is fixed there. intervals: from `lmfit.conf_interval` (profiles, by F-test) where it
    succeeds, else from the covariance with Student's t; none where T is no greater than the number of free parameters.
    Raises what residuals raises at the start; nothing where a fit fails.

    >>> days = np.array([0.0, 1.0, 2.0, 3.0])
    >>> low, high, start = np.array([-5.0, 2.0]), np.array([5.0, 2.0]), np.array([1.0, 2.0])
    >>> line = lambda p: p[0] * days + p[1] - np.array([2.1, 4.9, 8.1, 10.9])
    >>> result = fit_with_lmfit(line, ("slope", "offset"), low, high, start, intervals=True)
    >>> result.converged, result.parameters.round(3).tolist(), sorted(result.intervals)
    (True, [2.986, 2.0], ['slope'])
    """
    search = _Search(residuals, _search_space(names, lower, upper, start))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # lmfit warns of what the result's message says
        return search.run(intervals=intervals)


def _search_space(names: Sequence[str], lower: Array, upper: Array, start: Array) -> lmfit.Parameters:
    space = lmfit.Parameters()
    for name, low, high, value in zip(names, lower, upper, start, strict=True):
        if low == high:
            space.add(name, value=low, vary=False)
        else:
            space.add(name, value=_inside(value, low, high), min=low, max=high)
    return space


def _inside(value: float, low: float, high: float) -> float:
    """The value, moved off the bounds."""
    margin = MARGIN * (high - low) if np.isfinite(high - low) else 0.0
    return float(np.clip(value, low + margin, high - margin))


def _row(space: lmfit.Parameters) -> Array:
    return np.array([parameter.value for parameter in space.values()], dtype=np.float64)


class _Search:
    """One fit: the residuals as lmfit wants them, and the best of all trials."""

    def __init__(self, residuals: Callable[[Array], Array], space: lmfit.Parameters) -> None:
        self._residuals = residuals
        self._space = space
        self._free = sum(parameter.vary for parameter in space.values())
        self._best, self._least = _row(space), np.inf
        self._count = self._evaluate(space).size
        self._minimizer = lmfit.Minimizer(self._padded, space, max_nfev=MAX_EVALUATIONS)

    def run(self, *, intervals: bool) -> LmfitResult:
        """The search, then the intervals."""
        if self._free == 0:
            return self._result(converged=True, message="every parameter is fixed; nothing was fitted")
        try:
            minimum = self._minimizer.leastsq()
        except FAULTS as fault:
            return self._result(converged=False, message=f"leastsq failed ({fault})")
        # Before the profiles, which try further points: a better one among them is not what leastsq found.
        # lmfit's own message on a search that was stopped blames the tolerance.
        stopped = f"Stopped after {MAX_EVALUATIONS} evaluations."
        message = stopped if minimum.aborted else _one_line(minimum.message)
        result = self._result(converged=bool(minimum.success), message=message)
        if not (intervals and result.converged):
            return result
        limits, remarks = self._intervals(minimum)
        return replace(result, intervals=limits, message=f"{result.message} {remarks}".strip())

    def _evaluate(self, space: lmfit.Parameters) -> Array:
        row = _row(space)
        residuals = np.nan_to_num(self._residuals(row), nan=LARGEST_RESIDUAL, posinf=LARGEST_RESIDUAL)
        residuals = np.clip(residuals, -LARGEST_RESIDUAL, LARGEST_RESIDUAL)
        loss = float(np.sum(residuals**2))
        if loss < self._least:
            self._best, self._least = row, loss
        return residuals

    def _padded(self, space: lmfit.Parameters) -> Array:
        """The residuals and, if they are fewer than the parameters, zeros: leastsq refuses fewer."""
        return np.pad(self._evaluate(space), (0, max(0, self._free - self._count)))

    def _result(self, *, converged: bool, message: str) -> LmfitResult:
        return LmfitResult(self._best, self._least, converged, message)

    def _intervals(self, minimum: lmfit.minimizer.MinimizerResult) -> tuple[dict[str, Interval], str]:
        """The limits of each free parameter that has any, and what to say of the others."""
        if self._count <= self._free:
            return {}, f"No intervals: {self._count} residuals for {self._free} free parameters."
        limits = _covariance_intervals(minimum)
        remarks = []
        try:
            limits |= _profile_intervals(self._minimizer, minimum)
        except FAULTS as fault:
            remarks.append(f"No profiles ({_one_line(fault)}): intervals from the covariance.")
        missing = [name for name in minimum.var_names if name not in limits]
        if missing:
            remarks.append(f"No interval: {', '.join(missing)}.")
        return limits, " ".join(remarks)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _covariance_intervals(minimum: lmfit.minimizer.MinimizerResult) -> dict[str, Interval]:
    reach = float(student_t.ppf(0.5 + 0.5 * CONFIDENCE, minimum.nfree))
    limits = {}
    for name in minimum.var_names:
        parameter = minimum.params[name]
        if parameter.stderr is not None and np.isfinite(parameter.stderr):
            margin = reach * parameter.stderr
            limits[name] = _within(parameter, parameter.value - margin, parameter.value + margin)
    return limits


def _profile_intervals(minimizer: lmfit.Minimizer, minimum: lmfit.minimizer.MinimizerResult) -> dict[str, Interval]:
    """Of lmfit.conf_interval. A limit that it could not reach is infinite there, and the bound here."""
    profiles = lmfit.conf_interval(minimizer, minimum, sigmas=[CONFIDENCE])
    ends = {name: (profile[0][1], profile[-1][1]) for name, profile in profiles.items()}
    return {name: _within(minimum.params[name], *pair) for name, pair in ends.items() if not np.any(np.isnan(pair))}


def _within(parameter: lmfit.Parameter, low: float, high: float) -> Interval:
    return float(max(low, parameter.min)), float(min(high, parameter.max))


def fit_by_lmfit(problem: PatientProblem, resampling: Resampling, replicates: int, seed: int) -> GrowthFit:
    """The best fit with its intervals, and each replicate's, from the same start."""
    best = _fit(problem, problem.series.sizes, np.ones_like(problem.series.sizes), intervals=True)
    row = _in_unit_of_sizes(problem, [best], problem.series.sizes[None])[0]
    rng = patient_rng(seed, problem.series.patient_id, Stream.NOISE)
    drawn = draw(rng, replicates, problem.series.sizes, problem.sizes(row.reshape(1, -1))[0], resampling)
    fits = [_fit(problem, *sample, intervals=False) for sample in zip(drawn.sizes, drawn.weights, strict=True)]
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
        replicate_status=np.array([STATUS_CODES[_status(problem, fit)] for fit in fits], dtype=np.uint8),
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
