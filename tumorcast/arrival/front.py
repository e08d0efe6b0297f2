"""The Fisher-Kolmogorov front from a present outline: how large the tumour is when it reaches each voxel.

The rule for tissue: T1 (t1n, else t1c) of the brain outside the tumour is cut by Otsu's two thresholds; the darkest
class is CSF, where nothing grows, the middle one grey, the brightest white matter. Under the tumour, whose T1 is not
its tissue's, all is white. The outline is where the density starts at 1. No learning is in it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from tumorcast.arrival.crop import signed_distance_mm
from tumorcast.kernels.reaction_diffusion import arrival, face_conductance, largest_outflow
from tumorcast.records import Contrast

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

T1 = (Contrast.T1N, Contrast.T1C)
WHITE_MM2_PER_DAY, GREY_SHARE = 0.13, 0.2  # diffusivity of a typical high-grade glioma; grey five times slower
RATE_PER_DAY = 0.025
ARRIVED = 0.2  # the density from which T2 and FLAIR show it
LARGEST_GROWTH = 6.0  # times the present volume; what the front has not reached by then follows by its distance
LONGEST_DAYS, STEP_DAYS = 3000.0, 5.0
SMOOTHING_VOXELS = 1.0  # of the mask, where depths are alike


def t1_of(contrasts: Sequence[str]) -> int | None:
    """The channel that tells tissue apart; None where there is none."""
    return next((contrasts.index(name) for name in T1 if name in contrasts), None)


def tissue_diffusivity(brain: Mask, tumour: Mask, t1: npt.NDArray[Any] | None) -> Map:
    """mm²/day by the rule for tissue, in any number of dimensions. A T1 that is not given, or of fewer than three
    levels, tells nothing: all is white."""
    healthy = brain & ~tumour
    out = np.where(brain | tumour, WHITE_MM2_PER_DAY, 0.0).astype(np.float32)
    if t1 is None or np.unique(t1[healthy]).size < 3:
        return out
    dark, bright = _otsu(np.asarray(t1[healthy], np.float32))
    out[healthy & (t1 <= bright)] = WHITE_MM2_PER_DAY * GREY_SHARE
    out[healthy & (t1 <= dark)] = 0.0
    return out


def _otsu(values: Map) -> tuple[float, float]:
    """Otsu's two thresholds, each the upper edge of one of 256 bins."""
    rule = sitk.OtsuMultipleThresholdsImageFilter()
    rule.SetNumberOfThresholds(2)
    rule.SetNumberOfHistogramBins(256)
    rule.Execute(sitk.GetImageFromArray(values[None]))
    dark, bright = rule.GetThresholds()
    return float(dark), float(bright)


def front_log_volume(brain: Mask, tumour: Mask, t1: npt.NDArray[Any] | None, voxel_mm: float) -> Map:
    """(Z, Y, X) ln(volume of the tumour when its front is there / its present volume).

    Outside the present outline, the volume that the front has covered when it arrives; within, where a tumour shrinks
    from its surface inwards, what is left when it goes. Infinite outside of brain and tumour.
    """
    days = front_days(tissue_diffusivity(brain, tumour, t1), tumour, voxel_mm)
    distance = signed_distance_mm(tumour, voxel_mm)
    now = int(tumour.sum())
    outside, inside = brain & ~tumour, tumour
    arrived = np.isfinite(days)
    last = float(days[arrived].max()) if arrived.any() else 0.0
    order = np.where(arrived, days, last + 1.0 + np.maximum(distance, 0.0))  # the front ends far out: then by distance
    result = np.full(tumour.shape, np.inf, np.float32)
    result[outside] = np.log((now + _ranks(order[outside]) + 0.5) / now)
    result[inside] = np.log((now - _ranks(_depth(tumour, distance)) - 0.5) / now)
    return result


def _depth(tumour: Mask, distance: Map) -> Map:
    """(K,) how deep each voxel of the tumour lies; the smoothed mask tells those of one depth apart."""
    smooth = gaussian_filter(tumour.astype(np.float32), SMOOTHING_VOXELS)
    return np.asarray(-distance[tumour] + smooth[tumour], np.float32)


def _ranks(values: Map) -> npt.NDArray[np.int64]:
    """(K,) the place of each value, from the least."""
    ranks = np.empty(values.size, np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(values.size)
    return ranks


def front_days(diffusivity: Map, tumour: Mask, voxel_mm: float) -> Map:
    """(Z, Y, X) the day on which the front arrives: 0 in the tumour, infinite where it has not by the end.

    The end is when the tumour has LARGEST_GROWTH times its volume, or all that it can reach.
    """
    conductance = np.empty((3, *tumour.shape), np.float32)
    face_conductance(np.stack([diffusivity] * 3), voxel_mm, conductance)
    step_days = min(STEP_DAYS, 0.9 / max(float(largest_outflow(conductance)), 1e-9))
    density = tumour.astype(np.float32)
    gain = np.where(diffusivity > 0, np.float32(np.exp(RATE_PER_DAY * step_days)), np.float32(1.0))
    days = np.empty(tumour.shape, np.float32)
    reachable = int(((diffusivity > 0) | tumour).sum())
    most = int(min(LARGEST_GROWTH * int(tumour.sum()), reachable))
    arrival(density, conductance, gain, step_days, ARRIVED, most, int(LONGEST_DAYS / step_days), days)
    return days
