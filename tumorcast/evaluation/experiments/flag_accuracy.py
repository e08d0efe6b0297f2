"""Accuracy of the failure flags: their precision and recall on failures that were induced.

Patients are the unit: intervals resample them.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tumorcast.counted import counted
from tumorcast.errors import InputError
from tumorcast.evaluation.experiments.base import (
    Findings,
    ReportPicture,
    Row,
    Table,
    spread_evenly,
)
from tumorcast.evaluation.experiments.failure_rules import JUDGED, RULES, FailureRules
from tumorcast.evaluation.experiments.followup_source import LatestFollowUps, by_unit
from tumorcast.evaluation.experiments.induced_failures import (
    CONTROL,
    LABELS,
    InducedCase,
    PlantedFault,
    induce_failures,
)
from tumorcast.evaluation.experiments.report_tables import estimate_cell
from tumorcast.evaluation.experiments.slice_plots import FlaggedSlice, channel_shown, draw_flagged
from tumorcast.evaluation.failure_flags import Failure, Signs
from tumorcast.evaluation.followup import latest_followup
from tumorcast.evaluation.metrics import SHARE, Floats, Metric, roc_auc
from tumorcast.evaluation.statistics import Estimate, estimate

ANY = "any flag"
ARRAYS = "cases.npz"  # in a unit's folder: the arrays of its cases, by their numbers
EXAMPLES = 5  # of each outcome that is shown
MAP_OF = {
    Failure.RIM_CHANGE: "changed",
    Failure.SEPARATE_BLOB: "tumour",
    Failure.WRONG_WAY: "tumour",
    Failure.MAP_APART: "growth",
}


@dataclass(frozen=True)
class FlagAccuracyExperiment:
    """Each patient's forecast, sound and with failures induced, and the flags raised on each.

    Of patients whose tumour grew by a tenth between two scans: the latest such pair.
    """

    source: LatestFollowUps
    name: ClassVar[str] = "failures"

    def provenance(self) -> dict[str, Any]:
        """Settings, cohort and model."""
        return self.source.provenance()

    def units(self) -> Sequence[str]:
        """The patients with such a pair. Raises InputError if there is none."""
        return list(self._patients)

    @cached_property
    def _patients(self) -> dict[str, str]:
        names = [patient_id for patient_id in self.source.cohort.patient_ids() if self._has_grown(patient_id)]
        if not names:
            raise InputError(
                f"{self.source.cohort.path}: no patient's tumour grew by a tenth between two scans, so nothing tells "
                "what went wrong; give a cohort where some do"
            )
        return by_unit(spread_evenly(names, self.source.patients))

    def _has_grown(self, patient_id: str) -> bool:
        followup = latest_followup(self.source.cohort, patient_id)
        return followup is not None and followup.is_known

    def measure(self, unit: str, pictures: Path) -> Row:
        """Every case of the patient: how it was made, which failures it has, and the signs that flags are read from."""
        followup = self.source.followup(self._patients[unit])
        induced = list(induce_failures(followup, self.source.engine, self.source.settings))
        rules = FailureRules(followup, induced[0].forecast)
        channel = channel_shown(self.source.cohort.contrasts)
        arrays: dict[str, Any] = {
            "brain": followup.now.brain,
            "outline": followup.now.labels > 0,
            "later": followup.later.labels > 0,
        }
        for number, case in enumerate(induced):
            arrays |= {f"{number}.{name}": values for name, values in _arrays(case, channel).items()}
        np.savez_compressed(pictures / ARRAYS, **arrays)
        return self.source.row(followup) | {"cases": [_case_row(case, rules) for case in induced]}

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """Precision and recall of every flag, and what was hit and missed."""
        summaries = summaries_of(rows)
        return Findings(
            answer=answer_of(rows, summaries),
            figures={name: asdict(summary) for name, summary in summaries.items()},
            tables=tables_of(rows, summaries),
            pictures=[_picture(failure, rows, pictures) for failure in JUDGED],
        )


def _case_row(induced: InducedCase, rules: FailureRules) -> Row:
    """A case in its unit's row. What is planted into a sound forecast is all that is wrong with it."""
    wrong = (
        [induced.planted] if induced.planted else [name for name, is_so in rules.of(induced.forecast).items() if is_so]
    )
    return {
        "how": str(induced.how),
        "clear": induced.clear,
        "wrong": [str(name) for name in wrong],
        "signs": asdict(Signs.of(induced.forecast)),
    }


def _arrays(induced: InducedCase, channel: int) -> dict[str, Any]:
    """The arrays that a picture of a case is drawn from, in half precision."""
    forecast = induced.forecast
    maps = {"changed": forecast.changed, "tumour": forecast.tumour, "mean": forecast.mean[channel]}
    maps["growth"] = forecast.tumour if forecast.growth is None else forecast.growth
    return {name: values.astype(np.float16) for name, values in maps.items()}


