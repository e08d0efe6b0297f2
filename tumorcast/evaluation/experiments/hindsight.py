"""Settings chosen blindly by `select`, against what every point of its grid turned out to be worth.

The last scan of a patient is hidden while settings are chosen on the one before; then every forecast that was made for
the choice is judged by it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.experiments.experiment import Findings
from tumorcast.evaluation.experiments.hindsight_report import (
    BEST,
    BLIND,
    DEFAULT,
    PAPER,
    findings,
    truth_score,
)
from tumorcast.evaluation.experiments.judged import judged_together, mean_figures
from tumorcast.evaluation.experiments.later import Followed, FollowedCohort, SizeSource, check_levels
from tumorcast.evaluation.experiments.shown import Shown, channel_shown
from tumorcast.evaluation.judging import Figures
from tumorcast.forecasting.select import Point, SelectGrid, Selection, select
from tumorcast.forecasting.selection_files import TrialStore
from tumorcast.forecasting.selection_scores import SEEDS, PatientCase, Scores
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings

PAPER_SEEDS = 1  # of 398 evaluations a member


@dataclass(frozen=True)
class HindsightSettings:
    """What is tried and how. forecast: seed, batch and sampler of every point, its target and members are not used.

    slices: at most of a patient; paper_members: of the paper's fixed settings, 0 leaves them out.
    """

    forecast: ForecastSettings
    grid: SelectGrid = SelectGrid()
    slices: int = 1
    paper_members: int = 4

    @property
    def fewest(self) -> int:
        """The members at which all points are compared."""
        return min(self.grid.members)

    @property
    def default(self) -> Point:
        """The settings in use, as a point of the grid."""
        sampler = self.forecast.sampler
        strength = sampler.scale if sampler.guidance is Guidance.PAPER else sampler.gain
        return Point(sampler.noise_level, sampler.guidance, strength, self.fewest)

    def check(self, engine: Engine) -> None:
        """Raises UsageError for settings that are not allowed, or that the model was not trained for."""
        points = [*self.grid.points(self.forecast.sampler), self.default]
        for point in points:
            for members in self.grid.members:
                Point(point.noise_level, point.guidance, point.strength, members).settings(self.forecast)
        paper = [SamplerSettings.paper().noise_level] if self.paper_members else []
        check_levels(engine, [*(point.noise_level for point in points), *paper])

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        told = self.forecast.model_dump(mode="json", include={"seed", "batch", "change_threshold", "sampler"})
        more = {"grid": self.grid.model_dump(mode="json"), "slices": self.slices, "paper_members": self.paper_members}
        return {"forecast": told} | more


@dataclass(frozen=True)
class Hindsight:
    """One unit is a patient. patients: at most so many, spread over the cohort; None takes all."""

    cohort: FollowedCohort
    engine: Engine
    sizes: SizeSource
    settings: HindsightSettings
    patients: int | None = None
    name: ClassVar[str] = "hindsight"

    def made_of(self) -> dict[str, Any]:
        """See Experiment."""
        return {
            "cohort_sha256": self.cohort.truth.sha256,
            "model_sha256": self.engine.info.sha256,
            "engine": str(self.engine.provider),
            "sizes": self.sizes.as_dict(),
            "settings": self.settings.as_dict(),
        }

    def units(self) -> Sequence[str]:
        """The patients with a later scan."""
        return list(self.cohort.units(self.patients))

    def measure(self, unit: str, pictures: Path) -> Figures:
        """A patient's points, each with its blind scores and what they were worth. Raises as in Experiment."""
        return _Trial.open(self, unit, pictures).figures()

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """See Experiment."""
        return findings(rows, pictures, self.sizes.mode)


