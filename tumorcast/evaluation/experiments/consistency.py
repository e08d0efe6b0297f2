"""How much seeds matter: what they change of one image, and with how many members the map converges.

A unit is a patient. The largest ensemble is made once, and smaller ones are parts of it: members are independent, each
with noise and an encoding of its own.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import SizeMeasure
from tumorcast.engines.protocol import Engine, segment_in_batches
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.experiments.base import Findings, ReportPicture, Row, Table, unit_name
from tumorcast.evaluation.experiments.followup_source import LatestFollowUps, forecast_ratios
from tumorcast.evaluation.experiments.plots import CurvePanel, draw_curves
from tumorcast.evaluation.experiments.report_tables import values_of
from tumorcast.evaluation.experiments.slice_plots import SliceExample, channel_shown, examples_picture
from tumorcast.evaluation.followup import FollowUp, TargetSize
from tumorcast.evaluation.metrics import (
    AP,
    BRIER,
    DICE,
    DISTANCE,
    INTENSITY_RANGE,
    SHARE,
    SSIM,
    Floats,
    Mask,
    Metric,
    average_precision,
    brier,
    dice,
    ssim,
)
from tumorcast.evaluation.score import members_of, outside_tumour
from tumorcast.evaluation.statistics import Estimate, mean_of, patient_mean
from tumorcast.evaluation.targets import targets_from_past
from tumorcast.forecasting.ensemble import MemberMaps
from tumorcast.forecasting.progression import predict_progression
from tumorcast.forecasting.select import ENOUGH_AGREEMENT
from tumorcast.forecasting.selection_scores import agreement
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.growth.model import GrowthModel
from tumorcast.settings import ForecastSettings, NetworkKind

Array = npt.NDArray[np.float32]
Maps = npt.NDArray[np.floating[Any]]


def pixel_sd(members: Array, inside: Mask) -> float:
    """Standard deviation of a pixel over members (M, C, H, W), mean over a region (H, W); NaN where it is empty."""
    return float(members.std(axis=0)[:, inside].mean()) if inside.any() else float("nan")


def area_spread(areas_mm2: Floats) -> float:
    """Standard deviation of the members' areas (M,) over their mean; NaN without tumour."""
    return float(areas_mm2.std() / areas_mm2.mean()) if areas_mm2.any() else float("nan")


def mean_distance(a: Maps, b: Maps, inside: Mask) -> float:
    """Mean |a - b| of two maps (H, W) within a region (H, W)."""
    return float(np.abs(a - b)[inside].mean(dtype=np.float64))


SEEDS_SHOWN = 5

GROWTH, IMAGES, CHANGED = "growth", "images", "changed"
MAPS = {
    GROWTH: "Growth map",
    IMAGES: "Images segmented",
    CHANGED: "Share of members that changed (the paper's map)",
}
SEEDS = (
    DICE.called("outlines_dice", "Dice of outlines"),
    Metric("area_spread", "SD of the area / its mean", 3, False, DISTANCE, area_spread),
    SSIM.called("ssim_inside", "SSIM inside"),
    SSIM.called("ssim_outside", "SSIM outside"),
    Metric("sd_inside", "SD inside", 4, None, (0.0, INTENSITY_RANGE), pixel_sd),
    Metric("sd_outside", "SD outside", 4, False, (0.0, INTENSITY_RANGE), pixel_sd),
    SSIM.called("ssim_present_inside", "to the present scan: SSIM inside"),
    SSIM.called("ssim_present_outside", "SSIM outside"),
)
MEMBERS = (
    AP,
    BRIER,
    Metric("from_full", "from the full map", 4, False, SHARE, mean_distance),
    Metric("from_another", "from another map", 4, False, SHARE, mean_distance),
    Metric("agreement", "agreement with another", 3, True, SHARE, agreement),
)
LOGARITHMIC = ("from_full", "from_another")
SEEDS_NOTE = (
    "Between images that aim at one size and differ by their seed alone, means over all pairs and then over patients, "
    "with 95 % bootstrap intervals. Outlines: of the segmenter. Outside: the brain without the present, the later and "
    "every generated tumour, widened by half an SSIM window; inside: the rest of the brain. SD: of a pixel over seeds, "
    "images being in [−1, 1]."
)
MEMBERS_NOTE = (
    "Of maps of so many members, over patients, with 95 % bootstrap intervals: a patient's ensemble is cut into as "
    "many separate ones as it holds, and their figures are averaged. AP and Brier: for new tumour in the brain outside "
    "the present outline, of patients whose later scan is known. From: mean absolute difference within the brain to "
    "the map of all members, of which these are a part, and to another map of as many others. Agreement: "
    "2 Σ min(a, b) / Σ (a + b) of two such maps outside the present outline."
)
LEAST_LOSS = 0.01  # of average precision: a map that is nearer to the full one is as good