class Outcome(StrEnum):
    """A flag against the truth in one case."""

    HIT = "hit"
    MISSED = "missed"
    FALSE_ALARM = "false alarm"
    QUIET = "rightly quiet"

    @classmethod
    def of(cls, *, wrong: bool, flagged: bool) -> "Outcome":
        """Of what is wrong, and what is flagged."""
        if wrong:
            return cls.HIT if flagged else cls.MISSED
        return cls.FALSE_ALARM if flagged else cls.QUIET


@dataclass(frozen=True)
class FlaggedCase:
    """One case under one flag. number: its place in the unit's row; sign: greater is worse, -∞ where there is none."""

    unit: str
    number: int
    how: str
    planted: bool
    clear: bool
    outcome: Outcome
    sign: float

    @property
    def wrong(self) -> bool:
        """Whether the flag should be up."""
        return self.outcome in (Outcome.HIT, Outcome.MISSED)

    @property
    def flagged(self) -> bool:
        """Whether it is."""
        return self.outcome in (Outcome.HIT, Outcome.FALSE_ALARM)


def judge(rows: dict[str, Row], failure: Failure | None) -> list[FlaggedCase]:
    """Every case of every unit under a flag, as it is raised now: a row has the signs that it is read from.

    None: under any flag, too_little and too_much among them, whatever is wrong.
    """
    return [
        _judged(unit, number, case, failure) for unit, row in rows.items() for number, case in enumerate(row["cases"])
    ]


def _judged(unit: str, number: int, case: Row, failure: Failure | None) -> FlaggedCase:
    signs = Signs(**{name: np.nan if value is None else value for name, value in case["signs"].items()})
    wrong, flags = case["wrong"], signs.flags()
    value = np.nan if failure is None else badness(signs, failure)
    return FlaggedCase(
        unit,
        number,
        case["how"],
        case["how"] in set(PlantedFault),
        case["clear"],
        Outcome.of(wrong=bool(wrong), flagged=bool(flags))
        if failure is None
        else Outcome.of(wrong=failure in wrong, flagged=failure in flags),
        -np.inf if np.isnan(value) else value,
    )


def badness(signs: Signs, failure: Failure) -> float:
    """The sign that a flag is read from, so that more is worse; NaN where there is none."""
    match failure:
        case Failure.RIM_CHANGE:
            return signs.rim_mm2
        case Failure.SEPARATE_BLOB:
            return max(signs.blob_mm2, 0.0 if Failure.RIM_CHANGE in signs.flags() else signs.deep_mm2)
        case Failure.WRONG_WAY:
            return -signs.reach
        case Failure.MAP_APART:
            return -signs.overlap
        case _:
            raise ValueError(f"{failure} is not judged")


@dataclass(frozen=True)
class FlagSummary:
    """How good a flag is. recall: of every case with the failure, and of some; false_alarms: share of the sound ones.

    auc: of the sign, whatever its threshold; NaN where all cases or none have the failure.
    """

    cases: int
    wrong: int
    flagged: int
    precision: Estimate
    recall: Estimate
    recall_astray: Estimate
    recall_clear: Estimate
    recall_faint: Estimate
    false_alarms: Estimate
    false_alarms_of_controls: Estimate
    auc: float


def summaries_of(rows: dict[str, Row]) -> dict[str, FlagSummary]:
    """Of each flag that is judged, and of ANY."""
    return {str(failure): summary_of(rows, failure) for failure in JUDGED} | {ANY: summary_of(rows, None)}


def summary_of(rows: dict[str, Row], failure: Failure | None) -> FlagSummary:
    """Of one flag; None: of any."""
    cases = judge(rows, failure)
    wrong, signs = np.array([case.wrong for case in cases]), np.array([case.sign for case in cases])

    def flagged_among(chosen: Callable[[FlaggedCase], bool]) -> Estimate:
        return share_having([case for case in cases if chosen(case)], lambda case: case.flagged)

    return FlagSummary(
        cases=len(cases),
        wrong=int(wrong.sum()),
        flagged=sum(case.flagged for case in cases),
        precision=share_having([case for case in cases if case.flagged], lambda case: case.wrong),
        recall=flagged_among(lambda case: case.wrong),
        recall_astray=flagged_among(lambda case: case.wrong and not case.planted),
        recall_clear=flagged_among(lambda case: case.wrong and case.planted and case.clear),
        recall_faint=flagged_among(lambda case: case.wrong and case.planted and not case.clear),
        false_alarms=flagged_among(lambda case: not case.wrong),
        false_alarms_of_controls=flagged_among(lambda case: not case.wrong and case.how == CONTROL),
        auc=np.nan if failure is None else roc_auc(wrong, np.nan_to_num(signs, neginf=-1e9), np.full(len(cases), True)),
    )


def share_having(cases: Sequence[FlaggedCase], having: Callable[[FlaggedCase], bool]) -> Estimate:
    """The share of the cases that have something, resampling the patients who have such cases."""
    units = dict.fromkeys(case.unit for case in cases)
    counts = [[(having(case), 1) for case in cases if case.unit == unit] for unit in units]
    return estimate(np.array([np.sum(of_unit, axis=0) for of_unit in counts], np.float64).reshape(-1, 2), _ratio)


