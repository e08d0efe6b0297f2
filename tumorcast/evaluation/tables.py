"""The files of an evaluation: evaluation.json, evaluation.md, rows.csv and two figures."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.counted import counted
from tumorcast.durable import write_text
from tumorcast.evaluation.aggregate import (
    ImageSummary,
    MethodSummary,
    PatientSizes,
    SizeSummary,
    Summaries,
)
from tumorcast.evaluation.baselines import Method
from tumorcast.evaluation.evaluate import Evaluation, PatientScores, slices_of
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
    ECE,
    HD95,
    IMAGE_METRICS,
    MEDIAN_ERROR,
    NEAR_ECE,
    PLAN_COVERAGE,
    SIZE_METRICS,
    SURFACE,
    Metric,
)
from tumorcast.evaluation.score import FORECAST, PRESENT, UNGUIDED, Score, SliceScores
from tumorcast.evaluation.statistics import NO_VALUE, RESAMPLES, Difference, Estimate
from tumorcast.records import PatientOutcome, Status, count_by_status

WHERE = (AP, AUC, DICE, HD95, SURFACE, DIRECTION, COVERAGE, PLAN_COVERAGE)
PROBABILITIES = (ECE, NEAR_ECE, BRIER, CONTINUOUS_DICE, DICE_HALF)
COMPARED = (AP, DICE, HD95, DIRECTION, COVERAGE, BRIER, CONTINUOUS_DICE)
IMAGE_LABELS = {
    FORECAST: "**forecast, mean of members**",
    PRESENT: "present scan",
    UNGUIDED: "unguided diffusion, mean",
}
SIZE_LABELS = {
    "aimed": "**aimed at**, median of members",
    "reached": "reached by the images, as the segmenter sees them",
    "present": "present area: no change",
}
SIZE_GIVEN = {"aimed": "outlines of the size aimed at", "truth": "outlines of the true size"}
AS_FORECAST = "method; as forecast, given no size"
LEAST_TESTED = 6  # patients: of fewer, no signed-rank test reaches p < 0.05
FIGURES = "What each figure is: docs/evaluation.md. **For research; not a medical device.**"
UNIT = (
    f"Intervals: 95 % percentile bootstrap of {RESAMPLES} resamples of the patients; p: Wilcoxon's signed-rank test, "
    "not corrected for their number."
)
BY_THRESHOLD = "dice_by_threshold"  # in evaluation.json, a list
THRESHOLD_NAMES = tuple(metric.name for metric in DICE_THRESHOLDS)


def write_evaluation(out: Path, evaluation: Evaluation) -> Summaries:
    """evaluation.json, evaluation.md, rows.csv, reliability.png and sizes.png in folder `out`; returns the tables."""
    from tumorcast.evaluation.plots import draw_reliability, draw_sizes  # noqa: PLC0415 - matplotlib is slow

    summaries = Summaries.of(evaluation.patients)
    record = evaluation.record | {"notes": evaluation.notes, "outcomes": evaluation.outcomes}
    record |= vars(summaries) | {"patients": [patient_record(patient) for patient in evaluation.patients]}
    write_text(out / "evaluation.json", json.dumps(jsonable(record), indent=1) + "\n")
    write_text(out / "evaluation.md", page(evaluation, summaries))
    write_text(out / "rows.csv", rows_csv(evaluation.patients))
    draw_reliability(evaluation.patients, out / "reliability.png")
    draw_sizes(PatientSizes.of(evaluation.patients), out / "sizes.png")
    return summaries


def jsonable(value: Any) -> Any:
    """As JSON can hold it: dataclasses as objects, arrays as lists, numbers that are not finite as null.

    >>> jsonable({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    match value:
        case dict():
            return {str(key): jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [jsonable(item) for item in value]
        case np.ndarray():
            return jsonable(value.tolist())
        case float():
            return value if np.isfinite(value) else None
        case _:
            return jsonable(vars(value)) if hasattr(value, "__dataclass_fields__") else value


def patient_record(patient: PatientScores) -> dict[str, Any]:
    """A patient in evaluation.json."""
    return vars(patient) | {"slices": [_slice_record(scores) for scores in patient.slices]}


def _slice_record(scores: SliceScores) -> dict[str, Any]:
    methods = _nested(scores.maps)
    for values in methods.values():
        _gather_thresholds(values)
    for (method, name), sums in scores.reliability.items():
        methods[method][name] = {"count": sums.count, "said": sums.probability, "true": sums.true}
    return {
        "slice": scores.source_slice,
        "pixels_given": scores.pixels_given,
        "growth_map": scores.has_growth_map,
        "areas": scores.areas,
        "methods": methods,
        "images": _nested(scores.images),
    }


def _nested(scores: Iterable[Score]) -> dict[str, dict[str, Any]]:
    """Values by method and metric."""
    nested: dict[str, dict[str, Any]] = {}
    for score in scores:
        nested.setdefault(score.method, {})[score.metric] = score.value
    return nested


def _gather_thresholds(values: dict[str, Any]) -> None:
    """Put the Dice at each threshold into one list."""
    found = [values.pop(name) for name in THRESHOLD_NAMES if name in values]
    if found:
        values[BY_THRESHOLD] = found
        values[CONTINUOUS_DICE.name] = values.pop(CONTINUOUS_DICE.name)  # stays the last


def rows_csv(patients: Sequence[PatientScores]) -> str:
    """A line a slice and method; an empty cell where a metric has no value."""
    lines = [line for patient in patients for scores in patient.slices for line in _csv_lines(patient, scores)]
    columns = dict.fromkeys(name for line in lines for name in line)
    last = [name for name in THRESHOLD_NAMES if name in columns]
    text = io.StringIO()
    names = [name for name in columns if name not in last] + last
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_lines(patient: PatientScores, scores: SliceScores) -> list[dict[str, Any]]:
    about = {name: value for name, value in vars(patient).items() if name not in ("slices", "slices_left_out")}
    areas = scores.areas
    about |= {"slice": scores.source_slice, "present_mm2": areas.present_mm2, "true_mm2": areas.true_mm2}
    about |= {"aimed_mm2": float(np.median(areas.aimed_mm2)), "pixels_given": scores.pixels_given}
    return [
        about | {"method": method} | {name: "" if np.isnan(value) else value for name, value in values.items()}
        for method, values in _nested(scores.maps).items()
    ]


def page(evaluation: Evaluation, summaries: Summaries) -> str:
    """The page of Markdown: what was judged, the tables, and which scan was taken for the truth."""
    given = SIZE_GIVEN[evaluation.record["settings"]["size"]]
    parts = [
        _opening(evaluation, given),
        _where(summaries.methods, given),
        _probabilities(summaries),
        differences_section(summaries.methods, COMPARED, given),
        _images(summaries.images, given),
        _sizes(summaries.sizes, given),
        _taken(evaluation.patients),
        not_judged(evaluation.outcomes),
    ]
    return "\n".join(part for part in parts if part)


def _opening(evaluation: Evaluation, given: str) -> str:
    record, areas = evaluation.record, [scores.areas for scores in slices_of(evaluation.patients)]
    grown = sum(area.true_mm2 > area.present_mm2 for area in areas)
    notes = "".join(f"- {note}\n" for note in evaluation.notes)
    return (
        f"# {record['archive']['name']} against {record['truth']['name']}\n\n"
        f"Written by `tumorcast evaluate` {record['version']} (commit {record['commit'] or 'unknown'}); every row and "
        "setting stands in [evaluation.json](evaluation.json), a line a slice and method in [rows.csv](rows.csv). "
        f"{FIGURES}\n\n"
        f"{counted(len(evaluation.patients), 'patient')} judged, {counted(len(areas), 'slice')}, the tumour larger "
        f"later in {grown} of them. "
        f"A patient is the unit: its slices are averaged first. {UNIT} All methods have "
        f"**{given}**, except no change, which keeps its own.\n\n{notes}"
    )


def _where(lines: Sequence[MethodSummary], given: str) -> str:
    table = markdown_table((f"method; {given}", "patients", *labels(WHERE)), [means_cells(one, WHERE) for one in lines])
    new, moved = (
        max((one.means[metric.name].patients for one in lines if metric.name in one.means), default=0)
        for metric in (AP, DIRECTION)  # what not every patient has
    )
    return (
        f"## Where the tumour goes\n\nPatients with new tumour, of whom are AP, ROC AUC and coverage: {new}. "
        f"Patients whose tumour's centroid moved, of whom is direction: {moved}.\n\n{table}"
    )


def _probabilities(summaries: Summaries) -> str:
    with_probability = [one for one in summaries.methods if BRIER.name in one.means]
    heads = (AS_FORECAST, "patients", *labels(PROBABILITIES))
    curves = [
        (Method(name).label, *(_bare(found, 3) for found in curve))
        for name, curve in summaries.dice_by_threshold.items()
    ]
    thresholds = markdown_table((AS_FORECAST, *labels(DICE_THRESHOLDS)), curves)
    return (
        f"## Probabilities\n\n"
        f"{markdown_table(heads, [means_cells(one, PROBABILITIES) for one in with_probability])}\n"
        f"Dice over thresholds:\n\n{thresholds}\n![reliability](reliability.png)\n"
    )


def differences_section(lines: Sequence[MethodSummary], metrics: Sequence[Metric], given: str) -> str:
    """The growth map less each other method. given: the size that outlines have."""
    others = [
        (one.method.label, *difference_cells(one.differences, metrics))
        for one in lines
        if one.method is not Method.PRODUCT
    ]
    table = markdown_table((f"growth map minus …; {given}", *labels(metrics)), others)
    return (
        "## Paired differences\n\n✔ the growth map is better, ✘ it is worse, and the interval excludes zero; of fewer "
        f"than {LEAST_TESTED} patients none is marked.\n\n{table}"
    )


def _images(lines: Sequence[ImageSummary], given: str) -> str:
    means = [(IMAGE_LABELS[one.image], *cells(one.means, IMAGE_METRICS)) for one in lines]
    differences = [
        (IMAGE_LABELS[one.image], *difference_cells(one.differences, IMAGE_METRICS)) for one in lines if one.differences
    ]
    heads = labels(IMAGE_METRICS)
    return (
        "## Images\n\nAgainst the later scan. Intensities of two sessions differ in gain, which all these images bear "
        f"alike, so none comes near 1. No outline enters but the two true ones ({given} are not used here).\n\n"
        f"{markdown_table(('image', *heads), means)}\n{markdown_table(('forecast minus …', *heads), differences)}"
    )


def _sizes(lines: Sequence[SizeSummary], given: str) -> str:
    rows = [
        (
            SIZE_LABELS[one.name],
            *cells(one.figures, SIZE_METRICS),
            NO_VALUE if one.difference is None else _difference(one.difference, MEDIAN_ERROR),
        )
        for one in lines
    ]
    heads = ("size", *labels(SIZE_METRICS), "relative error of aimed at minus this one's")
    return (
        f"## Sizes\n\nThe judged slices of a patient are added up ({given} are not used here).\n\n"
        f"{markdown_table(heads, rows)}\n![sizes](sizes.png)\n"
    )


def _taken(patients: Sequence[PatientScores]) -> str:
    lines = [
        (
            patient.patient_id,
            patient.session,
            patient.later_session,
            f"{patient.days:g}",
            NO_VALUE if patient.days_off is None else f"{patient.days_off:+g}",
            str(len(patient.slices)),
            str(patient.slices_left_out),
        )
        for patient in patients
    ]
    heads = ("patient", "forecast from", "truth", "days later", "off the day aimed at", "slices", "slices left out")
    return f"## What was taken for the truth\n\n{markdown_table(heads, lines)}"


def not_judged(outcomes: Sequence[PatientOutcome]) -> str:
    """The section on patients that were left out; empty where there are none."""
    left = [(one.patient_id, str(one.status), one.reason) for one in outcomes if one.status is not Status.OK]
    if not left:
        return ""
    counts = count_by_status(outcomes)
    table = markdown_table(("patient", "status", "reason"), left)
    return f"## Not judged\n\n{counts['skipped']} skipped, {counts['failed']} failed.\n\n{table}"


def labels(metrics: Iterable[Metric]) -> list[str]:
    """The heads of the metrics' columns."""
    return [metric.label for metric in metrics]


def means_cells(line: MethodSummary, metrics: Iterable[Metric]) -> list[str]:
    """A method's line: its name, patients, and a cell a metric."""
    return [line.method.label, str(line.means[DICE.name].patients), *cells(line.means | line.calibration, metrics)]


def cells(estimates: Mapping[str, Estimate], metrics: Iterable[Metric]) -> list[str]:
    """A cell a metric, with its interval."""
    return [_cell(estimates.get(metric.name), metric.digits) for metric in metrics]


def difference_cells(differences: Mapping[str, Difference], metrics: Iterable[Metric]) -> list[str]:
    """A cell a metric: the difference, whether it is for the better, and p."""
    return [_difference(differences[metric.name], metric) for metric in metrics]


def _difference(found: Difference, metric: Metric) -> str:
    return found.text(metric.digits, higher_is_better=metric.higher_is_better, least_patients=LEAST_TESTED)


def _cell(found: Estimate | None, digits: int) -> str:
    return NO_VALUE if found is None or np.isnan(found.value) else found.text(digits)


def _bare(found: Estimate, digits: int) -> str:
    """Without the interval."""
    return NO_VALUE if np.isnan(found.value) else f"{found.value:.{digits}f}"


def markdown_table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table, its first column to the left.

    >>> print(markdown_table(("a", "b"), [("x", "1")]))
    | a | b |
    |---|---|
    | x | 1 |
    <BLANKLINE>
    """
    rows = [heads, ["---"] * len(heads), *lines]
    texts = ["|" + "|".join(row) + "|" if row is rows[1] else "| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(texts) + "\n"
