"""Scores of one follow-up: every method's map, the images and the sizes of a forecast against the later scan."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from tumorcast.archive.maps import SliceForecast
from tumorcast.engines.protocol import Engine, segment_in_batches
from tumorcast.evaluation.baselines import Method, MethodMap, SliceMaps, distance_mm
from tumorcast.evaluation.followup import FollowUp
from tumorcast.evaluation.metrics import (
    AP,
    AUC,
    BRIER,
    CONTINUOUS_DICE,
    COVERAGE,
    DICE,
    DICE_HALF,
    DICE_THRESHOLDS,
    DIRECTION,
    HD95,
    IMAGE_METRICS,
    LARGEST_PSNR_DB,
    NEAR_MM,
    PLAN_COVERAGE,
    SSIM_WINDOW,
    SURFACE,
    THRESHOLDS,
    Floats,
    Map,
    Mask,
    Reliability,
    average_precision,
    brier,
    continuous_dice,
    coverage,
    dice,
    dice_above,
    direction_degrees,
    plan_coverage,
    psnr,
    roc_auc,
    ssim,
    surface_distance,
)
from tumorcast.evaluation.statistics import patient_mean

Array = npt.NDArray[np.float32]

TIE_DRAWS = 5
RELIABILITY, NEAR_RELIABILITY = "reliability", "reliability_near"
FORECAST, PRESENT, UNGUIDED = "forecast", "present", "unguided"  # images


class Score(NamedTuple):
    """One value of the long table. method: a Method's value, or the name of an image."""

    method: str
    metric: str
    value: float


def by_metric(scores: Iterable[Score], method: str) -> dict[str, float]:
    """One method's values."""
    return {score.metric: score.value for score in scores if score.method == method}


@dataclass(frozen=True)
class ScoredAreas:
    """Areas of the tumour in mm²: true, present, and (M,) for each member the target and what the segmenter sees."""

    true_mm2: float
    present_mm2: float
    aimed_mm2: Floats
    reached_mm2: Floats


@dataclass(frozen=True)
class SliceScores:
    """All that was measured in one slice. pixels_given: the area of the outlines; reliability: by method and name."""

    source_slice: int
    pixels_given: int
    has_growth_map: bool
    areas: ScoredAreas
    maps: list[Score]
    images: list[Score]
    reliability: dict[tuple[Method, str], Reliability]


def score_slice(followup: FollowUp, forecast: SliceForecast, maps: SliceMaps, pixels: int) -> SliceScores:
    """Score a forecast and what it stands beside. pixels: the area that every method's outline is given."""
    images = {FORECAST: forecast.mean, PRESENT: followup.now.image}
    if maps.unguided is not None:
        images[UNGUIDED] = maps.unguided
    return SliceScores(
        source_slice=followup.now.source_slice,
        pixels_given=pixels,
        has_growth_map=forecast.growth is not None,
        areas=ScoredAreas(followup.later.area_mm2, followup.now.area_mm2, forecast.aimed_mm2, forecast.reached_mm2),
        maps=score_maps(followup, maps.maps, pixels),
        images=score_images(followup, images),
        reliability=_reliability(followup, maps.maps),
    )


def score_maps(followup: FollowUp, maps: Mapping[Method, MethodMap], pixels: int) -> list[Score]:
    """Every map's metrics. pixels: the area that its outline is given, unless it stands for one."""
    away_mm = distance_mm(followup)
    return [
        Score(str(method), name, value)
        for method, found in maps.items()
        for name, value in _map_values(followup, found, away_mm, pixels)
    ]


def _map_values(followup: FollowUp, found: MethodMap, away_mm: Map, pixels: int) -> Iterator[tuple[str, float]]:
    before, after = followup.now.labels > 0, followup.later.labels > 0
    brain = followup.now.brain | before
    candidates = brain & ~before
    new = after & candidates
    yield AP.name, average_precision(new, found.score, candidates)
    yield AUC.name, roc_auc(new, found.score, candidates)
    outlines = outlines_at(before, found.score, brain, pixels) if found.outline is None else [found.outline]
    yield from outline_values(outlines, after, followup.pixel_mm)
    yield DIRECTION.name, patient_mean([direction_degrees(before, outline, after) for outline in outlines])
    if found.outline is None:
        yield COVERAGE.name, coverage(new, found.score, candidates, pixels - int(before.sum()))
        yield PLAN_COVERAGE.name, plan_coverage(new, found.score, candidates, away_mm)
    if found.probability is not None:
        probability = found.probability * brain
        yield BRIER.name, brier(after, probability, candidates)
        thresholds = [dice_above(after, probability, threshold) for threshold in THRESHOLDS]
        yield DICE_HALF.name, thresholds[THRESHOLDS.index(0.5)]
        yield from zip((metric.name for metric in DICE_THRESHOLDS), thresholds, strict=True)
        yield CONTINUOUS_DICE.name, continuous_dice(after, probability)


def outline_values(outlines: list[Mask], truth: Mask, pixel_mm: float) -> Iterator[tuple[str, float]]:
    """Dice and distances of an outline, means over several that have equal claims."""
    apart = [surface_distance(outline, truth, pixel_mm) for outline in outlines]
    yield DICE.name, float(np.mean([dice(outline, truth) for outline in outlines]))
    yield HD95.name, float(np.mean([distance.hd95 for distance in apart]))
    yield SURFACE.name, float(np.mean([distance.mean for distance in apart]))


