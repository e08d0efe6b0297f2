"""Scores of forecast settings for one patient, from what is known before the next scan.

A score is the weighted mean of four figures in [0, 1], of which higher is better: size, preservation, agreement and,
where there is an earlier scan, past (see Scores). Weights and scales were fixed before any of it was tried.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from tumorcast.archive.growth_file import GrowthFile
from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.data.imaging.geometry import pixel_size_mm
from tumorcast.engines.protocol import Engine
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.inputs import UnitReader
from tumorcast.forecasting.plan import PatientPlan, PlannedSlice, Unit
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import ForecastSettings

WEIGHTS = {"size": 0.3, "preservation": 0.2, "agreement": 0.2, "past": 0.3}
SEEDS = 2
LEAST_CHANGE = 0.05  # of the present area: the size missed is counted in the target change, and at least in this
FAR_MM = 20.0  # from the present outline: nothing is to change beyond
WORST_RMS = 0.2  # of images in [-1, 1]: a change that preserves nothing
NEAR_MM = 20.0  # from the earlier outline: where the past is forecast
LEAST_PROBABILITY = 1e-3  # so that one pixel cannot make a likelihood zero

Map = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scores:
    """Figures of one point, means over slices and, but for the past, over SEEDS seeds.

    size: 1 less |change reached - target change| over the target change of area, by the segmenter, medians over
    members.
    preservation: 1 less the root mean square change of members over WORST_RMS, in the brain further than FAR_MM from
    the present outline.
    agreement: 2 Σ min(a, b) / Σ (a + b) of the maps a, b of two seeds, in the brain outside the present outline.
    past: the geometric mean of the probability that a forecast of the last scan from the one before, at the size it
    came to, gave to what came of each pixel within NEAR_MM of the earlier outline; None without an earlier scan.
    Both are of the segmenter's map of the generated images: the growth map follows the progression network, where there
    is one, and hardly depends on what is chosen here.
    """

    size: float
    preservation: float
    agreement: float
    past: float | None

    @property
    def total(self) -> float:
        """The mean by WEIGHTS of those that have a value.

        >>> round(Scores(1.0, 0.5, 0.0, None).total, 3)
        0.571
        """
        known: dict[str, float] = {name: value for name, value in asdict(self).items() if value is not None}
        return sum(WEIGHTS[name] * value for name, value in known.items()) / sum(WEIGHTS[name] for name in known)


@dataclass(frozen=True)
class EarlierSlice:
    """A slice of the scan before the last one, and the same slice of the last."""

    session_id: str
    planned: PlannedSlice
    earlier: CohortSlice
    last: CohortSlice

    @property
    def in_both(self) -> bool:
        """Whether both have tumour."""
        return min(self.earlier.area_mm2, self.last.area_mm2) > 0 and bool(self.earlier.labels.any())


@dataclass(frozen=True)
class PatientCase:
    """What a patient's settings are chosen on.

    plan: the slices of the last scan. forecast: makes an ensemble of each of them under given settings.
    """

    cohort: Cohort
    engine: Engine
    plan: PatientPlan
    forecast: Callable[[ForecastSettings], list[SliceForecast]]

    @classmethod
    def of(cls, cohort: Cohort, engine: Engine, growth: GrowthFile | None, plan: PatientPlan) -> Self:
        """A case forecast as `tumorcast forecast` does. growth: needed where settings have a horizon."""

        def forecast(settings: ForecastSettings) -> list[SliceForecast]:
            unit = Unit(plan.patient_id, plan.session_id, plan.slices, 0, 0, settings.members)
            inputs = UnitReader(cohort, growth, settings).read(unit)
            return list(forecast_unit(unit, inputs.slices, inputs.targets, engine, settings).values())

        return cls(cohort, engine, plan, forecast)

    def scores(self, settings: ForecastSettings) -> Scores:
        """Forecast under `settings`, and under other seeds, and the last scan from the one before."""
        seeds = [settings.model_copy(update={"seed": settings.seed + k}) for k in range(SEEDS)]
        runs = [self.forecast(seeded) for seeded in seeds]
        forecasts = list(itertools.chain.from_iterable(runs))
        past = [past_likelihood(forecast, last) for forecast, last in self._past(settings)]
        return Scores(
            size=_mean([size_score(forecast) for forecast in forecasts]),
            preservation=_mean([preservation(forecast) for forecast in forecasts]),
            agreement=_mean([agreement(a, b) for a, b in zip(*runs, strict=True)]),
            past=_mean(past) if past else None,
        )

    @cached_property
    def earlier(self) -> list[EarlierSlice]:
        """The plan's slices in the scan before, those with tumour in both."""
        before = [info for info in self.cohort.sessions(self.plan.patient_id) if info.n_slices][:-1]
        slices = [] if not before else list(self._in_scan(before[-1].id, before[-1].source_slice))
        return [part for part in slices if part.in_both]

    def _in_scan(self, session_id: str, numbers: npt.NDArray[np.int64]) -> Iterator[EarlierSlice]:
        patient_id = self.plan.patient_id
        for planned in self.plan.slices:
            for index in np.flatnonzero(numbers == planned.source_slice):
                earlier = self.cohort.slice(patient_id, session_id, int(index))
                last = self.cohort.slice(patient_id, self.plan.session_id, planned.index)
                yield EarlierSlice(session_id, PlannedSlice(int(index), planned.source_slice), earlier, last)

    def _past(self, settings: ForecastSettings) -> Iterator[tuple[SliceForecast, CohortSlice]]:
        """Forecasts of the last scan's slices from the scan before, at the size they came to."""
        for part in self.earlier:
            unit = Unit(self.plan.patient_id, part.session_id, (part.planned,), 0, 0, settings.members)
            targets = PatientTargets(np.full(settings.members, part.last.area_mm2 / part.earlier.area_mm2))
            (forecast,) = forecast_unit(unit, [part.earlier], targets, self.engine, settings).values()
            yield forecast, part.last


