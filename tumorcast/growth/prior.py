"""A population model of tumour size: what a cohort tells of the next patient, in one JSON file.

For every column of sizes it has the mechanistic prior of each growth law, the members that share information, and
calibrated persistence. It holds parameters only, no patient's data.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from tumorcast.config import Settings
from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.growth.empirical_bayes import estimate
from tumorcast.growth.equivalents import AREA_POWER, history_of, is_area
from tumorcast.growth.mechanistic_prior import MechanisticPrior
from tumorcast.growth.members import Persistence
from tumorcast.growth.pooling import Pool
from tumorcast.records import LawName, SizeSeries

SHIPPED = Path(__file__).with_name("mu_glioma_post.json")
FEWEST_PATIENTS = 10


class SizePrior(Settings):
    """What a cohort tells of one kind of size. patients, scans: how many it was learnt from."""

    size_name: str
    patients: int = Field(ge=1)
    scans: int = Field(ge=1)
    laws: dict[LawName, MechanisticPrior]
    persistence: Persistence
    pool: Pool

    @classmethod
    def estimated(
        cls, cohort: Sequence[SizeSeries], laws: Sequence[LawName] = tuple(LawName), *, seed: int = 0
    ) -> Self:
        """The prior of a cohort whose sizes have one name. Raises InputError if it is too small to tell anything."""
        told = [series for series in cohort if series.days.size > 1]
        name = cohort[0].size_name if cohort else "size"
        if len(told) < FEWEST_PATIENTS:
            raise InputError(
                f"{len(told)} patients with two scans of '{name}' or more: a prior needs {FEWEST_PATIENTS}; give more"
            )
        histories = [history_of(series) for series in cohort]
        return cls(
            size_name=name,
            patients=len(cohort),
            scans=sum(series.days.size for series in cohort),
            laws={law: estimate(cohort, law, seed=seed) for law in laws},
            persistence=Persistence.fitted(histories),
            pool=Pool.fitted(histories),
        )

    def law_for(self, law: LawName, size_name: str) -> MechanisticPrior:
        """The prior of a growth law for sizes of that name: areas change by a power of volumes."""
        if is_area(size_name) == is_area(self.size_name):
            return self.laws[law]
        return self.laws[law].scaled(AREA_POWER if is_area(size_name) else 1.0 / AREA_POWER)


class PopulationPrior(Settings):
    """The content of a prior file. source: what it was made from, in words; sizes: by the name of the column.

    default_size: the column that stands in for sizes of another name.
    """

    format: Literal["tumorcast-prior"] = "tumorcast-prior"
    format_version: Literal[1] = 1
    source: str
    default_size: str
    sizes: dict[str, SizePrior]

    def for_size(self, name: str) -> SizePrior:
        """What it tells of sizes of that name; of others, the default column's."""
        return self.sizes.get(name, self.sizes[self.default_size])

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
        raise InputError(
            f"{where}: not a prior of this version ({place}: {first['msg']}); make it with `tumorcast fit-prior`"
        ) from None


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
