"""The state-space mixture and the pool together, each counting as it suits the patient and the horizon.

quantiles = (1 - ω) mixture + ω pool,   ω = k min(π (1 - p), π L / (1 - π + π L)),   k = 1 - exp(-h / 10 d)

with p how probably the patient follows a growth law, and L the densities that the pool gave to the patient's earlier
scans over those that the mixture gave, at most 1 (of the pool without the growth law, which would have to be fitted to
each earlier scan). So the pool, which looks at neither horizon nor regularity, counts most for irregular patients some
weeks ahead, and nothing tomorrow or where the mixture foresaw this patient better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tumorcast.growth.population.history import History
from tumorcast.growth.population.kinds import FLOOR, ceiling_of, is_nothing
from tumorcast.growth.population.pool import Pool
from tumorcast.growth.population.state_space import StateSpaceForecast
from tumorcast.growth.scores import dense_levels

Array = npt.NDArray[np.float64]

POOL_SHARE = 0.9  # π: .8 to 1 differ by under 0.01 in the score
POOL_DAYS = 10.0
DENSITY_LEVELS = dense_levels()
NEIGHBOURS = 6  # levels on either side, between which a density is taken
TAIL_RATE = 3.0  # per log size, at which a density falls beyond the outermost quantiles
LEAST_DENSITY, LEAST_CHANCE = 1e-4, 2e-3  # of a size; of nothing seen
FARTHEST_ODDS = 50.0


@dataclass(frozen=True)
class CombinedForecast:
    """How much the pool counts beside the mixture, given a patient's scans."""

    mixture: StateSpaceForecast
    pool: Pool

    def pool_weights(self, ahead_days: Array) -> Array:
        """(H,) ω on ahead_days: (H,) ≥ 0 after the last scan."""
        return np.asarray(-np.expm1(-ahead_days / POOL_DAYS) * self._most)

    def quantiles(self, ahead_days: Array, levels: Array, by_pool: Sequence[Array] | None = None) -> Array:
        """(H, Q) quantiles of y on ahead_days: (H,) ≥ 0 after the last scan, at levels: (Q,) increasing in (0, 1).

        by_pool: what the pool forecasts on these days; by default without the growth law, whose share its other members
        have. None is below log(100 mm³), or above `ceiling_of`.
        """
        history = self.mixture.history
        if by_pool is None:
            by_pool = [self.pool.quantiles(history, day, levels) for day in ahead_days.tolist()]
        weights = self.pool_weights(ahead_days)[:, None]
        by_mixture = self.mixture.quantiles(ahead_days, levels)
        both = (1 - weights) * by_mixture + weights * np.array(by_pool).reshape(-1, levels.size)
        return np.clip(both, FLOOR, ceiling_of(history))

    @cached_property
    def _most(self) -> float:
        """ω far ahead."""
        likelihoods = float(np.exp(np.clip(self.pool_advantage, -FARTHEST_ODDS, 0.0)))
        by_scans = POOL_SHARE * likelihoods / (1 - POOL_SHARE + POOL_SHARE * likelihoods)
        return min(POOL_SHARE * (1 - self.mixture.lawful_share), by_scans)

    @cached_property
    def pool_advantage(self) -> float:
        """log L before it is bounded: of the scans after the first."""
        history = self.mixture.history
        ours = float(np.sum(self.mixture.log_scores[1:]))
        return sum(self._pool_log_score(history, scan) for scan in range(1, history.days.size)) - ours

    def _pool_log_score(self, history: History, scan: int) -> float:
        known = history.first(scan)
        horizon = float(history.days[scan] - history.days[scan - 1])
        return log_density(self.pool.quantiles(known, horizon, DENSITY_LEVELS), float(history.log_sizes[scan]))


def log_density(quantiles: Array, y: float) -> float:
    """Log density at y of the distribution with quantiles: (200,) at DENSITY_LEVELS; where nothing was seen, the log
    chance of that.

    >>> flat = np.linspace(9.0, 11.0, 200)
    >>> float(round(np.exp(log_density(flat, 10.0)), 2))
    0.5
    """
    if is_nothing(np.array(y)):
        return float(np.log(max(float(np.mean(quantiles <= FLOOR + 0.02)), LEAST_CHANCE)))
    place = int(np.searchsorted(quantiles, y))
    low, high = max(place - NEIGHBOURS, 0), min(place + NEIGHBOURS, quantiles.size - 1)
    density = (DENSITY_LEVELS[high] - DENSITY_LEVELS[low]) / max(quantiles[high] - quantiles[low], 1e-3)
    beyond = max(float(quantiles[0]) - y, y - float(quantiles[-1]), 0.0)
    return float(np.log(max(density * np.exp(-TAIL_RATE * beyond), LEAST_DENSITY)))
