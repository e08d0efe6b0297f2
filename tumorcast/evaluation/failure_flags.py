"""Signs that a forecast of one slice failed, from the forecast alone, without the truth.

Each is a rule with a threshold in mm, mm² or as a ratio. How often they are right, and what they miss, is measured on
provoked forecasts by `tumorcast experiment failures`. No flag does not say that a forecast is right.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, label

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.imaging.geometry import pixel_size_mm
from tumorcast.forecasting.volume_reach import LEAST_REACH, MOST_REACH, share_reached

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.floating[Any]]

MOST = 0.5  # of the members, or of a probability: what holds for more counts
RIM_MM = 8.0  # depth of the brain's rim
RIM_FAR_MM = 20.0  # from the present tumour: a change beyond is not its growth
RIM_LEAST_MM2 = 40.0
BLOB_FAR_MM = 10.0  # from all tumour of the present scan: nearer is taken as its growth
BLOB_LEAST_MM2 = 40.0
LEAST_NEW_MM2 = 40.0  # of new tumour in map or images: of less, or of a band about the outline that is
LEAST_NEW_PIXELS = 0.5  # narrower than this, how they overlap means nothing
NEW_NEAR_MM = 20.0  # of the present outline: what the images show beyond is for SEPARATE_BLOB
LEAST_PROBABILITY = 0.2  # a lower probability is no new tumour
LEAST_OVERLAP = 0.5
EVERY_NEIGHBOUR = np.ones((3, 3))


class Failure(StrEnum):
    """What can be flagged.

    RIM_CHANGE: most members changed a patch of RIM_LEAST_MM2 or more in the outer RIM_MM of the brain, further than
    RIM_FAR_MM from the tumour's outline.
    SEPARATE_BLOB: a new patch of tumour of BLOB_LEAST_MM2 or more, every pixel further than BLOB_FAR_MM from what the
    mask or the segmenter calls tumour in the present scan. Or, whatever the segmenter sees, a patch as large that most
    members changed, below the rim and further than RIM_FAR_MM from the tumour's outline, without RIM_CHANGE.
    WRONG_WAY: the tumour shrank where growth was aimed at, or grew where it was to shrink (reach below 0).
    TOO_LITTLE, TOO_MUCH: reach is below LEAST_REACH but not below 0, or above MOST_REACH.
    MAP_APART: the growth map and the generated images put new tumour in different places: their overlap outside the
    present outline is below LEAST_OVERLAP.
    """

    RIM_CHANGE = "rim_change"
    SEPARATE_BLOB = "separate_blob"
    WRONG_WAY = "wrong_way"
    TOO_LITTLE = "too_little"
    TOO_MUCH = "too_much"
    MAP_APART = "map_apart"


@dataclass(frozen=True)
class Signs:
    """What flags are read from. rim_mm2: the largest patch of what RIM_CHANGE looks for; blob_mm2, deep_mm2: of the
    tumour and of the change that SEPARATE_BLOB does.

    reach: see reach_of. overlap: of new tumour in the growth map and in the images, 2 Σ min / Σ sum; NaN where there is
    no such map, or too little new tumour in both.
    """

    rim_mm2: float
    blob_mm2: float
    deep_mm2: float
    reach: float
    overlap: float

    @classmethod
    def of(cls, forecast: SliceForecast) -> Self:
        """Those of a forecast."""
        marks = _far_rim_change(forecast), _new_far_tumour(forecast), _far_deep_change(forecast)
        rim, blob, deep = (_largest_mm2(mark, forecast) for mark in marks)
        return cls(rim, blob, deep, reach_of(forecast), _overlap_of_new(forecast))

    def flags(self) -> list[str]:
        """The names of the failures that they show, in the order of Failure."""
        at_rim = self.rim_mm2 >= RIM_LEAST_MM2
        shown = {
            Failure.RIM_CHANGE: at_rim,
            Failure.SEPARATE_BLOB: max(self.blob_mm2, 0.0 if at_rim else self.deep_mm2) >= BLOB_LEAST_MM2,
            Failure.WRONG_WAY: self.reach < 0,
            Failure.TOO_LITTLE: 0 <= self.reach < LEAST_REACH,
            Failure.TOO_MUCH: self.reach > MOST_REACH,
            Failure.MAP_APART: self.overlap < LEAST_OVERLAP,
        }
        return [str(name) for name, found in shown.items() if found]


def flags_of(forecast: SliceForecast) -> list[str]:
    """The names of the failures that show in a forecast, in the order of Failure; empty for one without."""
    return Signs.of(forecast).flags()


def reach_of(forecast: SliceForecast) -> float:
    """The area gained over the area wanted, by the segmenter, medians over members; NaN where too little was wanted."""
    gained = float(np.median(forecast.reached_mm2)) - forecast.present_segmented_mm2
    return share_reached(forecast.present_mm2, float(np.median(forecast.aimed_mm2)), gained)


def _far_rim_change(forecast: SliceForecast) -> Mask:
    """(H, W) what most members changed in the rim, far from the present tumour."""
    return np.asarray((forecast.changed > MOST) & _rim(forecast) & _far(forecast))


def _far_deep_change(forecast: SliceForecast) -> Mask:
    """(H, W) the patches that most members changed, of which no pixel is in the rim or near the present tumour."""
    patches, _ = label((forecast.changed > MOST) & forecast.brain, EVERY_NEIGHBOUR)
    elsewhere = _rim(forecast) | ~_far(forecast)
    return np.asarray((patches > 0) & ~np.isin(patches, np.unique(patches[elsewhere])))


def _rim(forecast: SliceForecast) -> Mask:
    return np.asarray(forecast.brain & (_distance_mm(~forecast.brain, forecast) <= RIM_MM))


def _far(forecast: SliceForecast) -> Mask:
    return np.asarray(_distance_mm(forecast.labels > 0, forecast) > RIM_FAR_MM)


def _new_far_tumour(forecast: SliceForecast) -> Mask:
    """(H, W) the patches of forecast tumour that nowhere come near tumour of the present scan."""
    present = (forecast.labels > 0) | (forecast.tumour_now > MOST)
    near = _distance_mm(present, forecast) <= BLOB_FAR_MM
    patches, _ = label((forecast.tumour > MOST) & forecast.brain, EVERY_NEIGHBOUR)
    return np.asarray((patches > 0) & ~np.isin(patches, np.unique(patches[near])))


def _overlap_of_new(forecast: SliceForecast) -> float:
    """See Signs.overlap."""
    if forecast.growth is None:
        return float("nan")
    outline, pixel_mm = forecast.labels > 0, _pixel_mm(forecast)
    near = ~outline & (_distance_mm(outline, forecast) <= NEW_NEAR_MM)
    mapped, seen = _surer(forecast.growth) * ~outline, _surer(forecast.tumour) * near
    mapped_mm2, seen_mm2, seen_now_mm2 = (
        float(plane.sum(dtype=np.float64)) * pixel_mm**2 for plane in (mapped, seen, _surer(forecast.tumour_now) * near)
    )
    round_mm = 2 * np.sqrt(np.pi * outline.sum()) * pixel_mm  # about a disc as large
    if max(mapped_mm2, seen_mm2 - seen_now_mm2) < max(LEAST_NEW_MM2, LEAST_NEW_PIXELS * pixel_mm * round_mm):
        return float("nan")
    return 2 * float(np.minimum(mapped, seen).sum(dtype=np.float64)) * pixel_mm**2 / (mapped_mm2 + seen_mm2)


def _surer(probability: Map) -> Map:
    """Without what is too unlikely to count, over however wide an area."""
    return np.where(probability > LEAST_PROBABILITY, probability, 0.0)


def _largest_mm2(mask: Mask, forecast: SliceForecast) -> float:
    """The area of the mask's largest patch."""
    patches, count = label(mask, EVERY_NEIGHBOUR)
    pixels = np.bincount(patches.ravel())[1:].max() if count else 0
    return float(pixels) * _pixel_mm(forecast) ** 2


def _distance_mm(mask: Mask, forecast: SliceForecast) -> Map:
    """(H, W) to the nearest pixel of the mask; infinite everywhere for an empty one."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(distance_transform_edt(~mask) * _pixel_mm(forecast))


def _pixel_mm(forecast: SliceForecast) -> float:
    return pixel_size_mm(forecast.affine)
