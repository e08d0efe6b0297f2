"""Growth laws, a patient's timeline as the kernels take it, and the bounds of the laws' parameters.

`GrowthLaw` is a closed union: a fourth law is a case more in each `match`, and mypy finds those that were forgotten.
"""

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import NamedTuple, assert_never

import numpy as np
import numpy.typing as npt

from tumorcast.kernels import growth as kernels
from tumorcast.records import LawName, RadiotherapyCourse, Treatment

Array = npt.NDArray[np.float64]

UNTREATED = Treatment()
ALPHA_BETA_GY = 10.0  # of tumours: Fowler, Br J Radiol 1989
REFERENCE_DOSE_GY, REFERENCE_FRACTION_GY = 60.0, 2.0  # the usual course for glioma, to which `survival` refers


@dataclass(frozen=True)
class Response:
    """What treatment does to the cells.

    decay_rate_per_day, delay_days, slope_per_day: cells killed by radiotherapy change at
    -λ_decay tanh(slope (τ - delay)) per day, τ days after the course's start: they still grow before the delay.
    survival: S, the share that outlives a course (of 60 Gy, where doses are known). 1 is a course without effect.
    chemo_rate_per_day: taken off the growth rate on the days of chemotherapy.
    """

    decay_rate_per_day: float = 0.05
    delay_days: float = 30.0
    slope_per_day: float = 0.1
    survival: float = 1.0
    chemo_rate_per_day: float = 0.0


NO_RESPONSE = Response()


@dataclass(frozen=True)
class Exponential:
    """dL/dt = λ L, the paper's law. rate_per_day: λ of living cells, before and after treatment."""

    rate_per_day: float
    response: Response = NO_RESPONSE


@dataclass(frozen=True)
class Logistic:
    """dL/dt = λ L (1 - L / K). capacity_ratio: K over the living size when the clock starts; rate_per_day > 0."""

    rate_per_day: float
    capacity_ratio: float
    response: Response = NO_RESPONSE


@dataclass(frozen=True)
class Gompertz:
    """dL/dt = λ L (1 - ln L / ln K), L and K over the living size when the clock starts; rate_per_day > 0, K > 1."""

    rate_per_day: float
    capacity_ratio: float
    response: Response = NO_RESPONSE


GrowthLaw = Exponential | Logistic | Gompertz

KERNEL_LAWS = {
    LawName.EXPONENTIAL: kernels.EXPONENTIAL,
    LawName.LOGISTIC: kernels.LOGISTIC,
    LawName.GOMPERTZ: kernels.GOMPERTZ,
}


def name_of(law: GrowthLaw) -> LawName:
    """The law's name."""
    match law:
        case Exponential():
            return LawName.EXPONENTIAL
        case Logistic():
            return LawName.LOGISTIC
        case Gompertz():
            return LawName.GOMPERTZ
        case _:
            assert_never(law)


class Bound(NamedTuple):
    """The least and the greatest value of a parameter; equal values fix it."""

    lower: float
    upper: float

    @property
    def middle(self) -> float:
        """The centre of the range: geometric if it is positive throughout."""
        if self.lower > 0:
            return float(np.sqrt(self.lower * self.upper))
        return 0.5 * (self.lower + self.upper)

    @property
    def fixed(self) -> "Bound":
        """The bound that holds the parameter at the middle."""
        return Bound(self.middle, self.middle)


@dataclass(frozen=True)
class ParameterBounds:
    """Bounds of a law's parameters, in the order of the kernels' rows; one that is positive throughout is searched
    by its logarithm.

    initial_size is the fitted size on the first day over the size measured then (over the first positive one where
    nothing was seen at first); residual is the share that a resection leaves.
    """

    rate_per_day: Bound
    decay_rate_per_day: Bound
    delay_days: Bound
    slope_per_day: Bound
    survival: Bound
    chemo_rate_per_day: Bound = Bound(0.0, 0.0)
    capacity_ratio: Bound = Bound(2.0, 2.0)
    initial_size: Bound = Bound(0.7, 1.3)
    residual: Bound = Bound(0.001, 1.0)

    def columns(self, resections: int) -> tuple[Bound, ...]:
        """The bounds of every column of a row with so many resections."""
        named = [getattr(self, field.name) for field in fields(self)]
        return (*named[:-1], *[self.residual] * resections)


