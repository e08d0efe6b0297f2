"""What `tumorcast evaluate` found, as the pages show it: a table a patient, and one of all patients."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from tumorcast.errors import InputError
from tumorcast.evaluation.baselines import LABELS
from tumorcast.evaluation.metrics import AP, BRIER, COVERAGE, DICE, DIRECTION, HD95, Metric
from tumorcast.report.pages import words

FILE, VOLUMES_FILE = "evaluation.json", "volumes.json"
COLUMNS: tuple[Metric, ...] = (AP, DICE, HD95.rounded(1), DIRECTION, COVERAGE.rounded(2), BRIER)
PRODUCT = "product"


@dataclass(frozen=True)
class MethodLine:
    """A line of a table: the method in words, whether it is the product, and its figures under COLUMNS."""

    method: str
    is_product: bool
    cells: list[str]


@dataclass(frozen=True)
class PatientEvaluation:
    """How the forecast of a patient fared. Areas in mm², summed over the judged slices.

    days: from the scan forecast from to the one taken for the truth; days_off: of it from the day aimed at.
    """

    days: float
    days_off: float | None
    slices: int
    left_out: int
    present: float
    true: float
    aimed: float
    dice: float
    lines: list[MethodLine]


@dataclass(frozen=True)
class EvaluationFile:
    """An evaluation.json, read and checked."""

    size: str
    notes: list[str]
    lines: list[MethodLine]
    rows: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, provenance: Mapping[str, Any]) -> Self:
        """Read the evaluation of the archive that was made so.

        Raises InputError if it is missing, is no evaluation, or judged another archive.
        """
        path = folder / FILE
        if not path.exists() and (folder / VOLUMES_FILE).exists():
            raise InputError(f"{folder}: judges volumes alone, which pages do not show; leave --evaluation out")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            raise InputError(f"{path}: cannot be read ({fault}); give the --out of `tumorcast evaluate`") from None
        try:
            if record["archive"]["provenance"] != provenance:
                raise InputError(f"{path}: judges another archive; evaluate this one with `tumorcast evaluate`")
            return cls(
                size=record["settings"]["size"],
                notes=[words.without_paths(note).replace("`", "") for note in record["notes"]],
                lines=[_line_of_all(method) for method in record["methods"]],
                rows={row["patient_id"]: row for row in record["patients"]},
                reasons={row["patient_id"]: words.without_paths(row["reason"]) for row in record["outcomes"]},
            )
        except (KeyError, TypeError) as fault:
            raise InputError(f"{path}: is no evaluation of this version (no {fault}); evaluate again") from None

    def of(self, patient_id: str) -> PatientEvaluation | None:
        """What was found of a patient; None of one who was not judged."""
        row = self.rows.get(patient_id)
        if row is None:
            return None
        slices = row["slices"]
        names = list(dict.fromkeys(name for slice_ in slices for name in slice_["methods"]))
        areas = [slice_["areas"] for slice_ in slices]
        return PatientEvaluation(
            days=row["days"],
            days_off=row["days_off"],
            slices=len(slices),
            left_out=row["slices_left_out"],
            present=sum(area["present_mm2"] for area in areas),
            true=sum(area["true_mm2"] for area in areas),
            aimed=float(np.median(np.sum([area["aimed_mm2"] for area in areas], axis=0))),
            dice=_mean(slices, PRODUCT, "dice"),
            lines=[_line(name, slices) for name in names],
        )


def _mean(slices: list[dict[str, Any]], method: str, metric: str) -> float:
    """Over the slices that have the metric; NaN where none has."""
    values = [slice_["methods"].get(method, {}).get(metric) for slice_ in slices]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _line(method: str, slices: list[dict[str, Any]]) -> MethodLine:
    cells = [words.fixed(_mean(slices, method, metric.name), metric.digits) for metric in COLUMNS]
    return MethodLine(_label(method), method == PRODUCT, cells)


def _line_of_all(record: Mapping[str, Any]) -> MethodLine:
    cells = [_estimate(record["means"].get(metric.name), metric.digits) for metric in COLUMNS]
    return MethodLine(_label(record["method"]), record["method"] == PRODUCT, cells)


def _estimate(mean: Mapping[str, Any] | None, digits: int) -> str:
    """A mean over patients with its interval, where there are any."""
    if mean is None or mean["value"] is None:
        return words.UNKNOWN
    if mean["low"] is None:
        return words.fixed(mean["value"], digits)
    return f"{mean['value']:.{digits}f} [{mean['low']:.{digits}f}, {mean['high']:.{digits}f}]"


def _label(method: str) -> str:
    """The method in words, without marks of Markdown."""
    return {str(name): label for name, label in LABELS.items()}.get(method, method).replace("**", "")
