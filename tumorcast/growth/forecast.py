"""Forecasts from a growth fit, as joint trajectories: a row is one possible tumour on every day asked for.

Up to the last scan a trajectory is its replicate's. After it, the sizes that the chosen forecaster holds possible are
dealt to the replicates in the order of their own sizes on that day (ensemble copula coupling; Schefzik et al. 2013):
every day has the forecaster's distribution, and a row keeps the shape of its growth law.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import assert_never

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from tumorcast.growth.bootstrap import Stream, patient_rng
from tumorcast.growth.laws import sizes_of, timeline_of
from tumorcast.growth.population.combined import CombinedForecast
from tumorcast.growth.population.history import History, from_log, to_log
from tumorcast.growth.population.pool import Contribution, pooled
from tumorcast.growth.population.state_space import StateSpaceForecast
from tumorcast.growth.prior import SizePrior, covariance, departures
from tumorcast.growth.problem import detection_limit
from tumorcast.growth.scores import dense_levels
from tumorcast.records import ErrorModel, Forecaster, GrowthFit

Array = npt.NDArray[np.float64]

LEVELS = dense_levels()  # at which a forecaster is asked; between them it is interpolated
FARTHEST_CHANGE = 300.0  # of a logarithm


@dataclass(frozen=True)
class GrowthForecast:
    """A fit, and the forecaster that goes on from it. prior: needed by every one but the mechanistic.

    Row b is the same trajectory in every method, so that a target and a curve drawn from row b agree.
    """

    fit: GrowthFit
    prior: SizePrior | None = None
    forecaster: Forecaster = Forecaster.MECHANISTIC

    def trajectories(self, days: Array) -> Array:
        """(B, T) sizes on days: (T,), in the unit of the fitted series; finite and not negative."""
        days = np.asarray(days, dtype=np.float64)
        sizes = self._replicates(days)
        if self.forecaster is Forecaster.MECHANISTIC:
            return sizes
        columns = np.flatnonzero(days >= self._last_day if self._holds_to_last else days > self._last_day)
        sizes[:, columns] = self._dealt(days[columns], sizes[:, columns])
        return sizes

    def _dealt(self, days: Array, ordered: Array) -> Array:
        """(B, T) the forecast of each day dealt to B rows in the order that ordered: (B, T) has on that day."""
        ranks = np.argsort(np.argsort(ordered, axis=0, kind="stable"), axis=0, kind="stable")
        dealt = np.empty_like(ordered)
        for column, log_quantiles in enumerate(self.log_quantiles(days)):
            dealt[:, column] = np.interp((ranks[:, column] + 0.5) / len(ranks), LEVELS, log_quantiles)
        return from_log(dealt, self.fit.series.size_name)

    def paths(self, days: Array, count: int, seed: int = 0) -> Array:
        """(count, T) sizes that scans on days: (T,) would measure, along courses that may be: for what hangs on several
        days together, as the first day beyond a size. days: increasing, none before the last scan.

        Each day has the forecaster's distribution; courses have the mixture's order from day to day (ensemble copula
        coupling), of other forecasters the law's, which hardly cross.
        """
        if not self._holds_to_last:
            return self.trajectories(days)[np.arange(count) % len(self.fit.replicates)]
        rng = patient_rng(seed, self.fit.series.patient_id, Stream.PATHS)
        drawn = self._mixture.paths(np.asarray(days, dtype=np.float64) - self._last_day, count, rng)
        drawn += 1e-6 * rng.random(drawn.shape)  # an order also among those in which nothing is seen
        return self._dealt(days, drawn)

    def best(self, days: Array) -> Array:
        """(T,) sizes of the best fit of the law on days: (T,)."""
        return self._law_sizes(self.fit.parameters.reshape(1, -1), days).ravel()

    def quantiles(self, days: Array, levels: Array) -> Array:
        """(Q, T) quantiles over the trajectories, levels: (Q,) in [0, 1]. Raises ValueError outside that range."""
        return np.asarray(np.quantile(self.trajectories(days), levels, axis=0), dtype=np.float64)

    def predicted(self, day: float, levels: Array) -> Array:
        """(Q,) quantiles, at levels: (Q,) in (0, 1), of the size that a scan on `day`, after the last, will measure."""
        (log_quantiles,) = self.log_quantiles(np.array([day]))
        return from_log(np.interp(levels, LEVELS, log_quantiles), self.fit.series.size_name)

    def log_quantiles(self, days: Array) -> Array:
        """(T, Q) y at LEVELS on days: (T,), none before the last scan."""
        if self.forecaster is Forecaster.STATE_SPACE:
            return self._mixture.quantiles(days - self._last_day, LEVELS)
        if self.forecaster is not Forecaster.COMBINED:
            return np.array([pooled(self.contributions(float(day))) for day in days]).reshape(-1, LEVELS.size)
        by_pool = [pooled(self._of_pool(float(day))) for day in days]
        return self._combined.quantiles(days - self._last_day, LEVELS, by_pool)

    def contributions(self, day: float) -> tuple[Contribution, ...]:
        """What each component forecasts of a scan on that day, and its weight: y = log(v + 100 mm³) at LEVELS.

        The forecast is their weighted mean, the combined one's within its limits.
        """
        if self.forecaster is Forecaster.MECHANISTIC:
            return (Contribution(str(self.forecaster), 1.0, self.measured(day)),)
        assert self.prior is not None, "the fit was read with its prior"
        horizon = day - self._last_day
        match self.forecaster:
            case Forecaster.PERSISTENCE:
                log_quantiles = self.prior.persistence.quantiles(self._history, horizon, LEVELS)
                return (Contribution(str(self.forecaster), 1.0, log_quantiles),)
            case Forecaster.POOLED:
                return self._of_pool(day)
            case Forecaster.STATE_SPACE:
                return (self._of_mixture(horizon),)
            case Forecaster.COMBINED:
                (weight,) = self._combined.pool_weights(np.array([horizon])).tolist()
                pool = (part._replace(weight=weight * part.weight) for part in self._of_pool(day))
                return (self._of_mixture(horizon)._replace(weight=1 - weight), *pool)
            case _:
                assert_never(self.forecaster)

    def _of_pool(self, day: float) -> tuple[Contribution, ...]:
        assert self.prior is not None, "the fit was read with its prior"
        pool, horizon = self.prior.pool_for(self.fit.law), day - self._last_day
        return pool.contributions(self._history, horizon, LEVELS, self.measured(day))

    def _of_mixture(self, horizon_days: float) -> Contribution:
        (log_quantiles,) = self._mixture.quantiles(np.array([horizon_days]), LEVELS)
        return Contribution(self._mixture.mixture.name, 1.0, log_quantiles)

    @cached_property
    def _history(self) -> History:
        return History.of(self.fit.told)

    @cached_property
    def _mixture(self) -> StateSpaceForecast:
        assert self.prior is not None and self.prior.state_space is not None, "checked when the forecaster was chosen"
        return self.prior.state_space.given(self._history)

    @cached_property
    def _combined(self) -> CombinedForecast:
        assert self.prior is not None, "the fit was read with its prior"
        return CombinedForecast(self._mixture, self.prior.pool)

    @property
    def _holds_to_last(self) -> bool:
        """Whether the forecast begins at the last scan itself, with its measurement and what that may be off."""
        return self.forecaster in {Forecaster.COMBINED, Forecaster.STATE_SPACE}

    def relative_change(self, day_from: float, day_to: float) -> Array:
        """(B,) size on day_to over size on day_from along each trajectory: finite, not negative.

        From the last scan, forecasters that hold to it compare with the size measured there (at least what can be
        seen). Of the growth law it is the growth itself, so that a size that has vanished is never divided by.
        """
        days = np.array([day_from, day_to], dtype=np.float64)
        if self.forecaster is Forecaster.MECHANISTIC:
            return np.exp(np.clip(np.diff(self._log_growth(days), axis=1).ravel(), -700.0, FARTHEST_CHANGE))
        sizes = self.trajectories(days)
        if day_from == self._last_day:
            sizes[:, 0] = self.fit.series.sizes[-1]
        return np.asarray(sizes[:, 1] / np.maximum(sizes[:, 0], self._limit))

    def relative_quantiles(self, day_from: float, day_to: float, levels: Array) -> Array:
        """(Q,) quantiles, at levels: (Q,) in (0, 1), of the change that `relative_change` is of: not negative.

        From the last scan, of a forecaster that holds to it, they are the forecast's own and no trajectories'.
        """
        if self.forecaster is Forecaster.MECHANISTIC or day_from != self._last_day:
            return np.asarray(np.quantile(self.relative_change(day_from, day_to), levels))
        return np.asarray(self.predicted(day_to, levels) / max(float(self.fit.series.sizes[-1]), self._limit))

    def measured(self, day: float) -> Array:
        """y of the law's replicates at LEVELS, errors of measurement included."""
        sizes = self._replicates(np.array([day])).ravel()
        if self.fit.errors is not None:
            spread = ndtri((np.random.default_rng(0).permutation(sizes.size) + 0.5) / sizes.size)
            sizes = sizes * np.exp(self.fit.errors.measurement_sd * spread)
        return np.quantile(to_log(np.minimum(sizes, 1e100), self.fit.series.size_name), LEVELS)

    @property
    def _last_day(self) -> float:
        return float(self.fit.series.days[-1])

    @cached_property
    def _limit(self) -> float:
        return detection_limit(self.fit.series)

    def _replicates(self, days: Array) -> Array:
        """(B, T) sizes of the replicates of the law.

        Where the population has shown how sizes depart from it, a replicate has the departure that the patient's scans
        show, and of what they leave open the quantile that is its own.
        """
        law = self._law_sizes(self.fit.replicates, days)
        if self.fit.errors is None:
            return law
        return np.asarray(law * np.exp(self._departures(self.fit.errors, days)))

    def _log_growth(self, days: Array) -> Array:
        """(B, T) log of the replicates' sizes over their first."""
        rows = self.fit.replicates.copy()
        rows[:, self.fit.parameter_names.index("initial_size")] = 1.0
        growth = np.log(np.maximum(self._law_sizes(rows, days), 1e-300))
        return growth if self.fit.errors is None else growth + self._departures(self.fit.errors, days)

    def _departures(self, errors: ErrorModel, days: Array) -> Array:
        """(B, T) log departure from the law of each trajectory: the mean given the scans, plus its own deviation."""
        series = self.fit.series
        across = departures(errors, days, series.days)
        gain = np.linalg.solve(covariance(errors, series.days), across.T)
        seen = np.log(np.maximum(series.sizes, self._limit))
        missed = seen - np.log(np.maximum(self._law_sizes(self.fit.replicates, series.days), 1e-300))
        left = np.sqrt(np.maximum(errors.departure_sd**2 - np.sum(across.T * gain, axis=0), 0.0))
        return np.asarray(missed @ gain + self.fit.deviations[:, None] * left)

    def _law_sizes(self, rows: Array, days: Array) -> Array:
        timeline = timeline_of(self.fit.series.treatment, self.fit.origin_day, days, doses=self.fit.doses)
        return sizes_of(self.fit.law, timeline, rows)
