"""PNG pictures: of an archive's slices (`show`), a patient's growth (`fit --plots`), and a study of scan counts."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from tumorcast.archive.maps import PatientForecast, SliceForecast
from tumorcast.counted import counted
from tumorcast.evaluation.failure_flags import flags_of, reach_of
from tumorcast.growth.forecast import LEVELS, GrowthForecast
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.plot import FORECAST_COLOUR, GrowthCurve, add_legend, plot_growth, save_figure, size_label
from tumorcast.growth.population.history import from_log
from tumorcast.records import SizeSeries

PREFERRED_CONTRASTS = ("t2f", "t1c", "t2w", "t1n")
MARGIN = 2.5  # pixels round the brain
PRESENT_OUTLINE, FORECAST_OUTLINE = "cyan", "orangered"  # on grey
SYMLOG_FROM = 100.0
NOTE_WIDTH = 110  # most characters of a line of notes
NOTE_INCHES = 0.19  # height of such a line
COMPARED_AFTER_DAYS = 90.0  # after the last scan, where the forecaster's components are compared

Array = npt.NDArray[np.float32]


def by_preference(contrasts: Sequence[str]) -> list[str]:
    """The contrasts, the one that shows most first.

    >>> by_preference(["t1n", "t1c", "t2f"])
    ['t2f', 't1c', 't1n']
    """
    places = {name: place for place, name in enumerate(PREFERRED_CONTRASTS)}
    return sorted(contrasts, key=lambda name: places.get(name, len(places)))


def save_slice(patient: PatientForecast, forecast: SliceForecast, contrasts: list[str], out: Path) -> Path:
    """Write a slice's picture into folder `out`; returns its path."""
    path = out / f"{patient.patient_id}_{forecast.source_slice:04d}.png"
    save_figure(draw_slice(patient, forecast, contrasts), path)
    return path


def slice_record(patient_id: str, forecast: SliceForecast) -> dict[str, Any]:
    """Of a slice, areas in mm² (medians over members), and reach, the area gained over the area wanted
    (None where less than a twentieth was wanted).

    The segmenter's own area of the present slice is what the gain is counted from. flags: signs that it failed.
    """
    reach = reach_of(forecast)
    return {
        "patient_id": patient_id,
        "slice": int(forecast.source_slice),
        "present_mm2": float(forecast.present_mm2),
        "present_segmented_mm2": float(forecast.present_segmented_mm2),
        "aimed_mm2": float(np.median(forecast.aimed_mm2)),
        "reached_mm2": float(np.median(forecast.reached_mm2)),
        "reach": None if np.isnan(reach) else reach,
        "member_std": float(forecast.std[:, forecast.brain].mean()),
        "flags": flags_of(forecast),
    }


def draw_slice(patient: PatientForecast, forecast: SliceForecast, contrasts: list[str]) -> Figure:
    """Two rows of four panels; radiological convention: the patient's right is on the left."""
    figure = Figure(figsize=(14, 7.4), layout="constrained")
    panels = figure.subplots(2, 4)
    shown = [name for name in PREFERRED_CONTRASTS if name in contrasts][:2]
    for row, name in enumerate(shown):
        channel = contrasts.index(name)
        _draw_image(panels[row, 0], forecast.image[channel], forecast, f"scan, {name}")
        _draw_image(panels[row, 1], forecast.mean[channel], forecast, f"forecast (mean of members), {name}")
    base = forecast.image[contrasts.index(shown[0])]
    likely, name = (
        (forecast.tumour, "probability of tumour") if forecast.growth is None else (forecast.growth, "growth map")
    )
    _draw_map(panels[0, 2], likely, base, forecast, name)
    _draw_map(panels[1, 2], forecast.changed, base, forecast, "share of members changed (paper)")
    _draw_curve(panels[0, 3], patient)
    _draw_sizes(panels[1, 3], forecast)
    for axes in panels[1, :2] if len(shown) == 1 else ():
        axes.axis("off")
    figure.suptitle(_title(patient, forecast), fontsize=11)
    return figure


def _title(patient: PatientForecast, forecast: SliceForecast) -> str:
    when = "" if patient.target_day is None else f", forecast for day {patient.target_day:g}"
    flags = flags_of(forecast)
    return (
        f"{patient.patient_id}, scan of day {patient.day:g}, slice {forecast.source_slice}{when}: "
        f"{forecast.present_mm2:.0f} mm² now, {np.median(forecast.aimed_mm2):.0f} mm² aimed at (median), "
        f"{np.median(forecast.reached_mm2):.0f} mm² reached" + (f"\nflagged: {', '.join(flags)}" if flags else "")
    )


