"""One patient, forecast by every method under both targets, against what came."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort, SizeMeasure
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.judging import (
    Figures,
    guided_image_figures,
    map_figures,
    size_figures,
    unguided_image_figures,
)
from tumorcast.evaluation.methods import (
    Method,
    MethodMap,
    distance_mm,
    paper_map,
    product_map,
    progression_map,
    resting_maps,
    unguided,
    unguided_maps,
)
from tumorcast.evaluation.pairs import Pair, pairs_of
from tumorcast.evaluation.past_targets import targets_from_past
from tumorcast.evaluation.regressor import regressor_sizes
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.growth.model import GrowthModel
from tumorcast.settings import ForecastSettings

Array = npt.NDArray[np.float32]


class TargetMode(StrEnum):
    """Whence the members have the size they aim at: the true later area, or a forecast from the scans so far."""

    TRUTH = "truth"
    ODE = "ode"


INTERVAL_DRAWS = 400  # of the growth forecast, for its interval


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared. forecast: members, seed, batch and sampler; its target is not used.

    pairs: at most of a patient. paper_members: the paper's map takes 398 evaluations a member. size: what growth is
    fitted to; an area is of the slice in which the last scan's tumour is largest, which no forecast could know, so that
    the volume is the honest one. regressor_slices: at most of a patient.
    """

    forecast: ForecastSettings
    pairs: int = 1
    paper_members: int = 2
    size: SizeMeasure = SizeMeasure.VOLUME_MM3
    regressor_slices: int = 60

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        told = self.forecast.model_dump(mode="json", exclude={"horizon_days", "relative_change", "keep_members"})
        return {
            "forecast": told,
            "pairs": self.pairs,
            "paper_members": self.paper_members,
            "size": str(self.size),
            "regressor_slices": self.regressor_slices,
        }


@dataclass(frozen=True)
class Example:
    """What a picture of a pair needs; images (H, W) of one contrast, product: the growth map in [0, 1]."""

    present: Array
    generated: Array
    product: Array
    outline: npt.NDArray[np.bool_]
    later: npt.NDArray[np.bool_]
    brain: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """Compares patient after patient. growth: fits and forecasts sizes for TargetMode.ODE."""

    cohort: Cohort
    engine: Engine
    growth: GrowthModel
    settings: ComparisonSettings

    def patient(self, patient_id: str, *, paper: bool) -> tuple[Figures, Example | None]:
        """The row of a patient, and the picture of the pair that grew most, None where none did.

        paper: whether the paper's map is made too.
        """
        settings = self.settings
        sizes = regressor_sizes(
            self.cohort,
            patient_id,
            self.engine,
            slices=settings.regressor_slices,
            batch=settings.forecast.batch,
            seed=settings.forecast.seed,
        )
        rows, example = [], None
        for pair in pairs_of(self.cohort, patient_id, settings.pairs):
            row, forecast = self._pair(pair, paper=paper)
            rows.append(row)
            example = example or self._example(pair, forecast)
        return {"patient_id": patient_id, "pairs": rows, "regressor": sizes}, example

    def _pair(self, pair: Pair, *, paper: bool) -> tuple[Figures, SliceForecast]:
        away_mm = distance_mm(pair)
        forecasts = {mode: self._forecast(pair, mode) for mode in TargetMode}
        aimed_at_truth = forecasts[TargetMode.TRUTH]
        members = unguided(pair, self.engine, self.settings.forecast)
        fixed = [
            *resting_maps(pair, aimed_at_truth.tumour_now, self.cohort.contrasts),
            *unguided_maps(pair, members, self.engine),
            *self._paper(pair, wanted=paper),
        ]
        row: Figures = {
            "session": pair.session_id,
            "later_session": pair.later_id,
            "slice": pair.now.source_slice,
            "days": pair.later_day - pair.day,
            "ratio": pair.ratio,
            "images": guided_image_figures(pair, aimed_at_truth, self.engine, self.settings.forecast.batch)
            | unguided_image_figures(pair, members),
            "size": {str(mode): size_figures(pair, forecast) for mode, forecast in forecasts.items()}
            | {"ode_ratio_low_high": self._interval(pair)},
            "any": _judged(pair, fixed, away_mm),
        }
        for mode, forecast in forecasts.items():
            row[str(mode)] = _judged(pair, self._aimed_maps(pair, forecast), away_mm)
        return row, aimed_at_truth

    def _forecast(self, pair: Pair, mode: TargetMode) -> SliceForecast:
        settings = self.settings.forecast
        targets = self._targets(pair, mode)
        kept = settings.model_copy(update={"keep_members": mode is TargetMode.TRUTH})
        (forecast,) = forecast_unit(pair.unit(settings.members), [pair.now], targets, self.engine, kept).values()
        return forecast

    def _targets(self, pair: Pair, mode: TargetMode) -> PatientTargets:
        match mode:
            case TargetMode.TRUTH:
                return PatientTargets(np.full(self.settings.forecast.members, pair.ratio), None, None)
            case TargetMode.ODE:
                return self._drawn(pair, self.settings.forecast.members)
            case _:
                assert_never(mode)

    def _interval(self, pair: Pair) -> list[float]:
        """The 90 % interval of the growth forecast, of more draws than an ensemble has, which would be too narrow."""
        low, high = np.quantile(self._drawn(pair, INTERVAL_DRAWS).target_ratio, [0.05, 0.95])
        return [float(low), float(high)]

    def _paper(self, pair: Pair, *, wanted: bool) -> Iterator[tuple[Method, MethodMap]]:
        """The paper's map, aimed at the true size whatever the others aim at: its 398 evaluations are made once."""
        if wanted and self.settings.paper_members:
            ratios = np.full(self.settings.paper_members, pair.ratio)
            yield Method.PAPER, paper_map(pair, ratios, self.engine, self.settings.forecast)

    def _drawn(self, pair: Pair, count: int) -> PatientTargets:
        """So many sizes, drawn for the true later date."""
        series = self.cohort.size_series(pair.patient_id, self.settings.size)
        settings = self.settings.forecast.model_copy(update={"members": count})
        return targets_from_past(self.growth, series, settings, day=pair.day, later_day=pair.later_day)

    def _aimed_maps(self, pair: Pair, forecast: SliceForecast) -> Iterator[tuple[Method, MethodMap]]:
        """The maps that depend on the sizes aimed at."""
        settings = self.settings
        ratios = forecast.aimed_mm2 / forecast.present_mm2
        yield Method.PRODUCT, product_map(forecast, distance_mm(pair))
        yield Method.GENERATED, MethodMap(forecast.tumour, forecast.tumour)
        alone = progression_map(pair, ratios, self.engine, settings.forecast.batch)
        if alone is not None:
            yield Method.PROGRESSION_ALONE, alone

    def _example(self, pair: Pair, forecast: SliceForecast) -> Example:
        names = [str(name) for name in self.cohort.contrasts]
        channel = names.index("t2f") if "t2f" in names else 0
        answer = product_map(forecast, distance_mm(pair))
        shown = np.exp(answer.score) if answer.probability is None else answer.probability
        return Example(
            present=pair.now.image[channel].astype(np.float32),
            generated=forecast.mean[channel],
            product=np.clip(shown, 0, 1).astype(np.float32),
            outline=pair.now.labels > 0,
            later=pair.later.labels > 0,
            brain=pair.now.brain,
        )


def _judged(pair: Pair, answers: Any, away_mm: npt.NDArray[Any]) -> dict[str, Figures]:
    return {str(method): map_figures(pair, answer, away_mm) for method, answer in answers}
