"""The maps that an archive is judged by: its own, and those of the baselines, of which one needs a model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy.ndimage import distance_transform_edt

from tumorcast.archive.maps import SliceForecast
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.methods import Array, Map, Method, MethodMap, resting_maps, unguided, unguided_maps
from tumorcast.evaluation.pairs import Pair
from tumorcast.records import Contrast
from tumorcast.settings import ForecastSettings


class Baseline(StrEnum):
    """What a user can name. UNGUIDED gives two maps and needs a model."""

    NO_CHANGE = "no_change"
    DILATION = "dilation"
    FISHER_KOLMOGOROV = "fisher_kolmogorov"
    SEGMENTER_DISTANCE = "segmenter_distance"
    UNGUIDED = "unguided"


METHODS = {
    Baseline.NO_CHANGE: (Method.NO_CHANGE,),
    Baseline.DILATION: (Method.DILATION,),
    Baseline.FISHER_KOLMOGOROV: (Method.FISHER_KOLMOGOROV,),
    Baseline.SEGMENTER_DISTANCE: (Method.SEGMENTER_DISTANCE,),
    Baseline.UNGUIDED: (Method.UNGUIDED_CHANGE, Method.UNGUIDED_SEGMENTED),
}
SAYS_WHERE_FROM_OUTSIDE = frozenset(
    {Method.DILATION, Method.FISHER_KOLMOGOROV, Method.CHANGED, Method.UNGUIDED_CHANGE}
)  # of the present tumour's own pixels these say nothing: the deepest stay longest


@dataclass(frozen=True)
class Unguided:
    """What makes unguided diffusion: the model, and the settings of the forecast that it stands beside."""

    engine: Engine
    settings: ForecastSettings


@dataclass(frozen=True)
class SliceMaps:
    """Every method's map of a slice. unguided: the mean of its images (C, H, W), None where there are none."""

    maps: dict[Method, MethodMap]
    unguided: Array | None


def slice_maps(
    pair: Pair,
    forecast: SliceForecast,
    contrasts: tuple[Contrast, ...],
    wanted: tuple[Baseline, ...],
    model: Unguided | None,
) -> SliceMaps:
    """The archive's maps, and those of the wanted baselines; without a model there is no unguided diffusion."""
    maps = dict(_archived(forecast))
    chosen = [method for name in wanted for method in METHODS[name]]
    maps |= dict(resting_maps(pair, forecast.tumour_now, contrasts, chosen))
    mean = None
    if model is not None and Baseline.UNGUIDED in wanted:
        members = unguided(pair, model.engine, model.settings)
        maps |= dict(unguided_maps(pair, members, model.engine))
        mean = members.mean(axis=0)
    depth = np.asarray(distance_transform_edt(pair.now.labels > 0) * pair.pixel_mm)
    return SliceMaps({method: _ranked_inside(method, answer, depth) for method, answer in maps.items()}, mean)


def _archived(forecast: SliceForecast) -> Iterator[tuple[Method, MethodMap]]:
    """The growth map, and beside it the segmented images; a model without a growth map has these alone.

    What changed is read as tumour at the later date outside the present outline, and the outline as sure.
    """
    if forecast.growth is None:
        yield Method.PRODUCT, MethodMap(forecast.tumour, forecast.tumour)
    else:
        yield Method.PRODUCT, MethodMap(forecast.growth, forecast.growth)
        yield Method.GENERATED, MethodMap(forecast.tumour, forecast.tumour)
    changed = np.where(forecast.labels > 0, 1.0, forecast.changed) * forecast.brain
    yield Method.CHANGED, MethodMap(_change(forecast), changed)


def _change(forecast: SliceForecast) -> Map:
    """How much members changed where they were kept; else the share that changed, of which many pixels are alike."""
    if forecast.members is None:
        return forecast.changed
    return np.asarray(np.abs(forecast.members - forecast.image).sum(axis=1).mean(axis=0))


def _ranked_inside(method: Method, answer: MethodMap, depth_mm: Map) -> MethodMap:
    """The map with a ranking of the present tumour's pixels, for outlines that shrink."""
    if method not in SAYS_WHERE_FROM_OUTSIDE:
        return answer
    return replace(answer, score=np.where(depth_mm > 0, depth_mm, answer.score))