def _ratio(counts: Floats, axis: int) -> Floats:
    sums = counts.sum(axis=axis)
    return np.asarray(sums[..., 0] / sums[..., 1])


METRICS = tuple(
    Metric(name, label, 2, is_better, SHARE, share_having)
    for name, label, is_better in (
        ("precision", "precision", True),
        ("recall", "recall", True),
        ("recall_astray", "recall, forecasts led astray", True),
        ("recall_clear", "recall, planted clearly", True),
        ("recall_faint", "recall, planted faintly", True),
        ("false_alarms", "false alarms, all without it", False),
        ("false_alarms_of_controls", "false alarms, not provoked", False),
    )
)


def tables_of(rows: dict[str, Row], summaries: dict[str, FlagSummary]) -> list[Table]:
    """The flags, and what came of each provocation."""
    return [_flags(summaries), _provocations(rows)]


def _flags(summaries: dict[str, FlagSummary]) -> Table:
    lines = [
        (
            failure,
            f"{summary.wrong} of {summary.cases}",
            str(summary.flagged),
            *(estimate_cell(getattr(summary, metric.name), metric.digits) for metric in METRICS),
            "–" if np.isnan(summary.auc) else f"{summary.auc:.2f}",
        )
        for failure, summary in summaries.items()
    ]
    rules = " ".join(f"{failure}: {rule}." for failure, rule in RULES.items())
    note = (
        "Intervals: 95 % bootstrap over patients. Precision is that among these cases, of which more have a failure "
        "than in use. What is wrong is known of what was planted, and else by rules that ask neither detector nor "
        "segmenter, but the later scan and the unprovoked forecast. "
        f"{rules} {ANY.capitalize()}: one or more, too_little and too_much among them, where one or more of these is "
        "wrong. ROC AUC: of the sign, whatever its threshold."
    )
    head = ("flag", "have the failure", "flagged", *(metric.label for metric in METRICS), "ROC AUC")
    return Table("Flags", head, lines, note)


def _provocations(rows: dict[str, Row]) -> Table:
    judged = {failure: judge(rows, failure) for failure in RULES}
    lines = []
    for how, label in LABELS.items():
        cells = [_counts([case for case in cases if case.how == how]) for cases in judged.values()]
        count = sum(case["how"] == how for row in rows.values() for case in row["cases"])
        lines.append((label, str(count), *cells))
    note = "Cases with the failure / flagged / both."
    return Table("Provocations", ("how", "cases", *map(str, judged)), lines, note)


def _counts(cases: Sequence[FlaggedCase]) -> str:
    hits = sum(case.outcome is Outcome.HIT for case in cases)
    return f"{sum(case.wrong for case in cases)} / {sum(case.flagged for case in cases)} / {hits}"


def answer_of(rows: dict[str, Row], summaries: dict[str, FlagSummary]) -> str:
    """The question and its answer."""
    of_flags = "; ".join(
        f"{failure} is right in {estimate_cell(summary.precision, 2)} of the cases it flags, finds "
        f"{estimate_cell(summary.recall, 2)} of those that have it, and has "
        f"{estimate_cell(summary.false_alarms_of_controls, 2)} false alarms on sound forecasts"
        for failure, summary in summaries.items()
    )
    cases = sum(len(row["cases"]) for row in rows.values())
    return (
        f"How far can the flags be trusted? In {counted(cases, 'case')} of {counted(len(rows), 'patient')}: {of_flags}."
    )


def _picture(failure: Failure, rows: dict[str, Row], folder: Path) -> ReportPicture:
    judged = judge(rows, failure)
    by_outcome = [
        [case for case in judged if case.outcome is outcome] for outcome in Outcome if outcome is not Outcome.QUIET
    ]
    lines = [spread_evenly(cases, EXAMPLES) for cases in by_outcome if cases]
    caption = (
        f"Flag {failure}: hits, misses and false alarms, evenly chosen; above the mean of the members, below the map "
        "that the flag is read from. Cyan: present outline; red: later outline."
    )
    return ReportPicture(str(failure), caption, partial(_draw, lines, MAP_OF[failure], folder))


def _draw(lines: Sequence[Sequence[FlaggedCase]], map_name: str, folder: Path, path: Path) -> None:
    draw_flagged([[_flagged_slice(case, map_name, folder) for case in cases] for cases in lines], path)


def _flagged_slice(case: FlaggedCase, map_name: str, folder: Path) -> FlaggedSlice:
    strength = (" (clear)" if case.clear else " (faint)") if case.planted else ""
    with np.load(folder / case.unit / ARRAYS) as arrays:
        image, flag_map = (arrays[f"{case.number}.{name}"].astype(np.float32) for name in ("mean", map_name))
        return FlaggedSlice(
            title=f"{case.outcome}: {case.unit}\n{LABELS[case.how]}{strength}",
            map_name=map_name,
            image=image,
            flag_map=flag_map,
            brain=arrays["brain"],
            outline=arrays["outline"],
            later_outline=arrays["later"],
        )
