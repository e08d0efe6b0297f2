"""The protocol of an experiment: units that are measured one by one, on any rank, and a report on all of them."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
Row = dict[str, Any]
"""One unit's figures, plain for JSON."""

NOT_IN_UNIT_NAME = re.compile(r"[^A-Za-z0-9._-]")
SUFFIXES_OF_ROWS = (".json", ".failed")


@dataclass(frozen=True)
class Table:
    """A table of a report. rows: cells as they are printed, as many as `head` has; note: what a reader must know."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class ReportPicture:
    """A PNG of a report. draw: writes it at the path it is given."""

    name: str
    caption: str
    draw: Callable[[Path], None]


@dataclass(frozen=True)
class Findings:
    """The result of an experiment. figures: for figures.json; answer: the question and its answer, in sentences."""

    answer: str
    figures: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    pictures: list[ReportPicture] = field(default_factory=list)


class Experiment(Protocol):
    """One question asked of a cohort. Nothing here knows of ranks, folders or the command line."""

    @property
    def name(self) -> str:
        """As in `tumorcast experiment NAME`; a plain attribute will do."""
        ...

    def provenance(self) -> dict[str, Any]:
        """All that changes a unit's figures, for JSON: settings, and sha256 of cohort, model and growth.

        A folder of results with another provenance is refused.
        """
        ...

    def units(self) -> Sequence[str]:
        """Names of the units, unique, in the order they are reported; letters, digits, `-`, `.` and `_` alone."""
        ...

    def measure(self, unit: str, pictures: Path) -> Row:
        """One unit's row. It depends on the unit alone, not on the rank or on other units.

        pictures: a folder of this unit's own, for arrays that the report draws. Raises InputError where the unit
        cannot be measured: it is reported as failed and the others go on.
        """
        ...

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """Tables, pictures and the answer. rows: by unit, of those that could be measured.

        pictures: the folder that holds each unit's folder, by its name. Raises InputError if no row has a figure.
        """
        ...


def unit_name(text: str) -> str:
    """A patient's name as a unit's: a character that a unit's name may not have is replaced by its code.

    >>> unit_name("PGBM-007"), unit_name("Müller 2")
    ('PGBM-007', 'M_fcller_202')
    """
    return NOT_IN_UNIT_NAME.sub(lambda match: f"_{ord(match[0]):02x}", text)


def check_unit_names(units: Sequence[str]) -> None:
    """Raises ValueError where a unit could not have files of its own under its name."""
    for unit, count in Counter(units).items():
        if count > 1 or not unit or unit.startswith(".") or unit.endswith(SUFFIXES_OF_ROWS) or _has_other_letters(unit):
            raise ValueError(f"unit {unit!r}, named {count} times: cannot name its files")


def _has_other_letters(unit: str) -> bool:
    return NOT_IN_UNIT_NAME.search(unit) is not None


def spread_evenly(items: Sequence[Item], count: int | None) -> list[Item]:
    """`count` of them, the first and the last among them, or all.

    >>> spread_evenly("abcde", 3), spread_evenly("ab", None)
    (['a', 'c', 'e'], ['a', 'b'])
    """
    indices = np.linspace(0, len(items) - 1, min(count or len(items), len(items))).astype(int)
    return [items[index] for index in indices]


def spread_by_value(units: Sequence[str], values: npt.NDArray[np.float64], count: int) -> list[str]:
    """At most `count` units from the lowest value (U,) to the highest, the ends among them.

    >>> spread_by_value(["a", "b", "c"], np.array([3.0, 1.0, 2.0]), 2)
    ['b', 'a']
    """
    order = np.argsort(np.nan_to_num(values), kind="stable")
    return spread_evenly([units[k] for k in order], count)
