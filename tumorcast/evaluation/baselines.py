"""Maps of new tumour: the forecast's own, and those of baselines that need less.

Each is a score of every pixel, higher means sooner. One that is a probability too says so, and is judged as one.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from tumorcast.archive.maps import SliceForecast
from tumorcast.diffusion.sampler import Encodings, MemberTargets, sample
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.fisher_kolmogorov import arrival_score, t1_of
from tumorcast.evaluation.followup import FollowUp
from tumorcast.forecasting.plan import member_noise
from tumorcast.records import Contrast
from tumorcast.settings import ForecastSettings, Guidance

Map = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[np.float32]

LEAST_PROBABILITY = 1e-3
NEARNESS_PER_MM = 1.0  # of a logarithm; the best of .1 to 1.5 for demo128's segmenter on the validation seed 880001


class Method(StrEnum):
    """Everything in the tables; values are the names in JSON and CSV."""

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
    def label(self) -> str:
        """The method in the words of a table of Markdown."""
        return LABELS[self]

    @property
    def plain_label(self) -> str:
        """The same without marks of Markdown."""
        return LABELS[self].replace("**", "")


LABELS = {
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


class Baseline(StrEnum):
    """What a user can name. UNGUIDED gives two maps and needs a model."""

    NO_CHANGE = "no_change"
    DILATION = "dilation"
    FISHER_KOLMOGOROV = "fisher_kolmogorov"
    SEGMENTER_DISTANCE = "segmenter_distance"
    UNGUIDED = "unguided"


# Of the present tumour's own pixels these say nothing: the deepest stay longest.
SCORES_OUTSIDE_ONLY = frozenset({Method.DILATION, Method.FISHER_KOLMOGOROV, Method.CHANGED, Method.UNGUIDED_CHANGE})


@dataclass(frozen=True)
class MethodMap:
    """A method's answer for a slice. score: (H, W), higher is likelier new tumour.

    probability: (H, W) of tumour at the later time, where the method claims one. outline: the mask it stands for, where
    it is not to be given an area.
    """

    score: Map
    probability: Map | None = None
    outline: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Unguided:
    """What makes unguided diffusion: the model, and the settings of the forecast that it stands beside."""

    engine: Engine
    settings: ForecastSettings


@dataclass(frozen=True)
class SliceMaps:
    """Every method's map of a slice. unguided: the mean of its images (C, H, W), None where there are none."""

    maps: dict[Method, MethodMap]
    unguided: Array | None = None


def slice_maps(
    followup: FollowUp,
    forecast: SliceForecast,
    contrasts: tuple[Contrast, ...] = (),
    baselines: Collection[Baseline] = (),
    model: Unguided | None = None,
) -> SliceMaps:
    """The forecast's own maps, and those of the baselines; without a model there is no unguided diffusion."""
    maps = dict(forecast_maps(forecast))
    maps |= dict(_maps_without_model(followup, forecast.tumour_now, contrasts, baselines))
    mean = None
    if model is not None and Baseline.UNGUIDED in baselines:
        members = unguided(followup, model.engine, model.settings)
        maps |= dict(_unguided_maps(followup, members, model.engine))
        mean = members.mean(axis=0)
    return SliceMaps(ranked_inside(followup, maps), mean)


def ranked_inside(followup: FollowUp, maps: dict[Method, MethodMap]) -> dict[Method, MethodMap]:
    """The maps with a ranking of the present tumour's pixels, for outlines that shrink: the deepest are the highest."""
    depth_mm = np.asarray(distance_transform_edt(followup.now.labels > 0) * followup.pixel_mm)
    return {
        method: replace(found, score=np.where(depth_mm > 0, depth_mm, found.score))
        if method in SCORES_OUTSIDE_ONLY
        else found
        for method, found in maps.items()
    }


def forecast_maps(forecast: SliceForecast) -> Iterator[tuple[Method, MethodMap]]:
    """The growth map, and beside it the segmented images; a model without a growth map has these alone.

    What changed is read as tumour at the later date outside the present outline, and the outline as sure.
    """
    if forecast.growth is None:
        yield Method.PRODUCT, MethodMap(forecast.tumour, forecast.tumour)
    else:
        yield Method.PRODUCT, MethodMap(forecast.growth, forecast.growth)
        yield Method.GENERATED, MethodMap(forecast.tumour, forecast.tumour)
    changed = np.where(forecast.labels > 0, 1.0, forecast.changed) * forecast.brain
    yield Method.CHANGED, MethodMap(_mean_change(forecast), changed)


