"""A patient's past as the population models see it: log volumes, radiotherapy, and a second compartment.

Populations are compared on y = log(v + 100 mm³), v being the volume; of an area, that of the sphere with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from tumorcast.records import SizeSeries, Treatment
from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]

SIZE_OFFSET_MM3 = 100.0  # below this the volumes of two segmentations of one scan differ at random
AREA_POWER: Final = 2.0 / 3.0  # a shape that keeps its proportions has area ∝ volume to this power
SPHERE: Final = 4.0 / (3.0 * np.sqrt(np.pi))  # volume of a sphere over its great circle's area to the power 3/2
LEAST_MM3 = 1e-9  # what rounding leaves of nothing
FEWEST_CHANGES = 10  # of size, to learn from


def is_area(size_name: str) -> bool:
    """Whether the name tells an area.

    >>> is_area("area_mm2"), is_area("enhancing_mm3")
    (True, False)
    """
    return size_name.rpartition("_")[2] == "mm2"


def to_volumes(sizes: Array, size_name: str) -> Array:
    """Volumes in mm³ from sizes: (…,) of that name; a unit that is neither mm² nor mm³ is taken for mm³."""
    return SPHERE * sizes**1.5 if is_area(size_name) else sizes


def from_volumes(volumes_mm3: Array, size_name: str) -> Array:
    """The inverse of to_volumes."""
    return (volumes_mm3 / SPHERE) ** AREA_POWER if is_area(size_name) else volumes_mm3


def log_sizes(volumes_mm3: Array) -> Array:
    """(T,) y = log(v + 100 mm³): (T,) volumes. A complete response, 0 mm³, has a finite y.

    >>> log_sizes(np.array([0.0, 900.0])).round(3)
    array([4.605, 6.908])
    """
    return np.asarray(np.log(volumes_mm3 + SIZE_OFFSET_MM3), dtype=np.float64)


def volumes(log_sizes: Array) -> Array:
    """(…,) mm³ of y: the inverse of log_sizes, but never negative, however low a quantile."""
    found = np.exp(log_sizes) - SIZE_OFFSET_MM3
    return np.asarray(np.where(found > LEAST_MM3, found, 0.0), dtype=np.float64)


def to_log(sizes: Array, size_name: str) -> Array:
    """y = log(v + 100 mm³) of sizes: (…,)."""
    return log_sizes(to_volumes(np.asarray(sizes, dtype=np.float64), size_name))


def from_log(values: Array, size_name: str) -> Array:
    """The sizes of y: (…,)."""
    return from_volumes(volumes(values), size_name)


@dataclass(frozen=True)
class History:
    """One patient's scans.

    days: (T,) strictly increasing, from any zero. log_sizes: (T,) y.
    rt_end_day: end of the last radiotherapy course begun by the last scan; None where none is known.
    rt_start_day: its start, so that an earlier part of the history knows nothing of a course yet to begin.
    companion: (T,) y of another compartment of the tumour, NaN where it was not measured; see CompanionScale.
    treatment: all that is known of it, courses to come included.
    Raises ValueError if T = 0, if the days do not increase or if a day or size is not finite.
    """

    days: Array
    log_sizes: Array
    rt_end_day: float | None = None
    rt_start_day: float | None = None
    companion: Array | None = None
    treatment: Treatment = Treatment()

    def __post_init__(self) -> None:
        if self.days.size == 0 or self.days.shape != self.log_sizes.shape:
            raise ValueError(
                f"days {self.days.shape} and log_sizes {self.log_sizes.shape} must be alike, and not empty"
            )
        if self.companion is not None and self.companion.shape != self.days.shape:
            raise ValueError(f"companion {self.companion.shape} must have the shape of days {self.days.shape}")
        if not (np.all(np.isfinite(self.days)) and np.all(np.isfinite(self.log_sizes))):
            raise ValueError("days and log_sizes must be finite")
        if np.any(np.diff(self.days) <= 0):
            raise ValueError("days must increase strictly: merge the scans of one day")

    @classmethod
    def of(cls, series: SizeSeries) -> Self:
        """Of a size series: y, and the last course of radiotherapy begun by the last scan."""
        begun = [course for course in series.treatment.radiotherapy if course.start_days <= series.days[-1]]
        last = begun[-1] if begun else None
        return cls(
            series.days,
            to_log(series.sizes, series.size_name),
            None if last is None else last.end_days,
            None if last is None else last.start_days,
            None if series.companion is None else to_log(series.companion, series.size_name),
            series.treatment,
        )

    def first(self, scans: int) -> "History":
        """What was known after that many scans. Raises ValueError if there are fewer."""
        if not 1 <= scans <= self.days.size:
            raise ValueError(f"scans = {scans} is not in 1 … {self.days.size}")
        begun = self.rt_start_day is None or self.rt_start_day <= self.days[scans - 1]
        return replace(
            self,
            days=self.days[:scans],
            log_sizes=self.log_sizes[:scans],
            rt_end_day=self.rt_end_day if begun else None,
            rt_start_day=self.rt_start_day if begun else None,
            companion=None if self.companion is None else self.companion[:scans],
        )


@dataclass(frozen=True)
class SizeChange:
    """From one scan to the next, to learn from: what was known, how far ahead, and the y that came."""

    history: History
    horizon_days: float
    log_size: float


def size_changes(histories: Sequence[History]) -> list[SizeChange]:
    """Every change from one scan to the next. Raises ValueError for fewer than ten of them."""
    changes = [
        SizeChange(
            history.first(scans),
            float(history.days[scans] - history.days[scans - 1]),
            float(history.log_sizes[scans]),
        )
        for history in histories
        for scans in range(1, history.days.size)
    ]
    if len(changes) < FEWEST_CHANGES:
        raise ValueError(
            f"{len(changes)} changes of size between scans are too few to learn from: give at least {FEWEST_CHANGES}"
        )
    return changes


def companion_gaps(histories: Sequence[History]) -> Array:
    """(N,) y of the companion less that of the tumour at the last scan; NaN where it is not known."""
    return np.array(
        [
            np.nan if history.companion is None else history.companion[-1] - history.log_sizes[-1]
            for history in histories
        ]
    )


class CompanionScale(Settings):
    """What gaps between a second compartment of the tumour and the forecast one are usual, as a sign of what comes.

    The companion is oedema about the enhancing part, or enhancement in it. Between two scans of mu_glioma_post the
    enhancing volume changes by 0.25 more in log size for every unit by which the log of the oedema exceeds its usual
    distance (likelihood ratio 15 on one degree of freedom): it lowers the CRPS by 1 %. For oedema with enhancement the
    gain is too small to count on. Where the companion is not known, forecasts are as without it.

    mean, low, high: the mean, least and greatest gap among the changes of size learnt from.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def around(cls, gaps: Array) -> Self | None:
        """The scale of gaps: (N,); None where fewer than ten are known, too few to learn from."""
        known = gaps[np.isfinite(gaps)]
        if known.size < FEWEST_CHANGES:
            return None
        return cls(mean=float(known.mean()), low=float(known.min()), high=float(known.max()))


def companion_excess(scale: CompanionScale | None, gaps: Array) -> Array:
    """(…,) gaps above the usual, none beyond the range seen; zero where the gap or the scale is not known."""
    if scale is None:
        return np.zeros_like(gaps)
    return np.nan_to_num(np.clip(gaps, scale.low, scale.high) - scale.mean, nan=0.0)