def size_score(forecast: SliceForecast) -> float:
    """See Scores.size."""
    target = float(np.median(forecast.aimed_mm2)) - forecast.present_mm2
    reached = float(np.median(forecast.reached_mm2)) - forecast.present_segmented_mm2
    return max(0.0, 1.0 - abs(reached - target) / max(abs(target), LEAST_CHANGE * forecast.present_mm2))


def preservation(forecast: SliceForecast) -> float:
    """See Scores.preservation; 1 where the brain does not reach so far."""
    outside = forecast.brain & (_away_mm(forecast) > FAR_MM)
    if not outside.any():
        return 1.0
    square = np.square(forecast.mean - forecast.image) + np.square(forecast.std)  # the members' own, by their moments
    return max(0.0, 1.0 - math.sqrt(_mean(square[:, outside])) / WORST_RMS)


def agreement(a: SliceForecast, b: SliceForecast) -> float:
    """See Scores.agreement; 1 where both maps are empty."""
    outside = a.brain & (a.labels == 0)
    first, second = (forecast.tumour[outside].astype(np.float64) for forecast in (a, b))
    total = float((first + second).sum())
    return 2.0 * float(np.minimum(first, second).sum()) / total if total else 1.0


def past_likelihood(forecast: SliceForecast, last: CohortSlice) -> float:
    """See Scores.past."""
    near = forecast.brain & (forecast.labels == 0) & (_away_mm(forecast) <= NEAR_MM)
    probability = np.clip(forecast.tumour[near].astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    given = np.where(last.labels[near] > 0, probability, 1 - probability)
    return float(np.exp(_mean(np.log(given)))) if near.any() else 1.0


def _away_mm(forecast: SliceForecast) -> Map:
    """(H, W) distance to the present outline."""
    return np.asarray(distance_transform_edt(forecast.labels == 0) * pixel_size_mm(forecast.affine))


def _mean(values: Any) -> float:
    return float(np.mean(values, dtype=np.float64))
