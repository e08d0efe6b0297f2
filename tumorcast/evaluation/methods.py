"""The maps that are compared: the product's, and those that need less than it does. Each is a score for new tumour.

Higher means sooner. What is a probability too says so, and is judged as one.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from tumorcast.archive.maps import SliceForecast
from tumorcast.diffusion.sampler import Encodings, MemberTargets, sample
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.pairs import Pair
from tumorcast.evaluation.tissue_growth import arrival_score, t1_of
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.plan import member_noise
from tumorcast.forecasting.progression import predict_progression
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.records import Contrast
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings

Map = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[np.float32]
Ratios = npt.NDArray[np.float64]

LEAST_PROBABILITY = 1e-3
NEARNESS_PER_MM = 1.0  # of a logarithm; the best of .1 to 1.5 for demo128's segmenter on the validation seed 880001


class Method(StrEnum):
    """Everything in the tables. NO_CHANGE … PAPER are the baselines."""

    PRODUCT = "product"
    GENERATED = "generated_segmented"
    NO_CHANGE = "no_change"
    DILATION = "dilation"
    FISHER_KOLMOGOROV = "fisher_kolmogorov"
    SEGMENTER_DISTANCE = "segmenter_distance"
    UNGUIDED_CHANGE = "unguided_change"
    UNGUIDED_SEGMENTED = "unguided_segmented"
    PAPER = "paper"
    PROGRESSION_ALONE = "progression_alone"
    CHANGED = "changed"

    @property
    def told(self) -> str:
        """The method in the words of a table."""
        return TOLD[self]


TOLD = {
    Method.PRODUCT: "**tumorcast's growth map**",
    Method.GENERATED: "part of it: the generated images, segmented",
    Method.NO_CHANGE: "no change",
    Method.DILATION: "isotropic dilation",
    Method.FISHER_KOLMOGOROV: "Fisher–Kolmogorov, tissue from T1",
    Method.SEGMENTER_DISTANCE: "present scan's segmenter + distance, no diffusion",
    Method.UNGUIDED_CHANGE: "unguided diffusion, change",
    Method.UNGUIDED_SEGMENTED: "unguided diffusion, segmented",
    Method.PAPER: "the paper's map",
    Method.PROGRESSION_ALONE: "part of it: the progression network on the present scan, no diffusion",
    Method.CHANGED: "share of the forecast's members that changed (the paper's definition)",
}
BASELINES = (
    Method.NO_CHANGE,
    Method.DILATION,
    Method.FISHER_KOLMOGOROV,
    Method.SEGMENTER_DISTANCE,
    Method.UNGUIDED_CHANGE,
    Method.UNGUIDED_SEGMENTED,
    Method.PAPER,
)


@dataclass(frozen=True)
class MethodMap:
    """A method's answer for a slice. score: (H, W), higher is likelier new tumour.

    probability: (H, W) of tumour at the later time, where the method claims one. outline: the mask it stands for, where
    it is not to be given the true area.
    """

    score: Map
    probability: Map | None = None
    outline: npt.NDArray[np.bool_] | None = None


def near_tumour(probability: Map, distance_mm: Map) -> Map:
    """log(p + .001) less a falling-off with the distance to the present outline."""
    return np.asarray(np.log(probability + LEAST_PROBABILITY) - NEARNESS_PER_MM * distance_mm)


def distance_mm(pair: Pair) -> Map:
    """(H, W) distance to the present outline, 0 in it."""
    return np.asarray(distance_transform_edt(~(pair.now.labels > 0)) * pair.pixel_mm)


def product_map(forecast: SliceForecast, away_mm: Map) -> MethodMap:
    """The forecast's growth map; of a model without one, the generated images' segmentation near the tumour."""
    if forecast.growth is None:
        return MethodMap(near_tumour(forecast.tumour, away_mm))
    return MethodMap(forecast.growth, forecast.growth)


def resting_maps(
    pair: Pair, tumour_now: Map, contrasts: tuple[Contrast, ...], wanted: Collection[Method] = BASELINES
) -> Iterator[tuple[Method, MethodMap]]:
    """The wanted ones of the baselines that need no diffusion; Fisher-Kolmogorov only where there is a T1.

    tumour_now: (H, W) the segmenter's probability in the present scan.
    """
    away_mm, inside = distance_mm(pair), pair.now.labels > 0
    if Method.NO_CHANGE in wanted:
        yield Method.NO_CHANGE, MethodMap(np.zeros(inside.shape), outline=inside)
    if Method.DILATION in wanted:
        yield Method.DILATION, MethodMap(-away_mm)
    channel = t1_of(contrasts)
    if channel is not None and Method.FISHER_KOLMOGOROV in wanted:
        yield Method.FISHER_KOLMOGOROV, MethodMap(arrival_score(pair.now, pair.now.image[channel], pair.pixel_mm))
    if Method.SEGMENTER_DISTANCE in wanted:
        yield Method.SEGMENTER_DISTANCE, MethodMap(near_tumour(tumour_now, away_mm))


def unguided(pair: Pair, engine: Engine, settings: ForecastSettings) -> Array:
    """(E, C, H, W) the slice through the same sampler with a window that lets no guidance in, once an encoding."""
    sampler = settings.sampler.model_copy(update={"guidance": Guidance.NORMALISED})
    count = min(sampler.encodings or settings.members, settings.members)
    image, brain = pair.now.image.astype(np.float32), pair.now.brain.astype(np.float32)
    noise = [
        member_noise(pair.patient_id, pair.planned.source_slice, k, settings.seed, image.shape) for k in range(count)
    ]
    encodings = Encodings(
        image=np.repeat(image[None], count, axis=0),
        noise=np.stack(noise),
        present=np.full(count, pair.now.brain_fraction, np.float32),
        brain=np.repeat(brain[None], count, axis=0),
    )
    nowhere = np.zeros((count, *brain.shape), np.float32)
    targets = MemberTargets(np.arange(count), np.zeros(count, np.float32), nowhere)
    return sample(engine, encodings, targets, sampler, batch=settings.batch)


def unguided_maps(pair: Pair, members: Array, engine: Engine) -> Iterator[tuple[Method, MethodMap]]:
    """What unguided diffusion says: where its images depart from the scan, and what the segmenter sees in them."""
    change = np.abs(members - pair.now.image).sum(axis=1).mean(axis=0)
    yield Method.UNGUIDED_CHANGE, MethodMap(change)
    probability = engine.segment(members).mean(axis=0) * pair.now.brain
    yield Method.UNGUIDED_SEGMENTED, MethodMap(probability, probability)


def paper_map(pair: Pair, ratios: Ratios, engine: Engine, settings: ForecastSettings) -> MethodMap:
    """How much members changed, by the paper's loop and constants, a member an entry of ratios.

    The score is the mean |generated - original|, summed over contrasts: the paper's map is the share of members in
    which it exceeds a threshold, and with few members such a share ranks almost nothing. That share is the probability.
    """
    paper = settings.model_copy(
        update={"sampler": SamplerSettings.paper(), "members": len(ratios), "keep_members": True}
    )
    targets = PatientTargets(ratios, None, None)
    (forecast,) = forecast_unit(pair.unit(len(ratios)), [pair.now], targets, engine, paper).values()
    assert forecast.members is not None
    change = np.abs(forecast.members - pair.now.image).sum(axis=1).mean(axis=0)
    return MethodMap(change, forecast.changed)


def progression_map(pair: Pair, ratios: Ratios, engine: Engine, batch: int) -> MethodMap | None:
    """The progression network on the present scan, mean over the sizes aimed at; None where the model has none."""
    if not engine.info.progression:
        return None
    probability = predict_progression(pair.now, ratios, engine, batch).mean(axis=0)
    return MethodMap(probability, probability)
