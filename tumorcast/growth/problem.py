"""One patient's least-squares problem: sizes, treatment, bounds, errors and prior, as the kernels take them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from numba import get_num_threads

from tumorcast.growth.bootstrap import Noise
from tumorcast.growth.laws import (
    CHEMO_RATE,
    KERNEL_LAWS,
    Bound,
    BoundsPreset,
    ParameterBounds,
    parameter_names,
    sizes_of,
    timeline_of,
)
from tumorcast.growth.prior import LawPrior
from tumorcast.kernels import growth as kernels
from tumorcast.kernels import multistart, residuals
from tumorcast.records import FitStatus, LawName, SizeSeries

Array = npt.NDArray[np.float64]

STATUSES = {
    multistart.CONVERGED: FitStatus.CONVERGED,
    multistart.AT_BOUND: FitStatus.AT_BOUND,
    multistart.NOT_CONVERGED: FitStatus.NOT_CONVERGED,
}
STATUS_CODES = {status: code for code, status in enumerate(FitStatus)}
CODES_OF_KERNEL_STATUSES = np.array([STATUS_CODES[STATUSES[code]] for code in sorted(STATUSES)], dtype=np.uint8)
KERNEL_RESIDUALS = {
    Noise.LOGNORMAL: residuals.LOGARITHMS,
    Noise.ADDITIVE: residuals.DIFFERENCES,
    Noise.PAPER: residuals.SQUARES,
}
UNDETECTED = Bound(1e-3, 0.5)  # initial size over the first positive one, where nothing was seen at first
DEPARTED = Bound(0.02, 50.0)  # where sizes may depart from the law, the first one too
LEAST_OWN_SCALE = 0.05
DETECTION_LIMITS = {"mm3": 100.0, "mm2": 20.0}  # a cube of 4.6 mm, and its face
PART = 128  # replicates a thread does at a time
DETECTABLE_SHARE = 0.01  # of a patient's largest size, in other units
# Where the paper's code starts, S outside its bounds and so on its lower one.
CUSTOMARY_START = {
    "rate_per_day": 0.02,
    "decay_rate_per_day": 0.02,
    "delay_days": 5.0,
    "slope_per_day": 1.0,
    "survival": 1e-4,
    "initial_size": 1.0,
}
UNTREATED_COLUMNS = ("decay_rate_per_day", "delay_days", "slope_per_day")


def detection_limit(series: SizeSeries) -> float:
    """The size below which a tumour counts as this large, so that it has a logarithm; in the unit of the series."""
    unit = series.size_name.rpartition("_")[2]
    return DETECTION_LIMITS.get(unit, DETECTABLE_SHARE * float(series.sizes.max(initial=0.0)) or 1.0)


@dataclass(frozen=True)
class Fits:
    """Fits of B replicates. rows: (B, P) in the unit of the sizes; losses: (B,); statuses: (B,) of STATUS_CODES."""

    rows: Array
    losses: Array
    statuses: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Search:
    """How thoroughly the best fit is looked for.

    starts: where it begins; scouts: of these, how many a few steps are taken from; finalists: of these, how many are
    followed to the end, in at most max_steps, unless its loss is over `promise` times the best.
    """

    starts: int
    scouts: int
    finalists: int
    max_steps: int
    promise: float = np.inf


@dataclass(frozen=True)
class PatientProblem:
    """The fit of one law to one patient's sizes.

    chemotherapy: whether the rate of chemotherapy is fitted. With a prior the residuals are correlated logarithms.
    """

    series: SizeSeries
    law: LawName
    bounds: BoundsPreset
    noise: Noise
    chemotherapy: bool = False
    prior: LawPrior | None = None

    @cached_property
    def scale(self) -> float:
        """What sizes are divided by: the first positive size; 1 where there is none."""
        positive = self.series.sizes[self.series.sizes > 0]
        return float(positive[0]) if positive.size else 1.0

    @cached_property
    def limit(self) -> float:
        """detection_limit of the series."""
        return detection_limit(self.series)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of a row's columns."""
        return parameter_names(len(self.series.treatment.resection_days))

    @property
    def residual(self) -> int:
        """The kernels' name for what is squared."""
        return KERNEL_RESIDUALS[self.noise]

    @property
    def origin_day(self) -> float:
        """The day whose size is A0: of the first scan. In the paper's code, of a radiotherapy before it."""
        first = float(self.series.days[0])
        if self.bounds is BoundsPreset.DEFAULT:
            return first
        return min([first, *(course.start_days for course in self.series.treatment.radiotherapy)])

    @cached_property
    def timeline(self) -> kernels.Timeline:
        """The patient's events and scans."""
        doses = self.bounds is BoundsPreset.DEFAULT
        return timeline_of(self.series.treatment, self.origin_day, self.series.days, doses=doses)

    @cached_property
    def columns(self) -> tuple[Bound, ...]:
        """The bounds of every column: what no scan informs is fixed, but for what a prior tells."""
        bounds = self._with_initial_size(self.bounds.of(self.law))
        if self.chemotherapy and self.series.treatment.chemotherapy:
            bounds = replace(bounds, chemo_rate_per_day=CHEMO_RATE)
        if not self.series.treatment.radiotherapy:
            bounds = replace(bounds, survival=Bound(1.0, 1.0))
        if not self._is_treated():
            fixed = {name: getattr(bounds, name).fixed for name in (*UNTREATED_COLUMNS, "survival")}
            bounds = replace(bounds, **fixed)
        return bounds.columns(len(self.series.treatment.resection_days))

    def _is_treated(self) -> bool:
        """Whether any scan could show what radiotherapy did."""
        return any(course.start_days < self.series.days[-1] for course in self.series.treatment.radiotherapy)

    def _with_initial_size(self, bounds: ParameterBounds) -> ParameterBounds:
        """The bounds of A0 / scale."""
        first = self.series.sizes[0] / self.scale
        bound = DEPARTED if self.prior else bounds.initial_size
        if self.noise is Noise.LOGNORMAL:
            first = max(first, self.limit / self.scale)
            return replace(bounds, initial_size=Bound(bound.lower * first, bound.upper * first))
        return bounds if first > 0 else replace(bounds, initial_size=UNDETECTED)

    @cached_property
    def free(self) -> npt.NDArray[np.int64]:
        """(F,) the columns that are fitted, A0 last."""
        others = [j for j, bound in enumerate(self.columns) if bound.lower < bound.upper and j != kernels.INITIAL_SIZE]
        return np.array([*others, kernels.INITIAL_SIZE], dtype=np.int64)

    def kernel_problem(self, search: Search) -> residuals.Problem:
        """The problem as the kernels take it."""
        lower = np.array([self.columns[j].lower for j in self.free])
        upper = np.array([self.columns[j].upper for j in self.free])
        return residuals.Problem(
            KERNEL_LAWS[self.law],
            *self.timeline,
            row=np.array([bound.middle for bound in self.columns]),
            free=self.free,
            lower=lower,
            upper=upper,
            log_widths=np.log(np.divide(upper, lower, out=np.ones_like(upper), where=lower > 0)),
            residual=self.residual,
            whitening=self.prior.whitening(self.series.days) if self.prior else np.empty((0, 0)),
            precision=self.prior_on_coordinates[1],
            scouts=search.scouts,
            finalists=search.finalists,
            max_steps=search.max_steps,
            promise=search.promise,
            delay=self._delay,
            kinks=self._kinks,
        )

    @property
    def _delay(self) -> int:
        """Which free parameter is the delay; -1 where it is not free."""
        (places,) = np.nonzero(self.free == kernels.DELAY)
        return int(places[0]) if places.size else -1

    @property
    def _kinks(self) -> Array:
        """(K,) the coordinates of delays that end on the day of a scan."""
        if self._delay < 0:
            return np.empty(0)
        lower, upper = self.columns[kernels.DELAY]
        began = np.array([course.start_days for course in self.series.treatment.radiotherapy])
        delays = np.unique(self.series.days[:, None] - began)
        delays = delays[(delays > lower) & (delays < upper)]
        scaled = (np.log(delays / lower) / np.log(upper / lower)) if lower > 0 else (delays - lower) / (upper - lower)
        return np.asarray(scaled)

    @cached_property
    def prior_on_coordinates(self) -> tuple[Array, Array]:
        """(F,) centre and (F,) precision of the prior on the free coordinates; without a prior ½ and 0."""
        centre, precision = np.full(self.free.size, 0.5), np.zeros(self.free.size)
        for k, j in enumerate(self.free):
            prior = self.prior.parameters.get(self.names[j]) if self.prior else None
            if prior is not None:
                bound = self.columns[j]
                width = prior.transformed(bound.upper) - prior.transformed(bound.lower)
                centre[k] = (prior.mean - prior.transformed(bound.lower)) / width
                precision[k] = (width / prior.sd) ** 2
        return centre, precision

    def scales(self, sizes: Array) -> Array:
        """(…, 1) what each of sizes: (…, T) is divided by: `scale`, or in the paper's code its own first size."""
        if self.noise is Noise.PAPER:
            return np.maximum(sizes[..., :1], LEAST_OWN_SCALE * self.scale)
        return np.full((*sizes.shape[:-1], 1), self.scale)

    def observed(self, sizes: Array) -> Array:
        """What the kernels compare with the model, from sizes: (…, T): relative sizes or their logarithms."""
        relative = sizes / self.scales(sizes)
        if self.noise is Noise.LOGNORMAL:
            return np.log(np.maximum(relative, self.limit / self.scale))
        return relative

    def coordinates(self, rows: Array) -> Array:
        """(B, F) coordinates in [0, 1] of rows: (B, P) in the unit of the sizes."""
        relative = rows.copy()
        relative[:, kernels.INITIAL_SIZE] /= self.scale
        units = np.empty((len(rows), self.free.size))
        for k, j in enumerate(self.free):
            lower, upper = self.columns[j]
            if lower > 0:
                units[:, k] = np.log(relative[:, j] / lower) / np.log(upper / lower)
            else:
                units[:, k] = (relative[:, j] - lower) / (upper - lower)
        return np.clip(units, 0.0, 1.0)

    @property
    def customary_start(self) -> Array:
        """(P,) where the paper's code starts, A0 over the scale; columns it does not have, in the middle."""
        middle = [bound.middle for bound in self.columns]
        return np.array([CUSTOMARY_START.get(name, value) for name, value in zip(self.names, middle, strict=True)])

    def sizes(self, rows: Array) -> Array:
        """(B, T) sizes on the days of the scans for rows: (B, P)."""
        return sizes_of(self.law, self.timeline, rows)