PAPER_BOUNDS = ParameterBounds(
    rate_per_day=Bound(0.001, 2.0),
    decay_rate_per_day=Bound(0.001, 100.0),
    delay_days=Bound(0.001, 300.0),
    slope_per_day=Bound(0.001, 600.0),
    survival=Bound(0.001, 0.2),
    initial_size=Bound(0.9, 1.1),
)

# Why these: docs/decisions/0002-growth-bounds.md
DEFAULT_BOUNDS = ParameterBounds(
    rate_per_day=Bound(-0.02, 0.2),
    decay_rate_per_day=Bound(0.001, 0.2),
    delay_days=Bound(1.0, 300.0),
    slope_per_day=Bound(0.005, 1.0),
    survival=Bound(0.001, 0.95),
)
SATURATING_RATE = Bound(1e-4, 0.2)
SATURATING_CAPACITY = Bound(1.1, 1000.0)
CHEMO_RATE = Bound(0.0, 0.05)


class BoundsPreset(StrEnum):
    """A named set of bounds."""

    DEFAULT = "default"
    PAPER = "paper"

    def of(self, law: LawName) -> ParameterBounds:
        """The bounds of that name for a law. A saturating law needs a positive rate."""
        bounds = PAPER_BOUNDS if self is BoundsPreset.PAPER else DEFAULT_BOUNDS
        if law is LawName.EXPONENTIAL:
            return bounds
        rate = Bound(max(bounds.rate_per_day.lower, SATURATING_RATE.lower), bounds.rate_per_day.upper)
        return replace(bounds, rate_per_day=rate, capacity_ratio=SATURATING_CAPACITY)


COLUMN_NAMES = tuple(field.name for field in fields(ParameterBounds))[: kernels.PARAMETERS]


def parameter_names(resections: int) -> tuple[str, ...]:
    """The names of a row's columns.

    >>> parameter_names(1)[-2:]
    ('initial_size', 'residual_1')
    """
    return (*COLUMN_NAMES, *(f"residual_{k + 1}" for k in range(resections)))


def dose_weight(course: RadiotherapyCourse) -> float:
    """What the logarithm of `survival` is multiplied by for this course: its biologically effective dose over that of
    60 Gy in 30 fractions (linear-quadratic model); 1 where the dose is unknown.

    >>> dose_weight(RadiotherapyCourse(0.0, 42.0, dose_gy=60.0, fractions=30))
    1.0
    >>> round(dose_weight(RadiotherapyCourse(0.0, 21.0, dose_gy=40.0, fractions=15)), 2)
    0.7
    """
    if not course.dose_gy:
        return 1.0
    fraction = course.dose_gy / course.fractions if course.fractions else REFERENCE_FRACTION_GY
    reference = REFERENCE_DOSE_GY * (1.0 + REFERENCE_FRACTION_GY / ALPHA_BETA_GY)
    return course.dose_gy * (1.0 + fraction / ALPHA_BETA_GY) / reference


def timeline_of(treatment: Treatment, origin_day: float, days: Array, *, doses: bool = True) -> kernels.Timeline:
    """The patient's events as the kernels take them. days: (T,) of the scans or of whatever is asked, in any order.

    doses: whether a course of known dose counts by it. The clock starts on the origin's day or with a treatment before.
    """
    events = [(float(origin_day), kernels.ORIGIN, 1.0, 0)]
    events += [(float(day), kernels.SCAN, 1.0, scan) for scan, day in enumerate(days)]
    for course in treatment.radiotherapy:
        events.append((course.start_days, kernels.RADIOTHERAPY, dose_weight(course) if doses else 1.0, 0))
    for start, end in _chemotherapy_spans(treatment):
        events += [(start, kernels.CHEMO_ON, 1.0, 0), (end, kernels.CHEMO_OFF, 1.0, 0)]
    events += [(day, kernels.RESECTION, 1.0, k) for k, day in enumerate(treatment.resection_days)]
    events = sorted((event for event in events if np.isfinite(event[0])), key=lambda event: (event[0], event[1]))
    start = min(event[0] for event in events if event[1] != kernels.SCAN)
    columns = list(zip(*events, strict=True))
    return kernels.Timeline(
        start,
        np.array(columns[0], dtype=np.float64),
        np.array(columns[1], dtype=np.int64),
        np.array(columns[2], dtype=np.float64),
        np.array(columns[3], dtype=np.int64),
    )


