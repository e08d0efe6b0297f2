"""How well a method foretells where a tumour goes, at its true later volume: a pair of scans in three dimensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tumorcast.evaluation.metrics import (
    AP,
    BRIER,
    DISTANCE,
    EXPECTED_SHARE,
    HD95,
    NEAR_MM,
    Floats,
    Map,
    Mask,
    Metric,
    average_precision,
    brier,
    expected_share,
    hd95_mm,
)
from tumorcast.evaluation.statistics import Difference, Estimate, difference, mean_of, patient_mean
from tumorcast.evaluation.volume_baselines import VolumeMap
from tumorcast.evaluation.volume_followup import VolumeFollowUp

LEAST_PROBABILITY = 1e-6


def log_score(truth: Mask, probability: Map, candidates: Mask) -> float:
    """What a probability lost by what came, in nats, 0 is best.

    Formula: the mean over the candidates of -ln of the probability given to what they became, no less than 1e-6.
    Reference: Good 1952, J. R. Stat. Soc. B 14, 107-114.
    Missing: no value without candidates.

    >>> log_score(np.array([True, False]), np.array([0.5, 0.5]), np.full(2, True)).__round__(3)
    0.693
    """
    if not candidates.any():
        return float("nan")
    given = np.where(truth, probability, 1.0 - probability)[candidates].astype(np.float64)
    return float(-np.log(np.maximum(given, LEAST_PROBABILITY)).mean())


LOG_NEAR = Metric("log_score_near", f"log score within {NEAR_MM:g} mm", 4, False, DISTANCE, log_score)
BRIER_NEAR = BRIER.called("brier_near", f"Brier within {NEAR_MM:g} mm")
METRICS = (AP, HD95, LOG_NEAR, BRIER_NEAR, EXPECTED_SHARE)
COMPARED = (AP, HD95, LOG_NEAR)


def place_scores(followup: VolumeFollowUp, found: VolumeMap) -> dict[str, float]:
    """By the name of each of METRICS. found: at the true volume ratio."""
    near = followup.candidates & (followup.distance_mm <= NEAR_MM)
    outline = found.outline_of(int(followup.after.sum()))
    scores = {
        AP.name: average_precision(followup.new, -np.asarray(found.order, np.float32), followup.candidates),
        HD95.name: hd95_mm(outline, followup.after, followup.voxel_mm),
    }
    if found.probability is None:
        return scores | {metric.name: float("nan") for metric in (LOG_NEAR, BRIER_NEAR, EXPECTED_SHARE)}
    return scores | {
        LOG_NEAR.name: log_score(followup.after, found.probability, near),
        BRIER_NEAR.name: brier(followup.after, found.probability, near),
        EXPECTED_SHARE.name: expected_share(followup.after, found.probability),
    }


@dataclass(frozen=True)
class PlaceComparison:
    """Methods side by side on the same patients. values: by method and metric (P,), the mean over a patient's pairs."""

    patients: tuple[str, ...]
    pairs: tuple[int, ...]
    values: Mapping[str, Mapping[str, Floats]]

    @classmethod
    def of(cls, scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> "PlaceComparison":
        """Of each patient's pairs: by method and metric a value."""
        methods = list(next(iter(scores.values()))[0])
        values = {
            method: {
                metric.name: np.array(
                    [patient_mean([pair[method][metric.name] for pair in own]) for own in scores.values()]
                )
                for metric in METRICS
            }
            for method in methods
        }
        return cls(tuple(scores), tuple(len(own) for own in scores.values()), values)

    def mean(self, method: str, metric: Metric) -> Estimate:
        """Over patients."""
        return mean_of(self.values[method][metric.name])

    def less(self, method: str, other: str, metric: Metric) -> Difference:
        """A method's figure less another's, paired."""
        return difference(self.values[method][metric.name], self.values[other][metric.name])
