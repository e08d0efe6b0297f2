"""What clinicians ask of each patient's forecast, as a table: a row a patient and horizon. For research alone."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorcast.durable import written_whole
from tumorcast.growth.days_gained import DaysGained, days_gained
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.response import Outlook, Reference, TimeToProgression, outlooks, reference_of
from tumorcast.records import SizeSeries

FARTHEST_DAYS = 3650.0
LEVELS = (0.5, 0.05, 0.95)

COLUMNS = (
    "patient_id", "horizon_days", "p_progression_by", "p_progression_at", "p_response", "p_complete_response",
    "p_nothing_left", "p_exceeds_by", "p_exceeds_at", "q05", "q50", "q95",
    "days_to_progression", "days_to_progression_q05", "days_to_progression_q25", "days_to_progression_q75",
    "days_to_progression_q95", "p_never_progresses",
    "days_gained", "days_gained_q05", "days_gained_q95", "days_gained_why_not", "baseline_day", "baseline", "nadir",
)  # fmt: skip


@dataclass(frozen=True)
class Questions:
    """What is asked. horizons_days: after the last scan, in order; exceeds: a size, in the unit of the column."""

    horizons_days: tuple[float, ...] = (30.0, 90.0, 180.0)
    exceeds: float | None = None


@dataclass(frozen=True)
class PatientAnswers:
    """What the forecast says of one patient; outlooks: one a horizon."""

    patient_id: str
    reference: Reference
    outlooks: tuple[Outlook, ...]
    progression: TimeToProgression
    gained: DaysGained

    def rows(self) -> list[list[str]]:
        """Cells in the order of COLUMNS. A time beyond the farthest horizon is told as >days; what is not known, empty.

        Where the growth law's replicates tell of days gained, median, 5 and 95 %.
        """
        time, gained = self.progression, self.gained.quantiles(LEVELS)
        ends = (time.median, time.interval_90[0], *time.interval_50, time.interval_90[1])
        of_patient = [*map(time.told, ends), f"{time.never:.4g}"]
        of_patient += ["", "", ""] if gained is None else [f"{days:.4g}" for days in gained]
        of_patient += [self.gained.reason, *map(_size, (self.reference.baseline_day, self.reference.baseline))]
        of_patient.append(_size(self.reference.nadir))
        return [[self.patient_id, *_cells(outlook), *of_patient] for outlook in self.outlooks]


def _cells(outlook: Outlook) -> list[str]:
    shares = (outlook.progression_by, outlook.progression_at, outlook.response, outlook.complete, outlook.nothing_left)
    exceeds = (outlook.exceeds_by, outlook.exceeds_at)
    told = [f"{share:.4g}" for share in shares] + ["" if share is None else f"{share:.4g}" for share in exceeds]
    return [f"{outlook.horizon_days:g}", *told, *map(_size, outlook.sizes)]


def _size(size: float) -> str:
    return f"{size:.6g}"


def answer(model: GrowthModel, questions: Questions, series: SizeSeries) -> list[PatientAnswers]:
    """The answers for one patient, in a list of one. The numbers depend on the model's seed and the patient alone."""
    forecast = model.forecast(series)
    found, progression = outlooks(
        forecast, questions.horizons_days, exceeds=questions.exceeds, seed=model.settings.seed
    )
    gained = days_gained(forecast.fit)
    return [PatientAnswers(series.patient_id, reference_of(forecast.fit), tuple(found), progression, gained)]


def write_answers(path: Path, answers: Sequence[PatientAnswers]) -> None:
    """A CSV table with COLUMNS, in the order of the patients and of the horizons."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(row for patient in answers for row in patient.rows())
