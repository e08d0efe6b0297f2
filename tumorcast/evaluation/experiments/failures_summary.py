"""Flags against what is wrong, over all cases of all patients. Patients are the unit: intervals resample them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tumorcast.evaluation.experiments.experiment import Table
from tumorcast.evaluation.experiments.failure_truth import JUDGED, RULES
from tumorcast.evaluation.experiments.planting import Plant
from tumorcast.evaluation.experiments.provoked import CONTROL, TOLD
from tumorcast.evaluation.experiments.size_scores import cell
from tumorcast.evaluation.failures import Failure, Signs
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.metrics import roc_auc
from tumorcast.evaluation.paired import Estimate, estimate

Floats = npt.NDArray[np.float64]

ANY = "any flag"
SHOWN = "cases.npz"  # in a unit's folder: the arrays of its cases, by their numbers


class Outcome(StrEnum):
    """What a flag did in a case."""

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
class JudgedCase:
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


def judge(rows: dict[str, Figures], failure: Failure | None) -> list[JudgedCase]:
    """Every case of every unit under a flag, as it is raised now: a row has the signs that it is read from.

    None: under any flag, too_little and too_much among them, whatever is wrong.
    """
    return [
        _judged(unit, number, one, failure) for unit, row in rows.items() for number, one in enumerate(row["cases"])
    ]


def _judged(unit: str, number: int, case: Figures, failure: Failure | None) -> JudgedCase:
    signs = Signs(**{name: np.nan if value is None else value for name, value in case["signs"].items()})
    wrong, flags = case["wrong"], signs.flags()
    value = np.nan if failure is None else badness(signs, failure)
    return JudgedCase(
        unit,
        number,
        case["how"],
        case["how"] in set(Plant),
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


def summaries_of(rows: dict[str, Figures]) -> dict[str, FlagSummary]:
    """Of each flag that is judged, and of ANY."""
    return {str(failure): summary_of(rows, failure) for failure in JUDGED} | {ANY: summary_of(rows, None)}


def summary_of(rows: dict[str, Figures], failure: Failure | None) -> FlagSummary:
    """Of one flag; None: of any."""
    cases = judge(rows, failure)
    wrong, signs = np.array([one.wrong for one in cases]), np.array([one.sign for one in cases])

    def share(of: Callable[[JudgedCase], bool], having: Callable[[JudgedCase], bool]) -> Estimate:
        return _share([one for one in cases if of(one)], having)

    return FlagSummary(
        cases=len(cases),
        wrong=int(wrong.sum()),
        flagged=sum(one.flagged for one in cases),
        precision=share(lambda one: one.flagged, lambda one: one.wrong),
        recall=share(lambda one: one.wrong, lambda one: one.flagged),
        recall_astray=share(lambda one: one.wrong and not one.planted, lambda one: one.flagged),
        recall_clear=share(lambda one: one.wrong and one.planted and one.clear, lambda one: one.flagged),
        recall_faint=share(lambda one: one.wrong and one.planted and not one.clear, lambda one: one.flagged),
        false_alarms=share(lambda one: not one.wrong, lambda one: one.flagged),
        false_alarms_of_controls=share(lambda one: not one.wrong and one.how == CONTROL, lambda one: one.flagged),
        auc=np.nan if failure is None else roc_auc(wrong, np.nan_to_num(signs, neginf=-1e9), np.full(len(cases), True)),
    )


def _share(cases: Sequence[JudgedCase], having: Callable[[JudgedCase], bool]) -> Estimate:
    """The share of the cases that have something, resampling the patients who have such cases."""
    units = dict.fromkeys(one.unit for one in cases)
    counts = [[(having(one), 1) for one in cases if one.unit == unit] for unit in units]
    return estimate(np.array([np.sum(one, axis=0) for one in counts], np.float64).reshape(-1, 2), _ratio)


def _ratio(counts: Floats, axis: int) -> Floats:
    sums = counts.sum(axis=axis)
    return np.asarray(sums[..., 0] / sums[..., 1])


def tables_of(rows: dict[str, Figures], summaries: dict[str, FlagSummary]) -> list[Table]:
    """The flags, and what came of each provocation."""
    return [_flags(summaries), _provocations(rows)]


def _flags(summaries: dict[str, FlagSummary]) -> Table:
    heads = {
        "precision": "precision",
        "recall": "recall",
        "recall_astray": "recall, forecasts led astray",
        "recall_clear": "recall, planted clearly",
        "recall_faint": "recall, planted faintly",
        "false_alarms": "false alarms, all without it",
        "false_alarms_of_controls": "false alarms, not provoked",
    }
    lines = [
        (
            failure,
            f"{told.wrong} of {told.cases}",
            str(told.flagged),
            *(cell(getattr(told, name), 2) for name in heads),
            "–" if np.isnan(told.auc) else f"{told.auc:.2f}",
        )
        for failure, told in summaries.items()
    ]
    rules = " ".join(f"{failure}: {rule}." for failure, rule in RULES.items())
    note = (
        "Intervals: 95 % bootstrap over patients. Precision is that among these cases, of which more have a failure "
        "than in use. What is wrong is known of what was planted, and else by rules that ask neither detector nor "
        "segmenter, but the later scan and the unprovoked forecast. "
        f"{rules} {ANY.capitalize()}: one or more, too_little and too_much among them, where one or more of these is "
        "wrong. ROC AUC: of the sign, whatever its threshold."
    )
    return Table("Flags", ("flag", "have the failure", "flagged", *heads.values(), "ROC AUC"), lines, note)


def _provocations(rows: dict[str, Figures]) -> Table:
    judged = {failure: judge(rows, failure) for failure in RULES}
    lines = []
    for how, told in TOLD.items():
        cells = [_counts([one for one in cases if one.how == how]) for cases in judged.values()]
        count = sum(one["how"] == how for row in rows.values() for one in row["cases"])
        lines.append((told, str(count), *cells))
    note = "Cases with the failure / flagged / both."
    return Table("Provocations", ("how", "cases", *map(str, judged)), lines, note)


def _counts(cases: Sequence[JudgedCase]) -> str:
    hits = sum(one.outcome is Outcome.HIT for one in cases)
    return f"{sum(one.wrong for one in cases)} / {sum(one.flagged for one in cases)} / {hits}"


def answer_of(rows: dict[str, Figures], summaries: dict[str, FlagSummary]) -> str:
    """The question and its answer."""
    told = "; ".join(
        f"{failure} is right in {cell(one.precision, 2)} of the cases it flags, finds {cell(one.recall, 2)} of those "
        f"that have it, and has {cell(one.false_alarms_of_controls, 2)} false alarms on sound forecasts"
        for failure, one in summaries.items()
    )
    cases = sum(len(row["cases"]) for row in rows.values())
    return f"How far can the flags be trusted? In {cases} cases of {len(rows)} patients: {told}."
