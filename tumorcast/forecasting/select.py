"""The choice of forecast settings for one patient: a small grid is tried, and the best-scored point wins."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from tumorcast.counted import counted
from tumorcast.errors import UsageError
from tumorcast.forecasting.selection_scores import Scores
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings, Settings

GAINS, SCALES = (0.25, 0.5, 1.0), (25_000.0, 50_000.0, 100_000.0)
ENOUGH_AGREEMENT = 0.9  # more members are not worth their time

Report = Callable[[int, int], None]


class SelectGrid(Settings):
    """What is tried. gain is of the normalised guidance, scale the paper's s_R: one of them, by default that in use.

    Noise levels and strengths are crossed at the fewest members; then the other numbers of members are tried with the
    best of them.
    """

    noise_level: tuple[int, ...] = Field((100, 200, 300), min_length=1)
    gain: tuple[float, ...] | None = Field(None, min_length=1)
    scale: tuple[float, ...] | None = Field(None, min_length=1)
    members: tuple[int, ...] = Field((4, 8, 16), min_length=1)

    @model_validator(mode="after")
    def _check_strength(self) -> Self:
        if self.gain is not None and self.scale is not None:
            raise ValueError("give gain (normalised guidance) or scale (the paper's), not both")
        return self

    def points(self, sampler: SamplerSettings) -> list["Point"]:
        """Noise levels × strengths, at the fewest members."""
        paper = self.scale is not None or (self.gain is None and sampler.guidance is Guidance.PAPER)
        guidance = Guidance.PAPER if paper else Guidance.NORMALISED
        strengths = (self.scale or SCALES) if paper else (self.gain or GAINS)
        pairs = itertools.product(self.noise_level, strengths)
        return [Point(level, guidance, strength, min(self.members)) for level, strength in pairs]


@dataclass(frozen=True)
class Point:
    """One point of the grid. strength: gain, or s_R under the paper's guidance."""

    noise_level: int
    guidance: Guidance
    strength: float
    members: int

    @property
    def name(self) -> str:
        """The point's name among those tried.

        >>> Point(200, Guidance.NORMALISED, 0.5, 4).name
        'NL 200, gain 0.5, 4 members'
        """
        return f"NL {self.noise_level}, {self.strength_name} {self.strength:g}, {counted(self.members, 'member')}"

    @property
    def strength_name(self) -> str:
        """The setting that the strength is."""
        return "scale" if self.guidance is Guidance.PAPER else "gain"

    def settings(self, base: ForecastSettings) -> ForecastSettings:
        """`base` at this point. Raises UsageError if they do not go together."""
        changed = {"noise_level": self.noise_level, "guidance": self.guidance, self.strength_name: self.strength}
        values = base.model_dump() | {"members": self.members, "sampler": base.sampler.model_dump() | changed}
        return ForecastSettings.of(values, f"tumorcast select, {self.name}")


@dataclass(frozen=True)
class Selection:
    """The points tried with their scores, in order, and the one chosen."""

    tried: list[tuple[Point, Scores]]
    chosen: Point


def select(
    score: Callable[[Point], Scores], base: ForecastSettings, grid: SelectGrid, report: Report, *, noise_levels: int
) -> Selection:
    """Try the grid; the highest score wins, of equal ones the first.

    Then the fewest members whose agreement is ENOUGH_AGREEMENT win, or, where none are enough, the most.
    score: the scores of one point; may remember them. noise_levels: those that the model was trained for.
    Raises UsageError if a point's settings are not allowed or exceed the noise levels, before any is tried.
    """
    points, counts = grid.points(base.sampler), sorted(set(grid.members))
    total = len(points) + len(counts) - 1
    _check(points, counts, base, noise_levels)
    tried: list[tuple[Point, Scores]] = []

    def attempt(point: Point) -> Scores:
        scores = score(point)
        tried.append((point, scores))
        report(len(tried), total)
        return scores

    totals = [attempt(point).total for point in points]
    best = points[int(np.argmax(totals))]
    more = [Point(best.noise_level, best.guidance, best.strength, count) for count in counts[1:]]
    for point in more:
        attempt(point)
    of_best, scores_of = [best, *more], dict(tried)
    enough = [point for point in of_best if scores_of[point].agreement >= ENOUGH_AGREEMENT]
    return Selection(tried, [*enough, of_best[-1]][0])


def _check(points: Sequence[Point], counts: Sequence[int], base: ForecastSettings, noise_levels: int) -> None:
    for point in points:
        for count in counts:
            Point(point.noise_level, point.guidance, point.strength, count).settings(base)
        if point.noise_level > noise_levels:
            raise UsageError(
                f"noise_level = {point.noise_level} in the grid exceeds the {noise_levels} levels that the model was "
                "trained for; give a --grid with lower ones"
            )
