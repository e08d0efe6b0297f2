"""What the rows of all patients say together: a table a target mode, the images, the regressor, and the goals."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.evaluation.comparison import TargetMode
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.methods import BASELINES, Method
from tumorcast.evaluation.paired import Difference, Estimate, difference, estimate, mean_of, median_of
from tumorcast.evaluation.regressor import r_squared
from tumorcast.evaluation.statistics import patient_mean

Floats = npt.NDArray[np.float64]

MEANS = ("ap", "auc", "hd95_mm", "surface_mm", "dice", "dice_half", "brier")
COMPARED = ("ap", "hd95_mm", "dice")
LOWER_IS_BETTER = frozenset({"hd95_mm", "surface_mm", "brier", "direction_degrees", "median_error"})
LEAST_PATIENTS = 30


def forecast_rows(rows: Iterable[Figures]) -> list[Figures]:
    """The rows of patients with a pair."""
    return [row for row in rows if row["pairs"]]


def values_of(rows: Sequence[Figures], mode: TargetMode, method: Method, name: str) -> Floats:
    """(P,) a figure of a method, mean over each patient's pairs that have it; NaN for a patient with none."""
    return np.array([patient_mean(_found(row, mode, method, name)) for row in rows])


def _found(row: Figures, mode: TargetMode, method: Method, name: str) -> list[Any]:
    """A figure in each pair that has it. Methods that aim at no size stand under "any"."""
    found = [(pair[str(mode)] | pair["any"]).get(str(method), {}).get(name) for pair in row["pairs"]]
    return [value for value in found if value is not None]


def methods_of(rows: Sequence[Figures], mode: TargetMode) -> list[Method]:
    """The methods that some patient has, in their order."""
    return [method for method in Method if not np.isnan(values_of(rows, mode, method, "dice")).all()]


@dataclass(frozen=True)
class MethodSummary:
    """A line of the table: means by figure; calibration errors of a probability; product - method by figure."""

    method: Method
    means: dict[str, Estimate]
    calibration: dict[str, Estimate]
    differences: dict[str, Difference]


def summarise(rows: Sequence[Figures], mode: TargetMode) -> list[MethodSummary]:
    """Every method's line. rows: of patients with pairs."""
    return [_line(rows, mode, method) for method in methods_of(rows, mode)]


def _line(rows: Sequence[Figures], mode: TargetMode, method: Method) -> MethodSummary:
    means = {name: mean_of(values_of(rows, mode, method, name)) for name in MEANS}
    calibration = {
        short: estimate(bins, calibration_error)
        for short, name in (("ece", "reliability"), ("ece_near", "reliability_near"))
        if len(bins := reliability_bins(rows, mode, method, name))
    }
    differences = {
        name: difference(values_of(rows, mode, Method.PRODUCT, name), values_of(rows, mode, method, name))
        for name in COMPARED
        if method is not Method.PRODUCT
    }
    return MethodSummary(method, {name: one for name, one in means.items() if one.patients}, calibration, differences)


def reliability_bins(rows: Sequence[Figures], mode: TargetMode, method: Method, name: str) -> Floats:
    """(P, 3, BINS) count, said and true by bin, of patients that have them; a patient's shares sum to one."""
    bins = []
    for row in rows:
        found = _found(row, mode, method, name)
        if found:
            sums = np.sum([[one[key] for key in ("count", "said", "true")] for one in found], axis=0)
            bins.append(sums / max(sums[0].sum(), 1.0))
    return np.array(bins)


def calibration_error(bins: Floats, axis: int) -> Floats:
    """Expected calibration error of the patients together."""
    together = bins.mean(axis=axis)
    return np.asarray(np.abs(together[..., 1, :] - together[..., 2, :]).sum(axis=-1))


def image_figures(rows: Sequence[Figures]) -> dict[str, Estimate]:
    """Means over patients of what the images keep; medians of the sizes reached, aimed at the truth."""
    names = ("ssim_unguided", "psnr_unguided_db", "ssim_outside", "psnr_outside_db")
    kept = {name: mean_of(_of_pairs(rows, lambda pair, n=name: pair["images"][n])) for name in names}
    sizes = {
        f"{name}_{mode}": median_of(_of_pairs(rows, lambda pair, n=name, m=mode: pair["size"][str(m)][n]))
        for mode in TargetMode
        for name in ("size_error", "reach")
    }
    now = median_of(_of_pairs(rows, lambda pair: pair["size"][str(TargetMode.TRUTH)]["segmenter_error_now"]))
    return kept | sizes | {"segmenter_error_now": now}


