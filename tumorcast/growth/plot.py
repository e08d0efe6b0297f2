"""A patient's growth on matplotlib axes: measured sizes, fit and forecast with bands, treatment and marked days.

The report, `show`, `fit --plots` and the experiments draw growth with `plot_growth`, and save their figures with
`save_figure`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.durable import written_whole
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.records import SizeSeries, Treatment

DISCLAIMER = "For research. Not a medical device."
# Okabe and Ito's hues, made dark enough to stand out 3 : 1 on white, as the stylesheet of the report has them.
INK_COLOUR, FIT_COLOUR, FORECAST_COLOUR, HELD_OUT_COLOUR = "#1b1f24", "#6b7580", "#b34700", "#0072b2"
RADIOTHERAPY_COLOUR, CHEMOTHERAPY_COLOUR = "#8e4585", "#00795a"

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
HORIZON_DAYS = 365.0  # a forecast is drawn so far where no day is aimed at
POINTS = 160
MOST_OVER_LARGEST = 3.0  # the axis ends at so many times the largest size, whatever the band

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """An interval of sizes over days: its label, and low and high, each (T,)."""

    label: str
    low: Array
    high: Array


@dataclass(frozen=True)
class GrowthCurve:
    """What is known of a patient's size over days: (N,) observed days and sizes, and quantiles of a growth forecast.

    days: (T,), ascending, past and future; median: (T,); bands: widest first. Sizes are in the unit that `size_name`
    ends with, days the patient's own. treatment: None where it is not known.
    """

    size_name: str
    days: Array
    median: Array
    bands: tuple[Band, ...]
    observed_days: Array
    observed_sizes: Array
    treatment: Treatment | None = None

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], size_name: str) -> Self:
        """The curve as maps.h5 and the files of experiments keep it.

        columns: days, q05, q50, q95, each (T,); observed_days, observed_sizes, each (N,).
        """
        band = Band("5–95 %", columns["q05"], columns["q95"])
        observed = columns["observed_days"], columns["observed_sizes"]
        return cls(size_name, columns["days"], columns["q50"], (band,), *observed)

    @classmethod
    def from_forecast(cls, forecast: GrowthForecast, last_day: float | None = None) -> Self:
        """From the first scan to last_day, by default a year after the last scan."""
        series = forecast.fit.series
        days = _days(series, last_day)
        low, below, median, above, high = forecast.quantiles(days, LEVELS)
        bands = (Band("5–95 %", low, high), Band("25–75 %", below, above))
        return cls(series.size_name, days, median, bands, series.days, series.sizes, series.treatment)


def _days(series: SizeSeries, last_day: float | None) -> Array:
    """POINTS days, and those on which the fit ends and the forecast begins: of the last scan, and the day after it."""
    first, last = float(series.days[0]), float(series.days[-1])
    end = last + HORIZON_DAYS if last_day is None else last_day
    return np.union1d(np.linspace(first, end, POINTS), [day for day in (last, last + 1.0) if day < end])


def plot_growth(
    axes: Axes,
    curve: GrowthCurve,
    *,
    marked_days: Mapping[str, float] | None = None,
    held_out: tuple[float, float] | None = None,
) -> None:
    """Draw the growth of a patient on `axes`; the caller adds title and legend.

    Grey up to the last scan, where the growth law was fitted; orange from it on, where it is a forecast. marked_days:
    dashed lines by their text, e.g. the day aimed at. held_out: (day, size) of a later scan that the forecast did not
    know. Artists have a gid (median, band, measured, radiotherapy, …), by which they are found in an SVG.
    """
    _plot_treatment(axes, curve)
    past = curve.days < curve.observed_days[-1]
    _plot_quantiles(axes, curve, past, FIT_COLOUR, "fit")
    _plot_quantiles(axes, curve, ~past, FORECAST_COLOUR, "forecast")
    points: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "zorder": 5, "clip_on": False}
    observed = curve.observed_days, curve.observed_sizes
    axes.plot(*observed, marker="o", color=INK_COLOUR, label="measured", gid="measured", **points)
    if held_out is not None:
        axes.plot(*held_out, marker="D", color=HELD_OUT_COLOUR, label="later scan", gid="held_out", **points)
    marks = list((marked_days or {}).values())
    for text, day in (marked_days or {}).items():
        axes.axvline(day, color=INK_COLOUR, linestyle="--", linewidth=1, gid="marked_day")
        side = "center" if day == max(marks) else "right"  # lest texts overlap
        axes.text(day, 1.01, text, ha=side, va="bottom", transform=axes.get_xaxis_transform())
    axes.set_xlabel("day")
    axes.set_ylabel(size_label(curve.size_name), parse_math=False)  # the column of a table may have any name
    axes.set(xlim=_day_limits(curve, marks, held_out), ylim=(0, _highest_shown(curve, marks, held_out)))


def _plot_quantiles(axes: Axes, curve: GrowthCurve, part: npt.NDArray[np.bool_], colour: str, name: str) -> None:
    """The median and the bands of a part of the days: (T,) booleans; nothing where it is empty."""
    if not part.any():  # a fit of one scan has no past, a forecast of a size now no future
        return
    days = curve.days[part]
    for band in curve.bands:
        low, high = band.low[part], band.high[part]
        label = f"{name}, {band.label}"
        axes.fill_between(days, low, high, color=colour, alpha=0.2, linewidth=0, label=label, gid="band")
    axes.plot(days, curve.median[part], color=colour, linewidth=2, label=f"{name}, median", gid="median")


def _plot_treatment(axes: Axes, curve: GrowthCurve) -> None:
    """Radiotherapy as shaded spans, chemotherapy as bars at the foot, resections as dotted lines.

    What lies wholly outside the days of the curve has no label. Every course of radiotherapy has its artist all the
    same: the report gives each a text, in order.
    """
    treatment = curve.treatment or Treatment()
    first, last = float(curve.days[0]), float(curve.days[-1])
    for course in treatment.radiotherapy:
        span = (course.start_days, course.end_days)
        label = "radiotherapy" if course.start_days <= last and course.end_days >= first else ""
        axes.axvspan(*span, color=RADIOTHERAPY_COLOUR, alpha=0.16, label=label, gid="radiotherapy")
    for drug in treatment.chemotherapy:
        if drug.start_days >= last or drug.end_days < first:
            continue
        span = (drug.start_days, min(drug.end_days, last))
        axes.plot(span, (0, 0), color=CHEMOTHERAPY_COLOUR, linewidth=5, label="chemotherapy", gid="chemotherapy")
    for day in treatment.resection_days:
        label = "resection, known or inferred" if first <= day <= last else ""
        axes.axvline(day, color=INK_COLOUR, linestyle=":", linewidth=1, label=label, gid="resection")


def _day_limits(curve: GrowthCurve, marks: list[float], held_out: tuple[float, float] | None) -> tuple[float, float]:
    """From the first to the last day of curve, scans and marks, with a margin; treatment may lie outside."""
    days = np.concatenate([curve.days, curve.observed_days, marks, held_out[:1] if held_out else []])
    first, last = float(days.min()), float(days.max())
    margin = 0.02 * max(last - first, 1.0)
    return first - margin, last + margin


def _highest_shown(curve: GrowthCurve, marks: list[float], held_out: tuple[float, float] | None) -> float:
    """The end of the axis of sizes: above what was measured and what is forecast for the days marked, and above the
    bands as far as these are not many times higher."""
    forecast = (curve.days > curve.observed_days[-1]) & (curve.days <= max(marks, default=-np.inf))
    largest = max(
        float(curve.observed_sizes.max()),
        held_out[1] if held_out else 0.0,
        float(curve.median[forecast].max(initial=0.0)),
        1.0,
    )
    highest = max(float(band.high.max()) for band in curve.bands)
    return max(1.12 * largest, min(1.05 * highest, MOST_OVER_LARGEST * largest))


def size_label(size_name: str | None) -> str:
    """A label with its unit.

    >>> size_label("area_mm2")
    'area (mm²)'
    """
    name, _, unit = (size_name or "size").rpartition("_")
    return f"{name.replace('_', ' ')} ({unit.replace('2', '²').replace('3', '³')})" if name else unit


def add_legend(axes: Axes, **style: Any) -> None:
    """A legend in which what is drawn several times stands once. style: as of `Axes.legend`."""
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    axes.legend(by_label.values(), by_label.keys(), fontsize=8, **style)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all, with the word that it is for research below it; the path may have any name."""
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