def outlines_at(present: Mask, score: Map, brain: Mask, pixels: int) -> list[Mask]:
    """The outline of so many pixels that a score draws; several where equal scores do not all fit in.

    Larger than the present one: the present outline and the best of the brain outside it. Smaller: the best of the
    present outline. Every score is drawn for by the same random numbers.
    """
    inside, candidates = (present, brain & ~present) if pixels >= present.sum() else (np.zeros_like(present), present)
    wanted = pixels - int(inside.sum())
    draws = [filled(inside, score, candidates, wanted, np.random.default_rng(k)) for k in range(TIE_DRAWS)]
    return draws[:1] if all(np.array_equal(draw, draws[0]) for draw in draws) else draws


def filled(inside: Mask, score: Map, candidates: Mask, pixels: int, rng: np.random.Generator) -> Mask:
    """`inside` and the `pixels` candidates of highest score, at most all of them.

    Of equal scores that do not all fit in, those taken are drawn at random, so that no method gains by the order in
    which pixels are stored.
    """
    indices = np.flatnonzero(candidates)
    order = rng.permutation(indices.size)
    ranked = order[np.argsort(-score.ravel()[indices][order], kind="stable")]
    grown = inside.ravel().copy()
    grown[indices[ranked[: max(pixels, 0)]]] = True
    return grown.reshape(inside.shape)


def _reliability(followup: FollowUp, maps: Mapping[Method, MethodMap]) -> dict[tuple[Method, str], Reliability]:
    """Of those that claim a probability, over all candidates and over those within NEAR_MM."""
    before, after = followup.now.labels > 0, followup.later.labels > 0
    brain = followup.now.brain | before
    regions = {RELIABILITY: brain & ~before}
    regions[NEAR_RELIABILITY] = regions[RELIABILITY] & (distance_mm(followup) <= NEAR_MM)
    return {
        (method, name): Reliability.of(after, found.probability * brain, region)
        for method, found in maps.items()
        if found.probability is not None
        for name, region in regions.items()
    }


def score_images(followup: FollowUp, images: Mapping[str, Map]) -> list[Score]:
    """SSIM and PSNR of each image (C, H, W) to the later one, by region: IMAGE_METRICS.

    brain: of both scans; changed: where one of the two outlines is and the other is not; unchanged: the brain without
    that, widened by half an SSIM window. PSNR is at most LARGEST_PSNR_DB.
    """
    brain = followup.now.brain & followup.later.brain
    changed = brain & ((followup.now.labels > 0) ^ (followup.later.labels > 0))
    unchanged = brain & ~binary_dilation(changed, iterations=SSIM_WINDOW // 2)
    regions = (brain, changed, unchanged)  # in the order of REGIONS
    later = followup.later.image.astype(np.float32)
    return [
        Score(name, metric.name, value)
        for name, image in images.items()
        for metric, value in zip(IMAGE_METRICS, _image_values(image.astype(np.float32), later, regions), strict=True)
    ]


def _image_values(image: Map, later: Map, regions: Iterable[Mask]) -> list[float]:
    """SSIM by region, then PSNR."""
    similar = [ssim(image, later, region) for region in regions]
    noise = [float(np.minimum(psnr(image, later, region), LARGEST_PSNR_DB)) for region in regions]  # NaN stays NaN
    return [*similar, *noise]


def members_of(forecast: SliceForecast) -> Array:
    """(M, C, H, W) the members of a forecast that was made with keep_members."""
    assert forecast.members is not None, "the forecast was made with keep_members"
    return forecast.members


def outside_tumour(followup: FollowUp, members: Array, engine: Engine, batch: int) -> list[Mask]:
    """(H, W) for each member, the brain outside all tumour: the present, the later and the generated one.

    The generated one is what the segmenter holds for likely. All is widened by an SSIM window, so that no window that
    is counted is centred within its own reach of tumour.
    """
    seen = segment_in_batches(engine, members, batch) > 0.5
    tumour = (followup.now.labels > 0) | (followup.later.labels > 0)
    return [followup.now.brain & ~_widened(tumour | generated) for generated in seen]


def _widened(mask: Mask) -> Mask:
    return np.asarray(binary_dilation(mask, structure=np.ones((SSIM_WINDOW, SSIM_WINDOW), bool)))


def reconstruction(followup: FollowUp, members: Array) -> tuple[float, float]:
    """SSIM, and PSNR in dB, of unguided encode and decode to the present scan, over the brain, means over members."""
    now = followup.now
    similar = [ssim(image, now.image, now.brain) for image in members]
    noise = [psnr(image, now.image, now.brain) for image in members]
    return float(np.mean(similar)), float(np.mean(noise))


def size_error(followup: FollowUp, forecast: SliceForecast) -> float:
    """Error of the present area and what the images gained by the segmenter (median of members) against the true area.

    Over that area; NaN where no tumour is left. What the segmenter misreads in the present scan cancels out.
    """
    gained = float(np.median(forecast.reached_mm2)) - forecast.present_segmented_mm2
    true = followup.later.area_mm2
    return abs(forecast.present_mm2 + gained - true) / true if true > 0 else float("nan")
