"""What an experiment is: units that are measured one by one, on any rank, and a report of all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tumorcast.evaluation.judging import Figures


@dataclass(frozen=True)
class Table:
    """A table of a report. rows: cells as they are printed, as many as `head` has; note: what a reader must know."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG of a report. draw: writes it at the path it is given."""

    name: str
    caption: str
    draw: Callable[[Path], None]


@dataclass(frozen=True)
class Findings:
    """What an experiment found. figures: for figures.json; answer: the question and its answer, in a few sentences."""

    answer: str
    figures: Figures
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


class Experiment(Protocol):
    """One question asked of a cohort. Nothing here knows of ranks, folders or the command line.

    made_of: all that changes a unit's figures, for JSON.
    """

    @property
    def name(self) -> str:
        """As in `tumorcast experiment NAME`; a plain attribute will do."""
        ...

    def made_of(self) -> dict[str, Any]:
        """Settings, and sha256 of cohort, model and growth: a folder of results made of something else is refused."""
        ...

    def units(self) -> Sequence[str]:
        """Names of the units, unique, in the order they are reported; letters, digits, `-`, `.` and `_` alone."""
        ...

    def measure(self, unit: str, pictures: Path) -> Figures:
        """One unit's figures, plain for JSON. It depends on the unit alone, not on the rank or on other units.

        pictures: a folder of this unit's own, for arrays that the report draws. Raises InputError where the unit
        cannot be measured: it is reported as failed and the others go on.
        """
        ...

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """What the units that could be measured say. pictures: the folder that holds each unit's folder, by its name.

        Raises InputError if none of them says anything.
        """
        ...
