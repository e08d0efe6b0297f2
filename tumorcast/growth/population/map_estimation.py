"""Maximum a posteriori estimation of the component models' parameters, and what their forecasts have in common."""

import math
from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import optimize, special

from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]
Range = tuple[float, float]


class MapEstimatedModel(Settings):
    """A model whose free parameters are those of greatest posterior density.

    bounds: of each free parameter, by the field's name. priors: mean and standard deviation of a normal one; flat where
    there is none. plug_in_factor: see there.
    """

    bounds: ClassVar[dict[str, Range]] = {}
    priors: ClassVar[dict[str, Range]] = {}

    plug_in_factor: float = Field(1.0, ge=1)

    def most_probable(self, log_likelihood: Callable[[Self], float], observations: int) -> Self:
        """The same with the free parameters where likelihood times priors is greatest, by L-BFGS-B from those here."""

        def surprise(theta: Array) -> float:
            model = self._at(theta)
            return model._prior_surprise() - log_likelihood(model)

        start = np.array([getattr(self, name) for name in self.bounds])
        optimum = optimize.minimize(surprise, start, method="L-BFGS-B", bounds=list(self.bounds.values()))
        return self._at(optimum.x).model_copy(update={"plug_in_factor": plug_in_factor(observations, start.size)})

    def _at(self, theta: Array) -> Self:
        return self.model_copy(update=dict(zip(self.bounds, map(float, theta), strict=True)))

    def _prior_surprise(self) -> float:
        squares = (((getattr(self, name) - mean) / sd) ** 2 for name, (mean, sd) in self.priors.items())
        return 0.5 * float(sum(squares))


def plug_in_factor(observations: int, parameters: int) -> float:
    """By how much wider a forecast must be than the most likely spread, which is that of the very observations that the
    parameters were fitted to: n over n - p in the variance, as in linear regression.

    >>> round(plug_in_factor(132, 9), 3)
    1.036
    """
    return math.sqrt(observations / max(observations - parameters, 1))


def log_normal_density(x: Array, mean: Array, sd: Array | float) -> Array:
    """(N,) log density of a normal at x: (N,)."""
    return np.asarray(-0.5 * np.square((x - mean) / sd) - np.log(sd) - 0.5 * np.log(2 * np.pi), dtype=np.float64)


def log_student_density(z: Array, dof: float) -> Array:
    """(N,) log density of a standard Student-t at z: (N,)."""
    constant = special.gammaln((dof + 1) / 2) - special.gammaln(dof / 2) - 0.5 * np.log(dof * np.pi)
    return np.asarray(constant - (dof + 1) / 2 * np.log1p(np.square(z) / dof), dtype=np.float64)


def student_quantiles(levels: Array, location: float, scale: float, dof: float) -> Array:
    """(Q,) quantiles of a Student-t at levels: (Q,) in (0, 1)."""
    return np.asarray(location + scale * special.stdtrit(dof, levels), dtype=np.float64)


def widening(horizon_days: float, longest_days: float) -> float:
    """The factor on a spread at a horizon, given the longest interval between two scans of the training patients.

    Within it errors do not depend on the horizon, for scans are taken when something has happened; beyond it spreads
    grow as the square root of time, as Brownian motion does.
    """
    return float(np.sqrt(max(1.0, horizon_days / longest_days)))
