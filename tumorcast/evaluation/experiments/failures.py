"""How far can the flags of failure be trusted? Their precision and recall on failures that were provoked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.errors import InputError
from tumorcast.evaluation.experiments.cases import CaseSource, case_of, spread_evenly
from tumorcast.evaluation.experiments.experiment import Findings, Picture
from tumorcast.evaluation.experiments.failure_truth import JUDGED, FailureTruth
from tumorcast.evaluation.experiments.failures_summary import SHOWN, Outcome, answer_of, judge, summaries_of, tables_of
from tumorcast.evaluation.experiments.folder import unit_name
from tumorcast.evaluation.experiments.provoked import Provoked, provoke
from tumorcast.evaluation.experiments.shown import channel_shown
from tumorcast.evaluation.failures import Failure, Signs
from tumorcast.evaluation.judging import Figures

SHOWN_OUTCOMES = (Outcome.HIT, Outcome.MISSED, Outcome.FALSE_ALARM)
EXAMPLES = 5  # of each


@dataclass(frozen=True)
class Failures:
    """Each patient's forecast, sound and with failures provoked, and what the flags say of it.

    Of patients whose tumour grew by a tenth between two scans: the latest such pair.
    """

    source: CaseSource
    name = "failures"

    def made_of(self) -> dict[str, Any]:
        """Settings, cohort and model."""
        return self.source.made_of()

    def units(self) -> Sequence[str]:
        """The patients with such a pair. Raises InputError if there is none."""
        return list(self._patients)

    @cached_property
    def _patients(self) -> dict[str, str]:
        names = [one for one in self.source.cohort.patient_ids() if self._has_grown(one)]
        if not names:
            raise InputError(
                f"{self.source.cohort.path}: no patient's tumour grew by a tenth between two scans, so nothing tells "
                "what went wrong; give a cohort where some do"
            )
        return {unit_name(one): one for one in spread_evenly(names, self.source.patients)}

    def _has_grown(self, patient_id: str) -> bool:
        found = case_of(self.source.cohort, patient_id, 0.0)
        return found is not None and found.known

    def measure(self, unit: str, pictures: Path) -> Figures:
        """Every case of the patient: how it was made, what is wrong with it, and what is flagged."""
        case = self.source.case(self._patients[unit])
        made = list(provoke(case, self.source.engine, self.source.settings))
        truth = FailureTruth(case.pair, made[0].forecast)
        channel, pair = channel_shown(self.source.cohort.contrasts), case.pair
        arrays: dict[str, Any] = {
            "brain": pair.now.brain,
            "outline": pair.now.labels > 0,
            "later": pair.later.labels > 0,
            **{f"{k}.{name}": one for k, each in enumerate(made) for name, one in _arrays(each, channel).items()},
        }
        np.savez_compressed(pictures / SHOWN, **arrays)
        return case.told() | {"cases": [_told(each, truth) for each in made]}

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """Precision and recall of every flag, and what was hit and missed."""
        summaries = summaries_of(rows)
        return Findings(
            answer=answer_of(rows, summaries),
            figures={name: asdict(told) for name, told in summaries.items()},
            tables=tables_of(rows, summaries),
            pictures=[_picture(failure, rows, pictures) for failure in JUDGED],
        )


def _told(made: Provoked, truth: FailureTruth) -> Figures:
    """A case as its row has it. What is planted into a sound forecast is all that is wrong with it."""
    wrong = [made.planted] if made.planted else [name for name, is_so in truth.of(made.forecast).items() if is_so]
    return {
        "how": str(made.how),
        "clear": made.clear,
        "wrong": [str(name) for name in wrong],
        "signs": asdict(Signs.of(made.forecast)),
    }


def _arrays(made: Provoked, channel: int) -> dict[str, Any]:
    """What a picture shows of a case, in half precision."""
    forecast = made.forecast
    maps = {"changed": forecast.changed, "tumour": forecast.tumour, "mean": forecast.mean[channel]}
    maps["growth"] = forecast.tumour if forecast.growth is None else forecast.growth
    return {name: one.astype(np.float16) for name, one in maps.items()}


def _picture(failure: Failure, rows: dict[str, Figures], folder: Path) -> Picture:
    from tumorcast.evaluation.experiments.failures_figures import draw_judged  # noqa: PLC0415 - matplotlib is slow

    judged = judge(rows, failure)
    lines = {outcome: [one for one in judged if one.outcome is outcome] for outcome in SHOWN_OUTCOMES}
    lines = {outcome: spread_evenly(found, EXAMPLES) for outcome, found in lines.items() if found}
    caption = (
        f"Flag {failure}: hits, misses and false alarms, evenly chosen; above the mean of the members, below the map "
        "that the flag is read from. Cyan: present outline; red: later outline."
    )
    return Picture(str(failure), caption, partial(draw_judged, failure, lines, folder))
