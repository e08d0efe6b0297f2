"""The volumes of an archive of forecasts against the scans that came: scores of every patient, and what to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorcast.archive.maps import MapArchive, PatientForecast
from tumorcast.arrival.front import t1_of
from tumorcast.counted import counted
from tumorcast.data.cohort import Cohort
from tumorcast.evaluation.baselines import Baseline
from tumorcast.evaluation.evaluate import EvaluationSettings, Report, evaluation_record, judge_patients
from tumorcast.evaluation.volume_baselines import PlaneSegmenter, VolumeMap
from tumorcast.evaluation.volume_followup import archived_volume, judged_horizon, volume_followup
from tumorcast.evaluation.volume_score import VolumeScores, judge_volumes
from tumorcast.records import PatientOutcome


@dataclass(frozen=True)
class PatientVolume:
    """The judged volume of a patient.

    horizon_days: of the forecast that is judged, None of a change asked for. days: from the scan forecast from to the
    later one; days_off: of it from the horizon.
    """

    patient_id: str
    session: str
    later_session: str
    horizon_days: float | None
    days: float
    days_off: float | None
    place: str
    scores: VolumeScores


@dataclass(frozen=True)
class VolumeEvaluation:
    """Scores of the patients whose volume was judged, how each fared, and what the scores were made of."""

    patients: list[PatientVolume]
    outcomes: list[PatientOutcome]
    notes: list[str]
    record: dict[str, Any]


@dataclass(frozen=True)
class VolumeEvaluator:
    """Judges volume after volume. segmenter: of slices, for segmenter + distance; None to leave it out."""

    archive: MapArchive
    cohort: Cohort
    settings: EvaluationSettings
    segmenter: PlaneSegmenter | None = None

    def evaluate(self, report: Report) -> VolumeEvaluation:
        """Judge every patient of the archive that has a volume there, and one of a later scan in the cohort.

        Raises InputError if the two do not belong together.
        """
        judged, outcomes = judge_patients(self.archive, self.cohort, self._judged, report)
        record = evaluation_record(self.archive, self.cohort, self.settings.as_dict())
        return VolumeEvaluation(judged, outcomes, self._notes(judged), record)

    def _judged(self, patient: PatientForecast) -> PatientVolume:
        forecast = archived_volume(self.archive, patient.patient_id)
        horizon = judged_horizon(self.cohort, patient, forecast, self.settings.max_days_off)
        later = horizon.later.session
        followup = volume_followup(self.cohort, patient.patient_id, forecast, horizon.later)
        segmenter = self.segmenter if self._no_segmenter(forecast.voxel_mm) is None else None
        ahead = float(forecast.horizon_days[horizon.number])
        return PatientVolume(
            patient_id=patient.patient_id,
            session=patient.session_id,
            later_session=later.id,
            horizon_days=None if np.isnan(ahead) else ahead,
            days=later.day - float(patient.day),
            days_off=horizon.later.days_off,
            place=forecast.model,
            scores=judge_volumes(
                followup.present,
                followup.later,
                VolumeMap.forecast(forecast, horizon.number),
                forecast.target_ratio[horizon.number],
                self.cohort.contrasts,
                expected_mm3=float(forecast.expected_mm3[horizon.number]),
                baselines=self.settings.baselines,
                segmenter=segmenter,
            ),
        )

    def _no_segmenter(self, voxel_mm: float) -> str | None:
        """Why segmenter + distance is not made of voxels of this side; None where it is."""
        if self.segmenter is None:
            return "it needs `--model`"
        return self.segmenter.why_not(self.cohort.contrasts, voxel_mm)

    def _notes(self, judged: Sequence[PatientVolume]) -> list[str]:
        """What a reader must know of this evaluation beside the figures."""
        still = [patient.patient_id for patient in judged if patient.scores.facts.new_mm3 == 0]
        wanted, none_t1 = self.settings.baselines, t1_of(self.cohort.contrasts) is None
        notes = {
            f"Without new tumour, and so without AP, recall or coverage; the other figures are of them too: "
            f"{counted(len(still), 'patient')}, {', '.join(still)}.": bool(still),
            "The forecast aims at no day: each patient's first scan after the one forecast from was taken.": any(
                patient.days_off is None for patient in judged
            ),
            "The truth cohort has no dates: its days are the order of the scans.": not self.cohort.dated,
            "No T1 among the contrasts: Fisher–Kolmogorov takes all tissue for white matter.": (
                Baseline.FISHER_KOLMOGOROV in wanted and none_t1
            ),
        }
        found = [note for note, holds in notes.items() if holds]
        return found + (self._left_out() if Baseline.SEGMENTER_DISTANCE in wanted else [])

    def _left_out(self) -> list[str]:
        """Why segmenter + distance was not made, for each size of voxels that there is."""
        names = self.archive.record.get("volumes", [])
        sides = {round(archived_volume(self.archive, name).voxel_mm, 3) for name in names}
        reasons = {self._no_segmenter(side) for side in sides} - {None}
        return [f"Segmenter + distance was not made: {reason}." for reason in sorted(map(str, reasons))]