@dataclass(frozen=True)
class _Trial:
    """One patient's choice, and the judging of it. base: the settings that points are set in."""

    case: PatientCase
    followed: Followed
    base: ForecastSettings
    settings: HindsightSettings
    chosen: Selection
    pictures: Path

    @classmethod
    def open(cls, experiment: Hindsight, unit: str, pictures: Path) -> "_Trial":
        """Choose the patient's settings blindly; forecasts are remembered, to be judged by the later scan.

        Nothing of that scan enters them but its day, and under TargetMode.TRUTH the size.
        """
        cohort, settings = experiment.cohort, experiment.settings
        followed = cohort.follow(cohort.units(None)[unit], settings.slices)
        aim = experiment.sizes.aim(cohort.known, followed, settings.forecast)
        base = aim.settings.model_copy(update={"keep_members": True})
        engine = experiment.engine
        forecast = cache(lambda settings: followed.forecast(engine, aim.draw(settings), settings))
        case = PatientCase(cohort.known, engine, followed.plan, forecast)
        store = TrialStore(pictures / "scores.json", {})  # begun anew: what was tried must be judged too
        selection = select(
            lambda point: store.scores(point, lambda: case.scores(point.settings(base))),
            base,
            settings.grid,
            lambda *_: None,
            noise_levels=engine.info.noise_levels,
        )
        return cls(case, followed, base, settings, selection, pictures)

    def figures(self) -> Figures:
        """The row of the patient; pictures are saved beside it."""
        tried = [self._row(point, scores) for point, scores in self.chosen.tried]
        grid = [row for row in tried if row["members"] == self.settings.fewest]
        default, paper = self._worth(self.settings.default.settings(self.base), SEEDS), None
        if self.settings.paper_members:
            paper = self._worth(self._paper, PAPER_SEEDS)
        self._draw(grid)
        followed = self.followed
        return {
            "session": followed.plan.session_id,
            "later_session": followed.pairs[0].later_id,
            "slices": [pair.planned.source_slice for pair in followed.pairs],
            "days": followed.later_day - followed.day,
            "ratio": followed.ratio,
            "grid": grid,
            "more_members": [row for row in tried if row["members"] != self.settings.fewest],
            "chosen": self.chosen.chosen.name,
            "default": default,
            "paper": paper,
        }

    @property
    def _paper(self) -> ForecastSettings:
        fixed = {"sampler": SamplerSettings.paper(), "members": self.settings.paper_members}
        return self.base.model_copy(update=fixed)

    def _row(self, point: Point, scores: Scores) -> Figures:
        return {
            "point": point.name,
            "noise_level": point.noise_level,
            "strength": point.strength,
            "members": point.members,
            "blind": asdict(scores) | {"score": scores.total},
            "true": self._worth(point.settings(self.base), SEEDS),
        }

    def _worth(self, settings: ForecastSettings, seeds: int) -> dict[str, float]:
        """Means over slices and seeds of what forecasts turned out to be worth, and their score."""
        runs = [self.case.forecast(settings.model_copy(update={"seed": settings.seed + k})) for k in range(seeds)]
        engine, batch = self.case.engine, settings.batch
        figures = mean_figures([judged_together(self.followed, run, engine, batch=batch) for run in runs])
        return figures | {"score": truth_score(figures)}

    def _draw(self, grid: list[Figures]) -> None:
        """Keep the first slice's images under each choice."""
        points = [point for point, _ in self.chosen.tried]
        best = points[int(np.argmax(np.nan_to_num([row["true"]["score"] for row in grid], nan=-1)))]
        blind = points[int(np.argmax([row["blind"]["score"] for row in grid]))]
        wanted = {name: one.settings(self.base) for name, one in ((BEST, best), (BLIND, blind))}
        wanted[DEFAULT] = self.settings.default.settings(self.base)
        if self.settings.paper_members:
            wanted[PAPER] = self._paper
        channel = channel_shown(self.case.cohort.contrasts)
        made = {name: self.case.forecast(settings)[0] for name, settings in wanted.items()}
        images = {name: (one.mean[channel], one.tumour) for name, one in made.items()}
        Shown.of(self.followed.pairs[0], images, channel).save(self.pictures)