def _draw_image(axes: Axes, image: Array, forecast: SliceForecast, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    draw_outline(axes, forecast.labels > 0, 0.5, PRESENT_OUTLINE)
    draw_outline(axes, forecast.tumour, 0.5, FORECAST_OUTLINE)
    _frame(axes, forecast, title)


def _draw_map(axes: Axes, values: Array, base: Array, forecast: SliceForecast, title: str) -> None:
    axes.imshow(base, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    drawn = overlay_map(axes, values)
    draw_outline(axes, forecast.labels > 0, 0.5, PRESENT_OUTLINE)
    axes.figure.colorbar(drawn, ax=axes, shrink=0.75)
    _frame(axes, forecast, title)


def overlay_map(axes: Axes, values: Array) -> AxesImage:
    """A map of probabilities (H, W) over a picture, nothing where there is next to none."""
    shown = np.ma.masked_less(values, 0.02)
    return axes.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=0.75, interpolation="nearest")


def _frame(axes: Axes, forecast: SliceForecast, title: str) -> None:
    frame_brain(axes, forecast.brain)
    axes.set_title(title, fontsize=10)


def frame_brain(axes: Axes, brain: npt.NDArray[np.bool_]) -> None:
    """The brain (H, W) with a narrow margin, and no axes."""
    (top, bottom), (left, right) = (
        (max(places.min() - MARGIN, -0.5), min(places.max() + MARGIN, side - 0.5))
        if places.size
        else (-0.5, side - 0.5)
        for places, side in zip(np.nonzero(brain), brain.shape, strict=True)
    )
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")


def draw_outline(axes: Axes, values: npt.NDArray[np.generic], level: float, colour: str) -> None:
    """The line where values (H, W) pass a level, if they do."""
    numbers = values.astype(np.float64)
    if numbers.min() < level < numbers.max():
        axes.contour(numbers, [level], colors=colour, linewidths=1.0)


def _draw_curve(axes: Axes, patient: PatientForecast) -> None:
    if patient.curve is None:
        axes.text(0.5, 0.5, "sizes were asked for,\nno growth curve", ha="center", va="center")
        axes.axis("off")
        return
    marked = {} if patient.target_day is None else {"aimed at": float(patient.target_day)}
    plot_growth(axes, GrowthCurve.from_columns(patient.curve, patient.size_name or "size"), marked_days=marked)
    axes.set_title("growth", pad=16)
    add_legend(axes, loc="upper left")


def _draw_sizes(axes: Axes, forecast: SliceForecast) -> None:
    axes.plot(forecast.aimed_mm2, forecast.reached_mm2, "o", color=FORECAST_OUTLINE, alpha=0.7, label="members")
    axes.plot(
        forecast.present_mm2, forecast.present_segmented_mm2, "x", color=PRESENT_OUTLINE, markeredgewidth=2, label="now"
    )
    top = 1.1 * max(forecast.aimed_mm2.max(), forecast.reached_mm2.max(), forecast.present_mm2, 1.0)
    axes.plot([0, top], [0, top], color="0.7", linewidth=0.8)
    axes.set(xlabel="aimed at (mm²)", ylabel="reached, by the segmenter (mm²)", title="tumour area", aspect="equal")
    axes.legend(fontsize=8, loc="upper left")


def draw_patient(model: GrowthModel, folder: Path, series: SizeSeries) -> Path:
    """The patient's growth forecast as a PNG in `folder`; returns its path."""
    path = folder / f"{series.patient_id}.png"
    save_figure(draw_forecast(model.forecast(series)), path)
    return path


def draw_forecast(forecast: GrowthForecast) -> Figure:
    """The growth curve, and beside it what each component of the forecaster predicts for one day."""
    fit = forecast.fit
    scans = counted(fit.series.days.size, "scan")
    title = f"{fit.series.patient_id}: {scans}, fit {fit.status}, forecast {forecast.forecaster}"
    notes = [line for note in fit.notes for line in textwrap.wrap(note, NOTE_WIDTH)]
    figure = Figure(figsize=(12, 4.6 + NOTE_INCHES * len(notes)), layout="constrained")
    curve, components = figure.subplots(1, 2, width_ratios=[2.4, 1])
    plot_growth(curve, GrowthCurve.from_forecast(forecast))
    add_legend(curve, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, frameon=False)
    _draw_components(components, forecast)
    figure.suptitle("\n".join([title, *notes]), fontsize=11)
    return figure


def _draw_components(axes: Axes, forecast: GrowthForecast) -> None:
    """The 90 % interval and median of the whole forecaster, if it has several components, and of each component."""
    series = forecast.fit.series
    day = float(series.days[-1]) + COMPARED_AFTER_DAYS
    components = forecast.contributions(day)
    levels = [0.05, 0.5, 0.95]
    rows = [("all", forecast.predicted(day, np.array(levels)))] if len(components) > 1 else []
    for component in components:
        sizes = from_log(np.interp(levels, LEVELS, component.quantiles), series.size_name)
        rows.append((f"{component.name} ({component.weight:.0%})", sizes))
    for row, (_, (low, median, high)) in enumerate(rows):
        colour = FORECAST_COLOUR if row == 0 else "0.5"
        axes.plot([low, high], [-row, -row], color=colour, linewidth=2)
        axes.plot(median, -row, "o", color=colour)
    axes.axvline(float(series.sizes[-1]), color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(-np.arange(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.set_xscale("symlog", linthresh=SYMLOG_FROM)
    axes.set_xlabel(size_label(series.size_name), parse_math=False)
    axes.set(xlim=(0, None), title=f"{COMPARED_AFTER_DAYS:g} days after the last scan\n(dashed: the last size)")


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
        [f"{row['spacing']}\n{counted(row['scans_scored'], 'scan')}" for row in rows],
        [row["crps"] for row in rows],
        color="0.6",
    )
    panels[2].set(ylabel="CRPS of log size", title="spacing of the scans given")
    save_figure(figure, path)