def _chemotherapy_spans(treatment: Treatment) -> list[tuple[float, float]]:
    """Spans of days with chemotherapy, those that touch joined into one."""
    spans: list[tuple[float, float]] = []
    for course in sorted(treatment.chemotherapy, key=lambda course: course.start_days):
        if spans and course.start_days <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], course.end_days))
        else:
            spans.append((course.start_days, course.end_days))
    return spans


def row_of(law: GrowthLaw, size: float, residuals: tuple[float, ...] = ()) -> Array:
    """(P,) the law, its size on the origin's day and what each resection leaves, as the kernels take them."""
    capacity = 2.0 if isinstance(law, Exponential) else law.capacity_ratio
    response = (getattr(law.response, field.name) for field in fields(Response))
    return np.array([law.rate_per_day, *response, capacity, size, *residuals], dtype=np.float64)


def sizes_of(law: LawName, timeline: kernels.Timeline, rows: Array) -> Array:
    """(B, T) sizes on the timeline's scans for each of rows: (B, P), in the unit of A0."""
    sizes = np.empty((len(rows), int(np.sum(timeline.kinds == kernels.SCAN))))
    kernels.fill_sizes(KERNEL_LAWS[law], timeline, np.ascontiguousarray(rows, dtype=np.float64), sizes)
    return sizes


def log_derivatives(law: LawName, timeline: kernels.Timeline, row: Array) -> tuple[Array, Array]:
    """(T,) log sizes on the timeline's scans for row: (P,), and (T, P) their derivatives by each parameter."""
    scans = int(np.sum(timeline.kinds == kernels.SCAN))
    growth, by_row = np.empty(scans), np.empty((scans, row.size))
    kernels.fill_derivatives(KERNEL_LAWS[law], timeline, np.ascontiguousarray(row), growth, by_row)
    by_row[:, kernels.INITIAL_SIZE] = 1.0 / row[kernels.INITIAL_SIZE]
    return np.log(row[kernels.INITIAL_SIZE]) + growth, by_row


def size_after(
    law: GrowthLaw,
    days: Array,
    size: float,
    *,
    origin_day: float = 0.0,
    treatment: Treatment = UNTREATED,
    residuals: tuple[float, ...] = (),
) -> Array:
    """Tumour size under a growth law, given that it was `size` on `origin_day` (kernels/growth.py has the equations).

    days: (T,) on the patient's own clock; residuals: the share that each resection leaves. Returns (T,) in the unit of
    size. Raises ValueError if size < 0, or if residuals and resections differ in number.

    >>> size_after(Exponential(rate_per_day=0.0), np.array([0.0, 9.0]), 4.0)
    array([4., 4.])
    >>> response = Response(decay_rate_per_day=0.5, delay_days=1.0, slope_per_day=5.0, survival=0.1)
    >>> treated = Treatment((RadiotherapyCourse(start_days=10.0, end_days=52.0),))
    >>> size_after(Exponential(np.log(2) / 10, response), np.array([0.0, 10.0, 60.0]), 1.0, treatment=treated).round(3)
    array([1. , 2. , 6.4])
    >>> size_after(Logistic(1.0, capacity_ratio=3.0), np.array([0.0, 99.0]), 2.0)
    array([2., 6.])
    """
    if size < 0:
        raise ValueError(f"size = {size} is negative")
    if len(residuals) != len(treatment.resection_days):
        raise ValueError(f"{len(residuals)} residuals for {len(treatment.resection_days)} resections")
    timeline = timeline_of(treatment, origin_day, np.asarray(days, dtype=np.float64))
    return sizes_of(name_of(law), timeline, row_of(law, size, residuals).reshape(1, -1)).ravel()
