"""A mixture of state-space models over kinds of patients: how regular a patient is, is learnt from the patient.

Of log sizes y = log(v + 100 mm³) a patient of one kind has a level with a growth rate, departures that wane, and noise
(kernels/state_space.py has the equations). A kind is a point of a grid: of noise, departures, rates and how often sizes
are drawn anew; or a curve of the exponential growth law under the patient's own radiotherapy, past and to come. How
frequent each kind is, is learnt from a cohort (nonparametric empirical Bayes; Laird 1978); given a patient's scans each
counts as it foresaw them. Three to six scans hardly identify a kind, so the whole mixture is the forecast.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy import optimize, special

from tumorcast.growth.population.history import CompanionScale, History, companion_gaps, size_changes
from tumorcast.growth.population.kinds import (
    FLOOR,
    ceiling_of,
    first_weights,
    grid_of_kinds,
    is_lawful,
    is_nothing,
    scans_of,
    with_lawful_share,
)
from tumorcast.growth.population.map_estimation import Range
from tumorcast.kernels import state_space as kernels
from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]

EM_STEPS = 20  # an early stop smooths: 12 to 300 steps differ by under 0.005 in the score
UNIFORM = 0.1  # share of the weights that every kind has alike
HEAVIEST = 40  # kinds by which the shared parameters are estimated
EVALUATIONS = 160
GRID = 300  # points of the distribution function
LEAST_WEIGHT = 2e-5  # of a kind, in a forecast
SEEN_DAYS = 10.0  # in which what was seen last, and is not believed, wanes

PRIORS: dict[str, Range] = {
    "first_shift": (0.0, 0.3),
    "shift": (0.0, 0.3),
    "logit_first_redraw": (-2.0, 1.0),
    "log_return_days": (math.log(1500.0), 1.0),
    "by_size": (0.15, 0.15),
    "log_small_noise": (0.0, 0.7),
    "by_companion": (0.0, 0.12),
    "operation_shift": (-1.2, 1.0),
    "log_operation_sd": (math.log(1.5), 0.3),
    "logit_scan_redraw": (-3.0, 1.0),
}
OPERATION_KEPT = 0.8


class StateSpaceMixture(Settings):
    """The parameters that all kinds share, and how frequent each kind is.

    centre, spread: of first scans; first_shift, shift: what is added to the level into the second, into every scan;
    logit_first_redraw: chance that the second is drawn anew; log_return_days: in which the level returns to the centre;
    by_size: how much less log sizes vary the greater they are; log_small_noise: noise of what vanishes; by_companion:
    drift by the companion's excess; operation_shift, log_operation_sd: after an operation that is known.
    weights: (K,) of grid_of_kinds, summing to one but for rounding; grid: which grid they are of.
    """

    name: Literal["state_space"] = "state_space"
    grid: Literal[1] = 1
    centre: float
    spread: float = Field(gt=0)
    companion: CompanionScale | None = None
    first_shift: float = 0.0
    shift: float = 0.0
    logit_first_redraw: float = -2.0
    log_return_days: float = math.log(1500.0)
    by_size: float = 0.15
    log_small_noise: float = 0.0
    by_companion: float = 0.0
    operation_shift: float = -1.2
    log_operation_sd: float = math.log(1.5)
    logit_scan_redraw: float = -3.0
    weights: tuple[float, ...]

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        kinds = len(grid_of_kinds())
        if len(self.weights) != kinds or min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-3:
            raise ValueError(f"weights must be {kinds} that are not negative and sum to 1")
        return self

    @classmethod
    def fitted(cls, histories: Sequence[History]) -> Self:
        """Shared parameters by penalised marginal likelihood, then the weights by EM.

        Raises ValueError for fewer than ten changes of size.
        """
        changes = size_changes(histories)
        firsts = np.array([history.log_sizes[0] for history in histories])
        companion = CompanionScale.around(companion_gaps([change.history for change in changes]))
        kinds = grid_of_kinds()
        start = cls(
            centre=float(firsts.mean()),
            spread=float(firsts.std()) + 0.1,
            companion=companion,
            weights=tuple(first_weights(kinds)),
        )
        scans = [scans_of(history, companion, np.zeros(0)) for history in histories]
        log_likelihoods = start._log_likelihoods(kinds, scans)
        heavy = np.argsort(-expectation_maximisation(log_likelihoods, np.array(start.weights), EM_STEPS))[:HEAVIEST]
        weights = np.full(heavy.size, 1.0 / heavy.size)

        def surprise(theta: Array) -> float:
            model = start._at(theta)
            each = model._log_likelihoods(kinds[heavy], scans)
            return model._prior_surprise() - float(np.sum(special.logsumexp(each, b=weights, axis=1)))

        first = np.array([getattr(start, name) for name in PRIORS])
        simplex = np.vstack([first, first + np.diag([0.5 * sd for _, sd in PRIORS.values()])])
        found = optimize.fmin(surprise, first, maxfun=EVALUATIONS, initial_simplex=simplex, disp=False)
        best = start._at(np.asarray(found))
        learnt = expectation_maximisation(best._log_likelihoods(kinds, scans), np.array(start.weights), EM_STEPS)
        mixed = (1 - UNIFORM) * learnt + UNIFORM * np.array(start.weights)
        if not any(np.isfinite(each.operation).any() for each in scans):  # moved by chance, not learnt
            unlearnt = {name: PRIORS[name][0] for name in ("operation_shift", "log_operation_sd")}
            best = best.model_copy(update=unlearnt)
        return best.model_copy(update={"weights": tuple(np.round(with_lawful_share(mixed, kinds), 8).tolist())})

    def _at(self, theta: Array) -> Self:
        return self.model_copy(update=dict(zip(PRIORS, map(float, theta), strict=True)))

    def _prior_surprise(self) -> float:
        squares = (((getattr(self, name) - mean) / sd) ** 2 for name, (mean, sd) in PRIORS.items())
        return 0.5 * float(sum(squares))

    @property
    def shared(self) -> Array:
        """As the kernels take them."""
        return np.array(
            [
                self.centre,
                self.spread,
                self.first_shift,
                self.shift,
                special.expit(self.logit_first_redraw),
                math.exp(min(max(self.log_return_days, 3.0), 12.0)),
                self.by_size,
                math.exp(self.log_small_noise),
                self.by_companion,
                self.operation_shift,
                OPERATION_KEPT,
                math.exp(self.log_operation_sd),
                special.expit(self.logit_scan_redraw),
            ]
        )

    def _log_likelihoods(self, kinds: Array, scans: Sequence[kernels.Scans]) -> Array:
        """(N, K) of each patient under each kind."""
        return np.stack([self.log_densities(kinds, each).sum(axis=1) for each in scans])

    @property
    def log_weights(self) -> Array:
        """(K,) logarithms of the weights."""
        weights = np.maximum(np.array(self.weights), 1e-300)
        return np.asarray(np.log(weights / weights.sum()), dtype=np.float64)

    def log_densities(self, kinds: Array, scans: kernels.Scans) -> Array:
        """(K, T) log predictive density of each scan under each kind."""
        log_densities = np.empty((len(kinds), scans.log_sizes.size))
        kernels.fill_log_densities(kinds, self.shared, scans, log_densities)
        return log_densities

    def given(self, history: History) -> "StateSpaceForecast":
        """The mixture as it stands after a patient's scans."""
        return StateSpaceForecast(self, history)

    def quantiles(self, history: History, horizon_days: float, levels: Array) -> Array:
        """(Q,) quantiles of y, horizon_days after the last scan, at levels: (Q,) increasing in (0, 1)."""
        (quantiles,) = self.given(history).quantiles(np.array([horizon_days]), levels)
        return np.asarray(quantiles)


