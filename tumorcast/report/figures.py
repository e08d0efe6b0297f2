"""A picture a slice: the scan, its forecast, the growth maps over the scan, and the growth curve with its band."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.evaluation.failures import flags_of, reach_of

DISCLAIMER = "For research. Not a medical device."
PREFERRED = ("t2f", "t1c", "t2w", "t1n")
MARGIN = 2.5  # pixels round the brain
PRESENT_COLOUR, FORECAST_COLOUR = "cyan", "orangered"

Array = npt.NDArray[np.float32]


def show_archive(archive: MapArchive, out: Path) -> list[Path]:
    """Write one PNG for each slice of the archive into folder `out`; returns their paths."""
    contrasts = archive.provenance["contrasts"]
    paths = []
    for patient in archive.patients():
        for forecast in archive.slices(patient.patient_id):
            figure = draw_slice(patient, forecast, contrasts)
            paths.append(out / f"{patient.patient_id}_{forecast.source_slice:04d}.png")
            figure.savefig(paths[-1], dpi=110)
    return paths


def slice_figures(archive: MapArchive) -> list[dict[str, Any]]:
    """A record a slice: areas in mm² (medians over members), and reach, the area gained over the area wanted
    (None where less than a twentieth was wanted).

    The segmenter's own area of the present slice is what the gain is counted from. flags: signs that it failed.
    """
    return [
        _figures_of(patient.patient_id, forecast)
        for patient in archive.patients()
        for forecast in archive.slices(patient.patient_id)
    ]


def _figures_of(patient_id: str, forecast: SliceForecast) -> dict[str, Any]:
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
    shown = [name for name in PREFERRED if name in contrasts][:2]
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
    figure.text(0.005, 0.004, DISCLAIMER, ha="left", fontsize=8, color="0.4")
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
    _outline(axes, forecast.labels > 0, 0.5, PRESENT_COLOUR)
    _outline(axes, forecast.tumour, 0.5, FORECAST_COLOUR)
    _frame(axes, forecast, title)


def _draw_map(axes: Axes, values: Array, base: Array, forecast: SliceForecast, title: str) -> None:
    axes.imshow(base, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    drawn = axes.imshow(
        np.ma.masked_less(values, 0.02), cmap="inferno", vmin=0, vmax=1, alpha=0.75, interpolation="nearest"
    )
    _outline(axes, forecast.labels > 0, 0.5, PRESENT_COLOUR)
    axes.figure.colorbar(drawn, ax=axes, shrink=0.75)
    _frame(axes, forecast, title)


def _frame(axes: Axes, forecast: SliceForecast, title: str) -> None:
    """The brain with a narrow margin, and no axes."""
    rows, columns = np.nonzero(forecast.brain)
    if rows.size:
        axes.set(xlim=(columns.min() - MARGIN, columns.max() + MARGIN), ylim=(rows.max() + MARGIN, rows.min() - MARGIN))
    axes.set_title(title, fontsize=10)
    axes.axis("off")


def _outline(axes: Axes, values: npt.NDArray[np.generic], level: float, colour: str) -> None:
    numbers = values.astype(np.float64)
    if numbers.min() < level < numbers.max():
        axes.contour(numbers, [level], colors=colour, linewidths=1.0)


def _draw_curve(axes: Axes, patient: PatientForecast) -> None:
    if patient.curve is None:
        axes.text(0.5, 0.5, "sizes were asked for,\nno growth curve", ha="center", va="center")
        axes.axis("off")
        return
    curve = patient.curve
    axes.fill_between(curve["days"], curve["q05"], curve["q95"], color=FORECAST_COLOUR, alpha=0.25, label="5–95 %")
    axes.plot(curve["days"], curve["q50"], color=FORECAST_COLOUR, label="median")
    axes.plot(curve["observed_days"], curve["observed_sizes"], "o", color="black", label="measured")
    axes.set_ylim(0, 1.15 * max(curve["q95"].max(), curve["observed_sizes"].max(), 1.0))
    axes.set(xlabel="day", ylabel=size_label(patient.size_name), title="growth")
    axes.legend(fontsize=8, loc="upper left")


def size_label(size_name: str | None) -> str:
    """A label with its unit.

    >>> size_label("area_mm2")
    'area (mm²)'
    """
    name, _, unit = (size_name or "size").rpartition("_")
    return f"{name.replace('_', ' ')} ({unit.replace('2', '²').replace('3', '³')})" if name else unit


def _draw_sizes(axes: Axes, forecast: SliceForecast) -> None:
    axes.plot(forecast.aimed_mm2, forecast.reached_mm2, "o", color=FORECAST_COLOUR, alpha=0.7, label="members")
    axes.plot(
        forecast.present_mm2, forecast.present_segmented_mm2, "x", color=PRESENT_COLOUR, markeredgewidth=2, label="now"
    )
    top = 1.1 * max(forecast.aimed_mm2.max(), forecast.reached_mm2.max(), forecast.present_mm2, 1.0)
    axes.plot([0, top], [0, top], color="0.7", linewidth=0.8)
    axes.set(xlabel="aimed at (mm²)", ylabel="reached, by the segmenter (mm²)", title="tumour area", aspect="equal")
    axes.legend(fontsize=8, loc="upper left")
