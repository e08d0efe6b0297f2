"""Models of different contrasts, as one against four, on the same slices of the same patients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError
from tumorcast.evaluation.comparison import TargetMode
from tumorcast.evaluation.experiments.cases import spread_evenly
from tumorcast.evaluation.experiments.experiment import Findings
from tumorcast.evaluation.experiments.judged import MEASURES, NOTE, judged_together
from tumorcast.evaluation.experiments.later import Followed, FollowedCohort, SizeSource
from tumorcast.evaluation.experiments.shown import Shown, channel_shown, examples
from tumorcast.evaluation.experiments.variants import as_figures, differences_table, means_table, values_of
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.paired import difference, mean_of
from tumorcast.evaluation.pairs import Pair
from tumorcast.evaluation.summary import mode_told
from tumorcast.records import Contrast
from tumorcast.settings import ForecastSettings


@dataclass(frozen=True)
class Contender:
    """A model and the cohort that was prepared for it. name: in the tables."""

    name: str
    cohort: FollowedCohort
    engine: Engine


@dataclass(frozen=True)
class Contrasts:
    """One unit is a patient that every contender's cohort has. forecast: its target is not used.

    The first contender chooses the slices, and its cohort tells the sizes that all aim at. patients: at most so many.
    """

    contenders: tuple[Contender, ...]
    sizes: SizeSource
    forecast: ForecastSettings
    slices: int = 1
    patients: int | None = None
    name: ClassVar[str] = "contrasts"

    def check(self) -> None:
        """Raises InputError where the contenders have no patient, or no contrast, in common, or other image sizes."""
        paths = ", ".join(str(one.cohort.truth.path) for one in self.contenders)
        sizes = {one.cohort.truth.image_size for one in self.contenders}
        if len(sizes) > 1:
            told = ", ".join(map(str, sorted(sizes)))
            raise InputError(f"{paths}: slices of {told} pixels; prepare all with the same --image-size")
        for what, found in (("patient with two scans", self._common), ("contrast", self._shared)):
            if not found:
                raise InputError(f"{paths}: no {what} in common; give cohorts of the same scans")

    def made_of(self) -> dict[str, Any]:
        """See Experiment."""
        told = self.forecast.model_dump(mode="json", exclude={"horizon_days", "relative_change", "keep_members"})
        contenders = {
            one.name: {
                "cohort_sha256": one.cohort.truth.sha256,
                "model_sha256": one.engine.info.sha256,
                "engine": str(one.engine.provider),
            }
            for one in self.contenders
        }
        return {
            "contenders": contenders,
            "reference": self.contenders[0].name,
            "sizes": self.sizes.as_dict(),
            "settings": {"forecast": told, "slices": self.slices},
        }

    def units(self) -> Sequence[str]:
        """The patients with a later scan in every cohort."""
        return spread_evenly(self._common, self.patients)

    def measure(self, unit: str, pictures: Path) -> Figures:
        """A patient's figures under every contender."""
        first = self.contenders[0].cohort
        followed = first.follow(first.units(None)[unit], self.slices)
        aim = self.sizes.aim(first.known, followed, self.forecast)
        settings = aim.settings.model_copy(update={"keep_members": True})
        targets = aim.draw(settings)
        every = [followed, *(one.cohort.counterpart(followed) for one in self.contenders[1:])]
        row: Figures = {"ratio": followed.ratio, "contenders": {}}
        shown, images = channel_shown(self._shared), {}
        for one, own, common in zip(self.contenders, every, _in_common_brain(every), strict=True):
            channels = [one.cohort.truth.contrasts.index(name) for name in self._shared]
            made = own.forecast(one.engine, targets, settings)
            row["contenders"][one.name] = judged_together(
                common, made, one.engine, batch=settings.batch, channels=channels
            )
            growth = made[0].tumour if made[0].growth is None else made[0].growth
            images[one.name] = made[0].mean[channels[shown]], growth
        Shown.of(followed.pairs[0], images, first.truth.contrasts.index(self._shared[shown])).save(pictures)
        return row

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """See Experiment."""
        names = [one.name for one in self.contenders]
        values = {name: values_of([row["contenders"][name] for row in rows.values()], MEASURES) for name in names}
        note = f"Images are compared in {', '.join(self._shared)}. The brain is what all cohorts call brain. {NOTE}"
        tables = [
            means_table("Side by side", values, MEASURES, note),
            differences_table(f"Against {names[0]}", values, names[0], MEASURES),
        ]
        gain = values[names[-1]]["ap"] - values[names[0]]["ap"]
        titles = {unit: f"{unit}, × {row['ratio']:.2f}" for unit, row in rows.items()}
        caption = f"Patients from the least to the greatest AP of {names[-1]} less {names[0]}."
        picture = examples("slices", caption, pictures, titles, gain)
        return Findings(
            _answer(values, names, self.sizes.mode), as_figures(values, names[0], MEASURES), tables, [picture]
        )

    @cached_property
    def _common(self) -> list[str]:
        first, *others = (one.cohort.units(None) for one in self.contenders)
        return [unit for unit in first if all(unit in other for other in others)]

    @cached_property
    def _shared(self) -> list[Contrast]:
        first, *others = (one.cohort.truth.contrasts for one in self.contenders)
        return [contrast for contrast in first if all(contrast in other for other in others)]


def _in_common_brain(every: Sequence[Followed]) -> list[Followed]:
    """With the brain that all have, to be judged in: what is brain depends on the contrasts that were looked at."""
    same_slices = list(zip(*(followed.pairs for followed in every), strict=True))
    now = [np.logical_and.reduce([pair.now.brain for pair in same]) for same in same_slices]
    later = [np.logical_and.reduce([pair.later.brain for pair in same]) for same in same_slices]

    def within(pair: Pair, k: int) -> Pair:
        return replace(pair, now=replace(pair.now, brain=now[k]), later=replace(pair.later, brain=later[k]))

    return [replace(one, pairs=tuple(within(pair, k) for k, pair in enumerate(one.pairs))) for one in every]


def _answer(values: Any, names: Sequence[str], mode: TargetMode) -> str:
    told = "; ".join(f"{name} {mean_of(values[name]['ap']).told(3)}" for name in names)
    less = "; ".join(
        f"{name} less {names[0]} {found.estimate.told(3, signed=True)}, p {found.p:.2g}"
        for name in names[1:]
        for found in (difference(values[name]["ap"], values[names[0]]["ap"]),)
    )
    return (
        "How does a model of fewer contrasts do beside one of more, on the same slices? Average precision of the "
        f"growth map, aimed at the {mode_told(mode)}: {told}. Paired by patient: {less}."
    )
