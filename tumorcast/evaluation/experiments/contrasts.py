"""Models of different contrasts, as one against four, on the same slices of the same patients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tumorcast.data.cohort import Cohort
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError
from tumorcast.evaluation.experiments.base import Findings, Row, spread_evenly
from tumorcast.evaluation.experiments.followup_source import by_unit, followed_units
from tumorcast.evaluation.experiments.forecast_scores import METRICS, NOTE, score_forecasts
from tumorcast.evaluation.experiments.report_tables import as_figures, differences_table, means_table, values_of
from tumorcast.evaluation.experiments.slice_plots import SliceExample, channel_shown, examples_picture
from tumorcast.evaluation.followup import (
    FollowUp,
    TargetSize,
    area_ratio,
    counterparts,
    forecast_followups,
    last_followups,
)
from tumorcast.evaluation.statistics import difference, mean_of
from tumorcast.evaluation.targets import TargetSource
from tumorcast.records import Contrast
from tumorcast.settings import ForecastSettings


@dataclass(frozen=True)
class Contender:
    """A model and the cohort that was prepared for it. name: in the tables."""

    name: str
    cohort: Cohort
    engine: Engine


@dataclass(frozen=True)
class ContrastsExperiment:
    """One unit is a patient that every contender's cohort has. forecast: its target is not used.

    The first contender chooses the slices, and its cohort tells the sizes that all aim at. patients: at most so many.
    """

    contenders: tuple[Contender, ...]
    targets: TargetSource
    forecast: ForecastSettings
    slices: int = 1
    patients: int | None = None
    name: ClassVar[str] = "contrasts"

    def check(self) -> None:
        """Raises InputError where the contenders have no patient, or no contrast, in common, or other image sizes."""
        paths = ", ".join(str(contender.cohort.path) for contender in self.contenders)
        sizes = {contender.cohort.image_size for contender in self.contenders}
        if len(sizes) > 1:
            pixels = ", ".join(map(str, sorted(sizes)))
            raise InputError(f"{paths}: slices of {pixels} pixels; prepare all with the same --image-size")
        for what, shared in (("patient with two scans", self._common), ("contrast", self._shared)):
            if not shared:
                raise InputError(f"{paths}: no {what} in common; give cohorts of the same scans")

    def provenance(self) -> dict[str, Any]:
        """See Experiment."""
        forecast = self.forecast.model_dump(mode="json", exclude={"horizon_days", "relative_change", "keep_members"})
        contenders = {
            contender.name: {
                "cohort_sha256": contender.cohort.sha256,
                "model_sha256": contender.engine.info.sha256,
                "engine": str(contender.engine.provider),
            }
            for contender in self.contenders
        }
        return {
            "contenders": contenders,
            "reference": self.contenders[0].name,
            "sizes": self.targets.as_dict(),
            "settings": {"forecast": forecast, "slices": self.slices},
        }

    def units(self) -> Sequence[str]:
        """The patients with a later scan in every cohort."""
        return spread_evenly(self._common, self.patients)

    def measure(self, unit: str, pictures: Path) -> Row:
        """A patient's figures under every contender."""
        first = self.contenders[0].cohort
        followups = last_followups(first, by_unit(first.patient_ids())[unit], self.slices)
        drawn = self.targets.of(first, followups, self.forecast)
        settings = drawn.settings.model_copy(update={"keep_members": True})
        targets = drawn.draw(settings)
        every = [followups, *(counterparts(contender.cohort, followups) for contender in self.contenders[1:])]
        row: Row = {"ratio": area_ratio(followups), "contenders": {}}
        shown, images = channel_shown(self._shared), {}
        for contender, own, common in zip(self.contenders, every, _in_common_brain(every), strict=True):
            channels = [contender.cohort.contrasts.index(name) for name in self._shared]
            forecasts = forecast_followups(own, targets, contender.engine, settings)
            row["contenders"][contender.name] = score_forecasts(
                common, forecasts, contender.engine, batch=settings.batch, channels=channels
            )
            first_slice = forecasts[0]
            growth = first_slice.tumour if first_slice.growth is None else first_slice.growth
            images[contender.name] = first_slice.mean[channels[shown]], growth
        SliceExample.of(followups[0], images, first.contrasts.index(self._shared[shown])).save(pictures)
        return row

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """See Experiment."""
        names = [contender.name for contender in self.contenders]
        values = {name: values_of([row["contenders"][name] for row in rows.values()], METRICS) for name in names}
        note = f"Images are compared in {', '.join(self._shared)}. The brain is what all cohorts call brain. {NOTE}"
        tables = [
            means_table("Side by side", values, METRICS, note),
            differences_table(f"Against {names[0]}", values, names[0], METRICS),
        ]
        gain = values[names[-1]]["ap"] - values[names[0]]["ap"]
        titles = {unit: f"{unit}, × {row['ratio']:.2f}" for unit, row in rows.items()}
        caption = f"Patients from the least to the greatest AP of {names[-1]} less {names[0]}."
        picture = examples_picture("slices", caption, pictures, titles, gain)
        return Findings(
            _answer(values, names, self.targets.target), as_figures(values, names[0], METRICS), tables, [picture]
        )

    @cached_property
    def _common(self) -> list[str]:
        first, *others = (followed_units(contender.cohort, None) for contender in self.contenders)
        return [unit for unit in first if all(unit in other for other in others)]

    @cached_property
    def _shared(self) -> list[Contrast]:
        first, *others = (contender.cohort.contrasts for contender in self.contenders)
        return [contrast for contrast in first if all(contrast in other for other in others)]


def _in_common_brain(every: Sequence[tuple[FollowUp, ...]]) -> list[list[FollowUp]]:
    """With the brain that all have, to be judged in: what is brain depends on the contrasts that were looked at."""
    common = []
    for same_slice in zip(*every, strict=True):
        now = np.logical_and.reduce([followup.now.brain for followup in same_slice])
        later = np.logical_and.reduce([followup.later.brain for followup in same_slice])
        common.append(
            [replace(one, now=replace(one.now, brain=now), later=replace(one.later, brain=later)) for one in same_slice]
        )
    return [list(of_contender) for of_contender in zip(*common, strict=True)]


def _answer(values: Any, names: Sequence[str], target: TargetSize) -> str:
    means = "; ".join(f"{name} {mean_of(values[name]['ap']).text(3)}" for name in names)
    paired = {name: difference(values[name]["ap"], values[names[0]]["ap"]) for name in names[1:]}
    less = "; ".join(
        f"{name} less {names[0]} {one.estimate.text(3, signed=True)}, p {one.p:.2g}" for name, one in paired.items()
    )
    return (
        "How does a model of fewer contrasts do beside one of more, on the same slices? Average precision of the "
        f"growth map, aimed at the {target.label}: {means}. Paired by patient: {less}."
    )