@dataclass(frozen=True)
class StateSpaceForecast:
    """What the mixture says of one patient, given the scans of the history."""

    mixture: StateSpaceMixture
    history: History

    @cached_property
    def _log_densities(self) -> Array:
        return self.mixture.log_densities(grid_of_kinds(), self._scans(np.zeros(0)))

    @cached_property
    def kind_weights(self) -> Array:
        """(K,) how much each of grid_of_kinds counts."""
        return np.asarray(special.softmax(self._log_densities.sum(axis=1) + self.mixture.log_weights))

    @property
    def lawful_share(self) -> float:
        """How probably the patient follows a growth law."""
        return float(self.kind_weights[is_lawful(grid_of_kinds())].sum())

    @cached_property
    def log_scores(self) -> Array:
        """(T,) log predictive density of each scan given those before; where nothing was seen, log chance of that."""
        joint = special.logsumexp(self.mixture.log_weights[:, None] + np.cumsum(self._log_densities, axis=1), axis=0)
        return np.asarray(np.diff(joint, prepend=0.0))

    def quantiles(self, ahead_days: Array, levels: Array) -> Array:
        """(H, Q) quantiles of y on ahead_days: (H,) ≥ 0 after the last scan, at levels: (Q,) increasing in (0, 1).

        At 0 days they are of the same scan made once more: its median is what was measured, however far that is from
        what the mixture expected; see `_still_seen`. None is below log(100 mm³), that of no tumour, or above
        `ceiling_of`.
        """
        ahead_days = np.asarray(ahead_days, dtype=np.float64)
        return np.clip(
            self._believed(ahead_days, levels) + self._still_seen(ahead_days)[:, None], FLOOR, ceiling_of(self.history)
        )

    def paths(self, ahead_days: Array, count: int, rng: np.random.Generator) -> Array:
        """(count, H) courses of y as scans on ahead_days: (H,) ≥ 0, not decreasing, would measure it.

        Within the limits of `quantiles`.
        """
        heavy, weights = self._heavy
        drawn = np.sort(rng.choice(heavy.size, count, p=weights))
        shape = (count, len(ahead_days) + 1)
        numbers = kernels.Numbers(rng.standard_normal((*shape, 4)), rng.random((*shape, 2)))
        out = np.empty((count, len(ahead_days)))
        ahead_days = np.asarray(ahead_days, dtype=np.float64)
        scans = self._scans(ahead_days, step_by_step=True)
        kernels.fill_paths(grid_of_kinds()[heavy], drawn, self.mixture.shared, scans, numbers, out)
        return np.clip(out[rng.permutation(count)] + self._still_seen(ahead_days), FLOOR, ceiling_of(self.history))

    def _believed(self, ahead_days: Array, levels: Array) -> Array:
        """(H, Q) as the mixture has it, which may hold the last scan for misread."""
        heavy, weights = self._heavy
        scans = self._scans(ahead_days)
        normals = np.empty((ahead_days.size, 4 * kernels.PARTS * heavy.size, 3))
        counts = np.empty(ahead_days.size, dtype=np.int64)
        kinds = grid_of_kinds()[heavy]
        kernels.forecast_parts(kinds, weights, self.mixture.shared, scans, normals, counts)
        out, grid = np.empty((ahead_days.size, levels.size)), np.empty(GRID)
        for row, each, count in zip(out, normals, counts, strict=True):
            kernels.fill_quantiles(kernels.condense(each, int(count)), levels, grid, row)
        return out

    def _still_seen(self, ahead_days: Array) -> Array:
        """(H,) what was measured last less what the mixture believes, as far as a scan on that day would see it too.

        A lesion that was outlined wrongly, or was swollen, is so again tomorrow, and hardly in a month.
        """
        return np.asarray(np.exp(-ahead_days / SEEN_DAYS) * self._missed)

    @cached_property
    def _missed(self) -> float:
        ((believed,),) = self._believed(np.zeros(1), np.array([0.5]))
        missed = float(self.history.log_sizes[-1] - believed)
        return min(missed, 0.0) if is_nothing(self.history.log_sizes[-1]) else missed  # nothing is nothing

    @cached_property
    def _heavy(self) -> tuple[npt.NDArray[np.int64], Array]:
        """The kinds that count, and how much: summing to one."""
        heavy = np.flatnonzero(self.kind_weights > LEAST_WEIGHT)
        weights = self.kind_weights[heavy]
        return heavy, weights / weights.sum()

    def _scans(self, ahead_days: Array, *, step_by_step: bool = False) -> kernels.Scans:
        return scans_of(self.history, self.mixture.companion, ahead_days, step_by_step=step_by_step)


def expectation_maximisation(log_likelihoods: Array, weights: Array, steps: int) -> Array:
    """(K,) the weights after so many steps, from weights: (K,); log_likelihoods: (N, K)."""
    likelihoods = np.exp(log_likelihoods - log_likelihoods.max(axis=1, keepdims=True))
    for _ in range(steps):
        joint = likelihoods * weights
        weights = np.mean(joint / joint.sum(axis=1, keepdims=True), axis=0)
    return weights
