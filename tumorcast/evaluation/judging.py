"""Figures of one method's map of one pair, and of the images that a forecast made. Rows are plain, for JSON."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from tumorcast.archive.maps import SliceForecast
from tumorcast.engines.protocol import Engine, segment_in_batches
from tumorcast.evaluation.failures import reach_of
from tumorcast.evaluation.methods import MethodMap
from tumorcast.evaluation.metrics import (
    SSIM_WINDOW,
    Overlap,
    Reliability,
    average_precision,
    brier,
    dice,
    psnr,
    roc_auc,
    ssim,
)
from tumorcast.evaluation.pairs import Pair

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Figures = dict[str, Any]

NEAR_MM = 20.0


def map_figures(pair: Pair, answer: MethodMap, away_mm: npt.NDArray[Any]) -> Figures:
    """Figures of a map among the candidates, the brain outside the present outline.

    dice, hd95_mm, surface_mm: of the present outline and the likeliest candidates up to the true area (see
    metrics.filled), or of the outline that the method stands for. A probability has brier, reliability (of all
    candidates, and of those within NEAR_MM) and dice_half, of the present outline and what exceeds a half.
    """
    before, after = pair.now.labels > 0, pair.later.labels > 0
    candidates = pair.now.brain & ~before
    new = after & candidates
    if answer.outline is None:
        overlap = Overlap.at_true_area(before, answer.score, candidates, after, pair.pixel_mm)
    else:
        overlap = Overlap.of(answer.outline, after, pair.pixel_mm)
    figures: Figures = {
        "ap": average_precision(new, answer.score, candidates),
        "auc": roc_auc(new, answer.score, candidates),
        **vars(overlap),
    }
    if answer.probability is None:
        return figures
    near = candidates & (away_mm <= NEAR_MM)
    return figures | {
        "brier": brier(new, answer.probability, candidates),
        "dice_half": dice(before | (candidates & (answer.probability > 0.5)), after),
        "reliability": sums_of(Reliability.of(new, answer.probability, candidates)),
        "reliability_near": sums_of(Reliability.of(new, answer.probability, near)),
    }


def sums_of(reliability: Reliability) -> dict[str, list[float]]:
    """As JSON holds it."""
    return {name: value.tolist() for name, value in vars(reliability).items()}


def size_figures(pair: Pair, forecast: SliceForecast) -> Figures:
    """What members aimed at and got by the segmenter, which does not guide.

    size_error: |reached / aimed - 1|, median over members. reach: see failures.reach_of.
    """
    return {
        "size_error": float(np.median(np.abs(forecast.reached_mm2 / forecast.aimed_mm2 - 1))),
        "reach": reach_of(forecast),
        "segmenter_error_now": abs(forecast.present_segmented_mm2 / pair.now.area_mm2 - 1),
        "aimed_ratio": float(np.median(forecast.aimed_mm2)) / pair.now.area_mm2,
    }


def guided_image_figures(pair: Pair, forecast: SliceForecast, engine: Engine, batch: int) -> Figures:
    """SSIM and PSNR of members to the present scan, outside all tumour, mean over members.

    Outside: the brain without the present, the later and the generated tumour (segmenter above a half), widened by
    half an SSIM window, so that no window that is counted is centred within reach of them.
    """
    members = members_of(forecast)
    outside = outside_tumour(pair, members, engine, batch)
    whole = list(zip(members, outside, strict=True))
    return {
        "ssim_outside": float(np.mean([ssim(image, pair.now.image, mask) for image, mask in whole])),
        "psnr_outside_db": float(np.mean([psnr(image, pair.now.image, mask) for image, mask in whole])),
    }


def members_of(forecast: SliceForecast) -> Array:
    """(M, C, H, W) the members of a forecast that was made with keep_members."""
    assert forecast.members is not None, "the forecast was made with keep_members"
    return forecast.members


def outside_tumour(pair: Pair, members: Array, engine: Engine, batch: int) -> list[Mask]:
    """(H, W) for each member, the brain outside all tumour, as guided_image_figures tells it."""
    seen = segment_in_batches(engine, members, batch) > 0.5
    tumour = (pair.now.labels > 0) | (pair.later.labels > 0)
    return [pair.now.brain & ~_widened(tumour | one) for one in seen]


def unguided_image_figures(pair: Pair, members: Array) -> Figures:
    """SSIM and PSNR of unguided encode and decode to the input, over the brain, mean over members."""
    return {
        "ssim_unguided": float(np.mean([ssim(image, pair.now.image, pair.now.brain) for image in members])),
        "psnr_unguided_db": float(np.mean([psnr(image, pair.now.image, pair.now.brain) for image in members])),
    }


def _widened(mask: Mask) -> Mask:
    return np.asarray(binary_dilation(mask, structure=np.ones((SSIM_WINDOW, SSIM_WINDOW), bool)))
