"""What all patients say together: methods, images, sizes. A patient's slices are averaged, or added up, first.

Rows are those of evaluate.py, one a patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorcast.evaluation.growth_metrics import THRESHOLDS
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.methods import Method
from tumorcast.evaluation.metrics import Floats
from tumorcast.evaluation.paired import Difference, Estimate, difference, estimate, known, mean_of
from tumorcast.evaluation.size_metrics import nrmse, r_squared, relative_error
from tumorcast.evaluation.statistics import patient_mean
from tumorcast.evaluation.summary import MethodSummary, calibration_error

MEANS = (
    "ap",
    "auc",
    "dice",
    "hd95_mm",
    "surface_mm",
    "direction_degrees",
    "coverage",
    "coverage_plan",
    "brier",
    "dice_half",
    "continuous_dice",
)
CALIBRATION = {"ece": "reliability", "ece_near": "reliability_near"}
REGIONS = ("brain", "changed", "unchanged")
IMAGE_MEASURES = tuple(f"{what}_{region}" for what in ("ssim", "psnr_db") for region in REGIONS)
INTERVAL = (0.05, 0.95)


def values_of(rows: Sequence[Figures], method: Method, name: str) -> Floats:
    """(P,) a figure of a method, mean over each patient's slices that have it; NaN for a patient with none."""
    return np.array([patient_mean(_found(row, method, name)) for row in rows])


def _found(row: Figures, method: Method, name: str) -> list[Any]:
    figures = [one["methods"].get(str(method), {}).get(name) for one in row["slices"]]
    return [value for value in figures if value is not None]


def methods_of(rows: Sequence[Figures]) -> list[Method]:
    """The methods that some patient has, in their order."""
    return [method for method in Method if any(str(method) in one["methods"] for row in rows for one in row["slices"])]


def bins_of(rows: Sequence[Figures], method: Method, name: str) -> Floats:
    """(P, 3, BINS) count, said and true by bin, of patients that have them; a patient's shares sum to one."""
    found = [_found(row, method, name) for row in rows]
    sums = [np.sum([[one[key] for key in ("count", "said", "true")] for one in slices], axis=0) for slices in found]
    return np.array([one / max(one[0].sum(), 1.0) for one, slices in zip(sums, found, strict=True) if slices])


def summarise(rows: Sequence[Figures]) -> list[MethodSummary]:
    """Every method's line; its differences are the growth map less the method."""
    return [_line(rows, method) for method in methods_of(rows)]


def _line(rows: Sequence[Figures], method: Method) -> MethodSummary:
    means = {name: mean_of(values_of(rows, method, name)) for name in MEANS}
    bins = {short: bins_of(rows, method, name) for short, name in CALIBRATION.items()}
    calibration = {short: estimate(one, calibration_error) for short, one in bins.items() if len(one)}
    differences = {
        name: difference(values_of(rows, Method.PRODUCT, name), values_of(rows, method, name))
        for name in MEANS
        if method is not Method.PRODUCT
    }
    return MethodSummary(method, {name: one for name, one in means.items() if one.patients}, calibration, differences)


def dice_curves(rows: Sequence[Figures]) -> dict[str, list[Estimate]]:
    """Dice at each of THRESHOLDS of the methods that tell a probability."""
    curves = {}
    for method in methods_of(rows):
        values = np.array([_patient_curve(row, method) for row in rows])
        if not np.isnan(values).all():
            curves[str(method)] = [mean_of(values[:, k]) for k in range(len(THRESHOLDS))]
    return curves


def _patient_curve(row: Figures, method: Method) -> Floats:
    found = _found(row, method, "dice_by_threshold")
    return np.mean(found, axis=0) if found else np.full(len(THRESHOLDS), np.nan)


@dataclass(frozen=True)
class ImageSummary:
    """How like the later image one is, by measure; differences are the forecast's mean less this image."""

    image: str
    means: dict[str, Estimate]
    differences: dict[str, Difference]


def image_summaries(rows: Sequence[Figures]) -> list[ImageSummary]:
    """The forecast's mean, the present scan, and unguided diffusion where it was made."""
    names = [name for name in ("forecast", "present", "unguided") if name in rows[0]["slices"][0]["images"]]
    values = {name: {measure: _image_values(rows, name, measure) for measure in IMAGE_MEASURES} for name in names}
    return [
        ImageSummary(
            name,
            {measure: mean_of(found) for measure, found in values[name].items()},
            {
                measure: difference(values["forecast"][measure], found)
                for measure, found in values[name].items()
                if name != "forecast"
            },
        )
        for name in names
    ]


def _image_values(rows: Sequence[Figures], image: str, measure: str) -> Floats:
    return np.array([patient_mean([one["images"][image][measure] for one in row["slices"]]) for row in rows])


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
    def of(cls, rows: Sequence[Figures]) -> "PatientSizes":
        """The sums of every row's slices."""
        sums = {
            name: [np.sum([one["areas"][name] for one in row["slices"]], axis=0) for row in rows]
            for name in ("true_mm2", "present_mm2", "aimed_mm2", "reached_mm2")
        }
        truth, present = np.array(sums["true_mm2"]), np.array(sums["present_mm2"])
        return cls(truth, present, sums["aimed_mm2"], sums["reached_mm2"])

    @property
    def medians(self) -> dict[str, Floats]:
        """(P,) the size that each way of telling it tells."""
        aimed, reached = (np.array([np.median(one) for one in members]) for members in (self.aimed, self.reached))
        return {"aimed": aimed, "reached": reached, "present": self.present}


@dataclass(frozen=True)
class SizeSummary:
    """How near told sizes come to the true ones. difference: error of the aimed sizes less this one's, paired."""

    name: str
    figures: dict[str, Estimate]
    difference: Difference | None


def size_summaries(sizes: PatientSizes) -> list[SizeSummary]:
    """Sizes aimed at, sizes that the generated images have by the segmenter, and the present size."""
    medians = sizes.medians
    errors = {name: relative_error(told, sizes.truth) for name, told in medians.items()}
    spread = {"aimed": sizes.aimed, "reached": sizes.reached}
    summaries = []
    for name, told in medians.items():
        both = np.stack([told, sizes.truth], axis=1)
        figures = {
            "r2": estimate(both, r_squared),
            "nrmse": estimate(both, nrmse),
            "median_error": estimate(known(errors[name]), np.median),
        }
        if name in spread:
            figures["coverage90"] = mean_of(_covered(spread[name], sizes.truth))
        compared = None if name == "aimed" else difference(errors["aimed"], errors[name])
        summaries.append(SizeSummary(name, figures, compared))
    return summaries


def _covered(members: list[Floats], truth: Floats) -> Floats:
    """(P,) whether the truth is within INTERVAL of the members; NaN where all members tell the same."""
    told = [np.quantile(one, INTERVAL) for one in members]
    return np.array(
        [float(low <= true <= high) if high > low else np.nan for (low, high), true in zip(told, truth, strict=True)]
    )


@dataclass(frozen=True)
class Summaries:
    """Everything in the tables. dice_by_threshold: of each method with a probability, at THRESHOLDS."""

    methods: list[MethodSummary]
    dice_by_threshold: dict[str, list[Estimate]]
    images: list[ImageSummary]
    sizes: list[SizeSummary]

    @classmethod
    def of(cls, rows: Sequence[Figures]) -> "Summaries":
        """Of the rows of all patients."""
        return cls(summarise(rows), dice_curves(rows), image_summaries(rows), size_summaries(PatientSizes.of(rows)))
