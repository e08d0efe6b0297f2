"""Figures of growth in one slice: outlines of a given area, overlap of a probability, coverage, direction.

Masks and maps are (H, W). What has no value is NaN, and says so.
"""

import numpy as np

from tumorcast.evaluation.metrics import TIE_DRAWS, Floats, Map, Mask, dice, distinct, filled

THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(1, 10))
NO_DIRECTION_DEGREES = 90.0  # the mean angle of a direction that is drawn at random
LEAST_SHIFT_PIXELS = 0.5  # of the true centroid; below it the tumour went nowhere that could be told
STILL = 1e-6  # pixels


def outlines_at(present: Mask, score: Map, brain: Mask, pixels: int) -> list[Mask]:
    """The outline of so many pixels that a score draws; several where equal scores do not all fit in.

    Larger than the present one: the present outline and the best of the brain outside it. Smaller: the best of the
    present outline.
    """
    inside, candidates = (present, brain & ~present) if pixels >= present.sum() else (np.zeros_like(present), present)
    wanted = pixels - int(inside.sum())
    return distinct([filled(inside, score, candidates, wanted, np.random.default_rng(k)) for k in range(TIE_DRAWS)])


def continuous_dice(truth: Mask, probability: Map) -> float:
    """Overlap of a mask with a probability (Shamir et al. 2019, arXiv 1906.11031): 2 Σ a b / (c Σ a + Σ b).

    c is the mean probability of the true pixels that have any, 1 where none has, so that it is 1 for a faint map that
    lies on the truth alone. Both empty: 1. It is no proper score: calibration is told by others.

    >>> continuous_dice(np.array([True, True, False]), np.array([0.5, 0.0, 0.5]))
    0.5
    """
    met = probability[truth]
    hit = met[met > 0]
    scale = float(hit.mean(dtype=np.float64)) if hit.size else 1.0
    total = scale * int(truth.sum()) + float(probability.sum(dtype=np.float64))
    return 2.0 * float(met.sum(dtype=np.float64)) / total if total else 1.0


def dice_by_threshold(truth: Mask, probability: Map) -> list[float]:
    """Dice of what exceeds each of THRESHOLDS; both empty: 1."""
    return [dice(truth, probability > threshold) for threshold in THRESHOLDS]


def coverage(new: Mask, score: Map, candidates: Mask, pixels: int) -> float:
    """The share of the true new tumour among the `pixels` best candidates; NaN where nothing is new.

    Iso-volume coverage of PREDICT-GBM (arXiv 2509.13360): a map is cut so that it takes as much as a reference plan.
    Equal scores at the cut count by the share of them that fits in: the mean over all ways to draw them.

    >>> coverage(np.array([True, False, True]), np.array([3.0, 1.0, 1.0]), np.full(3, True), 2)
    0.75
    """
    wanted, scores = new[candidates], score[candidates]
    if not wanted.any():
        return float("nan")
    count = min(pixels, scores.size)
    if count <= 0:
        return 0.0
    cut = np.partition(scores, scores.size - count)[scores.size - count]
    above, level = scores > cut, scores == cut
    share = (count - int(above.sum())) / int(level.sum())
    return float((wanted[above].sum() + share * wanted[level].sum()) / wanted.sum())


def direction_degrees(present: Mask, forecast: Mask, later: Mask) -> float:
    """Angle between the shifts of the centroid from the present outline to the forecast and to the later one.

    NaN where a true outline is empty, or the true centroid went less than LEAST_SHIFT_PIXELS: by the truth alone, so
    that no forecast is spared. One that shifts nothing, or has no outline, has NO_DIRECTION_DEGREES.
    """
    if not (present.any() and later.any()):
        return float("nan")
    start = _centroid(present)
    true = _centroid(later) - start
    if np.hypot(*true) < LEAST_SHIFT_PIXELS:
        return float("nan")
    told = _centroid(forecast) - start if forecast.any() else np.zeros(2)
    if np.hypot(*told) < STILL:
        return NO_DIRECTION_DEGREES
    cosine = float(true @ told) / float(np.hypot(*true) * np.hypot(*told))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _centroid(mask: Mask) -> Floats:
    return np.asarray([axis.mean() for axis in np.nonzero(mask)])
