"""An evaluation as a page of Markdown: what was judged, the tables, and which scan was taken for the truth."""

from collections.abc import Sequence

import numpy as np

from tumorcast.evaluation.archive_summary import ImageSummary, SizeSummary, Summaries
from tumorcast.evaluation.card import Columns, head_cells, markdown_table, marked, means_cells
from tumorcast.evaluation.evaluate import Evaluation, SizeGiven
from tumorcast.evaluation.growth_metrics import THRESHOLDS
from tumorcast.evaluation.judging import NEAR_MM, Figures
from tumorcast.evaluation.methods import Method
from tumorcast.evaluation.paired import RESAMPLES, Difference, Estimate
from tumorcast.evaluation.slice_figures import PLAN_MM
from tumorcast.evaluation.summary import MethodSummary
from tumorcast.records import Status, count_by_status

WHERE: Columns = {
    "ap": ("AP", 3),
    "auc": ("ROC AUC", 3),
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95, mm", 2),
    "surface_mm": ("surface distance, mm", 2),
    "direction_degrees": ("direction, °", 0),
    "coverage": ("coverage", 3),
    "coverage_plan": (f"coverage, {PLAN_MM:g} mm plan", 3),
}
PARTLY = ("ap", "direction_degrees")  # what not every patient has
PROBABILITIES: Columns = {
    "ece": ("ECE", 4),
    "ece_near": (f"ECE within {NEAR_MM:g} mm", 3),
    "brier": ("Brier", 4),
    "continuous_dice": ("continuous Dice", 3),
    "dice_half": ("Dice at p > ½", 3),
}
COMPARED: Columns = {
    "ap": ("AP", 3),
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95, mm", 2),
    "direction_degrees": ("direction, °", 0),
    "coverage": ("coverage", 3),
    "brier": ("Brier", 4),
    "continuous_dice": ("continuous Dice", 3),
}
IMAGES = {
    "ssim_brain": ("SSIM, brain", 3),
    "ssim_changed": ("SSIM, changed", 3),
    "ssim_unchanged": ("SSIM, unchanged", 3),
    "psnr_db_brain": ("PSNR, brain, dB", 1),
    "psnr_db_changed": ("PSNR, changed, dB", 1),
    "psnr_db_unchanged": ("PSNR, unchanged, dB", 1),
}
IMAGES_TOLD = {
    "forecast": "**forecast, mean of members**",
    "present": "present scan",
    "unguided": "unguided diffusion, mean",
}
SIZES: Columns = {
    "r2": ("R²", 2),
    "nrmse": ("nRMSE", 2),
    "median_error": ("median relative error", 3),
    "coverage90": ("truth in the members' 5–95 %", 2),
}
SIZES_TOLD = {
    "aimed": "**aimed at**, median of members",
    "reached": "reached by the images, as the segmenter sees them",
    "present": "present area: no change",
}
GIVEN = {
    SizeGiven.AIMED: "outlines of the size aimed at",
    SizeGiven.TRUTH: "outlines of the true size",
}
AS_FORECAST = "method; as forecast, given no size"
LEAST_TESTED = 6  # patients: of fewer, no signed-rank test reaches p < 0.05


def page(found: Evaluation, told: Summaries) -> str:
    """The page."""
    given = GIVEN[SizeGiven(found.record["settings"]["size"])]
    parts = [
        _opening(found, given),
        _where(told.methods, given),
        _probabilities(told),
        _compared(told.methods, given),
        _images(told.images, given),
        _sizes(told.sizes, given),
        _taken(found.rows),
        _outcomes(found),
    ]
    return "\n".join(part for part in parts if part)


def _opening(found: Evaluation, given: str) -> str:
    record, slices = found.record, [one for row in found.rows for one in row["slices"]]
    grown = sum(one["areas"]["true_mm2"] > one["areas"]["present_mm2"] for one in slices)
    notes = "".join(f"- {note}\n" for note in found.notes)
    return (
        f"# {record['archive']['name']} against {record['truth']['name']}\n\n"
        f"Written by `tumorcast evaluate` {record['version']} (commit {record['commit'] or 'unknown'}); every row and "
        "setting stands in [evaluation.json](evaluation.json), a line a slice and method in [rows.csv](rows.csv). "
        "What each figure is: docs/evaluation.md. **For research; not a medical device.**\n\n"
        f"{len(found.rows)} patients judged, {len(slices)} slices, the tumour larger later in {grown} of them. "
        "A patient is the unit: its slices are averaged first. Intervals: 95 % percentile bootstrap of "
        f"{RESAMPLES} resamples of the patients; p: Wilcoxon's signed-rank test, not corrected for their number. "
        "All methods have "
        f"**{given}**, except no change, which keeps its own.\n\n{notes}"
    )


