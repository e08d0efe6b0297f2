"""The tumour's area slice by slice: now, aimed at, and reached by the generated images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from tumorcast.archive.maps import SliceForecast
from tumorcast.evaluation.failure_flags import flags_of, reach_of
from tumorcast.report.pages.svg import Frame, Numbers

LEVELS = (0.5, 0.05, 0.95)  # of members


@dataclass(frozen=True)
class Spread:
    """What members say: their median, and their 5 and 95 % points."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, members: Numbers) -> Self:
        """Of (M,) members."""
        median, low, high = np.quantile(members, LEVELS).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class SliceSizes:
    """Areas of a slice in mm²: now, of the mask; aimed at and reached, of members.

    reach: the area gained over the area wanted, NaN where too little was wanted (evaluation/failures.py).
    """

    source_slice: int
    present: float
    aimed: Spread
    reached: Spread
    reach: float
    flags: list[str]

    @classmethod
    def of(cls, forecast: SliceForecast) -> Self:
        """The areas of a slice's forecast."""
        return cls(
            int(forecast.source_slice),
            float(forecast.present_mm2),
            Spread.of(forecast.aimed_mm2),
            Spread.of(forecast.reached_mm2),
            reach_of(forecast),
            flags_of(forecast),
        )


@dataclass(frozen=True)
class PatientSizes:
    """The areas of all slices together, in mm²; a member follows one trajectory over all slices of a patient.

    growth: the area aimed at over the present one; None where there is no tumour now.
    """

    present: float
    aimed: Spread
    reached: Spread
    growth: Spread | None
    members: int

    @classmethod
    def of(cls, forecasts: Sequence[SliceForecast]) -> Self:
        """The sums over a patient's slices."""
        present = float(sum(one.present_mm2 for one in forecasts))
        aimed = np.sum([one.aimed_mm2 for one in forecasts], axis=0)
        reached = np.sum([one.reached_mm2 for one in forecasts], axis=0)
        growth = Spread.of(aimed / present) if present > 0 else None
        return cls(present, Spread.of(aimed), Spread.of(reached), growth, len(aimed))


@dataclass(frozen=True)
class Whisker:
    """A slice on the chart: the pixels of its three medians, and of the range aimed at."""

    x: float
    present: float
    aimed: float
    aimed_low: float
    aimed_high: float
    reached: float


@dataclass(frozen=True)
class SizesChart:
    """The chart, as its template draws it: slices from the feet up, from left to right."""

    frame: Frame
    whiskers: list[Whisker]
    present: str
    aimed: str

    @classmethod
    def of(cls, rows: Sequence[SliceSizes]) -> Self:
        """Draw the sizes of a patient's slices."""
        numbers = np.array([one.source_slice for one in rows], np.float64)
        present, aimed = (np.array(areas) for areas in zip(*((r.present, r.aimed.median) for r in rows), strict=True))
        top = 1.1 * max(max(one.present, one.aimed.high, one.reached.median, 1.0) for one in rows)
        around = (float(numbers.min()) - 1, float(numbers.max()) + 1)
        frame = Frame.of(around, (0.0, top), ("slice, from the feet up", "tumour area (mm²)"), whole=True)
        whiskers = [_whisker(frame, one) for one in rows]
        return cls(frame, whiskers, frame.line(numbers, present), frame.line(numbers, aimed))


def _whisker(frame: Frame, one: SliceSizes) -> Whisker:
    sizes = (one.present, one.aimed.median, one.aimed.low, one.aimed.high, one.reached.median)
    return Whisker(frame.x.inside(one.source_slice), *(frame.y.inside(size) for size in sizes))
