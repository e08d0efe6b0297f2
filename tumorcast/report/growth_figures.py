"""Pictures of growth: a curve a patient with its forecast, and the study of how many scans are needed."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.durable import written_whole
from tumorcast.growth.forecast import LEVELS, GrowthForecast
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.population.history import from_log
from tumorcast.records import SizeSeries
from tumorcast.report.figures import DISCLAIMER, FORECAST_COLOUR, size_label

Array = npt.NDArray[np.float64]

HORIZON_DAYS = 365.0
POINTS = 120
SYMLOG_FROM = 100.0
BAND = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
MOST_OVER_LARGEST = 4.0  # the axis ends at so many times the largest measured size, whatever the band
MEMBER_DAY = 90.0  # after the last scan, where the members are compared
TREATMENT_COLOUR, CHEMOTHERAPY_COLOUR = "tab:purple", "tab:green"


def draw_patient(model: GrowthModel, folder: Path, series: SizeSeries) -> Path:
    """A PNG in `folder`; returns its path."""
    path = folder / f"{series.patient_id}.png"
    save(draw_forecast(model.forecast(series)), path)
    return path


def save(figure: Figure, path: Path) -> None:
    """Write the figure, whole or not at all, with the word that it is for research."""
    figure.text(0.005, 0.004, DISCLAIMER, ha="left", fontsize=8, color="0.4")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def draw_forecast(forecast: GrowthForecast) -> Figure:
    """The scans, the law's fit, the forecast's band, and beside it what each member says of a day."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    curve, members = figure.subplots(1, 2, width_ratios=[2.4, 1])
    _draw_curve(curve, forecast)
    _draw_members(members, forecast)
    series = forecast.fit.series
    figure.suptitle(f"{series.patient_id}: {series.days.size} scans, fit {forecast.fit.status}", fontsize=11)
    if forecast.fit.notes:
        figure.supxlabel("; ".join(forecast.fit.notes), fontsize=8, color="0.3")
    return figure


def _draw_curve(axes: Axes, forecast: GrowthForecast) -> None:
    series = forecast.fit.series
    first, last = float(series.days[0]), float(series.days[-1])
    past = np.linspace(first, last, POINTS) if last > first else np.array([first])
    future = np.linspace(last + 1.0, last + HORIZON_DAYS, POINTS)
    _draw_band(axes, forecast, past, "0.4", "growth law")
    highest = _draw_band(axes, forecast, future, FORECAST_COLOUR, f"forecast ({forecast.forecaster})")
    axes.plot(series.days, series.sizes, "o", color="black", label="measured", zorder=5)
    _draw_treatment(axes, forecast)
    largest = max(float(series.sizes.max()), 1.0)
    top = max(1.15 * largest, min(highest, MOST_OVER_LARGEST * largest))
    axes.set(xlabel="day", ylabel=size_label(series.size_name), ylim=(-0.02 * top, top), xlim=(first - 20, future[-1]))
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)


def _draw_band(axes: Axes, forecast: GrowthForecast, days: Array, colour: str, label: str) -> float:
    """The median with its 50 and 90 % bands; returns the highest 95 % point."""
    low, below, middle, above, high = forecast.quantiles(days, BAND)
    axes.fill_between(days, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.fill_between(days, below, above, color=colour, alpha=0.28, linewidth=0)
    axes.plot(days, middle, color=colour, label=f"{label}: median, 50 % and 90 %")
    return float(high.max())


def _draw_treatment(axes: Axes, forecast: GrowthForecast) -> None:
    treatment = forecast.fit.series.treatment
    for course in treatment.radiotherapy:
        axes.axvspan(course.start_days, course.end_days, color=TREATMENT_COLOUR, alpha=0.15, label="radiotherapy")
    for chemotherapy in treatment.chemotherapy:
        if np.isfinite(chemotherapy.end_days):
            span = [chemotherapy.start_days, chemotherapy.end_days]
            axes.plot(span, [0, 0], color=CHEMOTHERAPY_COLOUR, linewidth=4, label="chemotherapy")
    for place, day in enumerate(treatment.resection_days):
        label = "resection, known or inferred" if place == 0 else None
        axes.axvline(day, color="black", linestyle=":", label=label)


def _draw_members(axes: Axes, forecast: GrowthForecast) -> None:
    name = forecast.fit.series.size_name
    day = float(forecast.fit.series.days[-1]) + MEMBER_DAY
    said = list(forecast.contributions(day))
    low, middle, high = forecast.predicted(day, np.array([0.05, 0.5, 0.95]))
    rows = [("all" if len(said) > 1 else str(said[0].name), low, middle, high)] if len(said) > 1 else []
    for one in said:
        values = from_log(np.interp([0.05, 0.5, 0.95], LEVELS, one.quantiles), name)
        rows.append((f"{one.name} ({one.weight:.0%})", *values))
    for place, (_, least, median, most) in enumerate(rows):
        axes.plot([least, most], [-place, -place], color=FORECAST_COLOUR if place == 0 else "0.5", linewidth=2)
        axes.plot(median, -place, "o", color=FORECAST_COLOUR if place == 0 else "0.5")
    axes.axvline(float(forecast.fit.series.sizes[-1]), color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks([-place for place in range(len(rows))], [row[0] for row in rows], fontsize=8)
    axes.set_xscale("symlog", linthresh=SYMLOG_FROM)
    axes.set(xlabel=size_label(name), xlim=(0, None), title=f"{MEMBER_DAY:g} days after the last scan")


def draw_study(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Error, width and coverage by the number of scans given, and by their spacing."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for name, rows in tables.items():
        if name == "spacing" or not rows:
            continue
        given = [row["scans_given"] for row in rows]
        panels[0].plot(given, [row["crps"] for row in rows], "o-", label=name)
        panels[1].plot(given, [row["coverage90"] for row in rows], "o-", label=name)
    panels[0].set(xlabel="scans given", ylabel="CRPS of log size", title="error")
    panels[1].set(xlabel="scans given", ylabel="coverage of the 90 % interval", title="coverage", ylim=(0.5, 1.02))
    panels[1].axhline(0.9, color="0.6", linewidth=0.8)
    if panels[0].lines:
        panels[0].legend(fontsize=8)
    rows = tables["spacing"]
    panels[2].bar(
        [f"{row['spacing']}\n{row['scans_scored']} scans" for row in rows], [row["crps"] for row in rows], color="0.6"
    )
    panels[2].set(ylabel="CRPS of log size", title="spacing of the scans given")
    save(figure, path)
