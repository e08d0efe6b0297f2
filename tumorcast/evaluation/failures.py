"""Signs that a forecast of one slice failed, from the forecast alone, without the truth.

Each is a rule with a threshold in mm, mm² or as a ratio. How often they are right and what they miss of planted faults
is measured by `pytest -s tests/evaluation/test_failures.py`. No flag does not say that a forecast is right.
"""

from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, label

from tumorcast.archive.maps import SliceForecast

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.floating[Any]]

MOST = 0.5  # of the members, or of a probability: what holds for more counts
RIM_MM = 8.0  # depth of the brain's rim
RIM_FAR_MM = 20.0  # from the present tumour: a change beyond is not its growth
RIM_LEAST_MM2 = 40.0
BLOB_FAR_MM = 10.0  # from all tumour of the present scan: nearer is taken as its growth
BLOB_LEAST_MM2 = 40.0
LEAST_WANTED = 0.05  # of the present area: of less, a share of it reached means nothing
LEAST_REACH, MOST_REACH = 0.5, 1.5
EVERY_NEIGHBOUR = np.ones((3, 3))


class Failure(StrEnum):
    """What can be flagged.

    RIM_CHANGE: most members changed a patch of RIM_LEAST_MM2 or more in the outer RIM_MM of the brain, further than
    RIM_FAR_MM from the tumour's outline.
    SEPARATE_BLOB: a new patch of tumour of BLOB_LEAST_MM2 or more, every pixel further than BLOB_FAR_MM from what the
    mask or the segmenter calls tumour in the present scan.
    WRONG_WAY: the tumour shrank where growth was aimed at, or grew where it was to shrink (reach below 0).
    TOO_LITTLE, TOO_MUCH: reach is below LEAST_REACH but not below 0, or above MOST_REACH.
    """

    RIM_CHANGE = "rim_change"
    SEPARATE_BLOB = "separate_blob"
    WRONG_WAY = "wrong_way"
    TOO_LITTLE = "too_little"
    TOO_MUCH = "too_much"


def flags_of(forecast: SliceForecast) -> list[str]:
    """The names of the failures that show in a forecast, in the order of Failure; empty for one without."""
    reach = reach_of(forecast)
    shown = {
        Failure.RIM_CHANGE: _largest_mm2(_far_rim_change(forecast), forecast) >= RIM_LEAST_MM2,
        Failure.SEPARATE_BLOB: _largest_mm2(_new_far_tumour(forecast), forecast) >= BLOB_LEAST_MM2,
        Failure.WRONG_WAY: reach < 0,
        Failure.TOO_LITTLE: 0 <= reach < LEAST_REACH,
        Failure.TOO_MUCH: reach > MOST_REACH,
    }
    return [str(name) for name, found in shown.items() if found]


def reach_of(forecast: SliceForecast) -> float:
    """The area gained over the area wanted, by the segmenter, medians over members; NaN where too little was wanted."""
    wanted = float(np.median(forecast.aimed_mm2)) - forecast.present_mm2
    if abs(wanted) < LEAST_WANTED * forecast.present_mm2 or wanted == 0:
        return float("nan")
    return (float(np.median(forecast.reached_mm2)) - forecast.present_segmented_mm2) / wanted


def _far_rim_change(forecast: SliceForecast) -> Mask:
    """(H, W) what most members changed in the rim, far from the present tumour."""
    depth_mm = _distance_mm(~forecast.brain, forecast)
    rim = forecast.brain & (depth_mm <= RIM_MM)
    far = _distance_mm(forecast.labels > 0, forecast) > RIM_FAR_MM
    return np.asarray((forecast.changed > MOST) & rim & far)


def _new_far_tumour(forecast: SliceForecast) -> Mask:
    """(H, W) the patches of forecast tumour that nowhere come near tumour of the present scan."""
    present = (forecast.labels > 0) | (forecast.tumour_now > MOST)
    near = _distance_mm(present, forecast) <= BLOB_FAR_MM
    patches, _ = label((forecast.tumour > MOST) & forecast.brain, EVERY_NEIGHBOUR)
    return np.asarray((patches > 0) & ~np.isin(patches, np.unique(patches[near])))


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
    return float(np.linalg.norm(forecast.affine[:3, 0]))
