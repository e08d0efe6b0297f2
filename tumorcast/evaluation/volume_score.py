"""Scores of one follow-up in three dimensions: every method's order of voxels and probability against the later scan.

Figures with the name of one of slices are the same, of voxels. Outlines are given the true later volume, by which
orders are compared; OF_EXPECTED are those of the volume that the forecast expects, and OF_HALF what a probability holds
for likely.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tumorcast.arrival.field import Ratios
from tumorcast.evaluation.aggregate import CALIBRATION
from tumorcast.evaluation.baselines import Baseline, Method
from tumorcast.evaluation.metrics import (
    AP,
    BRIER,
    DICE,
    EXPECTED_SHARE,
    HD95,
    NEAR_MM,
    PLAN_COVERAGE,
    RECALL_NEW,
    SURFACE,
    Floats,
    Map,
    Mask,
    Metric,
    Reliability,
    average_precision,
    brier,
    calibration_error,
    expected_share,
    plan_coverage,
    recall,
)
from tumorcast.evaluation.score import NEAR_RELIABILITY, RELIABILITY, outline_values
from tumorcast.evaluation.volume_baselines import PlaneSegmenter, VolumeMap, volume_baselines
from tumorcast.evaluation.volume_followup import VolumeFollowUp
from tumorcast.records import Contrast, SessionVolume

AP_SEEN = AP.called("ap_seen_slices", "AP, slices with tumour now")
AP_NEW = AP.called("ap_new_slices", "AP, slices new to it")
OUTLINE = (DICE, HD95, SURFACE)
OF_EXPECTED = tuple(metric.called(f"{metric.name}_expected", metric.label) for metric in OUTLINE)
OF_HALF = tuple(metric.called(f"{metric.name}_half", f"{metric.label} at p > ½") for metric in OUTLINE)


@dataclass(frozen=True)
class VolumeFacts:
    """What all methods share. present, true, new: volumes in mm³; expected: what the forecast expects, by its sum.

    share_in_new_slices: of the new tumour, what lies in axial slices that show none now; NaN without new tumour.
    """

    present_mm3: float
    true_mm3: float
    expected_mm3: float
    new_mm3: float
    share_in_new_slices: float


@dataclass(frozen=True)
class VolumeScores:
    """All that was measured in a volume. values: by method and the metric's name; reliability: by method and region."""

    facts: VolumeFacts
    values: dict[Method, dict[str, float]]
    reliability: dict[tuple[Method, str], Reliability]


def judge_volumes(
    present: SessionVolume,
    later: SessionVolume,
    product: VolumeMap,
    ratios: Ratios,
    contrasts: tuple[Contrast, ...],
    *,
    expected_mm3: float | None = None,
    baselines: Collection[Baseline] = tuple(Baseline),
    segmenter: PlaneSegmenter | None = None,
) -> VolumeScores:
    """Score a forecast and the baselines asked for; those that need a segmenter are left out without one.

    product: the forecast, as VolumeMap.forecast or .field make it. ratios: (M,) later over present volume that its
    members aim at. contrasts: of the present images. expected_mm3: by default the sum of the product's probability.
    Raises InputError if the scans are on different grids, or the present one shows no tumour.
    """
    followup = VolumeFollowUp.of(present, later)
    maps = {Method.PRODUCT: product} | dict(volume_baselines(followup, contrasts, ratios, baselines, segmenter))
    return score_volumes(followup, maps, expected_mm3)


def score_volumes(
    followup: VolumeFollowUp, maps: Mapping[Method, VolumeMap], expected_mm3: float | None = None
) -> VolumeScores:
    """Score methods, of which one is the product."""
    cell_mm3, product = followup.voxel_mm**3, maps[Method.PRODUCT].probability
    if expected_mm3 is None:
        assert product is not None, "a forecast has a probability"
        expected_mm3 = float(product.sum(dtype=np.float64)) * cell_mm3
    reliability = dict(_reliability(followup, maps))
    values = {
        method: dict(_values(followup, found, round(expected_mm3 / cell_mm3))) | _calibration(method, reliability)
        for method, found in maps.items()
    }
    new = int(followup.new.sum())
    apart = int((followup.new & ~followup.in_seen_slices).sum())
    facts = VolumeFacts(
        present_mm3=float(followup.before.sum() * cell_mm3),
        true_mm3=float(followup.after.sum() * cell_mm3),
        expected_mm3=expected_mm3,
        new_mm3=new * cell_mm3,
        share_in_new_slices=apart / new if new else float("nan"),
    )
    return VolumeScores(facts, values, reliability)


def _values(followup: VolumeFollowUp, found: VolumeMap, expected: int) -> Iterator[tuple[str, float]]:
    """Every figure of a method. expected: voxels."""
    candidates, new, seen = followup.candidates, followup.new, followup.in_seen_slices
    score = _score(found)
    yield AP.name, average_precision(new, score, candidates)
    yield AP_SEEN.name, average_precision(new, score, candidates & seen)
    yield AP_NEW.name, average_precision(new, score, candidates & ~seen)
    if not followup.after.any():  # an outline of no volume is any method's, and would be right for each
        yield from ((metric.name, float("nan")) for metric in (RECALL_NEW, *OUTLINE))
    else:
        outline = found.outline_of(int(followup.after.sum()))
        yield RECALL_NEW.name, recall(new, outline, ~seen)
        yield from outline_values([outline], followup.after, followup.voxel_mm)
    yield from _outline_values(OF_EXPECTED, found.outline_of(expected), followup)
    if found.outline is None:
        yield PLAN_COVERAGE.name, plan_coverage(new, score, candidates, followup.distance_mm)
    if found.probability is not None:
        probability = found.probability * followup.brain
        yield BRIER.name, brier(followup.after, probability, candidates)
        yield EXPECTED_SHARE.name, expected_share(followup.after, probability)
        yield from _outline_values(OF_HALF, probability > 0.5, followup)


def _score(found: VolumeMap) -> Map:
    """Higher is earlier; voxels that are never reached are alike, below all others."""
    order = np.asarray(found.order, np.float32)
    return np.where(np.isfinite(order), -order, np.finfo(np.float32).min)


def _outline_values(
    metrics: tuple[Metric, ...], outline: Mask, followup: VolumeFollowUp
) -> Iterator[tuple[str, float]]:
    """The figures of OUTLINE under other names."""
    values = outline_values([outline], followup.after, followup.voxel_mm)
    yield from ((metric.name, value) for metric, (_, value) in zip(metrics, values, strict=True))


def _reliability(
    followup: VolumeFollowUp, maps: Mapping[Method, VolumeMap]
) -> Iterator[tuple[tuple[Method, str], Reliability]]:
    """Of those that claim a probability, over all candidates and over those within NEAR_MM."""
    near = followup.candidates & (followup.distance_mm <= NEAR_MM)
    for method, found in maps.items():
        if found.probability is not None:
            for name, region in ((RELIABILITY, followup.candidates), (NEAR_RELIABILITY, near)):
                yield (method, name), Reliability.of(followup.after, found.probability, region)


def _calibration(method: Method, reliability: Mapping[tuple[Method, str], Reliability]) -> dict[str, float]:
    """The calibration errors of this patient alone."""
    return {
        metric.name: _error(reliability[method, name])
        for metric, name in CALIBRATION.items()
        if (method, name) in reliability
    }


def _error(one: Reliability) -> float:
    patient: Floats = Reliability.of_patient([one])[None]
    return float(calibration_error(patient))
