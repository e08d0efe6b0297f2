"""Where a tumour goes in three dimensions: the forecast's own order of voxels, and those of baselines that need less.

Each is an order of the voxels of the brain, earlier is smaller, which goes on within the present outline: its deepest
voxels, which stay longest, come first of all. So one order serves a tumour that grows and one that shrinks.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import VolumeForecast, first_voxels
from tumorcast.arrival.crop import Crop
from tumorcast.arrival.field import ArrivalField, FrontArrival, Ratios
from tumorcast.data.grey import from_grey
from tumorcast.data.imaging.geometry import SAME_SPACING, pixel_mm
from tumorcast.engines.protocol import Engine, segment_in_batches
from tumorcast.evaluation.baselines import Baseline, Method, near_tumour
from tumorcast.evaluation.metrics import Map, Mask
from tumorcast.evaluation.volume_followup import VolumeFollowUp
from tumorcast.records import Contrast, SessionVolume


@dataclass(frozen=True)
class VolumeMap:
    """A method's answer for a volume, all (Z, Y, X).

    order: smaller is earlier, infinite where it never comes; alike everywhere outside of `outline` where that is given.
    probability: of tumour at the later time, where the method claims one. outline: what it stands for, where it is not
    to be given a volume.
    """

    order: npt.NDArray[np.floating[Any]]
    probability: Map | None = None
    outline: Mask | None = None

    @classmethod
    def forecast(cls, forecast: VolumeForecast, horizon: int) -> Self:
        """The growth map at a horizon, ordered by log_volume: p, of 16 bits, has more voxels alike."""
        return cls(forecast.log_volume, forecast.growth[horizon].astype(np.float32))

    @classmethod
    def field(cls, field: ArrivalField, ratios: Ratios) -> Self:
        """Of a field of arrival, and (M,) ratios of later over present volume."""
        return cls(field.order(), field.probability(ratios))

    def outline_of(self, count: int) -> Mask:
        """The outline of so many voxels, unless it has its own."""
        return first_voxels(self.order, count) if self.outline is None else self.outline


@dataclass(frozen=True)
class PlaneSegmenter:
    """The segmenter of slices, on the axial planes of volumes. batch: of planes."""

    engine: Engine
    batch: int

    def why_not(self, contrasts: tuple[Contrast, ...], voxel_mm: float) -> str | None:
        """Why it cannot see such volumes; None where it can."""
        wanted = self.engine.info
        side = pixel_mm(wanted.image_size)
        if tuple(map(str, contrasts)) != tuple(wanted.contrasts):
            return f"the model takes {', '.join(wanted.contrasts)}"
        if abs(voxel_mm / side - 1) > SAME_SPACING:
            return f"the model's pixels are of {side:g} mm, and the volumes' voxels of {voxel_mm:g} mm"
        return None

    def probability(self, volume: SessionVolume) -> Map:
        """(Z, Y, X) of tumour; what lies beyond the planes that the model takes is 0."""
        size, (depth, height, width) = self.engine.info.image_size, volume.labels.shape
        start, sides = (0, (height - size) // 2, (width - size) // 2), (depth, size, size)
        crop = Crop(start, sides, (depth, height, width))
        planes = np.ascontiguousarray(from_grey(crop.cut(volume.images)).swapaxes(0, 1))
        return crop.put_back(segment_in_batches(self.engine, planes, self.batch))


def volume_baselines(
    followup: VolumeFollowUp,
    contrasts: tuple[Contrast, ...],
    ratios: Ratios,
    baselines: Collection[Baseline],
    segmenter: PlaneSegmenter | None = None,
) -> Iterator[tuple[Method, VolumeMap]]:
    """Those asked for. ratios: (M,) later over present volume that the front is told, as the forecast's members are."""
    away, brain = followup.distance_mm, followup.brain
    if Baseline.NO_CHANGE in baselines:
        yield Method.NO_CHANGE, VolumeMap(np.zeros(away.shape, np.float32), outline=followup.before)
    if Baseline.DILATION in baselines:
        yield Method.DILATION, VolumeMap(np.where(brain, away, np.inf))
    if Baseline.FISHER_KOLMOGOROV in baselines:
        yield Method.FISHER_KOLMOGOROV, field_map(FrontArrival().field(followup.present, contrasts), followup, ratios)
    if Baseline.SEGMENTER_DISTANCE in baselines and segmenter is not None:
        score = near_tumour(segmenter.probability(followup.present), away)
        order = np.where(followup.before, away, -score)  # a score is not over ln 1.001, and falls with the distance
        yield Method.SEGMENTER_DISTANCE, VolumeMap(np.where(brain, order, np.inf))


def field_map(field: ArrivalField, followup: VolumeFollowUp, ratios: Ratios) -> VolumeMap:
    """A field in the box that forecasts look at; the brain beyond it follows by its distance."""
    told = VolumeMap.field(field, ratios)
    reached = np.isfinite(told.order)
    beyond = told.order[reached].max() + np.maximum(followup.distance_mm, 0.0)
    return VolumeMap(np.where(reached | ~followup.brain, told.order, beyond), told.probability)
