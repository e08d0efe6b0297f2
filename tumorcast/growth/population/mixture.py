"""Mixture autoregression (Wong & Li 2000): the next size goes on from the last, or is drawn anew round a level.

y' ~ (1 - π) N(y + a, σ₁²) + π N(μ_i + e, σ₂² (1 + 1/(n + κ))),   μ_i = m + Σ(y_j - m) / (n + κ)
logit π = p + p₁ (y - m)/s,   both means + a₁ after a first scan, + d g

with y the last of the patient's n log sizes, m the mean and s the spread of all, and g by how much a second compartment
of the tumour, where one is known, exceeds its usual proportion. A resection, a pseudo-progression or a failed
segmentation is a size that tells little of the next one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import special

from tumorcast.growth.population.history import (
    CompanionScale,
    History,
    companion_excess,
    companion_gaps,
    size_changes,
)
from tumorcast.growth.population.map_estimation import MapEstimatedModel, Range, log_normal_density, widening

Array = npt.NDArray[np.float64]

BOUNDS: dict[str, Range] = {
    "logit_chance": (-4.0, 4.0),
    "chance_by_size": (-2.0, 2.0),
    "shift": (-2.0, 2.0),
    "first_shift": (-2.0, 2.0),
    "by_companion": (-2.0, 2.0),
    "log_stay_sd": (-2.0, 2.0),
    "offset": (-3.0, 3.0),
    "log_kappa": (-2.0, 4.0),
    "log_redraw_sd": (-3.0, 2.0),
}
# Mean and standard deviation; wide, for mixtures of few points have likelihoods of many humps.
PRIORS: dict[str, Range] = {
    "logit_chance": (-0.5, 1.0),
    "chance_by_size": (0.0, 0.5),
    "shift": (0.0, 0.3),
    "first_shift": (0.0, 0.3),
    "by_companion": (0.0, 0.12),
    "log_kappa": (0.5, 0.7),
}
FARTHEST_SIZE = 3.0  # spreads from the mean, beyond which the chance changes no more
HALVINGS = 50


@dataclass(frozen=True)
class MixturePredictors:
    """(N,) last y, Σ(y - m), number of scans, y of the companion less the last y (NaN where not known)."""

    last: Array
    excess: Array
    scans: Array
    companion_gap: Array

    @classmethod
    def of(cls, histories: Sequence[History], centre: float) -> Self:
        """One entry a history; centre: m."""
        return cls(
            np.array([history.log_sizes[-1] for history in histories]),
            np.array([np.sum(history.log_sizes - centre) for history in histories]),
            np.array([float(history.days.size) for history in histories]),
            companion_gaps(histories),
        )


@dataclass(frozen=True)
class NormalMixture:
    """N mixtures of two normals: log of the chance of each, mean and standard deviation, all (2, N): stay, redraw."""

    log_chance: Array
    mean: Array
    sd: Array

    def log_density(self, x: Array) -> Array:
        """(N,) at x: (N,)."""
        return np.asarray(special.logsumexp(self.log_chance + log_normal_density(x, self.mean, self.sd), axis=0))

    def quantiles(self, levels: Array) -> Array:
        """(Q,) of the first mixture, by bisection between the two normals' own quantiles."""
        chance, mean, sd = np.exp(self.log_chance[:, :1]), self.mean[:, :1], self.sd[:, :1]
        each = mean + sd * special.ndtri(levels)
        low, high = each.min(axis=0), each.max(axis=0)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            below = np.sum(chance * special.ndtr((middle - mean) / sd), axis=0) < levels
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray(0.5 * (low + high), dtype=np.float64)


class MixtureAutoregression(MapEstimatedModel):
    """The parameters of the mixture; the module has its formula.

    centre, spread: m, s; logit_chance, chance_by_size: p, p₁; shift, first_shift, by_companion: a, a₁, d;
    log_stay_sd, log_redraw_sd: log σ₁, log σ₂; offset: e; log_kappa: log κ.
    longest_days: the longest interval between two training scans.

    >>> history = History(np.array([0.0, 60.0]), np.array([9.0, 10.0]))
    >>> model = MixtureAutoregression(centre=9.0, spread=1.0, longest_days=90.0)
    >>> model.quantiles(history, 30.0, np.array([0.05, 0.5, 0.95])).round(2)
    array([ 8.02,  9.85, 10.9 ])
    """

    bounds: ClassVar[dict[str, Range]] = BOUNDS
    priors: ClassVar[dict[str, Range]] = PRIORS

    name: Literal["redraw"] = "redraw"
    centre: float
    spread: float
    longest_days: float
    companion: CompanionScale | None = None
    logit_chance: float = -0.5
    chance_by_size: float = 0.0
    shift: float = 0.0
    first_shift: float = 0.0
    by_companion: float = 0.0
    log_stay_sd: float = -0.7
    offset: float = 0.0
    log_kappa: float = 0.5
    log_redraw_sd: float = 0.0

    @classmethod
    def fitted(cls, histories: Sequence[History]) -> Self:
        """The most probable parameters given every change between scans. Raises ValueError for fewer than ten."""
        changes = size_changes(histories)
        sizes = np.concatenate([history.log_sizes for history in histories])
        earlier = [change.history for change in changes]
        start = cls(
            centre=float(sizes.mean()),
            spread=float(sizes.std()) + 1e-3,
            longest_days=max(change.horizon_days for change in changes),
            companion=CompanionScale.around(companion_gaps(earlier)),
        )
        x = MixturePredictors.of(earlier, start.centre)
        next_ = np.array([change.log_size for change in changes])
        return start.most_probable(lambda model: float(np.sum(model._mixture(x).log_density(next_))), len(changes))

    def _mixture(self, x: MixturePredictors) -> NormalMixture:
        distance = np.clip((x.last - self.centre) / self.spread, -FARTHEST_SIZE, FARTHEST_SIZE)
        logit = self.logit_chance + self.chance_by_size * distance
        weight = 1.0 / (x.scans + math.exp(self.log_kappa))
        shared = self.first_shift * (x.scans == 1) + self.by_companion * companion_excess(
            self.companion, x.companion_gap
        )
        return NormalMixture(
            log_chance=np.stack([special.log_expit(-logit), special.log_expit(logit)]),
            mean=np.stack([x.last + self.shift, self.centre + self.offset + weight * x.excess]) + shared,
            sd=np.stack(
                [np.full_like(weight, math.exp(self.log_stay_sd)), math.exp(self.log_redraw_sd) * np.sqrt(1 + weight)]
            ),
        )

    def quantiles(self, history: History, horizon_days: float, levels: Array) -> Array:
        """(Q,) quantiles of y, horizon_days after the last scan, at levels: (Q,) in (0, 1)."""
        quantiles = self._mixture(MixturePredictors.of([history], self.centre)).quantiles(np.append(levels, 0.5))
        median = quantiles[-1]
        factor = self.plug_in_factor * widening(horizon_days, self.longest_days)
        return np.asarray(median + factor * (quantiles[:-1] - median), dtype=np.float64)
