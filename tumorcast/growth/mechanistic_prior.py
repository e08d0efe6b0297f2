"""What a population tells of one patient's growth law: normal priors of its parameters, and how sizes depart from it.

A measured log size is the law's, plus a departure that wanes with time (an Ornstein–Uhlenbeck process: operations,
steroids, pseudoprogression, and whatever the law does not know), plus an error of measurement.
"""

from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from tumorcast.growth.laws import parameter_names
from tumorcast.records import ErrorModel, LawName
from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]
Positive = Annotated[float, Field(gt=0)]


class NormalPrior(Settings):
    """A parameter's mean and standard deviation over patients; of its logarithm where `log`."""

    mean: float
    sd: Positive
    log: bool

    def transformed(self, value: float) -> float:
        """The value on the scale of the mean."""
        return float(np.log(value)) if self.log else value


class MechanisticPrior(Settings):
    """The population's growth law.

    parameters: by the name of the column of a row. measurement_sd, departure_sd: of log sizes; departure_days: the time
    in which a departure falls to 1/e.
    """

    law: LawName
    parameters: dict[str, NormalPrior]
    measurement_sd: Positive
    departure_sd: Annotated[float, Field(ge=0)]
    departure_days: Positive

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        unknown = sorted(set(self.parameters) - set(parameter_names(0)))
        if unknown:
            raise ValueError(f"no law has a parameter '{unknown[0]}'; there are {', '.join(parameter_names(0))}")
        return self

    @property
    def errors(self) -> ErrorModel:
        """How sizes depart from the law."""
        return ErrorModel(self.measurement_sd, self.departure_sd, self.departure_days)

    def whitening(self, days: Array) -> Array:
        """(T, T) lower triangle W with WᵀW the inverse of the covariance of log sizes on days: (T,)."""
        return np.ascontiguousarray(np.linalg.inv(np.linalg.cholesky(covariance(self.errors, days))))

    def scaled(self, power: float) -> Self:
        """The prior for sizes that are this power of those it was estimated from: 2/3 for areas from volumes."""
        scaled = {name: _scaled(name, told, power) for name, told in self.parameters.items()}
        sds = {name: getattr(self, name) * power for name in ("measurement_sd", "departure_sd")}
        return self.model_copy(update={"parameters": scaled, **sds})


def _scaled(name: str, told: NormalPrior, power: float) -> NormalPrior:
    """Rates of a power of the size are that many times its own; ratios are its own to that power; times stay."""
    match name:
        case "delay_days" | "slope_per_day":
            return told
        case "decay_rate_per_day" | "rate_per_day" if told.log:
            return told.model_copy(update={"mean": told.mean + float(np.log(power))})
        case _:
            return told.model_copy(update={"mean": told.mean * power, "sd": told.sd * power})


def departures(errors: ErrorModel, days: Array, others: Array) -> Array:
    """(T, U) covariance of the departures on days: (T,) and others: (U,)."""
    apart = np.abs(days[:, None] - others[None, :])
    return np.asarray(errors.departure_sd**2 * np.exp(-apart / errors.departure_days))


def covariance(errors: ErrorModel, days: Array) -> Array:
    """(T, T) covariance of log sizes measured on days: (T,)."""
    return departures(errors, days, days) + errors.measurement_sd**2 * np.eye(days.size)
