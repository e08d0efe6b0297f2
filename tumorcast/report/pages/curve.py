"""The growth of one patient: what was measured, what the fit says, and treatment; and its chart."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from tumorcast.archive.growth_file import GrowthFile
from tumorcast.archive.maps import PatientForecast
from tumorcast.growth.plot import size_label
from tumorcast.records import RadiotherapyCourse, SizeSeries, Treatment
from tumorcast.report.pages import words
from tumorcast.report.pages.svg import Frame, Numbers

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
POINTS = 110
BEYOND = 0.12  # of the span from the first scan to the day aimed at, which the curve goes on
HORIZON_DAYS = 365.0  # where no day is aimed at
MOST_OVER_LARGEST = 3.0  # the axis ends at so many times the largest measured size, whatever the band


@dataclass(frozen=True)
class Growth:
    """Sizes over the patient's own days. days: (T,); bands: (low, high) each (T,), widest first; median: (T,).

    treatment: None where nothing is known of it, which is the archive's own case. notes: what a reader should know.
    """

    size_name: str
    days: Numbers
    bands: list[tuple[str, Numbers, Numbers]]
    median: Numbers
    observed_days: Numbers
    observed_sizes: Numbers
    treatment: Treatment | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of_archive(cls, patient: PatientForecast) -> Self | None:
        """The curve that the archive holds; None where the forecast was of sizes that were asked for."""
        curve = patient.curve
        if curve is None:
            return None
        bands = [("5–95 %", curve["q05"], curve["q95"])]
        name = patient.size_name or "size"
        return cls(name, curve["days"], bands, curve["q50"], curve["observed_days"], curve["observed_sizes"])

    @classmethod
    def of_file(cls, growth: GrowthFile, patient: PatientForecast) -> Self:
        """What the growth file's own forecaster says from the first scan to past the day aimed at."""
        forecast = growth.forecast(patient.patient_id)
        fit, series = forecast.fit, forecast.fit.series
        days = np.linspace(float(series.days[0]), _last_day(series, patient.target_day), POINTS)
        low, below, median, above, high = forecast.quantiles(days, LEVELS)
        bands = [("5–95 %", low, high), ("25–75 %", below, above)]
        told = f"Law: {fit.law}, fit {str(fit.status).replace('_', ' ')}; forecast: {forecast.forecaster}."
        notes = [told, *(words.without_paths(note) for note in fit.notes)]
        return cls(series.size_name, days, bands, median, series.days, series.sizes, series.treatment, notes)


def _last_day(series: SizeSeries, target_day: float | None) -> float:
    first, last = float(series.days[0]), float(series.days[-1])
    return last + HORIZON_DAYS if target_day is None else target_day + BEYOND * (target_day - first)


@dataclass(frozen=True)
class Span:
    """A stretch of days on the chart, from pixel x and so wide, and what it was."""

    x: float
    width: float
    told: str


@dataclass(frozen=True)
class Mark:
    """A day on the chart, and what it is. anchor: of its text."""

    x: float
    told: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Measured:
    """A scan's size on the chart."""

    x: float
    y: float
    told: str


@dataclass(frozen=True)
class CurveChart:
    """The chart, as its template draws it, and the same in words."""

    frame: Frame
    bands: list[tuple[str, str]]
    median: str
    measured: list[Measured]
    radiotherapy: list[Span]
    resections: list[Mark]
    marks: list[Mark]
    told: list[str]
    rows: list[tuple[str, str]]

    @classmethod
    def of(cls, growth: Growth, patient: PatientForecast) -> Self:
        """Draw the growth of a patient."""
        frame = _frame(growth, patient)
        treatment = growth.treatment or Treatment()
        points = list(zip(growth.observed_days.tolist(), growth.observed_sizes.tolist(), strict=True))
        unit = words.THIN_SPACE + size_label(growth.size_name).rpartition("(")[2].rstrip(")")
        return cls(
            frame,
            [(name, frame.band(growth.days, low, high)) for name, low, high in growth.bands],
            frame.line(growth.days, growth.median),
            [Measured(frame.x.inside(d), frame.y.inside(s), f"day {d:g}: {s:,.0f}{unit}") for d, s in points],
            [_span(frame, course) for course in treatment.radiotherapy if _is_seen(frame, course)],
            [Mark(frame.x.inside(d), "resection") for d in treatment.resection_days if frame.x.low <= d],
            _marks(frame, patient),
            [*_treatment_told(growth.treatment), *growth.notes],
            [(f"{d:g}", f"{s:,.0f}{unit}".replace(",", words.THIN_SPACE)) for d, s in points],
        )


def _frame(growth: Growth, patient: PatientForecast) -> Frame:
    largest = max(float(growth.observed_sizes.max(initial=0)), float(growth.median.max()), 1.0)
    highest = max(float(high.max()) for _, _, high in growth.bands)
    top = max(1.12 * largest, min(1.05 * highest, MOST_OVER_LARGEST * largest))
    last = max(float(growth.days[-1]), patient.target_day or patient.day)
    first = min(float(growth.days[0]), float(growth.observed_days.min(initial=growth.days[0])))
    margin = 0.02 * max(last - first, 1.0)
    return Frame.of((first - margin, last + margin), (0.0, top), ("day", size_label(growth.size_name)))


def _is_seen(frame: Frame, course: RadiotherapyCourse) -> bool:
    return course.end_days > frame.x.low and course.start_days < frame.x.high


def _span(frame: Frame, course: RadiotherapyCourse) -> Span:
    start, end = frame.x.inside(course.start_days), frame.x.inside(course.end_days)
    return Span(start, max(round(end - start, 1), 1.0), _course_told(course))


def _marks(frame: Frame, patient: PatientForecast) -> list[Mark]:
    """The scan that was forecast from and the day aimed at; the text of the left one ends at it, lest they overlap."""
    marks = [Mark(frame.x.inside(patient.day), "forecast from", "end")]
    if patient.target_day is not None:
        marks.append(Mark(frame.x.inside(patient.target_day), "aimed at"))
    return marks


def _treatment_told(treatment: Treatment | None) -> list[str]:
    if treatment is None:
        return ["Treatment is not in the archive; a report made with --growth shows it."]
    told = [f"Radiotherapy: {_course_told(course)}." for course in treatment.radiotherapy]
    for one in treatment.chemotherapy:
        end = f"to day {one.end_days:g}" if np.isfinite(one.end_days) else "without an end"
        told.append(f"Chemotherapy: day {one.start_days:g} {end}.")
    told += [f"Resection: day {day:g}." for day in treatment.resection_days]
    return told or ["No treatment is known."]


def _course_told(course: RadiotherapyCourse) -> str:
    dose = "" if course.dose_gy is None else f", {course.dose_gy:g} Gy"
    fractions = "" if course.fractions is None else f" in {course.fractions} fractions"
    return f"day {course.start_days:g} to {course.end_days:g}{dose}{fractions}"
