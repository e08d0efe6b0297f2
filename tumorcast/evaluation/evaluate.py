"""An archive of forecasts against the scans that came: scores of every patient, and what a reader must know beside."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

import numpy as np

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.data.cohort import Cohort
from tumorcast.errors import InputError
from tumorcast.evaluation.baselines import Baseline, Method, MethodMap, SliceMaps, Unguided, slice_maps
from tumorcast.evaluation.fisher_kolmogorov import t1_of
from tumorcast.evaluation.followup import (
    FollowUp,
    NoTruthError,
    TargetSize,
    archive_followups,
    check_cohort,
    later_scan,
)
from tumorcast.evaluation.metrics import THRESHOLDS
from tumorcast.evaluation.score import SliceScores, score_slice
from tumorcast.provenance import commit
from tumorcast.records import PatientOutcome, Status
from tumorcast.version import VERSION

SIZE_WORDS = {TargetSize.FORECAST: "aimed", TargetSize.TRUE: "truth"}  # of --size and of evaluation.json

Report = Callable[[int, int], None]
MoreMaps = Callable[[FollowUp, SliceForecast], dict[Method, MethodMap]]


@dataclass(frozen=True)
class EvaluationSettings:
    """What is judged, and how. size: the area of every outline, the median of what members aim at or the true one.

    max_days_off: the most between the day aimed at and the scan that is taken for it.
    """

    baselines: tuple[Baseline, ...] = tuple(Baseline)
    size: TargetSize = TargetSize.FORECAST
    max_days_off: float = 45.0

    def as_dict(self) -> dict[str, Any]:
        """What holds for slices and volumes, for the record."""
        return {"baselines": [str(name) for name in self.baselines], "max_days_off": self.max_days_off}


@dataclass(frozen=True)
class PatientScores:
    """The judged slices of a patient, and how many of those forecast were left out.

    days: from the scan forecast from to the later one; days_off: of it from the day aimed at.
    """

    patient_id: str
    session: str
    later_session: str
    days: float
    days_off: float | None
    slices_left_out: int
    slices: list[SliceScores]


@dataclass(frozen=True)
class Evaluation:
    """Scores of the patients that were judged, how each of the archive fared, and what the scores were made of."""

    patients: list[PatientScores]
    outcomes: list[PatientOutcome]
    notes: list[str]
    record: dict[str, Any]


def no_more_maps(followup: FollowUp, forecast: SliceForecast) -> dict[Method, MethodMap]:
    """No maps but those of the archive and the baselines."""
    return {}


Scored = TypeVar("Scored")


def judge_patients(
    archive: MapArchive, cohort: Cohort, judge: Callable[[PatientForecast], Scored], report: Report
) -> tuple[list[Scored], list[PatientOutcome]]:
    """What `judge` finds of every patient of the archive, and how each fared; one that cannot be judged stops no other.

    Raises InputError if archive and cohort do not belong together.
    """
    check_cohort(archive, cohort)
    patients = archive.patients()
    judged: list[Scored] = []
    outcomes = []
    for done, patient in enumerate(patients, start=1):
        try:
            if patient.patient_id not in cohort.patient_ids():
                raise NoTruthError(f"not in {cohort.path}")
            judged.append(judge(patient))
            outcomes.append(PatientOutcome(patient.patient_id, Status.OK))
        except NoTruthError as reason:
            outcomes.append(PatientOutcome(patient.patient_id, Status.SKIPPED, str(reason)))
        except InputError as fault:
            outcomes.append(PatientOutcome(patient.patient_id, Status.FAILED, str(fault)))
        report(done, len(patients))
    return judged, outcomes


def none_judged(archive: MapArchive, outcomes: Sequence[PatientOutcome]) -> InputError:
    """That no patient could be judged, with the first reasons."""
    reasons = "; ".join(f"{outcome.patient_id}: {outcome.reason}" for outcome in outcomes[:3])
    more = f"; and {len(outcomes) - 3} more" if len(outcomes) > 3 else ""
    return InputError(f"{archive.path}: no patient could be judged; {reasons}{more}")


def evaluation_record(archive: MapArchive, cohort: Cohort, settings: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation was made of."""
    return {
        "archive": {"name": archive.path.name, "provenance": archive.provenance},
        "truth": {"name": cohort.path.name, "sha256": cohort.sha256},
        "settings": settings,
        "version": VERSION,
        "commit": commit(),
    }