@dataclass(frozen=True)
class ConsistencyExperiment:
    """The experiment. seeds: images of one target; target: what the members of the ensemble aim at.

    growth: fits and forecasts sizes for TargetSize.FORECAST. Raises UsageError or InputError for what cannot be.
    """

    source: LatestFollowUps
    seeds: int
    target: TargetSize
    growth: GrowthModel
    name: ClassVar[str] = "consistency"

    def __post_init__(self) -> None:
        """Check the settings before the first patient."""
        self.source.check_level(self.settings.sampler.noise_level)
        if self.settings.members < 2 or self.seeds < 2:
            raise UsageError(f"--members {self.settings.members}, --seeds {self.seeds}: give 2 or more of each")
        if self.target is TargetSize.FORECAST and not self.source.cohort.dated:
            raise InputError(
                f"{self.source.cohort.path}: its scans have no dates, so sizes cannot be forecast; prepare it with "
                "--clinical, or give --target truth"
            )

    @property
    def settings(self) -> ForecastSettings:
        """Of the ensemble: no two members share an encoding, or halves of it would have something in common."""
        base = self.source.settings
        return base.model_copy(update={"sampler": base.sampler.model_copy(update={"encodings": None})})

    def provenance(self) -> dict[str, Any]:
        """Everything but the choice of patients."""
        record = replace(self.source, settings=self.settings).provenance()
        record |= {"seeds": self.seeds, "target": str(self.target)}
        return record | {"growth": self.growth.settings.model_dump(mode="json") | {"by": str(self.growth.forecaster)}}

    def units(self) -> Sequence[str]:
        """The patients."""
        return [unit_name(patient_id) for patient_id in self.source.patient_ids()]

    def measure(self, unit: str, pictures: Path) -> Row:
        """See SEEDS and MEMBERS."""
        followup = self.source.followup(self.source.by_unit[unit])
        ratios = self._ratios(followup)
        alike = np.full(self.seeds, self.source.target_ratio(followup))
        if np.ptp(ratios) == 0 and len(ratios) >= self.seeds:  # they are the same members
            ensemble = self._forecast(followup, ratios)
            seeds = first_of(ensemble, self.seeds)
        else:
            ensemble, seeds = self._forecast(followup, ratios), self._forecast(followup, alike)
        engine, settings = self.source.engine, self.settings
        maps = member_maps(followup, ensemble, ratios, engine, settings)
        self._example(followup, seeds).save(pictures)
        return self.source.row(followup) | {
            "members": len(ratios),
            "aimed_ratio_low_high": np.quantile(ratios, [0.05, 0.95]).tolist(),
            "seeds": seed_figures(followup, seeds, engine, settings.batch),
            "maps": {name: convergence(followup, ensemble, member_map) for name, member_map in maps.items()},
        }

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """Tables and pictures over patients."""
        return findings(rows, pictures, seeds=self.seeds, target=self.target)

    def _ratios(self, followup: FollowUp) -> Floats:
        """(M,) area ratios that the members aim at."""
        if self.target is TargetSize.TRUE or not followup.is_known:
            return np.full(self.settings.members, self.source.target_ratio(followup))
        series = self.source.cohort.size_series(followup.patient_id, SizeMeasure.VOLUME_MM3)
        days = {"day": followup.day, "later_day": followup.later_day}
        return targets_from_past(self.growth, series, self.settings, **days).target_ratio

    def _forecast(self, followup: FollowUp, ratios: Floats) -> SliceForecast:
        return forecast_ratios(followup, ratios, self.source.engine, self.settings)

    def _example(self, followup: FollowUp, seeds: SliceForecast) -> SliceExample:
        channel = channel_shown(self.source.cohort.contrasts)
        images = members_of(seeds)[:SEEDS_SHOWN]
        probability = segment_in_batches(self.source.engine, images, self.settings.batch) * followup.now.brain
        variants = {f"seed {k}": (image[channel], probability[k]) for k, image in enumerate(images)}
        return SliceExample.of(followup, variants, channel)


def first_of(forecast: SliceForecast, count: int) -> SliceForecast:
    """The forecast with its first members alone, as far as seed_figures looks at it."""
    return replace(forecast, members=members_of(forecast)[:count], reached_mm2=forecast.reached_mm2[:count])


