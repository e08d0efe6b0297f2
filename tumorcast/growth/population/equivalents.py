"""Sizes of any unit as volumes, on which populations are compared: a sphere's, where an area is known."""

from typing import Final

import numpy as np
import numpy.typing as npt

from tumorcast.growth.population.history import History, log_sizes, volumes
from tumorcast.records import SizeSeries

Array = npt.NDArray[np.float64]

AREA_POWER: Final = 2.0 / 3.0  # a shape that keeps its proportions has area ∝ volume to this power
SPHERE: Final = 4.0 / (3.0 * np.sqrt(np.pi))  # volume of a sphere over its great circle's area to the power 3/2


def is_area(size_name: str) -> bool:
    """Whether the name tells an area.

    >>> is_area("area_mm2"), is_area("enhancing_mm3")
    (True, False)
    """
    return size_name.rpartition("_")[2] == "mm2"


def to_volumes(sizes: Array, size_name: str) -> Array:
    """Volumes in mm³ from sizes: (…,) of that name; a unit that is neither mm² nor mm³ is taken for mm³."""
    return SPHERE * sizes**1.5 if is_area(size_name) else sizes


def from_volumes(found: Array, size_name: str) -> Array:
    """The inverse of to_volumes."""
    return (found / SPHERE) ** AREA_POWER if is_area(size_name) else found


def to_log(sizes: Array, size_name: str) -> Array:
    """y = log(v + 100 mm³) of sizes: (…,)."""
    return log_sizes(to_volumes(np.asarray(sizes, dtype=np.float64), size_name))


def from_log(values: Array, size_name: str) -> Array:
    """The sizes of y: (…,)."""
    return from_volumes(volumes(values), size_name)


def history_of(series: SizeSeries) -> History:
    """The series as the members know it: y, and the last course of radiotherapy begun by the last scan."""
    begun = [course for course in series.treatment.radiotherapy if course.start_days <= series.days[-1]]
    last = begun[-1] if begun else None
    return History(
        series.days,
        to_log(series.sizes, series.size_name),
        None if last is None else last.end_days,
        None if last is None else last.start_days,
        None if series.companion is None else to_log(series.companion, series.size_name),
    )