def starts_to_search(units: Array, scans: int) -> multistart.Catalogue:
    """Starts units: (K, F) that each replicate of so many scans takes a few steps from before it chooses."""
    return multistart.Catalogue(units, np.empty((0, scans)), np.empty(0), np.empty(0))


def catalogue_of(problem: PatientProblem, units: Array) -> multistart.Catalogue:
    """Starts units: (K, F) that are chosen by their curves (kernels/multistart.py)."""
    count = len(units)
    curves = np.empty((count, problem.series.days.size))
    catalogue = multistart.Catalogue(units, curves, np.empty(count), np.empty(count))
    multistart.fill_catalogue(problem.kernel_problem(Search(0, 1, 1, 1)), catalogue)
    return catalogue


@dataclass(frozen=True)
class Sample:
    """What B fits are made to. sizes, weights: (B, T), a weight being how often a scan counts; centres: (B, F) of the
    prior on the coordinates."""

    sizes: Array
    weights: Array
    centres: Array


def run(problem: PatientProblem, search: Search, catalogue: multistart.Catalogue, sample: Sample) -> Fits:
    """Fit each of the sample."""
    count = len(sample.sizes)
    batch = multistart.ReplicateBatch(
        np.ascontiguousarray(problem.observed(sample.sizes)),
        np.ascontiguousarray(sample.weights),
        np.ascontiguousarray(sample.centres),
        np.empty((count, len(problem.columns))),
        np.empty(count),
        np.empty(count, dtype=np.int64),
    )
    kernel_problem = problem.kernel_problem(search)

    def fit_part(part: slice) -> None:
        share = multistart.ReplicateBatch(
            batch.observed[part],
            batch.weights[part],
            batch.centres[part],
            batch.rows[part],
            batch.losses[part],
            batch.statuses[part],
        )
        multistart.fit_batch(kernel_problem, catalogue, share)

    _in_threads(fit_part, count)
    batch.rows[:, [kernels.INITIAL_SIZE]] *= problem.scales(sample.sizes)
    return Fits(batch.rows, batch.losses, CODES_OF_KERNEL_STATUSES[batch.statuses])


def _in_threads(work: Callable[[slice], None], count: int) -> None:
    """`work` on all of `count` replicates, in parts that numba's number of threads do at a time."""
    threads = get_num_threads()
    parts = [slice(first, first + PART) for first in range(0, count, PART)]
    if threads == 1 or len(parts) == 1:
        work(slice(0, count))
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, parts):
            pass
