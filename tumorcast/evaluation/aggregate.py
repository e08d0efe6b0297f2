"""From slices to patients to all of them: one long table of scores, and its means, differences and intervals.

The table has a line a value: patient, slice, method, metric, value. A patient's slices are averaged, or added up for
sizes, first; then a patient counts once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from tumorcast.evaluation.baselines import Method
from tumorcast.evaluation.evaluate import PatientScores
from tumorcast.evaluation.metrics import (
    AP,
    AUC,
    BRIER,
    CONTINUOUS_DICE,
    COVERAGE,
    COVERAGE_90,
    DICE,
    DICE_HALF,
    DICE_THRESHOLDS,
    DIRECTION,
    ECE,
    HD95,
    IMAGE_METRICS,
    MEDIAN_ERROR,
    NEAR_ECE,
    NRMSE,
    PLAN_COVERAGE,
    R2,
    SURFACE,
    Floats,
    Metric,
    Reliability,
    calibration_error,
    interval_coverage,
    nrmse,
    r_squared,
    relative_error,
)
from tumorcast.evaluation.score import FORECAST, NEAR_RELIABILITY, PRESENT, RELIABILITY, UNGUIDED
from tumorcast.evaluation.statistics import Difference, Estimate, difference, estimate, mean_of, not_nan, patient_mean

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("patient_id", "slice", "method", "metric", "value")
MAP_METRICS = (
    AP,
    AUC,
    DICE,
    HD95,
    SURFACE,
    DIRECTION,
    COVERAGE,
    PLAN_COVERAGE,
    BRIER,
    DICE_HALF,
    CONTINUOUS_DICE,
)
CALIBRATION = {ECE: RELIABILITY, NEAR_ECE: NEAR_RELIABILITY}


def long_table(patients: Iterable[PatientScores]) -> "pd.DataFrame":
    """Every score of every slice, with COLUMNS; a metric that a method does not have has no line."""
    import pandas as pd  # noqa: PLC0415 - an extra

    lines = [
        (patient.patient_id, scores.source_slice, *score)
        for patient in patients
        for scores in patient.slices
        for score in (*scores.maps, *scores.images)
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


@dataclass(frozen=True)
class PatientValues:
    """Each patient's mean over its slices. means: by (method, metric), a column a patient, NaN where it has none."""

    means: "pd.DataFrame"

    @classmethod
    def of(cls, table: "pd.DataFrame") -> Self:
        """Of a long table, the patients in its order."""
        keys = ["method", "metric", "patient_id"]
        means = table.groupby(keys, sort=False)["value"].agg(lambda values: patient_mean(values.tolist()))
        return cls(means.unstack("patient_id").reindex(columns=table["patient_id"].unique()))

    def of_metric(self, method: str, metric: Metric) -> Floats:
        """(P,) one metric of one method."""
        key = (str(method), metric.name)
        if key not in self.means.index:
            return np.full(self.means.shape[1], np.nan)
        return np.asarray(self.means.loc[[key]].to_numpy(np.float64)[0])

    def methods(self) -> list[Method]:
        """The methods that some patient has, in the order of Method."""
        names = set(self.means.index.get_level_values("method"))
        return [method for method in Method if str(method) in names]

    def mean_estimates(self, method: str, metrics: Iterable[Metric]) -> dict[str, Estimate]:
        """The mean over patients by the metric's name."""
        return {metric.name: mean_of(self.of_metric(method, metric)) for metric in metrics}

    def differences(self, reference: str, method: str, metrics: Iterable[Metric]) -> dict[str, Difference]:
        """The reference less the method, paired over patients, by the metric's name; none of the reference itself."""
        if method == reference:
            return {}
        return {
            metric.name: difference(self.of_metric(reference, metric), self.of_metric(method, metric))
            for metric in metrics
        }


class Judged(Protocol):
    """A part of a patient that was judged: a slice, or the volume."""

    @property
    def reliability(self) -> Mapping[tuple[Method, str], Reliability]:
        """By method and region."""


def patient_reliability(patients: Iterable[Sequence[Judged]], method: Method, name: str) -> Floats:
    """(P, 3, BINS) those of Reliability.of_patient, of the patients that have them. patients: the parts of each."""
    found = [
        [scores.reliability[method, name] for scores in parts if (method, name) in scores.reliability]
        for parts in patients
    ]
    return np.array([Reliability.of_patient(parts) for parts in found if parts])


@dataclass(frozen=True)
class MethodSummary:
    """A method over all patients, by metric: means of those that some patient has; calibration errors of a probability;
    differences, the growth map less the method.
    """

    method: Method
    means: dict[str, Estimate]
    calibration: dict[str, Estimate]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class ImageSummary:
    """How like the later image one is, by metric; differences are the forecast's mean less this image."""

    image: str
    means: dict[str, Estimate]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class SizeSummary:
    """How near sizes come to the true ones. difference: error of the target sizes less this one's, paired."""

    name: str
    figures: dict[str, Estimate]
    difference: Difference | None