def _mean_change(forecast: SliceForecast) -> Map:
    """How much members changed where they were kept; else the share that changed, of which many pixels are alike."""
    if forecast.members is None:
        return forecast.changed
    return np.asarray(np.abs(forecast.members - forecast.image).sum(axis=1).mean(axis=0))


def product_map(forecast: SliceForecast, away_mm: Map) -> MethodMap:
    """The forecast's growth map; of a model without one, the generated images' segmentation near the tumour."""
    if forecast.growth is None:
        return MethodMap(near_tumour(forecast.tumour, away_mm))
    return MethodMap(forecast.growth, forecast.growth)


def near_tumour(probability: Map, distance_mm: Map) -> Map:
    """log(p + .001) less a falling-off with the distance to the present outline."""
    return np.asarray(np.log(probability + LEAST_PROBABILITY) - NEARNESS_PER_MM * distance_mm)


def distance_mm(followup: FollowUp) -> Map:
    """(H, W) distance to the present outline, 0 in it."""
    return np.asarray(distance_transform_edt(~(followup.now.labels > 0)) * followup.pixel_mm)


def _maps_without_model(
    followup: FollowUp, tumour_now: Map, contrasts: tuple[Contrast, ...], baselines: Collection[Baseline]
) -> Iterator[tuple[Method, MethodMap]]:
    """Those of the baselines that need no model; Fisher-Kolmogorov only where there is a T1.

    tumour_now: (H, W) the segmenter's probability in the present scan.
    """
    away_mm, inside = distance_mm(followup), followup.now.labels > 0
    if Baseline.NO_CHANGE in baselines:
        yield Method.NO_CHANGE, MethodMap(np.zeros(inside.shape), outline=inside)
    if Baseline.DILATION in baselines:
        yield Method.DILATION, MethodMap(-away_mm)
    channel = t1_of(contrasts)
    if channel is not None and Baseline.FISHER_KOLMOGOROV in baselines:
        arrival = arrival_score(followup.now, followup.now.image[channel], followup.pixel_mm)
        yield Method.FISHER_KOLMOGOROV, MethodMap(arrival)
    if Baseline.SEGMENTER_DISTANCE in baselines:
        yield Method.SEGMENTER_DISTANCE, MethodMap(near_tumour(tumour_now, away_mm))


def unguided(followup: FollowUp, engine: Engine, settings: ForecastSettings) -> Array:
    """(E, C, H, W) the slice through the same sampler with a window that lets no guidance in, once an encoding."""
    sampler = settings.sampler.model_copy(update={"guidance": Guidance.NORMALISED})
    count = min(sampler.encodings or settings.members, settings.members)
    image, brain = followup.now.image.astype(np.float32), followup.now.brain.astype(np.float32)
    number = followup.planned.source_slice
    noise = [member_noise(followup.patient_id, number, k, settings.seed, image.shape) for k in range(count)]
    encodings = Encodings(
        image=np.repeat(image[None], count, axis=0),
        noise=np.stack(noise),
        present=np.full(count, followup.now.brain_fraction, np.float32),
        brain=np.repeat(brain[None], count, axis=0),
        slice_number=np.zeros(count, int),
    )
    nowhere = np.zeros((count, *brain.shape), np.float32)
    targets = MemberTargets(np.arange(count), np.zeros(count, np.float32), nowhere)
    return sample(engine, encodings, targets, sampler, batch=settings.batch)


def _unguided_maps(followup: FollowUp, members: Array, engine: Engine) -> Iterator[tuple[Method, MethodMap]]:
    """What unguided diffusion says: where its images depart from the scan, and what the segmenter sees in them."""
    change = np.abs(members - followup.now.image).sum(axis=1).mean(axis=0)
    yield Method.UNGUIDED_CHANGE, MethodMap(change)
    probability = engine.segment(members).mean(axis=0) * followup.now.brain
    yield Method.UNGUIDED_SEGMENTED, MethodMap(probability, probability)