def _where(lines: Sequence[MethodSummary], given: str) -> str:
    heads = (f"method; {given}", "patients", *head_cells(WHERE))
    table = markdown_table(heads, [means_cells(one, WHERE) for one in lines])
    new, moved = (max((one.means[name].patients for one in lines if name in one.means), default=0) for name in PARTLY)
    return (
        f"## Where the tumour goes\n\nPatients with new tumour, of whom are AP, ROC AUC and coverage: {new}. "
        f"Patients whose tumour's centroid moved, of whom is direction: {moved}.\n\n{table}"
    )


def _probabilities(told: Summaries) -> str:
    sure = [one for one in told.methods if "brier" in one.means]
    heads = (AS_FORECAST, "patients", *head_cells(PROBABILITIES))
    curves = [
        (Method(name).told, *(_cell(one, 3, bare=True) for one in curve))
        for name, curve in told.dice_by_threshold.items()
    ]
    thresholds = markdown_table((AS_FORECAST, *(f"p > {one:g}" for one in THRESHOLDS)), curves)
    return (
        f"## Probabilities\n\n"
        f"{markdown_table(heads, [means_cells(one, PROBABILITIES) for one in sure])}\n"
        f"Dice over thresholds:\n\n{thresholds}\n![reliability](reliability.png)\n"
    )


def _compared(lines: Sequence[MethodSummary], given: str) -> str:
    others = [
        (
            one.method.told,
            *(_difference(name, one.differences[name], digits) for name, (_, digits) in COMPARED.items()),
        )
        for one in lines
        if one.method is not Method.PRODUCT
    ]
    table = markdown_table((f"growth map minus …; {given}", *head_cells(COMPARED)), others)
    return (
        "## Paired differences\n\n✔ the growth map is better, ✘ it is worse, and the interval excludes zero; of fewer "
        f"than {LEAST_TESTED} patients none is marked.\n\n{table}"
    )


def _images(lines: Sequence[ImageSummary], given: str) -> str:
    means = [(IMAGES_TOLD[one.image], *_cells(one.means, IMAGES)) for one in lines]
    heads = [head for head, _ in IMAGES.values()]
    differences = [
        (
            IMAGES_TOLD[one.image],
            *(_difference(name, one.differences[name], digits) for name, (_, digits) in IMAGES.items()),
        )
        for one in lines
        if one.differences
    ]
    return (
        "## Images\n\nAgainst the later scan. Intensities of two sessions differ in gain, which all these images bear "
        f"alike, so none comes near 1. No outline enters but the two true ones ({given} are not used here).\n\n"
        f"{markdown_table(('image', *heads), means)}\n{markdown_table(('forecast minus …', *heads), differences)}"
    )


def _sizes(lines: Sequence[SizeSummary], given: str) -> str:
    cells = [
        (
            SIZES_TOLD[one.name],
            *_cells(one.figures, SIZES),
            "–" if one.difference is None else _difference("median_error", one.difference, 3),
        )
        for one in lines
    ]
    heads = ("size", *head_cells(SIZES), "relative error of aimed at minus this one's")
    return (
        f"## Sizes\n\nThe judged slices of a patient are added up ({given} are not used here).\n\n"
        f"{markdown_table(heads, cells)}\n![sizes](sizes.png)\n"
    )


def _difference(name: str, one: Difference, digits: int) -> str:
    return marked(name, one, digits, least_patients=LEAST_TESTED) if one.estimate.patients else "–"


def _cells(figures: dict[str, Estimate], columns: Columns) -> list[str]:
    return [_cell(figures[name], digits) if name in figures else "–" for name, (_, digits) in columns.items()]


def _cell(one: Estimate, digits: int, *, bare: bool = False) -> str:
    if np.isnan(one.value):
        return "–"
    return f"{one.value:.{digits}f}" if bare else one.told(digits)


def _taken(rows: Sequence[Figures]) -> str:
    lines = [
        (
            row["patient_id"],
            row["session"],
            row["later_session"],
            f"{row['days']:g}",
            "–" if row["days_off"] is None else f"{row['days_off']:+g}",
            str(len(row["slices"])),
            str(row["slices_left_out"]),
        )
        for row in rows
    ]
    heads = ("patient", "forecast from", "truth", "days later", "off the day aimed at", "slices", "slices left out")
    return f"## What was taken for the truth\n\n{markdown_table(heads, lines)}"


def _outcomes(found: Evaluation) -> str:
    left = [(one.patient_id, str(one.status), one.reason) for one in found.outcomes if one.status is not Status.OK]
    if not left:
        return ""
    counts = count_by_status(found.outcomes)
    table = markdown_table(("patient", "status", "reason"), left)
    return f"## Not judged\n\n{counts['skipped']} skipped, {counts['failed']} failed.\n\n{table}"
