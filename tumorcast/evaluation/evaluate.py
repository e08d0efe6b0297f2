"""An archive of forecasts against the scans that came: a row a patient, and what a reader must know beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

import numpy as np

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.data.cohort import Cohort
from tumorcast.errors import InputError
from tumorcast.evaluation.archive_methods import Baseline, Unguided, slice_maps
from tumorcast.evaluation.followup import NoTruthError, archive_followups, check_cohort, later_scan
from tumorcast.evaluation.growth_metrics import THRESHOLDS
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.pairs import Pair
from tumorcast.evaluation.slice_figures import area_figures, image_figures, method_figures
from tumorcast.evaluation.tissue_growth import t1_of
from tumorcast.provenance import commit
from tumorcast.records import Contrast, PatientOutcome, Status
from tumorcast.version import VERSION

Report = Callable[[int, int], None]


class SizeGiven(StrEnum):
    """The area that every outline is given: what the forecast aimed at (median of members), or the true one."""

    AIMED = "aimed"
    TRUTH = "truth"


@dataclass(frozen=True)
class EvaluationSettings:
    """What is judged, and how. max_days_off: the most between the day aimed at and the scan that is taken for it."""

    baselines: tuple[Baseline, ...] = tuple(Baseline)
    size: SizeGiven = SizeGiven.AIMED
    max_days_off: float = 45.0


@dataclass(frozen=True)
class Evaluation:
    """What was found. rows: one a patient that was judged; outcomes: of every patient of the archive."""

    rows: list[Figures]
    outcomes: list[PatientOutcome]
    notes: list[str]
    record: dict[str, Any]


@dataclass(frozen=True)
class Evaluator:
    """Judges patient after patient. model: what makes unguided diffusion, None to leave it out."""

    archive: MapArchive
    cohort: Cohort
    settings: EvaluationSettings
    model: Unguided | None = None

    def evaluate(self, report: Report) -> Evaluation:
        """Judge every patient of the archive that has a later scan in the cohort.

        Raises InputError if the two do not belong together, if no patient could be judged, or none has tumour later.
        """
        check_cohort(self.archive, self.cohort)
        patients = self.archive.patients()
        rows: list[Figures] = []
        outcomes = []
        for done, patient in enumerate(patients, start=1):
            outcomes.append(self._tried(patient, rows))
            report(done, len(patients))
        self._check_rows(rows, outcomes)
        return Evaluation(rows, outcomes, self._notes(rows), self._record())

    def _tried(self, patient: PatientForecast, rows: list[Figures]) -> PatientOutcome:
        """Judge a patient and add the row; one that cannot be judged never stops the others."""
        name = patient.patient_id
        try:
            if name not in self.cohort.patient_ids():
                raise NoTruthError(f"not in {self.cohort.path}")
            rows.append(self._row(patient))
        except NoTruthError as reason:
            return PatientOutcome(name, Status.SKIPPED, str(reason))
        except InputError as fault:
            return PatientOutcome(name, Status.FAILED, str(fault))
        return PatientOutcome(name, Status.OK)

    def _check_rows(self, rows: list[Figures], outcomes: Sequence[PatientOutcome]) -> None:
        if not rows:
            reasons = "; ".join(f"{one.patient_id}: {one.reason}" for one in outcomes[:3])
            more = f"; and {len(outcomes) - 3} more" if len(outcomes) > 3 else ""
            raise InputError(f"{self.archive.path}: no patient could be judged; {reasons}{more}")
        if not any(one["areas"]["true_mm2"] > 0 for row in rows for one in row["slices"]):
            raise InputError(
                f"{self.cohort.path}: no tumour is left in any later scan of the slices forecast, so there is nothing "
                "to find; look whether its masks were read (`tumorcast prepare`)"
            )

    def _row(self, patient: PatientForecast) -> Figures:
        later = later_scan(self.cohort, patient, self.settings.max_days_off)
        pairs = archive_followups(self.archive, self.cohort, patient, later)
        slices = [
            slice_row(pair, forecast, self.cohort.contrasts, self.settings, self.model) for forecast, pair in pairs
        ]
        count = len(self.archive.slice_names(patient.patient_id))
        if not slices:
            raise NoTruthError(
                f"session {later.session.id} has none of the {count} slices forecast, with a mask; prepare "
                f"{self.cohort.path} with --slices all"
            )
        return {
            "patient_id": patient.patient_id,
            "session": patient.session_id,
            "later_session": later.session.id,
            "days": later.session.day - float(patient.day),
            "days_off": later.days_off,
            "slices_left_out": count - len(slices),
            "slices": slices,
        }

    def _notes(self, rows: Sequence[Figures]) -> list[str]:
        """What a reader must know of this evaluation beside the figures."""
        left_out = sum(row["slices_left_out"] for row in rows)
        wanted, model = self.settings.baselines, self.model
        told = {
            "The archive has no growth map (its model has no progression network): `product` is the segmenter's "
            "probability in the generated images.": not all(one["growth_map"] for row in rows for one in row["slices"]),
            "The forecast aims at no day: each patient's first scan after the one forecast from was taken.": any(
                row["days_off"] is None for row in rows
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
        return [note for note, holds in told.items() if holds]

    def _record(self) -> dict[str, Any]:
        """What the evaluation was made of."""
        return {
            "archive": {"name": self.archive.path.name, "provenance": self.archive.provenance},
            "truth": {"name": self.cohort.path.name, "sha256": self.cohort.sha256},
            "settings": {
                "baselines": [str(name) for name in self.settings.baselines],
                "size": str(self.settings.size),
                "max_days_off": self.settings.max_days_off,
                "unguided_members": None if self.model is None else self.model.settings.members,
            },
            "version": VERSION,
            "commit": commit(),
            "thresholds": list(THRESHOLDS),
        }


def slice_row(
    pair: Pair,
    forecast: SliceForecast,
    contrasts: tuple[Contrast, ...],
    settings: EvaluationSettings,
    model: Unguided | None,
) -> Figures:
    """A slice of a patient's row: every method's figures, the images' and the areas."""
    pixels = area_given(pair, forecast, settings.size)
    maps = slice_maps(pair, forecast, contrasts, settings.baselines, model)
    return {
        "slice": pair.now.source_slice,
        "pixels_given": pixels,
        "growth_map": forecast.growth is not None,
        "areas": area_figures(pair, forecast),
        "methods": method_figures(pair, maps, pixels),
        "images": image_figures(pair, forecast, maps),
    }


def area_given(pair: Pair, forecast: SliceForecast, size: SizeGiven) -> int:
    """The area of every method's outline, in pixels; that aimed at grows from the present outline's pixels."""
    match size:
        case SizeGiven.AIMED:
            ratio = float(np.median(forecast.aimed_mm2)) / float(forecast.present_mm2)
            return max(1, round(ratio * int((pair.now.labels > 0).sum())))
        case SizeGiven.TRUTH:
            return int((pair.later.labels > 0).sum())
        case _:
            assert_never(size)
