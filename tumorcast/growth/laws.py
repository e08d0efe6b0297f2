"""Growth laws and the bounds of their parameters.

One law so far, the paper's (arXiv 2509.09610): exponential growth with radiotherapy and delayed death. `GrowthLaw` is a
closed union, so that a second law is a case more in each `match`.
"""

from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.kernels import growth as kernels
from tumorcast.records import Treatment

Array = npt.NDArray[np.float64]

EXPONENTIAL = "exponential"
INITIAL_SIZE = "initial_size"
UNTREATED = Treatment()


@dataclass(frozen=True)
class Exponential:
    """Exponential growth; each course of radiotherapy splits the living cells into survivors and dying ones.

    rate_per_day: λ, of living cells, before and after treatment.
    decay_rate_per_day, delay_days, slope_per_day: dying cells change at -λ_decay tanh(slope (τ - delay)) per day,
    τ days after the course's start: they still grow before the delay.
    survival: S, the share that outlives a course. The default, 1, is a course without effect.
    """

    rate_per_day: float
    decay_rate_per_day: float = 0.05
    delay_days: float = 30.0
    slope_per_day: float = 0.1
    survival: float = 1.0


GrowthLaw = Exponential

PARAMETER_NAMES = (*(field.name for field in fields(Exponential)), INITIAL_SIZE)


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


@dataclass(frozen=True)
class ParameterBounds:
    """Bounds of the exponential law's parameters, in the order of PARAMETER_NAMES.

    initial_size is the fitted size on the first day over the size measured then; the others are as in Exponential.
    """

    rate_per_day: Bound
    decay_rate_per_day: Bound
    delay_days: Bound
    slope_per_day: Bound
    survival: Bound
    initial_size: Bound

    def lower(self) -> Array:
        """(6,) least values."""
        return np.array([bound.lower for bound in self._all()])

    def upper(self) -> Array:
        """(6,) greatest values."""
        return np.array([bound.upper for bound in self._all()])

    def log_scaled(self) -> npt.NDArray[np.bool_]:
        """(6,) whether the fit searches the parameter's logarithm: those that are positive throughout."""
        return self.lower() > 0

    def _all(self) -> tuple[Bound, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


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
    initial_size=Bound(0.7, 1.3),
)


class BoundsPreset(StrEnum):
    """A named set of bounds."""

    DEFAULT = "default"
    PAPER = "paper"

    @property
    def bounds(self) -> ParameterBounds:
        """The bounds of that name."""
        match self:
            case BoundsPreset.DEFAULT:
                return DEFAULT_BOUNDS
            case BoundsPreset.PAPER:
                return PAPER_BOUNDS


def timeline_of(treatment: Treatment, origin_day: float) -> kernels.Timeline:
    """The patient's clock as the kernels take it: of radiotherapy the law needs only the starting days."""
    starts = sorted(course.start_days for course in treatment.radiotherapy)
    return kernels.Timeline(float(origin_day), np.array(starts, dtype=np.float64))


def row_of(law: GrowthLaw, size: float) -> Array:
    """(6,) the law and its size on the origin's day as the kernels take them, in the order of PARAMETER_NAMES."""
    return np.array([*astuple(law), size], dtype=np.float64)


def law_of(row: Array) -> GrowthLaw:
    """The law in row: (6,), without its size."""
    return Exponential(*(float(value) for value in row[: kernels.SHAPE_PARAMETERS]))


def size_after(
    law: GrowthLaw,
    days: Array,
    size: float,
    *,
    origin_day: float = 0.0,
    treatment: Treatment = UNTREATED,
) -> Array:
    """Tumour size under a growth law, given that it was `size` on `origin_day`.

    days: (T,) on the patient's own clock. Returns (T,) in the unit of size. Raises ValueError if size < 0.

    >>> size_after(Exponential(rate_per_day=0.0), np.array([0.0, 9.0]), 4.0)
    array([4., 4.])
    >>> from tumorcast.records import RadiotherapyCourse
    >>> killed = Exponential(np.log(2) / 10, decay_rate_per_day=0.5, delay_days=1.0, slope_per_day=5.0, survival=0.1)
    >>> treated = Treatment((RadiotherapyCourse(start_days=10.0, end_days=52.0),))
    >>> size_after(killed, np.array([0.0, 10.0, 60.0]), 1.0, treatment=treated).round(3)
    array([1. , 2. , 6.4])
    """
    if size < 0:
        raise ValueError(f"size = {size} is negative")
    days = np.ascontiguousarray(days, dtype=np.float64)
    sizes = np.empty_like(days)
    kernels.fill_sizes(days, timeline_of(treatment, origin_day), row_of(law, size), sizes)
    return sizes