def method_summaries(
    patients: Sequence[Sequence[Judged]], values: PatientValues, metrics: Sequence[Metric] = MAP_METRICS
) -> list[MethodSummary]:
    """Every method that some patient has. patients: the parts of each."""
    summaries = []
    for method in values.methods():
        means = values.mean_estimates(method, metrics)
        bins = {metric.name: patient_reliability(patients, method, name) for metric, name in CALIBRATION.items()}
        summaries.append(
            MethodSummary(
                method,
                {name: found for name, found in means.items() if found.patients},
                {name: estimate(found, calibration_error) for name, found in bins.items() if len(found)},
                values.differences(Method.PRODUCT, method, metrics),
            )
        )
    return summaries


def threshold_curves(values: PatientValues) -> dict[str, list[Estimate]]:
    """Dice at each of THRESHOLDS, of the methods that claim a probability."""
    curves = {str(method): list(values.mean_estimates(method, DICE_THRESHOLDS).values()) for method in values.methods()}
    return {name: curve for name, curve in curves.items() if any(found.patients for found in curve)}


def image_summaries(values: PatientValues) -> list[ImageSummary]:
    """The forecast's mean, the present scan, and unguided diffusion where it was made."""
    names = set(values.means.index.get_level_values("method"))
    return [
        ImageSummary(
            name, values.mean_estimates(name, IMAGE_METRICS), values.differences(FORECAST, name, IMAGE_METRICS)
        )
        for name in (FORECAST, PRESENT, UNGUIDED)
        if name in names
    ]


@dataclass(frozen=True)
class PatientSizes:
    """Areas of all patients in mm², each the sum over its judged slices. truth, present: (P,).

    aimed, reached: a (M,) a patient, of members, which follow one trajectory over all slices of a patient.
    """

    truth: Floats
    present: Floats
    aimed: list[Floats]
    reached: list[Floats]

    @classmethod
    def of(cls, patients: Iterable[PatientScores]) -> Self:
        """The sums of every patient's slices."""
        areas = [[scores.areas for scores in patient.slices] for patient in patients]
        return cls(
            np.array([np.sum([area.true_mm2 for area in slices]) for slices in areas]),
            np.array([np.sum([area.present_mm2 for area in slices]) for slices in areas]),
            [np.sum([area.aimed_mm2 for area in slices], axis=0) for slices in areas],
            [np.sum([area.reached_mm2 for area in slices], axis=0) for slices in areas],
        )

    @property
    def medians(self) -> dict[str, Floats]:
        """(P,) the size by each way to tell it: targets of members, what their images reached, the present one."""
        aimed, reached = (np.array([np.median(one) for one in members]) for members in (self.aimed, self.reached))
        return {"aimed": aimed, "reached": reached, "present": self.present}


def size_summaries(sizes: PatientSizes) -> list[SizeSummary]:
    """Target sizes, sizes that the generated images have by the segmenter, and the present size."""
    medians = sizes.medians
    errors = {name: relative_error(forecast, sizes.truth) for name, forecast in medians.items()}
    members = {"aimed": sizes.aimed, "reached": sizes.reached}
    summaries = []
    for name, forecast in medians.items():
        both = np.stack([forecast, sizes.truth], axis=1)
        figures = {
            R2.name: estimate(both, r_squared),
            NRMSE.name: estimate(both, nrmse),
            MEDIAN_ERROR.name: estimate(not_nan(errors[name]), np.median),
        }
        if name in members:
            covered = [interval_coverage(*pair) for pair in zip(members[name], sizes.truth.tolist(), strict=True)]
            figures[COVERAGE_90.name] = mean_of(np.array(covered))
        compared = None if name == "aimed" else difference(errors["aimed"], errors[name])
        summaries.append(SizeSummary(name, figures, compared))
    return summaries


@dataclass(frozen=True)
class Summaries:
    """Everything in the tables. dice_by_threshold: of each method with a probability, at THRESHOLDS."""

    methods: list[MethodSummary]
    dice_by_threshold: dict[str, list[Estimate]]
    images: list[ImageSummary]
    sizes: list[SizeSummary]

    @classmethod
    def of(cls, patients: Sequence[PatientScores]) -> Self:
        """Of all patients."""
        values = PatientValues.of(long_table(patients))
        return cls(
            method_summaries([patient.slices for patient in patients], values),
            threshold_curves(values),
            image_summaries(values),
            size_summaries(PatientSizes.of(patients)),
        )
