"""Scores of forecasts against the later scan, for experiments that compare ways of making them."""

from collections.abc import Sequence
from dataclasses import replace

from tumorcast.archive.maps import SliceForecast
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.baselines import Method, slice_maps
from tumorcast.evaluation.followup import FollowUp
from tumorcast.evaluation.metrics import AP, DICE, DISTANCE, HD95, PSNR, SSIM, Metric, ssim
from tumorcast.evaluation.score import (
    FORECAST,
    by_metric,
    members_of,
    outside_tumour,
    score_images,
    score_maps,
    size_error,
)
from tumorcast.evaluation.statistics import patient_mean

Channels = Sequence[int] | slice
EVERY_CONTRAST = slice(None)


METRICS = (
    AP.called("ap", "AP, growth map"),
    AP.called("ap_images", "AP, images segmented"),
    AP.called("ap_changed", "AP, images' change"),
    DICE.called("dice", "Dice, growth map"),
    DICE.called("dice_images", "Dice, images"),
    HD95.called("hd95_mm", "HD95 mm, growth map", 1),
    HD95.called("hd95_images_mm", "HD95 mm, images", 1),
    Metric("size_error", "size error", 3, False, DISTANCE, size_error),
    SSIM.called("ssim_outside", "SSIM outside"),
    SSIM.called("ssim_changed", "SSIM to later, changed"),
    SSIM.called("ssim_unchanged", "SSIM to later, unchanged"),
    SSIM.called("ssim_later", "SSIM to later, brain"),
    PSNR.called("psnr_later_db", "PSNR to later, dB", 2),
)
NOTE = (
    "AP: for new tumour, in the brain outside the present outline. Dice, HD95: of the outline that the map has at the "
    "true later area. Growth map: with the progression network, where the model has one; images segmented: what the "
    "segmenter sees in the members; images' change: how much the members changed, of which the paper's map is made. "
    "Size error: of the present area and what the images gained by the segmenter (median of members) against the true "
    "later area, over that area. SSIM outside: members to the present scan, outside all tumour; to later: the members' "
    "mean to the later scan, in the brain, where the two true outlines differ (changed), and in the rest (unchanged)."
)


def score_forecasts(
    followups: Sequence[FollowUp],
    forecasts: Sequence[SliceForecast],
    engine: Engine,
    *,
    batch: int,
    channels: Channels = EVERY_CONTRAST,
) -> dict[str, float]:
    """The METRICS of a patient: means over the slices that have a value."""
    return mean_scores(
        [
            score_forecast(followup, forecast, engine, batch=batch, channels=channels)
            for followup, forecast in zip(followups, forecasts, strict=True)
        ]
    )


def mean_scores(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the rows that have it, NaN where none has."""
    return {name: patient_mean([row[name] for row in rows]) for name in rows[0]}


def score_forecast(
    followup: FollowUp,
    forecast: SliceForecast,
    engine: Engine,
    *,
    batch: int,
    channels: Channels = EVERY_CONTRAST,
) -> dict[str, float]:
    """The METRICS of a slice, NaN for those that have no value here; see NOTE and docs/evaluation.md.

    forecast: made with keep_members. channels: of the contrasts that images are compared in.
    """
    maps = slice_maps(followup, forecast).maps
    scores = score_maps(followup, maps, int((followup.later.labels > 0).sum()))
    growth = by_metric(scores, Method.PRODUCT)
    images = by_metric(scores, Method.GENERATED) or growth  # of a model without progression network they are one map
    row = {"ap_changed": by_metric(scores, Method.CHANGED)["ap"], "size_error": size_error(followup, forecast)}
    for suffix, of_map in (("", growth), ("_images", images)):
        row |= {f"ap{suffix}": of_map["ap"], f"dice{suffix}": of_map["dice"], f"hd95{suffix}_mm": of_map["hd95_mm"]}
    return row | _image_likeness(followup, forecast, engine, batch=batch, channels=channels)


def _image_likeness(
    followup: FollowUp, forecast: SliceForecast, engine: Engine, *, batch: int, channels: Channels
) -> dict[str, float]:
    members = members_of(forecast)
    outside = outside_tumour(followup, members, engine, batch)
    compared = replace(
        followup,
        now=replace(followup.now, image=followup.now.image[channels]),
        later=replace(followup.later, image=followup.later.image[channels]),
    )
    kept = [ssim(member[channels], compared.now.image, mask) for member, mask in zip(members, outside, strict=True)]
    likeness = by_metric(score_images(compared, {FORECAST: forecast.mean[channels]}), FORECAST)
    return {
        "ssim_outside": patient_mean(kept),
        "ssim_later": likeness["ssim_brain"],
        "psnr_later_db": likeness["psnr_db_brain"],
        **{name: likeness[name] for name in ("ssim_changed", "ssim_unchanged")},
    }
