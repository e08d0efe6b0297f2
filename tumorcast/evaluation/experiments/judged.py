"""Figures of a forecast slice against the scan that came, for experiments that compare ways of making it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tumorcast.archive.maps import SliceForecast
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.archive_methods import SliceMaps, slice_maps
from tumorcast.evaluation.experiments.later import Followed
from tumorcast.evaluation.judging import members_of, outside_tumour
from tumorcast.evaluation.methods import Method
from tumorcast.evaluation.metrics import ssim
from tumorcast.evaluation.pairs import Pair
from tumorcast.evaluation.slice_figures import image_figures, method_figures
from tumorcast.evaluation.statistics import patient_mean

Channels = Sequence[int] | slice
EVERY_CONTRAST = slice(None)
NO_MAPS = SliceMaps({}, None)


@dataclass(frozen=True)
class Measure:
    """A figure in the tables of experiments. told: in words; digits: after the point."""

    name: str
    told: str
    digits: int = 3


MEASURES = (
    Measure("ap", "AP, growth map"),
    Measure("ap_images", "AP, images segmented"),
    Measure("ap_changed", "AP, images' change"),
    Measure("dice", "Dice, growth map"),
    Measure("dice_images", "Dice, images"),
    Measure("hd95_mm", "HD95 mm, growth map", 1),
    Measure("hd95_images_mm", "HD95 mm, images", 1),
    Measure("size_error", "size error"),
    Measure("ssim_outside", "SSIM outside"),
    Measure("ssim_changed", "SSIM to later, changed"),
    Measure("ssim_unchanged", "SSIM to later, unchanged"),
    Measure("ssim_later", "SSIM to later, brain"),
    Measure("psnr_later_db", "PSNR to later, dB", 2),
)
NOTE = (
    "AP: for new tumour, in the brain outside the present outline. Dice, HD95: of the outline that the map has at the "
    "true later area. Growth map: with the progression network, where the model has one; images segmented: what the "
    "segmenter sees in the members; images' change: how much the members changed, of which the paper's map is made. "
    "Size error: of the present area and what the images gained by the segmenter (median of members) against the true "
    "later area, over that area. SSIM outside: members to the present scan, outside all tumour; to later: the members' "
    "mean to the later scan, in the brain, where the two true outlines differ (changed), and in the rest (unchanged)."
)


def judged(
    pair: Pair,
    forecast: SliceForecast,
    engine: Engine,
    *,
    batch: int,
    channels: Channels = EVERY_CONTRAST,
) -> dict[str, float]:
    """The figures of MEASURES, NaN for those that have no value here; see NOTE and docs/evaluation.md.

    forecast: made with keep_members. channels: of the contrasts that images are compared in.
    """
    maps = slice_maps(pair, forecast, (), (), None)
    found = method_figures(pair, maps, int((pair.later.labels > 0).sum()))
    growth = found[Method.PRODUCT]
    images = found.get(Method.GENERATED, growth)  # of a model without progression network they are one map
    figures = {"ap_changed": found[Method.CHANGED]["ap"], "size_error": size_error(pair, forecast)}
    for name, one in (("", growth), ("_images", images)):
        figures |= {f"ap{name}": one["ap"], f"dice{name}": one["dice"], f"hd95{name}_mm": one["hd95_mm"]}
    return figures | _image_likeness(pair, forecast, engine, batch=batch, channels=channels)


def size_error(pair: Pair, forecast: SliceForecast) -> float:
    """See NOTE; NaN where no tumour is left. What the segmenter misreads in the present scan cancels out."""
    gained = float(np.median(forecast.reached_mm2)) - forecast.present_segmented_mm2
    true = pair.later.area_mm2
    return abs(forecast.present_mm2 + gained - true) / true if true > 0 else float("nan")


def _image_likeness(
    pair: Pair, forecast: SliceForecast, engine: Engine, *, batch: int, channels: Channels
) -> dict[str, float]:
    members = members_of(forecast)
    outside = outside_tumour(pair, members, engine, batch)
    seen = replace(
        pair,
        now=replace(pair.now, image=pair.now.image[channels]),
        later=replace(pair.later, image=pair.later.image[channels]),
    )
    kept = [ssim(one[channels], seen.now.image, mask) for one, mask in zip(members, outside, strict=True)]
    likeness = image_figures(seen, replace(forecast, mean=forecast.mean[channels]), NO_MAPS)["forecast"]
    return {
        "ssim_outside": patient_mean(kept),
        "ssim_later": likeness["ssim_brain"],
        "psnr_later_db": likeness["psnr_db_brain"],
        **{name: likeness[name] for name in ("ssim_changed", "ssim_unchanged")},
    }


def judged_together(
    followed: Followed,
    forecasts: Sequence[SliceForecast],
    engine: Engine,
    *,
    batch: int,
    channels: Channels = EVERY_CONTRAST,
) -> dict[str, float]:
    """Means over a patient's slices, of those that have a value."""
    return mean_figures(
        [
            judged(pair, forecast, engine, batch=batch, channels=channels)
            for pair, forecast in zip(followed.pairs, forecasts, strict=True)
        ]
    )


def mean_figures(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over those that have it, NaN where none has."""
    return {name: patient_mean([one[name] for one in figures]) for name in figures[0]}
