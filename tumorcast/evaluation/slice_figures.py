"""Figures of one slice of an archive against the later scan: every method's map, the images, the areas."""

import numpy as np
from scipy.ndimage import binary_dilation

from tumorcast.archive.maps import SliceForecast
from tumorcast.evaluation.archive_methods import SliceMaps
from tumorcast.evaluation.growth_metrics import (
    THRESHOLDS,
    continuous_dice,
    coverage,
    dice_by_threshold,
    direction_degrees,
    outlines_at,
)
from tumorcast.evaluation.judging import NEAR_MM, Figures, Mask, sums_of
from tumorcast.evaluation.methods import MethodMap, distance_mm
from tumorcast.evaluation.metrics import (
    SSIM_WINDOW,
    Map,
    Overlap,
    Reliability,
    average_precision,
    brier,
    psnr,
    roc_auc,
    ssim,
)
from tumorcast.evaluation.pairs import Pair
from tumorcast.evaluation.statistics import patient_mean

PLAN_MM = 15.0  # the margin of a standard radiotherapy plan, which PREDICT-GBM takes as its reference
HALF = THRESHOLDS.index(0.5)
MOST_DB = 100.0  # of equal images, so that means exist


def method_figures(pair: Pair, maps: SliceMaps, pixels: int) -> dict[str, Figures]:
    """Every method's figures. pixels: the area that its outline is given."""
    away_mm = distance_mm(pair)
    return {str(method): _map_figures(pair, answer, away_mm, pixels) for method, answer in maps.maps.items()}


def _map_figures(pair: Pair, answer: MethodMap, away_mm: Map, pixels: int) -> Figures:
    """ap, auc, coverages, brier and reliability are of the candidates: the brain outside the present outline."""
    before, after = pair.now.labels > 0, pair.later.labels > 0
    brain = pair.now.brain | before
    candidates = brain & ~before
    new = after & candidates
    outlines = outlines_at(before, answer.score, brain, pixels) if answer.outline is None else [answer.outline]
    figures: Figures = {
        "ap": average_precision(new, answer.score, candidates),
        "auc": roc_auc(new, answer.score, candidates),
        **vars(Overlap.mean_of(outlines, after, pair.pixel_mm)),
        "direction_degrees": patient_mean([direction_degrees(before, one, after) for one in outlines]),
    }
    if answer.outline is None:
        plan = candidates & (away_mm <= PLAN_MM)
        figures["coverage"] = coverage(new, answer.score, candidates, pixels - int(before.sum()))
        figures["coverage_plan"] = coverage(new, answer.score, candidates, int(plan.sum()))
    if answer.probability is None:
        return figures
    return figures | _probability_figures(after, answer.probability * brain, candidates, away_mm)


def _probability_figures(after: Mask, probability: Map, candidates: Mask, away_mm: Map) -> Figures:
    """Dice and continuous Dice are of the whole slice, the present tumour included."""
    by_threshold = dice_by_threshold(after, probability)
    near = candidates & (away_mm <= NEAR_MM)
    return {
        "brier": brier(after, probability, candidates),
        "dice_half": by_threshold[HALF],
        "dice_by_threshold": by_threshold,
        "continuous_dice": continuous_dice(after, probability),
        "reliability": sums_of(Reliability.of(after, probability, candidates)),
        "reliability_near": sums_of(Reliability.of(after, probability, near)),
    }


def image_figures(pair: Pair, forecast: SliceForecast, maps: SliceMaps) -> dict[str, Figures]:
    """SSIM and PSNR to the later image of the forecast's mean, of the present scan, and of unguided diffusion's mean.

    brain: of both scans; changed: where one of the two outlines is and the other is not; unchanged: the brain without
    that, widened by half an SSIM window. PSNR is at most MOST_DB.
    """
    brain = pair.now.brain & pair.later.brain
    changed = brain & ((pair.now.labels > 0) ^ (pair.later.labels > 0))
    unchanged = brain & ~binary_dilation(changed, iterations=SSIM_WINDOW // 2)
    regions = {"brain": brain, "changed": changed, "unchanged": unchanged}
    images = {"forecast": forecast.mean, "present": pair.now.image}
    if maps.unguided is not None:
        images["unguided"] = maps.unguided
    later = pair.later.image.astype(np.float32)
    return {
        name: {
            f"{what}_{region}": measure(image.astype(np.float32), later, mask)
            for what, measure in (("ssim", ssim), ("psnr_db", _psnr_at_most))
            for region, mask in regions.items()
        }
        for name, image in images.items()
    }


def _psnr_at_most(image: Map, reference: Map, inside: Mask) -> float:
    return float(np.minimum(psnr(image, reference, inside), MOST_DB))  # NaN stays NaN


def area_figures(pair: Pair, forecast: SliceForecast) -> Figures:
    """Areas in mm²: true, present, and for each member what it aimed at and what the segmenter sees in its image."""
    return {
        "true_mm2": pair.later.area_mm2,
        "present_mm2": pair.now.area_mm2,
        "aimed_mm2": forecast.aimed_mm2.tolist(),
        "reached_mm2": forecast.reached_mm2.tolist(),
    }