def member_maps(
    followup: FollowUp, forecast: SliceForecast, ratios: Floats, engine: Engine, settings: ForecastSettings
) -> dict[str, Maps]:
    """(M, H, W) by name: each member's part of the growth map, of the images' segmentation, and of the paper's map.

    Their means are the forecast's growth, tumour and changed. There is no growth map without a progression network.
    """
    members, now = members_of(forecast), followup.now
    predicted = None
    if engine.info.progression is NetworkKind.SLICE_PROGRESSION:
        target_ratio = PatientTargets(ratios).of_slice(now).target_ratio
        predicted = predict_progression(now, target_ratio, engine, settings.batch)
    of_members = MemberMaps.of(now, members, predicted, engine=engine, settings=settings)
    maps: dict[str, Maps] = {
        IMAGES: of_members.tumour * now.brain,
        CHANGED: of_members.changed.astype(np.float32),
    }
    return maps if of_members.growth is None else maps | {GROWTH: of_members.growth * now.brain}


def seed_figures(followup: FollowUp, seeds: SliceForecast, engine: Engine, batch: int) -> Row:
    """Of images that differ by their seed alone, over all pairs of them; see SEEDS."""
    members, present = members_of(seeds), followup.now
    outside = np.all(outside_tumour(followup, members, engine, batch), axis=0)
    inside = present.brain & ~outside
    outlines = (segment_in_batches(engine, members, batch) > 0.5) & present.brain
    figures = {"outlines_dice": patient_mean([dice(a, b) for a, b in itertools.combinations(outlines, 2)])}
    for name, mask in (("inside", inside), ("outside", outside)):
        pairs = itertools.combinations(members, 2)
        figures |= {
            f"ssim_{name}": patient_mean([ssim(a, b, mask) for a, b in pairs]),
            f"ssim_present_{name}": patient_mean([ssim(member, present.image, mask) for member in members]),
            f"sd_{name}": pixel_sd(members, mask),
        }
    return figures | {"area_spread": area_spread(seeds.reached_mm2)}


def counts_of(members: int) -> list[int]:
    """Sizes of ensembles that are compared.

    >>> counts_of(20)
    [1, 2, 4, 8, 16, 20]
    """
    return sorted({2**k for k in range(members.bit_length()) if 2**k <= members} | {members})


def convergence(followup: FollowUp, forecast: SliceForecast, maps: Maps) -> dict[str, Row]:
    """By number of members, figures of maps of so many, means over as many separate ones as there are.

    maps: (M, H, W), a member's each. See MEMBERS.
    """
    whole = maps.mean(axis=0)
    by_count = {}
    for count in counts_of(len(maps)):
        parts = [maps[k : k + count].mean(axis=0) for k in range(0, len(maps) - count + 1, count)]
        apart = [(parts[k], parts[k + 1]) for k in range(0, len(parts) - 1, 2)]
        brain = followup.now.brain
        by_count[str(count)] = {
            **(_by_truth(followup, parts) if followup.is_known else {}),
            "from_full": patient_mean([mean_distance(part, whole, brain) for part in parts]),
            "from_another": patient_mean([mean_distance(a, b, brain) for a, b in apart]),
            "agreement": patient_mean(
                [agreement(replace(forecast, tumour=a), replace(forecast, tumour=b)) for a, b in apart]
            ),
        }
    return by_count


def _by_truth(followup: FollowUp, maps: Sequence[Maps]) -> Row:
    """Among the candidates, the brain outside the present outline."""
    candidates = followup.now.brain & (followup.now.labels == 0)
    new = (followup.later.labels > 0) & candidates
    return {
        "ap": patient_mean([average_precision(new, mean_map, candidates) for mean_map in maps]),
        "brier": patient_mean([brier(new, mean_map, candidates) for mean_map in maps]),
    }


@dataclass(frozen=True)
class ConvergenceCurve:
    """A map's figures over patients by number of members, by the names of MEMBERS."""

    name: str
    counts: tuple[int, ...]
    figures: dict[str, list[Estimate]]

    @classmethod
    def of(cls, name: str, rows: Sequence[Row]) -> "ConvergenceCurve":
        """Over the patients."""
        counts = list(rows[0]["maps"][name])
        values = [values_of([row["maps"][name][count] for row in rows], MEMBERS) for count in counts]
        figures = {metric.name: [mean_of(of_count[metric.name]) for of_count in values] for metric in MEMBERS}
        return cls(name, tuple(map(int, counts)), figures)

    @property
    def enough(self) -> int | None:
        """The fewest members whose mean AP is within LEAST_LOSS of that of all, where there is a truth, and of whose
        maps two separate ones agree by ENOUGH_AGREEMENT in the mean patient; None where no number is enough.

        At most half of all members can be found to be.
        """
        aps, full = self.figures["ap"], self.figures["ap"][-1].value
        for count, ap, agreed in zip(self.counts, aps, self.figures["agreement"], strict=True):
            good = np.isnan(full) or full - ap.value <= LEAST_LOSS
            if good and agreed.value >= ENOUGH_AGREEMENT:
                return count
        return None

    def has(self, metric: Metric) -> bool:
        """Whether some patient has the figure."""
        return any(estimate.patients for estimate in self.figures[metric.name])

    def table(self, note: str) -> Table:
        """A row a number of members."""
        shown = [metric for metric in MEMBERS if self.has(metric)]
        rows = [
            (str(count), *(self.figures[metric.name][k].text(metric.digits) for metric in shown))
            for k, count in enumerate(self.counts)
        ]
        return Table(MAPS[self.name], ("members", *(metric.label for metric in shown)), rows, note)


