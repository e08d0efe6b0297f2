"""A population model of tumour size: what a cohort tells of the next patient, in one JSON file.

For every column of sizes it has the mechanistic prior of each growth law, the members that share information, and
calibrated persistence. It holds parameters only, no patient's data.
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.growth.mechanistic_prior import MechanisticPrior
from tumorcast.growth.population.equivalents import AREA_POWER, is_area
from tumorcast.growth.population.members import Persistence
from tumorcast.growth.population.pooling import Pool
from tumorcast.records import LawName
from tumorcast.settings import Settings

Weight = Annotated[float, Field(ge=0, lt=1)]

SHIPPED = Path(__file__).with_name("mu_glioma_post.json")


class SizePrior(Settings):
    """What a cohort tells of one kind of size. patients, scans: how many it was learnt from.

    companion: the column of another compartment that the members look at, if any.
    mechanistic_weights: what the forecast of each growth law counts in the pool (measured, see `mechanistic_weight`).
    """

    size_name: str
    companion: str | None = None
    patients: int = Field(ge=1)
    scans: int = Field(ge=1)
    laws: dict[LawName, MechanisticPrior]
    mechanistic_weights: dict[LawName, Weight]
    persistence: Persistence
    pool: Pool

    @model_validator(mode="after")
    def _check_laws(self) -> Self:
        if set(self.laws) != set(self.mechanistic_weights) or any(name != law.law for name, law in self.laws.items()):
            raise ValueError("laws and mechanistic_weights must tell of the same laws")
        return self

    def law_for(self, law: LawName, size_name: str) -> MechanisticPrior:
        """The prior of a growth law for sizes of that name: areas change by a power of volumes.

        Raises InputError for a law that it does not tell of.
        """
        if law not in self.laws:
            told = ", ".join(sorted(self.laws)) or "no law"
            raise InputError(f"the prior of '{self.size_name}' tells of {told}, not of {law}; fit one of these")
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
    format_version: Literal[1] = 1
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
        """The column that the members look at beside that of the name; empty for none."""
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
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        told = f"{place}: {said}" if place else said
        raise InputError(f"{where}: not a prior of this version ({told}); make it with `tumorcast fit-prior`") from None


def read_prior(path: Path) -> PopulationPrior:
    """The prior in a file. Raises InputError if it is missing or not one."""
    try:
        return parse_prior(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: cannot be read ({fault}); make it with `tumorcast fit-prior`") from None


@cache
def shipped_prior() -> PopulationPrior:
    """The prior that comes with tumorcast, from 40 treated gliomas (docs/models/growth-prior.md)."""
    return read_prior(SHIPPED)
