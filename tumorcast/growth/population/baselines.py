"""What a forecast must beat beside persistence: steps that the cohort has made, three coefficients, a straight line.

Each is learnt from a cohort and asked as the pool's members are (pool.py); none is a member. Sizes are
y = log(v + 100 mm³), and no quantile is below that of no tumour.
"""

import logging
import math
from collections.abc import Sequence
from typing import ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import special

from tumorcast.growth.population.autoregression import STUDENT_BOUNDS, Persistence
from tumorcast.growth.population.history import History, log_sizes, size_changes
from tumorcast.growth.population.kinds import floored, is_nothing
from tumorcast.growth.population.map_estimation import (
    MapEstimatedModel,
    Range,
    log_student_density,
    plug_in_factor,
    student_quantiles,
)
from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]

log = logging.getLogger(__name__)

FEWEST_STEPS = 10  # after a size of zero, and after others, to be told apart
LARGEST_MM3: Final = 1.5e6  # a brain: a straight line is followed no further


class CohortSteps(Settings):
    """The best way to do nothing: the last y plus a step drawn from the cohort's, whatever the horizon.

    Steps after a scan on which nothing was seen are drawn apart from the others: such a tumour can only grow.
    after_zero, after_others: the steps, not decreasing; of fewer than ten of either kind both hold all of them.

    >>> steps = CohortSteps(after_zero=(0.0, 3.0), after_others=(-1.0, 0.0, 1.0))
    >>> steps.quantiles(History(np.array([0.0]), np.array([9.0])), 30.0, np.array([0.5])).round(1)
    array([9.])
    """

    name: Literal["cohort_steps"] = "cohort_steps"
    after_zero: tuple[float, ...] = Field(min_length=1)
    after_others: tuple[float, ...] = Field(min_length=1)

    @classmethod
    def fitted(cls, histories: Sequence[History]) -> Self:
        """The steps of every change between scans. Raises ValueError for fewer than ten."""
        changes = size_changes(histories)
        last = np.array([change.history.log_sizes[-1] for change in changes])
        steps, zero = np.array([change.log_size for change in changes]) - last, is_nothing(last)
        few = min(int(zero.sum()), int((~zero).sum()))
        if few < FEWEST_STEPS:
            log.warning("%d steps after a size of zero, or after others: too few to tell them apart", few)
            zero, others = np.ones_like(zero), np.ones_like(zero)
        else:
            others = ~zero
        after_zero, after_others = (tuple(np.sort(steps[which]).tolist()) for which in (zero, others))
        return cls(after_zero=after_zero, after_others=after_others)

    def quantiles(self, history: History, horizon_days: float, levels: Array) -> Array:
        """(Q,) quantiles of y, horizon_days after the last scan, at levels: (Q,) in (0, 1)."""
        last = history.log_sizes[-1]
        steps = self.after_zero if is_nothing(last) else self.after_others
        return floored(last + np.quantile(np.array(steps), levels, method="hazen"))


class LinearRegression(MapEstimatedModel):
    """Three coefficients: y' = a + b y + c (y - y_before) + σ t_ν; for one scan y - y_before is 0.

    intercept, by_size, by_step: a, b, c by least squares. log_scale, log_dof: log σ and log ν, the likeliest of the
    residuals. The spread is wider by what five parameters cost (plug_in_factor).
    """

    bounds: ClassVar[dict[str, Range]] = STUDENT_BOUNDS

    name: Literal["linear_regression"] = "linear_regression"
    intercept: float
    by_size: float
    by_step: float
    log_scale: float
    log_dof: float

    @classmethod
    def fitted(cls, histories: Sequence[History]) -> Self:
        """From every change between scans. Raises ValueError for fewer than ten."""
        changes = size_changes(histories)
        predictors = np.array([_predictors(change.history) for change in changes])
        next_ = np.array([change.log_size for change in changes])
        coefficients = np.linalg.lstsq(predictors, next_)[0]
        residuals = next_ - predictors @ coefficients
        a, b, c = coefficients.tolist()
        scale = math.log(0.7 * float(np.std(residuals)) + 1e-3)
        start = cls(intercept=a, by_size=b, by_step=c, log_scale=scale, log_dof=math.log(5.0))
        likeliest = start.most_probable(lambda model: model._log_likelihood(residuals), len(changes))
        return likeliest.model_copy(update={"plug_in_factor": plug_in_factor(len(changes), 5)})

    def _log_likelihood(self, residuals: Array) -> float:
        z = residuals / math.exp(self.log_scale)
        return float(np.sum(log_student_density(z, math.exp(self.log_dof)) - self.log_scale))

    def quantiles(self, history: History, horizon_days: float, levels: Array) -> Array:
        """(Q,) quantiles of y, horizon_days after the last scan, at levels: (Q,) in (0, 1)."""
        location = float(_predictors(history) @ np.array([self.intercept, self.by_size, self.by_step]))
        scale = self.plug_in_factor * math.exp(self.log_scale)
        return floored(student_quantiles(levels, location, scale, math.exp(self.log_dof)))


def _predictors(history: History) -> Array:
    last, before = history.log_sizes[-1], history.log_sizes[-2:][0]
    return np.array([1.0, last, last - before])


class Line(Settings):
    """A straight line through a patient's own y over days, with its Student-t prediction interval.

    Two scans leave no residual: then the line has the spread of the cohort's persistence; one scan persists with it.
    Nothing is forecast beyond the volume of a brain, nor below that of no tumour.
    """

    name: Literal["line"] = "line"
    persistence: Persistence

    @classmethod
    def fitted(cls, histories: Sequence[History]) -> Self:
        """With the cohort's persistence. Raises ValueError for fewer than ten changes between scans."""
        return cls(persistence=Persistence.fitted(histories))

    def quantiles(self, history: History, horizon_days: float, levels: Array) -> Array:
        """(Q,) quantiles of y, horizon_days after the last scan, at levels: (Q,) in (0, 1)."""
        days, scans = history.days - history.days[-1], history.days.size
        location = line_through(days, history.log_sizes, horizon_days)
        if scans <= 2:
            scale, dof = math.exp(self.persistence.log_scale), math.exp(self.persistence.log_dof)
            return within_a_brain(student_quantiles(levels, location, scale, dof))
        residuals = history.log_sizes - np.array([line_through(days, history.log_sizes, day) for day in days])
        leverage = 1 / scans + (horizon_days - days.mean()) ** 2 / np.sum(np.square(days - days.mean()))
        scale = math.sqrt(float(residuals @ residuals) / (scans - 2) * (1 + float(leverage)))
        return within_a_brain(location + scale * special.stdtrit(scans - 2, levels))


def line_through(days: Array, y: Array, day: float) -> float:
    """The least squares line through y on days: (T,) at a day; through one scan it is level.

    >>> line_through(np.array([0.0, 10.0]), np.array([9.0, 9.5]), 20.0)
    10.0
    """
    apart = days - days.mean()
    slope = float(apart @ y / (apart @ apart)) if days.size > 1 else 0.0
    return float(y.mean()) + slope * (day - float(days.mean()))


def within_a_brain(y: Array) -> Array:
    """(…,) y: (…,), at most that of LARGEST_MM3, at least that of no tumour."""
    return np.asarray(np.clip(y, *log_sizes(np.array([0.0, LARGEST_MM3]))), dtype=np.float64)
