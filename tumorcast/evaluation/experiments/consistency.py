"""How much seeds matter: what they change of one image, and with how many members the map stands still.

A unit is a patient. The largest ensemble is made once, and smaller ones are parts of it: members are independent, each
with noise and an encoding of its own.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import SizeMeasure
from tumorcast.engines.protocol import Engine, segment_in_batches
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.comparison import TargetMode
from tumorcast.evaluation.experiments.cases import Case, CaseSource
from tumorcast.evaluation.experiments.consistency_report import CHANGED, GROWTH, IMAGES, findings
from tumorcast.evaluation.experiments.experiment import Findings
from tumorcast.evaluation.experiments.folder import unit_name
from tumorcast.evaluation.experiments.shown import Shown, channel_shown
from tumorcast.evaluation.judging import Figures, members_of, outside_tumour
from tumorcast.evaluation.methods import Ratios
from tumorcast.evaluation.metrics import Mask, average_precision, brier, dice, ssim
from tumorcast.evaluation.past_targets import targets_from_past
from tumorcast.evaluation.statistics import patient_mean
from tumorcast.forecasting.ensemble import MemberMaps
from tumorcast.forecasting.progression import predict_progression
from tumorcast.forecasting.selection_scores import agreement
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.growth.model import GrowthModel
from tumorcast.settings import ForecastSettings

Array = npt.NDArray[np.float32]
Maps = npt.NDArray[np.floating[Any]]

SEEDS_SHOWN = 5


@dataclass(frozen=True)
class Consistency:
    """The experiment. seeds: images of one target; target: what the members of the ensemble aim at.

    growth: fits and forecasts sizes for TargetMode.ODE. Raises UsageError or InputError for what cannot be.
    """

    source: CaseSource
    seeds: int
    target: TargetMode
    growth: GrowthModel
    name: ClassVar[str] = "consistency"

    def __post_init__(self) -> None:
        """Look at what is asked for before the first patient."""
        self.source.check_level(self.settings.sampler.noise_level)
        if self.settings.members < 2 or self.seeds < 2:
            raise UsageError(f"--members {self.settings.members}, --seeds {self.seeds}: give 2 or more of each")
        if self.target is TargetMode.ODE and not self.source.cohort.dated:
            raise InputError(
                f"{self.source.cohort.path}: its scans have no dates, so sizes cannot be forecast; prepare it with "
                "--clinical, or give --target truth"
            )

    @property
    def settings(self) -> ForecastSettings:
        """Of the ensemble: no two members share an encoding, or halves of it would have something in common."""
        base = self.source.settings
        return base.model_copy(update={"sampler": base.sampler.model_copy(update={"encodings": None})})

    def made_of(self) -> dict[str, Any]:
        """Everything but the choice of patients."""
        told = replace(self.source, settings=self.settings).made_of()
        told |= {"seeds": self.seeds, "target": str(self.target)}
        return told | {"growth": self.growth.settings.model_dump(mode="json") | {"by": str(self.growth.forecaster)}}

    def units(self) -> Sequence[str]:
        """The patients."""
        return [unit_name(patient_id) for patient_id in self.source.patient_ids()]

    def measure(self, unit: str, pictures: Path) -> Figures:
        """See consistency_report.SEEDS and MEMBERS."""
        case = self.source.case(self._patient(unit))
        ratios = self._ratios(case)
        alike = np.full(self.seeds, case.ratio)
        if np.ptp(ratios) == 0 and len(ratios) >= self.seeds:  # they are the same members
            ensemble = self._forecast(case, ratios)
            seeds = first_of(ensemble, self.seeds)
        else:
            ensemble, seeds = self._forecast(case, ratios), self._forecast(case, alike)
        engine, settings = self.source.engine, self.settings
        maps = member_maps(case, ensemble, ratios, engine, settings)
        self._shown(case, seeds).save(pictures)
        return case.told() | {
            "members": len(ratios),
            "aimed_ratio_low_high": np.quantile(ratios, [0.05, 0.95]).tolist(),
            "seeds": seed_figures(case, seeds, engine, settings.batch),
            "maps": {name: convergence(case, ensemble, one) for name, one in maps.items()},
        }

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """Tables and pictures over patients."""
        return findings(rows, pictures, seeds=self.seeds, target=self.target)

    def _patient(self, unit: str) -> str:
        return next(name for name in self.source.cohort.patient_ids() if unit_name(name) == unit)

    def _ratios(self, case: Case) -> Ratios:
        """(M,) what the members aim at."""
        if self.target is TargetMode.TRUTH or not case.known:
            return np.full(self.settings.members, case.ratio)
        pair = case.pair
        series = self.source.cohort.size_series(pair.patient_id, SizeMeasure.VOLUME_MM3)
        drawn = targets_from_past(self.growth, series, self.settings, day=pair.day, later_day=pair.later_day)
        return drawn.target_ratio

    def _forecast(self, case: Case, ratios: Ratios) -> SliceForecast:
        return case.forecast(self.source.engine, self.settings, ratios)

    def _shown(self, case: Case, seeds: SliceForecast) -> Shown:
        channel = channel_shown(self.source.cohort.contrasts)
        images = members_of(seeds)[:SEEDS_SHOWN]
        seen = segment_in_batches(self.source.engine, images, self.settings.batch) * case.pair.now.brain
        variants = {f"seed {k}": (image[channel], seen[k]) for k, image in enumerate(images)}
        return Shown.of(case.pair, variants, channel)


def first_of(forecast: SliceForecast, count: int) -> SliceForecast:
    """The forecast with its first members alone, as far as seed_figures looks at it."""
    return replace(forecast, members=members_of(forecast)[:count], reached_mm2=forecast.reached_mm2[:count])


def member_maps(
    case: Case, forecast: SliceForecast, ratios: Ratios, engine: Engine, settings: ForecastSettings
) -> dict[str, Maps]:
    """(M, H, W) by name: each member's part of the growth map, of the images' segmentation, and of the paper's map.

    Their means are the forecast's growth, tumour and changed. There is no growth map without a progression network.
    """
    members, now = members_of(forecast), case.pair.now
    predicted = None
    if engine.info.progression:
        target_ratio = PatientTargets(ratios).of_slice(now).target_ratio
        predicted = predict_progression(now, target_ratio, engine, settings.batch)
    of = MemberMaps.of(now, members, predicted, engine=engine, settings=settings)
    maps: dict[str, Maps] = {IMAGES: of.tumour * now.brain, CHANGED: of.changed.astype(np.float32)}
    return maps if of.growth is None else maps | {GROWTH: of.growth * now.brain}


def seed_figures(case: Case, seeds: SliceForecast, engine: Engine, batch: int) -> Figures:
    """Of images that differ by their seed alone, over all pairs of them; see consistency_report.SEEDS."""
    members, present = members_of(seeds), case.pair.now
    outside = np.all(outside_tumour(case.pair, members, engine, batch), axis=0)
    inside = present.brain & ~outside
    outlines = (segment_in_batches(engine, members, batch) > 0.5) & present.brain
    figures = {"outlines_dice": patient_mean([dice(a, b) for a, b in itertools.combinations(outlines, 2)])}
    for name, mask in (("inside", inside), ("outside", outside)):
        pairs = itertools.combinations(members, 2)
        figures |= {
            f"ssim_{name}": patient_mean([ssim(a, b, mask) for a, b in pairs]),
            f"ssim_present_{name}": patient_mean([ssim(one, present.image, mask) for one in members]),
            f"sd_{name}": float(members.std(axis=0)[:, mask].mean()) if mask.any() else float("nan"),
        }
    reached = seeds.reached_mm2
    return figures | {"area_spread": float(reached.std() / reached.mean()) if reached.any() else float("nan")}


def counts_of(members: int) -> list[int]:
    """Sizes of ensembles that are looked at.

    >>> counts_of(20)
    [1, 2, 4, 8, 16, 20]
    """
    return sorted({2**k for k in range(members.bit_length()) if 2**k <= members} | {members})


def convergence(case: Case, forecast: SliceForecast, maps: Maps) -> dict[str, Figures]:
    """By number of members, figures of maps of so many, means over as many separate ones as there are.

    maps: (M, H, W), a member's each. See consistency_report.MEMBERS.
    """
    whole = maps.mean(axis=0)
    found = {}
    for count in counts_of(len(maps)):
        parts = [maps[k : k + count].mean(axis=0) for k in range(0, len(maps) - count + 1, count)]
        apart = [(parts[k], parts[k + 1]) for k in range(0, len(parts) - 1, 2)]
        brain = case.pair.now.brain
        found[str(count)] = {
            **(_by_truth(case, parts) if case.known else {}),
            "from_full": patient_mean([_distance(one, whole, brain) for one in parts]),
            "from_another": patient_mean([_distance(a, b, brain) for a, b in apart]),
            "agreement": patient_mean(
                [agreement(replace(forecast, tumour=a), replace(forecast, tumour=b)) for a, b in apart]
            ),
        }
    return found


def _by_truth(case: Case, maps: Sequence[Maps]) -> Figures:
    """Among the candidates, the brain outside the present outline."""
    candidates = case.pair.now.brain & (case.pair.now.labels == 0)
    new = (case.pair.later.labels > 0) & candidates
    return {
        "ap": patient_mean([average_precision(new, one, candidates) for one in maps]),
        "brier": patient_mean([brier(new, one, candidates) for one in maps]),
    }


def _distance(a: Maps, b: Maps, brain: Mask) -> float:
    return float(np.abs(a - b)[brain].mean(dtype=np.float64))
