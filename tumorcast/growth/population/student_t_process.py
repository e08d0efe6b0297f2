"""Student-t process (Shah, Wilson & Ghahramani 2014): a patient's sizes as one curve in time.

z_i(t) = m + α_i + (λ + λ_i) τ(t) + u_i(t) + ε,   z = (exp(p (y - c)) - 1) / p

with τ the years since the end of radiotherapy, held within 0 … 2, z a power of the size (Box & Cox 1964), for small
sizes vary more, normal α_i, λ_i and ε, an Ornstein–Uhlenbeck u_i, and a scale of the patient's own that makes the whole
multivariate Student-t: a patient whose sizes have leapt is given a wider interval. Irregular spacing and any number of
scans need nothing special.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import special

from tumorcast.growth.population.history import History, size_changes
from tumorcast.growth.population.map_estimation import MapEstimatedModel, Range, student_quantiles

Array = npt.NDArray[np.float64]

YEAR_DAYS = 365.25
FARTHEST_BELOW = 12.0  # log size below the centre: some 10⁵ times smaller
LAST_YEAR = 2.0  # since radiotherapy; beyond it trends are not carried on
BOUNDS: dict[str, Range] = {
    "power": (1e-3, 0.6),
    "level": (-5.0, 5.0),
    "trend": (-3.0, 3.0),
    "log_level_sd": (-3.0, 1.5),
    "log_slope_sd": (-3.0, 1.5),
    "log_wander_sd": (-3.0, 1.5),
    "log_wander_days": (math.log(10.0), math.log(1000.0)),
    "log_noise_sd": (-3.0, 1.5),
    "log_dof": (0.4, 4.6),
}
PRIORS: dict[str, Range] = {  # mean and standard deviation; those of logarithms span an order of magnitude
    "power": (0.15, 0.15),
    "level": (0.0, 1.0),
    "trend": (0.0, 1.0),
    "log_level_sd": (-0.5, 1.0),
    "log_slope_sd": (-1.0, 1.0),
    "log_wander_sd": (-0.5, 1.0),
    "log_wander_days": (math.log(120.0), 1.0),
    "log_noise_sd": (-0.5, 1.0),
    "log_dof": (math.log(8.0), 1.0),
}


def years_since_radiotherapy(history: History, days: Array) -> Array:
    """(N,) τ on days: (N,); where no radiotherapy is known the clock starts at the first scan."""
    start = history.days[0] if history.rt_end_day is None else history.rt_end_day
    return np.asarray(np.clip((days - start) / YEAR_DAYS, 0.0, LAST_YEAR), dtype=np.float64)


@dataclass(frozen=True)
class PaddedHistories:
    """N histories as arrays of one length, (N, T): days, y and τ, zero where known is zero."""

    days: Array
    log_sizes: Array
    years: Array
    known: Array

    @classmethod
    def of(cls, histories: Sequence[History]) -> Self:
        """PaddedHistories to the longest."""
        longest = max(history.days.size for history in histories)

        def padded(rows: list[Array]) -> Array:
            return np.stack([np.pad(row, (0, longest - row.size)) for row in rows])

        return cls(
            padded([history.days - history.days[0] for history in histories]),
            padded([history.log_sizes for history in histories]),
            padded([years_since_radiotherapy(history, history.days) for history in histories]),
            padded([np.ones(history.days.size) for history in histories]),
        )


class StudentTProcess(MapEstimatedModel):
    """The parameters of the process; the module has its formula.

    power, centre: p, c; level: m; trend: λ, per year; log_level_sd, log_slope_sd, log_noise_sd: of α_i, λ_i, ε;
    log_wander_sd, log_wander_days: of u_i; log_dof: degrees of freedom.
    reach: the least and the greatest training y, beyond which the power no longer shapes the spread.

    >>> history = History(np.array([0.0, 60.0]), np.array([9.0, 10.0]))
    >>> process = StudentTProcess(centre=9.0, reach=(5.0, 14.0))
    >>> process.quantiles(history, 30.0, np.array([0.05, 0.5, 0.95])).round(2)
    array([ 8.26,  9.55, 10.63])
    """

    bounds: ClassVar[dict[str, Range]] = BOUNDS
    priors: ClassVar[dict[str, Range]] = PRIORS

    name: Literal["process"] = "process"
    centre: float
    reach: tuple[float, float]
    power: float = 0.15
    level: float = 0.0
    trend: float = 0.0
    log_level_sd: float = -0.5
    log_slope_sd: float = -1.0
    log_wander_sd: float = -0.5
    log_wander_days: float = math.log(120.0)
    log_noise_sd: float = -0.7
    log_dof: float = math.log(8.0)

    @classmethod
    def fitted(cls, histories: Sequence[History]) -> Self:
        """The most probable parameters by marginal likelihood. Raises ValueError for fewer than ten changes of size."""
        changes = len(size_changes(histories))
        data = PaddedHistories.of(histories)
        sizes = np.concatenate([history.log_sizes for history in histories])
        start = cls(centre=float(sizes.mean()), reach=(float(sizes.min()), float(sizes.max())))
        return start.most_probable(lambda process: process._log_likelihood(data), changes)

    def _warped(self, y: Array) -> Array:
        """(…,) z of y."""
        return np.asarray(np.expm1(self.power * (y - self.centre)) / self.power, dtype=np.float64)

    def _unwarped(self, z: Array) -> Array:
        """(…,) y of z; a z that no size has is taken for a size smaller than any that is seen."""
        least = np.expm1(-self.power * FARTHEST_BELOW)
        return np.asarray(self.centre + np.log1p(np.maximum(self.power * z, least)) / self.power, dtype=np.float64)

    def _mean(self, years: Array) -> Array:
        return np.asarray(self.level + self.trend * years, dtype=np.float64)

    def _covariance(self, days: Array, years: Array) -> Array:
        """(…, T, T) of z - ε at days and τ: (…, T), before the patient's own scale."""
        apart = np.abs(days[..., :, None] - days[..., None, :])
        wander = np.exp(2 * self.log_wander_sd - apart / math.exp(self.log_wander_days))
        slope = math.exp(2 * self.log_slope_sd) * years[..., :, None] * years[..., None, :]
        return np.asarray(math.exp(2 * self.log_level_sd) + slope + wander, dtype=np.float64)

    def _log_likelihood(self, data: PaddedHistories) -> float:
        """Of N multivariate Student-t of as many dimensions as each has scans."""
        nu, scans = math.exp(self.log_dof), data.known.sum(axis=1)
        both_known = data.known[:, :, None] * data.known[:, None, :]
        noise = np.where(data.known, math.exp(2 * self.log_noise_sd), 1.0)[:, :, None] * np.eye(data.known.shape[1])
        root = np.linalg.cholesky(self._covariance(data.days, data.years) * both_known + noise)
        residual = (self._warped(data.log_sizes) - self._mean(data.years)) * data.known
        misfit = np.sum(np.square(np.linalg.solve(root, residual[..., None])[..., 0]), axis=1)
        log_det = 2 * np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)), axis=1)
        constant = special.gammaln((nu + scans) / 2) - special.gammaln(nu / 2) - scans / 2 * math.log(nu * math.pi)
        log_jacobian = self.power * np.sum((data.log_sizes - self.centre) * data.known)
        return float(np.sum(constant - 0.5 * log_det - (nu + scans) / 2 * np.log1p(misfit / nu)) + log_jacobian)

    def quantiles(self, history: History, horizon_days: float, levels: Array) -> Array:
        """(Q,) quantiles of y, horizon_days after the last scan, at levels: (Q,) in (0, 1).

        The spread has the shape that the power gives it at the patient's present size, wherever the median goes: an
        interval that is wider in z is then wider in y, and none narrows as the horizon grows.
        """
        ahead_days = np.array([0.0, horizon_days])
        (now, then), (_, scale), dof = self._predicted(history, ahead_days)
        here = np.clip(now, *self._warped(np.array(self.reach)))
        spread = student_quantiles(levels, float(here), self.plug_in_factor * float(scale), dof)
        return self._unwarped(then) + self._unwarped(spread) - self._unwarped(here)

    def _predicted(self, history: History, ahead_days: Array) -> tuple[Array, Array, float]:
        """(H,) locations and scales in z, ahead_days: (H,) after the last scan, and the degrees of freedom."""
        scans, nu, noise = history.days.size, math.exp(self.log_dof), math.exp(2 * self.log_noise_sd)
        days = np.append(history.days, history.days[-1] + ahead_days)
        years = years_since_radiotherapy(history, days)
        K, mean = self._covariance(days, years), self._mean(years)
        residual, k = self._warped(history.log_sizes) - mean[:scans], K[:scans, scans:]
        solved = np.linalg.solve(K[:scans, :scans] + noise * np.eye(scans), np.column_stack([residual, k]))
        patient_scale = (nu + residual @ solved[:, 0]) / (nu + scans)
        variance = np.diag(K)[scans:] + noise - np.sum(k * solved[:, 1:], axis=0)
        return mean[scans:] + k.T @ solved[:, 0], np.sqrt(variance * patient_scale), nu + scans
