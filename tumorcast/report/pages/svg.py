"""Charts as SVG: axes in pixels, and paths. Templates draw them; nothing here knows of tumours."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

Numbers = npt.NDArray[np.float64]

STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its pixel, and what stands beside it."""

    place: float
    label: str


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` over pixels from `start` to `stop`, which may run backwards."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, values: Numbers | float) -> Numbers:
        """The pixels of values: (…,)."""
        share = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
        return np.asarray(self.start + share * (self.stop - self.start))

    def inside(self, value: float) -> float:
        """The pixel of a value, or of the end that is nearest to it."""
        return round(float(self.at(min(max(value, self.low), self.high))), 1)

    def ticks(self, most: int, *, whole: bool = False) -> list[Tick]:
        """At most about `most` round numbers within the axis."""
        values = MaxNLocator(nbins=most, steps=list(STEPS), integer=whole).tick_values(self.low, self.high)
        return [Tick(self.inside(value), f"{value:g}") for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Frame:
    """The axes of a chart of so many pixels, and room round them for what stands beside."""

    x: Axis
    y: Axis
    width: float
    height: float
    x_label: str
    y_label: str
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)

    @classmethod
    def of(
        cls, x_range: tuple[float, float], y_range: tuple[float, float], labels: tuple[str, str], *, whole: bool = False
    ) -> Self:
        """A frame of the house's size. labels: of x and of y; whole: x has whole numbers only."""
        width, height, left, right, top, bottom = 1000.0, 360.0, 74.0, 14.0, 26.0, 52.0
        x, y = Axis(*x_range, left, width - right), Axis(*y_range, height - bottom, top)
        return cls(x, y, width, height, *labels, x.ticks(8, whole=whole), y.ticks(6))

    def line(self, xs: Numbers, ys: Numbers) -> str:
        """The path through points: (T,) each."""
        return path_through(np.stack([self.x.at(xs), self.y.at(self._held(ys))], axis=-1))

    def band(self, xs: Numbers, low: Numbers, high: Numbers) -> str:
        """The path round what lies between two lines: (T,) each."""
        upper, lower = (np.stack([self.x.at(xs), self.y.at(self._held(ys))], axis=-1) for ys in (high, low))
        return path_through(np.concatenate([upper, lower[::-1]])) + "Z"

    def _held(self, ys: Numbers) -> Numbers:
        return np.clip(ys, self.y.low, self.y.high)


def path_through(points: Numbers) -> str:
    """The path through points: (T, 2) pixels.

    >>> path_through(np.array([[0, 1], [2.04, 3]]))
    'M0 1L2 3'
    """
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in np.round(points, 1).tolist())
