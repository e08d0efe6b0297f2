"""Fisher-Kolmogorov growth in one slice, from its outline and tissue classes of its own T1; no learning in it.

The rule for tissue: T1 (t1n, else t1c) of the brain outside the tumour is cut by Otsu's two thresholds; the darkest
class is CSF, where nothing grows, the middle one grey, the brightest white matter. Under the tumour, whose T1 is not
its tissue's, all is white. The outline is where the density starts at 1.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from tumorcast.data.cohort import CohortSlice
from tumorcast.kernels.reaction_diffusion import face_conductance, largest_outflow, step
from tumorcast.records import Contrast

Map = npt.NDArray[np.floating[Any]]

T1 = (Contrast.T1N, Contrast.T1C)
WHITE_MM2_PER_DAY, GREY_SHARE = 0.13, 0.2  # diffusivity of a typical high-grade glioma; grey five times slower
RATE_PER_DAY = 0.025
ARRIVED = 0.2  # the density from which T2 and FLAIR show it
LARGEST_GROWTH = 5.0  # times the present area; what the front has not reached by then is ranked without it
LONGEST_DAYS, STEP_DAYS = 3000.0, 5.0


def t1_of(contrasts: tuple[Contrast, ...]) -> int | None:
    """The channel that tells tissue apart; None where there is none."""
    return next((contrasts.index(name) for name in T1 if name in contrasts), None)


def diffusivity(present: CohortSlice, t1: Map) -> npt.NDArray[np.float32]:
    """(H, W) mm²/day by the rule for tissue. A T1 of fewer than three levels tells nothing: all is white."""
    from skimage.filters import threshold_multiotsu  # noqa: PLC0415 - an extra

    tumour = present.labels > 0
    healthy = present.brain & ~tumour
    out = np.where(present.brain | tumour, WHITE_MM2_PER_DAY, 0.0).astype(np.float32)
    if np.unique(t1[healthy]).size < 3:
        return out
    dark, bright = threshold_multiotsu(t1[healthy], classes=3)
    out[healthy & (t1 <= bright)] = WHITE_MM2_PER_DAY * GREY_SHARE
    out[healthy & (t1 <= dark)] = 0.0
    return out


def arrival_score(present: CohortSlice, t1: Map, pixel_mm: float) -> Map:
    """(H, W) minus the day on which the front arrives, so that the earliest is the highest.

    Pixels that it has not reached when the tumour is LARGEST_GROWTH times its size follow by their density, and those
    of no density, as CSF, by their distance to the outline.
    """
    tumour = present.labels > 0
    arrival, density, days = _grow(tumour, diffusivity(present, t1), pixel_mm)
    distance = distance_transform_edt(~tumour)
    left = -days - 1.0 + density - 1e-3 * distance
    return np.where(np.isfinite(arrival), -arrival, left)


def _grow(tumour: npt.NDArray[np.bool_], speed: npt.NDArray[np.float32], pixel_mm: float) -> tuple[Map, Map, float]:
    """Days of arrival (H, W), infinite where it did not arrive; the last density; the days grown."""
    conductance = np.empty((3, 1, *tumour.shape), np.float32)
    face_conductance(np.stack([speed[None]] * 3), pixel_mm, conductance)
    step_days = min(STEP_DAYS, 0.9 / max(largest_outflow(conductance), 1e-9))
    density = tumour[None].astype(np.float32)
    gain = np.full_like(density, np.exp(RATE_PER_DAY * step_days))
    scratch, arrival, days = np.empty_like(density), np.where(tumour, 0.0, np.inf), 0.0
    reachable = int((speed > 0).sum())
    while np.isfinite(arrival).sum() < min(LARGEST_GROWTH * tumour.sum(), reachable) and days < LONGEST_DAYS:
        before = density[0].copy()
        step(density, scratch, conductance, gain, step_days)
        came = ~np.isfinite(arrival) & (density[0] >= ARRIVED)
        share = (ARRIVED - before[came]) / (density[0][came] - before[came])
        arrival[came] = days + share * step_days
        days += step_days
    return arrival, density[0], days
