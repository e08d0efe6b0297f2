"""PNG pictures of whole tumours, for `show`: three planes a horizon, with the growth map and volumes in mL."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.archive.maps import PatientForecast, VolumeForecast
from tumorcast.growth.plot import save_figure
from tumorcast.report.planes import Plane, planes_through
from tumorcast.report.plots import (
    FORECAST_OUTLINE,
    MARGIN,
    NOTE_INCHES,
    PRESENT_OUTLINE,
    by_preference,
    draw_outline,
    frame_brain,
    overlay_map,
)
from tumorcast.report.sizes import HorizonVolumes, ml, volumes_of

WIDTH_INCHES, PICTURE_INCHES = 14.0, 12.6  # of the figure, and of the three planes together
TITLE_INCHES = 0.6  # of the figure and of a row
LETTERS = (  # where the ends of a plane are named: x, y and how the letter stands there
    (0.01, 0.5, "left", "center"),
    (0.99, 0.5, "right", "center"),
    (0.5, 0.99, "center", "top"),
    (0.5, 0.01, "center", "bottom"),
)


def save_volume(
    patient: PatientForecast, forecast: VolumeForecast, contrasts: list[str], contour: float, out: Path
) -> Path:
    """Write the picture of a patient's volume into folder `out`; returns its path."""
    path = out / f"{patient.patient_id}_volume.png"
    save_figure(draw_volume(patient, forecast, contrasts, contour), path)
    return path


def volume_record(patient_id: str, forecast: VolumeForecast, contour: float) -> list[dict[str, Any]]:
    """A record a horizon: volumes in mL, now and foretold."""
    return [{"patient_id": patient_id, **volumes.record()} for volumes in volumes_of(forecast, contour)]


def draw_volume(patient: PatientForecast, forecast: VolumeForecast, contrasts: list[str], contour: float) -> Figure:
    """A row a horizon, of the same three planes at one scale; radiological convention, see planes.py."""
    volumes, planes = volumes_of(forecast, contour), planes_through(forecast)
    heights, widths = zip(*(_extent(plane.shadow(forecast.brain)) for plane in planes), strict=True)
    notes = max(len(sizes.reach.notes()) for sizes in volumes)
    row_inches = TITLE_INCHES + NOTE_INCHES * notes + PICTURE_INCHES * max(heights) / sum(widths)
    figure = Figure(figsize=(WIDTH_INCHES, TITLE_INCHES + row_inches * len(volumes)), layout="constrained")
    name = by_preference(contrasts)[0]
    for horizon, row in enumerate(figure.subfigures(len(volumes), 1, squeeze=False)[:, 0]):
        panels = row.subplots(1, len(planes), width_ratios=widths)
        for axes, plane in zip(panels, planes, strict=True):
            _draw_plane(axes, plane, forecast, contrasts.index(name), horizon, contour=contour)
        row.colorbar(panels[-1].images[-1], ax=panels, shrink=0.8, label="probability of tumour")
        row.suptitle(_row_title(volumes[horizon]), fontsize=11)
    figure.suptitle(
        f"{patient.patient_id}, scan of day {patient.day:g}, {name}: present outline {PRESENT_OUTLINE}; growth map "
        f"with its contour at probability {contour:g} {FORECAST_OUTLINE}",
        fontsize=11,
    )
    return figure


def _extent(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Rows and columns that `frame_brain` shows of a mask (H, W)."""
    rows, columns = (np.ptp(places) + 2 * MARGIN for places in np.nonzero(mask))
    return float(rows), float(columns)


def _row_title(sizes: HorizonVolumes) -> str:
    told = sizes.foretold
    spread = "" if told.low == told.high else f" (median; 90 %: {ml(told.low)} to {ml(told.high)})"
    line = (
        f"{sizes.when}: {ml(sizes.present)} now, {ml(told.median)} foretold{spread}, {ml(sizes.expected)} expected by "
        f"the map, {ml(sizes.outlined)} within the contour"
    )
    return "\n".join([line, *sizes.reach.notes()])


def _draw_plane(
    axes: Axes, plane: Plane, forecast: VolumeForecast, channel: int, horizon: int, *, contour: float
) -> None:
    growth = plane.cut(forecast.growth[horizon]).astype(np.float32)
    axes.imshow(plane.cut(forecast.image[channel]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    overlay_map(axes, growth)
    draw_outline(axes, plane.cut(forecast.labels) > 0, 0.5, PRESENT_OUTLINE)
    draw_outline(axes, growth, contour, FORECAST_OUTLINE)
    frame_brain(axes, plane.shadow(forecast.brain))
    axes.set_title(plane.name, fontsize=10)
    for letter, (x, y, across, along) in zip(plane.ends, LETTERS, strict=True):
        axes.text(x, y, letter, color="0.8", fontsize=9, ha=across, va=along, transform=axes.transAxes)
