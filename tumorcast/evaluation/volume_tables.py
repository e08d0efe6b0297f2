"""The files of an evaluation of volumes: volumes.json, volumes.md and volumes.csv."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tumorcast.counted import counted
from tumorcast.durable import write_text
from tumorcast.evaluation.aggregate import COLUMNS, MethodSummary, PatientValues, method_summaries
from tumorcast.evaluation.baselines import Method
from tumorcast.evaluation.metrics import (
    AP,
    BRIER,
    DICE,
    ECE,
    EXPECTED_SHARE,
    HD95,
    NEAR_ECE,
    PLAN_COVERAGE,
    PLAN_MM,
    RECALL_NEW,
    SURFACE,
)
from tumorcast.evaluation.statistics import NO_VALUE
from tumorcast.evaluation.tables import (
    AS_FORECAST,
    FIGURES,
    UNIT,
    cells,
    differences_section,
    jsonable,
    labels,
    markdown_table,
    means_cells,
    not_judged,
)
from tumorcast.evaluation.volume_evaluator import PatientVolume, VolumeEvaluation
from tumorcast.evaluation.volume_score import AP_NEW, AP_SEEN, OF_EXPECTED, OF_HALF

if TYPE_CHECKING:
    import pandas as pd

PLACE = (AP, AP_SEEN, AP_NEW, RECALL_NEW, DICE, HD95, SURFACE)
CALIBRATED = (ECE, NEAR_ECE, BRIER, EXPECTED_SHARE, *OF_HALF)
MEANS = (*PLACE, PLAN_COVERAGE, *OF_EXPECTED, BRIER, EXPECTED_SHARE, *OF_HALF)
COMPARED = (AP, HD95, DICE, SURFACE, PLAN_COVERAGE)
TRUE_SIZE = "outlines of the true volume"
WHOLE = 1 - 1e-9  # a share of so much is all
CM3 = 1000.0  # mm³


@dataclass(frozen=True)
class PlanCoverage:
    """Of one method, the patients with new tumour, and those of whom a plan of its would hold none of it, and all."""

    method: str
    patients: int
    none: int
    all: int


@dataclass(frozen=True)
class VolumeSummaries:
    """Everything in the tables of volumes."""

    methods: list[MethodSummary]
    coverage: list[PlanCoverage]

    @classmethod
    def of(cls, patients: Sequence[PatientVolume]) -> Self:
        """Of all patients."""
        values = PatientValues.of(volume_table(patients))
        parts = [[patient.scores] for patient in patients]
        coverage = []
        for method in values.methods():
            found = values.of_metric(method, PLAN_COVERAGE)
            known = found[~np.isnan(found)]
            if known.size:
                counts = int((known <= 0).sum()), int((known >= WHOLE).sum())
                coverage.append(PlanCoverage(str(method), known.size, *counts))
        return cls(method_summaries(parts, values, MEANS), coverage)


def volume_table(patients: Sequence[PatientVolume]) -> "pd.DataFrame":
    """Every score with the columns of slices' long table; the slice of a volume is 0."""
    import pandas as pd  # noqa: PLC0415 - an extra

    lines = [
        (patient.patient_id, 0, str(method), name, value)
        for patient in patients
        for method, values in patient.scores.values.items()
        for name, value in values.items()
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def write_volumes(out: Path, evaluation: VolumeEvaluation) -> VolumeSummaries:
    """volumes.json, volumes.md and volumes.csv in folder `out`; returns the tables. Some patient was judged."""
    summaries = VolumeSummaries.of(evaluation.patients)
    record = evaluation.record | {"notes": evaluation.notes, "outcomes": evaluation.outcomes}
    record |= vars(summaries) | {"patients": [_patient_record(patient) for patient in evaluation.patients]}
    write_text(out / "volumes.json", json.dumps(jsonable(record), indent=1) + "\n")
    write_text(out / "volumes.md", volumes_page(evaluation, summaries))
    write_text(out / "volumes.csv", volumes_csv(evaluation.patients))
    return summaries


def _about(patient: PatientVolume) -> dict[str, Any]:
    """What holds for all methods."""
    named = {name: value for name, value in vars(patient).items() if name != "scores"}
    return named | vars(patient.scores.facts)


def _patient_record(patient: PatientVolume) -> dict[str, Any]:
    methods: dict[str, dict[str, Any]] = {str(method): dict(v) for method, v in patient.scores.values.items()}
    for (method, name), sums in patient.scores.reliability.items():
        methods[method][name] = {"count": sums.count, "said": sums.probability, "true": sums.true}
    return _about(patient) | {"methods": methods}


def volumes_csv(patients: Sequence[PatientVolume]) -> str:
    """A line a patient and method; an empty cell where a figure has no value."""
    import pandas as pd  # noqa: PLC0415 - an extra

    lines = [
        _about(patient) | {"method": str(method)} | values
        for patient in patients
        for method, values in patient.scores.values.items()
    ]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def volumes_page(evaluation: VolumeEvaluation, summaries: VolumeSummaries) -> str:
    """The page of Markdown: what was judged, the tables, and which scan was taken for the truth."""
    parts = [
        _opening(evaluation),
        _place(summaries.methods),
        _coverage(summaries),
        _sizes(summaries.methods),
        _probabilities(summaries.methods),
        differences_section(summaries.methods, COMPARED, TRUE_SIZE),
        _taken(evaluation.patients),
        not_judged(evaluation.outcomes),
    ]
    return "\n".join(part for part in parts if part)


def _opening(evaluation: VolumeEvaluation) -> str:
    record, facts = evaluation.record, [patient.scores.facts for patient in evaluation.patients]
    smaller = sum(one.true_mm3 < one.present_mm3 for one in facts)
    notes = "".join(f"- {note}\n" for note in evaluation.notes)
    return (
        f"# {record['archive']['name']} against {record['truth']['name']}: volumes\n\n"
        f"Written by `tumorcast evaluate` {record['version']} (commit {record['commit'] or 'unknown'}); all of it "
        "stands in [volumes.json](volumes.json), a line a patient and method in [volumes.csv](volumes.csv). "
        f"{FIGURES}\n\n"
        f"{counted(len(facts), 'patient')} judged, the tumour smaller later in {smaller} of them. {UNIT} Orders of "
        "voxels are "
        f"compared by **{TRUE_SIZE}**; no change keeps its own.\n\n{notes}"
    )


def _place(lines: Sequence[MethodSummary]) -> str:
    table = markdown_table((f"method; {TRUE_SIZE}", "patients", *labels(PLACE)), [means_cells(o, PLACE) for o in lines])
    new, apart = (
        lines[0].means[metric.name].patients if metric.name in lines[0].means else 0 for metric in (AP, AP_NEW)
    )
    return (
        f"## Where the tumour goes\n\nPatients with new tumour, of whom is AP: {new}; with new tumour in axial slices "
        f"that showed none: {apart}. The share of it there stands below, for each patient.\n\n{table}"
    )


def _coverage(summaries: VolumeSummaries) -> str:
    means = {str(line.method): line.means for line in summaries.methods}
    lines = [
        (
            Method(one.method).label,
            str(one.patients),
            *cells(means[one.method], [PLAN_COVERAGE]),
            str(one.none),
            str(one.all),
        )
        for one in summaries.coverage
    ]
    heads = ("method", "patients", PLAN_COVERAGE.label, "patients at 0 %", "patients at 100 %")
    return (
        f"## Iso-volume coverage\n\nThe share of new tumour that a plan holds which takes as much brain outside the "
        f"present outline as a margin of {PLAN_MM:g} mm does; the row of the dilation is that margin plan itself. Of "
        f"patients with new tumour.\n\n{markdown_table(heads, lines)}"
    )


def _sizes(lines: Sequence[MethodSummary]) -> str:
    heads = ("method; outlines of the volume that the growth map expects", "patients", *labels(OF_EXPECTED))
    table = markdown_table(heads, [means_cells(line, OF_EXPECTED) for line in lines])
    return f"## At the size forecast\n\n{table}"


def _probabilities(lines: Sequence[MethodSummary]) -> str:
    with_probability = [line for line in lines if BRIER.name in line.means]
    heads = (AS_FORECAST, "patients", *labels(CALIBRATED))
    return f"## Probabilities\n\n{markdown_table(heads, [means_cells(o, CALIBRATED) for o in with_probability])}"


def _taken(patients: Sequence[PatientVolume]) -> str:
    lines = [
        (
            patient.patient_id,
            patient.session,
            patient.later_session,
            NO_VALUE if patient.horizon_days is None else f"{patient.horizon_days:g}",
            f"{patient.days:g}",
            *(f"{size / CM3:.2f}" for size in (facts.present_mm3, facts.true_mm3, facts.expected_mm3, facts.new_mm3)),
            NO_VALUE if np.isnan(facts.share_in_new_slices) else f"{facts.share_in_new_slices:.1%}",
        )
        for patient in patients
        for facts in (patient.scores.facts,)
    ]
    sizes = ("present, cm³", "true, cm³", "expected, cm³", "new tumour, cm³", "of it in slices new to it")
    heads = ("patient", "forecast from", "truth", "horizon, days", "days later", *sizes)
    return f"## What was taken for the truth\n\n{markdown_table(heads, lines)}"
