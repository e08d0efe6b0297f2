"""What a population tells of the next patient: a prior of each growth law, and models that share information.

A PopulationPrior (one JSON file) has a SizePrior for every column of sizes: a LawPrior of each growth law, the pool of
component models, and calibrated persistence. It holds parameters only, no patient's data.

Under a LawPrior a measured log size is the growth law's, plus a departure that wanes with time (an Ornstein–Uhlenbeck
process: operations, steroids, pseudoprogression, and whatever the law does not know), plus an error of measurement.
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.growth.laws import parameter_names
from tumorcast.growth.population.autoregression import Persistence
from tumorcast.growth.population.history import AREA_POWER, is_area
from tumorcast.growth.population.pool import Pool
from tumorcast.growth.population.state_space import StateSpaceMixture
from tumorcast.records import ErrorModel, LawName
from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, lt=1)]

SHIPPED = Path(__file__).with_name("mu_glioma_post.json")


class NormalPrior(Settings):
    """A parameter's mean and standard deviation over patients; of its logarithm where `log`."""

    mean: float
    sd: Positive
    log: bool

    def transformed(self, value: float) -> float:
        """The value on the scale of the mean."""
        return float(np.log(value)) if self.log else value


class LawPrior(Settings):
    """A population's prior of one growth law: normal priors of its parameters, and how sizes depart from it.

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
        scaled = {name: _scaled(name, prior, power) for name, prior in self.parameters.items()}
        sds = {name: getattr(self, name) * power for name in ("measurement_sd", "departure_sd")}
        return self.model_copy(update={"parameters": scaled, **sds})


def _scaled(name: str, prior: NormalPrior, power: float) -> NormalPrior:
    """Rates of a power of the size are that many times its own; ratios are its own to that power; times stay."""
    match name:
        case "delay_days" | "slope_per_day":
            return prior
        case "decay_rate_per_day" | "rate_per_day" if prior.log:
            return prior.model_copy(update={"mean": prior.mean + float(np.log(power))})
        case _:
            return prior.model_copy(update={"mean": prior.mean * power, "sd": prior.sd * power})


def departures(errors: ErrorModel, days: Array, others: Array) -> Array:
    """(T, U) covariance of the departures on days: (T,) and others: (U,)."""
    apart = np.abs(days[:, None] - others[None, :])
    return np.asarray(errors.departure_sd**2 * np.exp(-apart / errors.departure_days))


def covariance(errors: ErrorModel, days: Array) -> Array:
    """(T, T) covariance of log sizes measured on days: (T,)."""
    return departures(errors, days, days) + errors.measurement_sd**2 * np.eye(days.size)


class UsualSurprise(Settings):
    """Mean and standard deviation over the prior's own patients of their mean surprise, nats a scan, each forecast by
    what others teach (unlike.py)."""

    mean: float
    sd: Positive
    patients: int = Field(ge=2)


class SizePrior(Settings):
    """What a cohort tells of one kind of size. patients, scans: how many it was learnt from.

    companion: the column of another compartment that the pool's models look at, if any.
    mechanistic_weights: what the forecast of each growth law counts in the pool (measured: estimate_prior.py).
    state_space: the mixture over kinds of patients; priors of format 1 have none. usual_surprise: by which cohorts are
    compared with this one; older priors have none, nor have those of few patients.
    """

    size_name: str
    companion: str | None = None
    patients: int = Field(ge=1)
    scans: int = Field(ge=1)
    laws: dict[LawName, LawPrior]
    mechanistic_weights: dict[LawName, Weight]
    persistence: Persistence
    pool: Pool
    state_space: StateSpaceMixture | None = None
    usual_surprise: UsualSurprise | None = None

    @model_validator(mode="after")
    def _check_laws(self) -> Self:
        if set(self.laws) != set(self.mechanistic_weights) or any(name != law.law for name, law in self.laws.items()):
            raise ValueError("laws and mechanistic_weights must tell of the same laws")
        return self

    def law_for(self, law: LawName, size_name: str) -> LawPrior:
        """The prior of a growth law for sizes of that name: areas change by a power of volumes.

        Raises InputError for a law that it does not tell of.
        """
        if law not in self.laws:
            known = ", ".join(sorted(self.laws)) or "no law"
            raise InputError(f"the prior of '{self.size_name}' tells of {known}, not of {law}; fit one of these")
        if is_area(size_name) == is_area(self.size_name):
            return self.laws[law]
        return self.laws[law].scaled(AREA_POWER if is_area(size_name) else 1.0 / AREA_POWER)

    def pool_for(self, law: LawName) -> Pool:
        """The pool, with the law's own weight in it."""
        return self.pool.weighing(self.mechanistic_weights[law])


class PopulationPrior(Settings):
    """The content of a prior file. source: what it was made from, in words; sizes: by the name of the column.

    default_size: the column that stands in for sizes of another name.
    """

    format: Literal["tumorcast-prior"] = "tumorcast-prior"
    format_version: Literal[1, 2] = 2
    source: str
    default_size: str
    sizes: dict[str, SizePrior]

    @model_validator(mode="after")
    def _check_default(self) -> Self:
        if self.default_size not in self.sizes:
            raise ValueError(f"default_size '{self.default_size}' is not among sizes")
        return self

    def for_size(self, name: str) -> SizePrior:
        """What it tells of sizes of that name; of others, the default column's."""
        return self.sizes.get(name, self.sizes[self.default_size])

    def companion_of(self, name: str) -> str:
        """The column that the pool's models look at beside that of the name; empty for none."""
        return (self.sizes[name].companion or "") if name in self.sizes else ""

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")


def parse_prior(text: str, where: str) -> PopulationPrior:
    """The prior in a JSON text. Raises InputError, naming `where` it stands, if it is not one."""
    try:
        return PopulationPrior.model_validate_json(text)
    except ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        reason = f"{key}: {message}" if key else message
        raise InputError(
            f"{where}: not a prior of this version ({reason}); make it with `tumorcast fit-prior`"
        ) from None


def read_prior(path: Path) -> PopulationPrior:
    """The prior in a file. Raises InputError if it is missing or not one."""
    try:
        return parse_prior(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: cannot be read ({fault}); make it with `tumorcast fit-prior`") from None


@cache
def shipped_prior() -> PopulationPrior:
    """The prior that comes with tumorcast, from 88 treated gliomas (docs/commands/fit-prior.md)."""
    return read_prior(SHIPPED)
