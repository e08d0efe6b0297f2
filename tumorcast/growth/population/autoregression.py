"""Autoregression of order one with Student-t innovations: the last log size, changed by a step.

y' = y + a + a₁[one scan] + b(ȳ_before - y) + c(m - y) + d g + σ t_ν,   log σ = s + s₁[one scan] + s₂(y - m)

with y the last log size, ȳ_before the mean of those before it, m the mean of the training patients' and g by how much
a second compartment of the tumour, where one is known, exceeds its usual proportion. The models `Persistence`, `Drift`
and `Regression` differ in which of these are estimated; the rest stay zero. After a first scan the change has its own
mean and spread: it is then that the effects of surgery and radiotherapy are seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from tumorcast.growth.population.history import (
    CompanionScale,
    History,
    SizeChange,
    companion_excess,
    companion_gaps,
    size_changes,
)
from tumorcast.growth.population.map_estimation import (
    MapEstimatedModel,
    Range,
    log_student_density,
    student_quantiles,
    widening,
)

Array = npt.NDArray[np.float64]

# Normal priors, mean and standard deviation, in log size per log size where they are of pulls. They shrink towards
# persistence and are not tuned finely: a third less for the pulls changes the pooled CRPS by under 1 %.
SPREAD_PRIORS: dict[str, Range] = {
    "first_log_scale": (0.0, 0.2),
    "log_scale_by_size": (0.0, 0.2),
    "log_dof": (math.log(5.0), 0.7),
}
SHIFT_PRIORS: dict[str, Range] = {"first_shift": (0.0, 0.3), "by_companion": (0.0, 0.12)}
PULL_PRIORS: dict[str, Range] = {"to_past": (0.0, 0.12), "to_centre": (0.0, 0.12)}

STUDENT_BOUNDS: dict[str, Range] = {"log_scale": (-5.0, 3.0), "log_dof": (0.0, math.log(200.0))}
SPREAD_BOUNDS: dict[str, Range] = {**STUDENT_BOUNDS, "first_log_scale": (-2.0, 2.0), "log_scale_by_size": (-2.0, 2.0)}
SHIFT_BOUNDS: dict[str, Range] = {"shift": (-3.0, 3.0), "first_shift": (-3.0, 3.0), "by_companion": (-2.0, 2.0)}
PULL_BOUNDS: dict[str, Range] = {"to_past": (-2.0, 2.0), "to_centre": (-2.0, 2.0)}


@dataclass(frozen=True)
class StepPredictors:
    """What the step depends on, (N,) each.

    last: y; past_gap: mean of the y before it, less it, 0 for one scan; is_first: 1 for one scan; companion_gap: y of
    the companion less it, NaN where not known.
    """

    last: Array
    past_gap: Array
    is_first: Array
    companion_gap: Array

    @classmethod
    def of(cls, histories: Sequence[History]) -> Self:
        """One entry a history."""
        last = np.array([history.log_sizes[-1] for history in histories])
        past_gap = np.array([_mean_before(history) - history.log_sizes[-1] for history in histories])
        is_first = np.array([float(history.days.size == 1) for history in histories])
        return cls(last, past_gap, is_first, companion_gaps(histories))


def _mean_before(history: History) -> float:
    before = history.log_sizes[:-1] if history.days.size > 1 else history.log_sizes
    return float(before.mean())


class Autoregression(MapEstimatedModel):
    """The parameters of the step; the module has its formula.

    centre: m; log_scale, first_log_scale, log_scale_by_size: s, s₁, s₂; log_dof: log ν; shift, first_shift: a, a₁;
    to_past, to_centre, by_companion: b, c, d. reach: the least and greatest last y of the training patients, beyond
    which the effects of size grow no more. longest_days: the longest interval between two of their scans.
    """

    centre: float
    reach: tuple[float, float]
    longest_days: float
    companion: CompanionScale | None = None
    log_scale: float
    log_dof: float
    shift: float = 0.0
    first_shift: float = 0.0
    to_past: float = 0.0
    to_centre: float = 0.0
    by_companion: float = 0.0
    first_log_scale: float = 0.0
    log_scale_by_size: float = 0.0

    @classmethod
    def fitted(cls, histories: Sequence[History]) -> Self:
        """The most probable parameters given every change between scans. Raises ValueError for fewer than ten."""
        changes = size_changes(histories)
        x = StepPredictors.of([change.history for change in changes])
        next_ = np.array([change.log_size for change in changes])
        start = cls._search_start(x, next_, changes)
        return start.most_probable(lambda step: step._log_likelihood(x, next_), len(changes))

    @classmethod
    def _search_start(cls, x: StepPredictors, next_: Array, changes: Sequence[SizeChange]) -> Self:
        return cls(
            centre=float(x.last.mean()),
            reach=(float(x.last.min()), float(x.last.max())),
            longest_days=max(change.horizon_days for change in changes),
            companion=CompanionScale.around(x.companion_gap),
            log_scale=math.log(0.7 * float(np.std(next_ - x.last)) + 1e-3),
            log_dof=math.log(5.0),
        )

    def _log_likelihood(self, x: StepPredictors, next_: Array) -> float:
        log_scale = self._log_scale(x)
        z = (next_ - self._location(x)) / np.exp(log_scale)
        return float(np.sum(log_student_density(z, math.exp(self.log_dof)) - log_scale))

    def _beyond_centre(self, x: StepPredictors) -> Array:
        return np.asarray(np.clip(x.last, *self.reach) - self.centre, dtype=np.float64)

    def _location(self, x: StepPredictors) -> Array:
        pulls = self.to_past * x.past_gap - self.to_centre * self._beyond_centre(x)
        companion = self.by_companion * companion_excess(self.companion, x.companion_gap)
        return np.asarray(x.last + self.shift + self.first_shift * x.is_first + pulls + companion, dtype=np.float64)

    def _log_scale(self, x: StepPredictors) -> Array:
        by_size = self.log_scale_by_size * self._beyond_centre(x)
        return np.asarray(self.log_scale + self.first_log_scale * x.is_first + by_size, dtype=np.float64)

    def _widening(self, horizon_days: float) -> float:
        return self.plug_in_factor * widening(horizon_days, self.longest_days)

    def quantiles(self, history: History, horizon_days: float, levels: Array) -> Array:
        """(Q,) quantiles of y, horizon_days after the last scan, at levels: (Q,) in (0, 1)."""
        x = StepPredictors.of([history])
        scale = math.exp(self._log_scale(x)[0]) * self._widening(horizon_days)
        return student_quantiles(levels, float(self._location(x)[0]), scale, math.exp(self.log_dof))


class Persistence(Autoregression):
    """The last size, and a spread round it by maximum likelihood: y' = y + σ t_ν, the honest baseline.

    >>> steps = np.random.default_rng(0).normal(0.0, 0.5, (9, 4))
    >>> model = Persistence.fitted([History(np.arange(4.0), 9 + np.cumsum(row)) for row in steps])
    >>> model.quantiles(History(np.array([0.0]), np.array([9.0])), 30.0, np.array([0.25, 0.5, 0.75])).round(1)
    array([8.8, 9. , 9.2])
    """

    bounds: ClassVar[dict[str, Range]] = STUDENT_BOUNDS

    name: Literal["persistence"] = "persistence"

    def _widening(self, horizon_days: float) -> float:
        return 1.0


class Drift(Autoregression):
    """The last size, moved by what the population's moves on average between two scans: b = c = 0."""

    bounds: ClassVar[dict[str, Range]] = {**SPREAD_BOUNDS, **SHIFT_BOUNDS}
    priors: ClassVar[dict[str, Range]] = {**SPREAD_PRIORS, **SHIFT_PRIORS}

    name: Literal["drift"] = "drift"


class Regression(Autoregression):
    """Drift, with a pull towards the patient's own past and towards the population's mean size: all of the step."""

    bounds: ClassVar[dict[str, Range]] = {**Drift.bounds, **PULL_BOUNDS}
    priors: ClassVar[dict[str, Range]] = {**Drift.priors, **PULL_PRIORS}

    name: Literal["regression"] = "regression"