@dataclass(frozen=True)
class Evaluator:
    """Judges patient after patient. model: what makes unguided diffusion, None to leave it out.

    more_maps: of other methods, for each slice.
    """

    archive: MapArchive
    cohort: Cohort
    settings: EvaluationSettings
    model: Unguided | None = None
    more_maps: MoreMaps = no_more_maps

    def evaluate(self, report: Report) -> Evaluation:
        """Judge every patient of the archive that has a later scan in the cohort.

        Raises InputError if the two do not belong together, if no patient could be judged, or none has tumour later.
        """
        judged, outcomes = judge_patients(self.archive, self.cohort, self._scores, report)
        self._check_judged(judged, outcomes)
        return Evaluation(judged, outcomes, self._notes(judged), self._record())

    def _check_judged(self, judged: list[PatientScores], outcomes: Sequence[PatientOutcome]) -> None:
        if not judged:
            raise none_judged(self.archive, outcomes)
        if not any(scores.areas.true_mm2 > 0 for scores in slices_of(judged)):
            raise InputError(
                f"{self.cohort.path}: no tumour is left in any later scan of the slices forecast, so there is nothing "
                "to find; look whether its masks were read (`tumorcast prepare`)"
            )

    def _scores(self, patient: PatientForecast) -> PatientScores:
        later = later_scan(self.cohort, patient, self.settings.max_days_off)
        slices = [
            self._slice_scores(followup, forecast)
            for forecast, followup in archive_followups(self.archive, self.cohort, patient, later)
        ]
        count = len(self.archive.slice_names(patient.patient_id))
        if not slices:
            raise NoTruthError(
                f"session {later.session.id} has none of the {count} slices forecast, with a mask; prepare "
                f"{self.cohort.path} with --slices all"
            )
        days = later.session.day - float(patient.day)
        ids = patient.patient_id, patient.session_id, later.session.id
        return PatientScores(*ids, days, later.days_off, count - len(slices), slices)

    def _slice_scores(self, followup: FollowUp, forecast: SliceForecast) -> SliceScores:
        found = slice_maps(followup, forecast, self.cohort.contrasts, self.settings.baselines, self.model)
        maps = SliceMaps(found.maps | self.more_maps(followup, forecast), found.unguided)
        return score_slice(followup, forecast, maps, given_pixels(followup, forecast, self.settings.size))

    def _notes(self, judged: Sequence[PatientScores]) -> list[str]:
        """What a reader must know of this evaluation beside the figures."""
        left_out = sum(patient.slices_left_out for patient in judged)
        wanted, model = self.settings.baselines, self.model
        notes = {
            "The archive has no growth map (its model has no progression network): `product` is the segmenter's "
            "probability in the generated images.": not all(scores.has_growth_map for scores in slices_of(judged)),
            "The forecast aims at no day: each patient's first scan after the one forecast from was taken.": any(
                patient.days_off is None for patient in judged
            ),
            f"{left_out} forecast slices are not in the later scan, or have no mask there, and were left out; a truth "
            "cohort prepared with `--slices all` has them, slices without tumour too.": left_out > 0,
            "The truth cohort has no dates: its days are the order of the scans.": not self.cohort.dated,
            "No T1 among the contrasts: Fisher–Kolmogorov was not made.": (
                Baseline.FISHER_KOLMOGOROV in wanted and t1_of(self.cohort.contrasts) is None
            ),
            "Unguided diffusion was not made: it needs `--model`.": Baseline.UNGUIDED in wanted and model is None,
            "Unguided diffusion is of another model than the forecast.": (
                model is not None and model.engine.info.sha256 != self.archive.provenance.get("model_sha256")
            ),
        }
        return [note for note, holds in notes.items() if holds]

    def _record(self) -> dict[str, Any]:
        """What the evaluation was made of."""
        settings = self.settings.as_dict() | {
            "size": SIZE_WORDS[self.settings.size],
            "unguided_members": None if self.model is None else self.model.settings.members,
        }
        return evaluation_record(self.archive, self.cohort, settings) | {"thresholds": list(THRESHOLDS)}


def slices_of(patients: Sequence[PatientScores]) -> Iterator[SliceScores]:
    """Every judged slice."""
    return (scores for patient in patients for scores in patient.slices)


def given_pixels(followup: FollowUp, forecast: SliceForecast, size: TargetSize) -> int:
    """The area of every method's outline, in pixels; that aimed at grows from the present outline's pixels."""
    match size:
        case TargetSize.FORECAST:
            ratio = float(np.median(forecast.aimed_mm2)) / float(forecast.present_mm2)
            return max(1, round(ratio * int((followup.now.labels > 0).sum())))
        case TargetSize.TRUE:
            return int((followup.later.labels > 0).sum())
        case _:
            assert_never(size)