def _of_pairs(rows: Sequence[Figures], value: Any) -> Floats:
    return np.array([patient_mean([value(pair) for pair in row["pairs"]]) for row in rows])


def regressor_figures(rows: Sequence[Figures]) -> dict[str, Estimate]:
    """R² of the regressor over all slices and over those with tumour, clean and noisy."""
    sizes = [row["regressor"] for row in rows]
    return {
        f"r2_{name}{'_tumour' if tumour_only else ''}": r_squared(sizes, name, tumour_only=tumour_only)
        for tumour_only in (False, True)
        for name in ("clean", "noisy")
    }


def growth_figures(rows: Sequence[Figures]) -> dict[str, Estimate]:
    """The sizes drawn from the growth forecast: |log(median / truth)|, and the share of truths within its 90 %."""

    def error(pair: Figures) -> float:
        return float(abs(np.log(max(pair["size"]["ode"]["aimed_ratio"], 1e-3) / pair["ratio"])))

    def covered(pair: Figures) -> float:
        low, high = pair["size"]["ode_ratio_low_high"]
        return float(low <= pair["ratio"] <= high)

    return {"log_error": median_of(_of_pairs(rows, error)), "coverage90": mean_of(_of_pairs(rows, covered))}


@dataclass(frozen=True)
class Goal:
    """One thing that was to be reached, and whether it was; found: in words."""

    wanted: str
    found: str
    reached: bool


def goals(rows: Sequence[Figures]) -> list[Goal]:
    """Every goal of the project for its demo model, whatever came of it. rows: of all patients."""
    pairs = forecast_rows(rows)
    regressor, images = regressor_figures(rows), image_figures(pairs)
    reach = images["reach_truth"].value
    told = [
        Goal(f"at least {LEAST_PATIENTS} patients with a pair", str(len(pairs)), len(pairs) >= LEAST_PATIENTS),
        _at_least("regressor's R² on clean slices", regressor["r2_clean"].value, 0.97),
        _at_least("regressor's R² at t = 200", regressor["r2_noisy"].value, 0.85),
        _at_least("SSIM of unguided encode and decode", images["ssim_unguided"].value, 0.95),
        _at_least("SSIM outside the tumour, guided", images["ssim_outside"].value, 0.93),
        Goal(
            "size reached within 10 % (median)",
            f"{images['size_error_truth'].value:.1%}",
            images["size_error_truth"].value <= 0.10,
        ),
        Goal("reach 0.9 to 1.1 (median)", f"{reach:.2f}", 0.9 <= reach <= 1.1),
    ]
    for mode in TargetMode:
        ap = mean_of(values_of(pairs, mode, Method.PRODUCT, "ap")).value
        told += [_at_least(f"average precision, {mode_told(mode)}", ap, 0.92), *_against_baselines(pairs, mode)]
    return told


def _at_least(what: str, value: float, limit: float) -> Goal:
    return Goal(f"{what}: {limit:g} or more", f"{value:.3f}", value >= limit)


def _against_baselines(rows: Sequence[Figures], mode: TargetMode) -> list[Goal]:
    """Better than each baseline in average precision and HD95, intervals excluding zero.

    A baseline that was not made is not beaten.
    """
    told = []
    for method in BASELINES:
        for name, sign in (("ap", 1), ("hd95_mm", -1)):
            ours, other = (values_of(rows, mode, one, name) for one in (Method.PRODUCT, method))
            one = difference(ours, other).estimate
            wanted = f"{'AP' if name == 'ap' else 'HD95'} better than {method.told}, {mode_told(mode)}"
            found = f"{one.told(3, signed=True)}, {one.patients} patients" if one.patients else "not measured"
            told.append(Goal(wanted, found, one.excludes_zero and sign * one.value > 0))
    return told


def mode_told(mode: TargetMode) -> str:
    """The target mode in words."""
    return "true size" if mode is TargetMode.TRUTH else "forecast size"
