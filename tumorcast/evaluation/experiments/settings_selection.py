"""Settings chosen blindly by `select`, against the score that every point of its grid has with hindsight.

The last scan of a patient is hidden while settings are chosen on the one before; then every forecast that was made for
the choice is judged by it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tumorcast.data.cohort import Cohort
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.experiments.base import Findings, Row
from tumorcast.evaluation.experiments.followup_source import by_unit, check_levels, followed_units
from tumorcast.evaluation.experiments.forecast_scores import mean_scores, score_forecasts
from tumorcast.evaluation.experiments.settings_selection_report import (
    BEST,
    BLIND,
    DEFAULT,
    PAPER,
    findings,
    true_score,
)
from tumorcast.evaluation.experiments.slice_plots import SliceExample, channel_shown
from tumorcast.evaluation.followup import FollowUp, area_ratio, forecast_followups, last_followups
from tumorcast.evaluation.targets import TargetSource
from tumorcast.forecasting.plan import PatientPlan
from tumorcast.forecasting.select import Point, SelectGrid, Selection, select
from tumorcast.forecasting.selection_files import TrialStore
from tumorcast.forecasting.selection_scores import SEEDS, PatientCase, Scores
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings

PAPER_SEEDS = 1  # of 398 evaluations a member


@dataclass(frozen=True)
class TrialSettings:
    """The grid of settings to try. forecast: seed, batch and sampler of every point, target and members are not used.

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
        forecast = self.forecast.model_dump(mode="json", include={"seed", "batch", "change_threshold", "sampler"})
        more = {"grid": self.grid.model_dump(mode="json"), "slices": self.slices, "paper_members": self.paper_members}
        return {"forecast": forecast} | more


@dataclass(frozen=True)
class SettingsSelectionExperiment:
    """One unit is a patient. patients: at most so many, spread over the cohort; None takes all."""

    cohort: Cohort
    engine: Engine
    targets: TargetSource
    settings: TrialSettings
    patients: int | None = None
    name: ClassVar[str] = "hindsight"

    def provenance(self) -> dict[str, Any]:
        """See Experiment."""
        return {
            "cohort_sha256": self.cohort.sha256,
            "model_sha256": self.engine.info.sha256,
            "engine": str(self.engine.provider),
            "sizes": self.targets.as_dict(),
            "settings": self.settings.as_dict(),
        }

    def units(self) -> Sequence[str]:
        """The patients with a later scan."""
        return followed_units(self.cohort, self.patients)

    def measure(self, unit: str, pictures: Path) -> Row:
        """A patient's points, each with its blind scores and its true one. Raises as in Experiment."""
        return _Trial.open(self, unit, pictures).figures()

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """See Experiment."""
        return findings(rows, pictures, self.targets.target)


@dataclass(frozen=True)
class _Trial:
    """One patient's choice, and the judging of it. base: the settings that points are set in."""

    case: PatientCase
    followups: tuple[FollowUp, ...]
    base: ForecastSettings
    settings: TrialSettings
    chosen: Selection
    pictures: Path

    @classmethod
    def open(cls, experiment: SettingsSelectionExperiment, unit: str, pictures: Path) -> "_Trial":
        """Choose the patient's settings blindly; forecasts are remembered, to be judged by the later scan.

        Nothing of that scan enters them but its day, and under TargetSize.TRUE the size.
        """
        cohort, engine, settings = experiment.cohort, experiment.engine, experiment.settings
        followups = last_followups(cohort, by_unit(cohort.patient_ids())[unit], settings.slices)
        targets = experiment.targets.of(cohort, followups, settings.forecast)
        base = targets.settings.model_copy(update={"keep_members": True})
        forecast = cache(lambda tried: forecast_followups(followups, targets.draw(tried), engine, tried))
        first, slices = followups[0], tuple(followup.planned for followup in followups)
        plan = PatientPlan(first.patient_id, first.session_id, slices)
        case = PatientCase(cohort.before_last_scan(), engine, plan, forecast)
        store = TrialStore(pictures / "scores.json", {})  # begun anew: what was tried must be judged too
        selection = select(
            lambda point: store.scores(point, lambda: case.scores(point.settings(base))),
            base,
            settings.grid,
            lambda *_: None,
            noise_levels=engine.info.noise_levels,
        )
        return cls(case, followups, base, settings, selection, pictures)

    def figures(self) -> Row:
        """The row of the patient; pictures are saved beside it."""
        tried = [self._row(point, scores) for point, scores in self.chosen.tried]
        grid = [row for row in tried if row["members"] == self.settings.fewest]
        default, paper = self._true_figures(self.settings.default.settings(self.base), SEEDS), None
        if self.settings.paper_members:
            paper = self._true_figures(self._paper, PAPER_SEEDS)
        self._draw(grid)
        followups, first = self.followups, self.followups[0]
        return {
            "session": first.session_id,
            "later_session": first.later_id,
            "slices": [followup.planned.source_slice for followup in followups],
            "days": first.later_day - first.day,
            "ratio": area_ratio(followups),
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

    def _row(self, point: Point, scores: Scores) -> Row:
        return {
            "point": point.name,
            "noise_level": point.noise_level,
            "strength": point.strength,
            "members": point.members,
            "blind": asdict(scores) | {"score": scores.total},
            "true": self._true_figures(point.settings(self.base), SEEDS),
        }

    def _true_figures(self, settings: ForecastSettings, seeds: int) -> dict[str, float]:
        """Means over slices and seeds of figures against the later scan, and the score they make."""
        runs = [self.case.forecast(settings.model_copy(update={"seed": settings.seed + k})) for k in range(seeds)]
        engine, batch = self.case.engine, settings.batch
        figures = mean_scores([score_forecasts(self.followups, run, engine, batch=batch) for run in runs])
        return figures | {"score": true_score(figures)}

    def _draw(self, grid: list[Row]) -> None:
        """Keep the first slice's images under each choice."""
        points = [point for point, _ in self.chosen.tried]
        best = points[int(np.argmax(np.nan_to_num([row["true"]["score"] for row in grid], nan=-1)))]
        blind = points[int(np.argmax([row["blind"]["score"] for row in grid]))]
        choices = {name: point.settings(self.base) for name, point in ((BEST, best), (BLIND, blind))}
        choices[DEFAULT] = self.settings.default.settings(self.base)
        if self.settings.paper_members:
            choices[PAPER] = self._paper
        channel = channel_shown(self.case.cohort.contrasts)
        forecasts = {name: self.case.forecast(settings)[0] for name, settings in choices.items()}
        images = {name: (forecast.mean[channel], forecast.tumour) for name, forecast in forecasts.items()}
        SliceExample.of(self.followups[0], images, channel).save(self.pictures)