def findings(rows: Mapping[str, Row], pictures: Path, *, seeds: int, target: TargetSize) -> Findings:
    """Tables and pictures. Raises InputError if there is no row."""
    if not rows:
        raise InputError("no patient could be measured; give a cohort with tumour in its last scans")
    every = list(rows.values())
    of_seeds = {name: mean_of(values) for name, values in values_of([row["seeds"] for row in every], SEEDS).items()}
    curves = [ConvergenceCurve.of(name, every) for name in MAPS if name in every[0]["maps"]]
    figures = {
        "seeds": of_seeds,
        "members": {curve.name: {"members": curve.counts} | curve.figures for curve in curves},
        "enough": {curve.name: curve.enough for curve in curves},
    }
    of_seeds_table = Table(
        f"{seeds} seeds of one target",
        ("", "over patients"),
        [(metric.label, of_seeds[metric.name].text(metric.digits)) for metric in SEEDS],
        SEEDS_NOTE,
    )
    notes = [MEMBERS_NOTE] + ["As above."] * (len(curves) - 1)
    tables = [of_seeds_table, *(curve.table(note) for curve, note in zip(curves, notes, strict=True))]
    return Findings(
        _answer(of_seeds, curves, seeds, target), figures, tables, [_curves_picture(curves), _examples(rows, pictures)]
    )


def _answer(
    of_seeds: Mapping[str, Estimate], curves: Sequence[ConvergenceCurve], seeds: int, target: TargetSize
) -> str:
    aimed = {
        TargetSize.TRUE: "all at one size, the true later one where it is known",
        TargetSize.FORECAST: "at sizes forecast from the scans so far, where the later scan is known",
    }
    dices, inside, outside = (of_seeds[name] for name in ("outlines_dice", "ssim_inside", "ssim_outside"))
    most = curves[0].counts[-1]
    answer = (
        "How much does a follow-up depend on the seed, and with how many members does the map stand still? "
        f"{seeds} seeds of one target give outlines that overlap by a Dice of {dices.text(3)}, and images that are "
        f"alike by an SSIM of {inside.text(3)} where the tumour is and {outside.text(3)} elsewhere (patients: "
        f"{dices.patients}). Members aim {aimed[target]}. Enough are the fewest whose AP is within {LEAST_LOSS:g} of "
        f"that of {most} in the mean patient, and of whose maps two separate ones agree by {ENOUGH_AGREEMENT:g}: "
    )
    return answer + "; ".join(f"{MAPS[curve.name].lower()}: {_enough_words(curve, most)}" for curve in curves) + "."


def _enough_words(curve: ConvergenceCurve, most: int) -> str:
    return f"not reached by {most // 2}" if curve.enough is None else str(curve.enough)


def _curves_picture(curves: Sequence[ConvergenceCurve]) -> ReportPicture:
    panels = [
        CurvePanel(
            metric.label,
            {MAPS[curve.name]: curve.figures[metric.name] for curve in curves},
            logarithmic=metric.name in LOGARITHMIC,
            guide=ENOUGH_AGREEMENT if metric.name == "agreement" else None,
        )
        for metric in MEMBERS
        if any(curve.has(metric) for curve in curves)
    ]
    caption = "Figures of maps by number of members, with 95 % intervals over patients; what they are: see the tables."
    return ReportPicture("members", caption, partial(draw_curves, curves[0].counts, "members", panels))


def _examples(rows: Mapping[str, Row], pictures: Path) -> ReportPicture:
    titles = {unit: f"{row['patient_id']}, area × {row['ratio']:.2f}" for unit, row in rows.items()}
    overlap = values_of([row["seeds"] for row in rows.values()], SEEDS)["outlines_dice"]
    caption = "Seeds of one target, from the patient whose outlines overlap least."
    return examples_picture("seeds", caption, pictures, titles, overlap)
