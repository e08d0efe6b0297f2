"""What a shared-information member knows of a patient: the sizes so far, as logarithms, and when radiotherapy ended."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SIZE_OFFSET_MM3 = 100.0  # below this the volumes of two segmentations of one scan differ at random


def log_sizes(volumes_mm3: Array) -> Array:
    """(T,) y = log(v + 100 mm³): (T,) volumes. A complete response, 0 mm³, has a finite y.

    >>> log_sizes(np.array([0.0, 900.0])).round(3)
    array([4.605, 6.908])
    """
    return np.asarray(np.log(volumes_mm3 + SIZE_OFFSET_MM3), dtype=np.float64)


def volumes(log_sizes: Array) -> Array:
    """(…,) mm³ of y: the inverse of log_sizes, but never negative, however low a quantile."""
    return np.asarray(np.maximum(np.exp(log_sizes) - SIZE_OFFSET_MM3, 0.0), dtype=np.float64)


@dataclass(frozen=True)
class History:
    """One patient's scans.

    days: (T,) strictly increasing, from any zero. log_sizes: (T,) y.
    rt_end_day: end of the last radiotherapy course begun by the last scan; None where none is known.
    rt_start_day: its start, so that an earlier part of the history knows nothing of a course yet to begin.
    companion: (T,) y of another compartment of the tumour, NaN where it was not measured; see companion.py.
    Raises ValueError if T = 0, if the days do not increase or if a day or size is not finite.
    """

    days: Array
    log_sizes: Array
    rt_end_day: float | None = None
    rt_start_day: float | None = None
    companion: Array | None = None

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
class Case:
    """A forecast that can be judged: what was known, how far ahead, and the y that came.

    patient: the index of the patient among the histories it was made from.
    """

    patient: int
    history: History
    horizon_days: float
    log_size: float


def next_scan_cases(histories: Sequence[History], *, earlier: int) -> list[Case]:
    """Every scan that has at least `earlier` ones before it, forecast from them."""
    return [
        Case(
            patient,
            history.first(scans),
            float(history.days[scans] - history.days[scans - 1]),
            float(history.log_sizes[scans]),
        )
        for patient, history in enumerate(histories)
        for scans in range(earlier, history.days.size)
    ]


def training_cases(histories: Sequence[History]) -> list[Case]:
    """Every change from one scan to the next. Raises ValueError for fewer than ten of them."""
    cases = next_scan_cases(histories, earlier=1)
    if len(cases) < 10:
        raise ValueError(f"{len(cases)} changes of size between scans are too few to learn from: give at least 10")
    return cases
