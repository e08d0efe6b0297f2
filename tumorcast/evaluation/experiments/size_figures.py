"""The pictures of experiments on sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tumorcast.evaluation.experiments.size_methods import SizeMethod
from tumorcast.evaluation.experiments.size_scores import column
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.paired import Estimate
from tumorcast.growth.plot import DISCLAIMER, FORECAST_COLOUR, size_label

LINEAR_BELOW = 100.0  # of the axes of sizes
TRUE_COLOUR, PAST_COLOUR = "tab:blue", "0.4"
PANELS_A_ROW = 4
SCANS_COLOURS = colormaps["viridis"]


def save_png(figure: Figure, path: Path) -> None:
    """Write it, with the word that it is for research; the path may have any name."""
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=110, format="png")


def draw_told(rows: Sequence[Figures], methods: Sequence[SizeMethod], path: Path) -> None:
    """Told against true, a panel a method."""
    figure = Figure(figsize=(3.4 * len(methods), 3.8), layout="constrained")
    panels = figure.subplots(1, len(methods), squeeze=False, sharex=True, sharey=True)[0]
    truth = column(rows, lambda row: row["observed"])
    least = 0.3 * float(truth.min()) if truth.min() > LINEAR_BELOW else 0.0
    for axes, method in zip(panels, methods, strict=True):
        told, low, high = (_of(rows, method, name) for name in ("median", "low", "high"))
        if not np.isnan(low).all():
            axes.errorbar(truth, told, [told - low, high - told], fmt="none", ecolor="0.7", elinewidth=0.8)
        axes.plot(truth, told, "o", color=FORECAST_COLOUR, markersize=4, alpha=0.8)
        axes.axline((1.0, 1.0), (2.0, 2.0), color="0.4", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=LINEAR_BELOW)
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
        axes.set_title(method.told.replace("**", ""), fontsize=9)
        axes.set(xlim=(least, 2 * truth.max()), ylim=(least, 4 * truth.max()))
    label = size_label(rows[0]["size_name"])
    panels[0].set_ylabel(f"forecast: {label}")
    for axes in panels:
        axes.set_xlabel("true", fontsize=9)
    save_png(figure, path)


def _of(rows: Sequence[Figures], method: SizeMethod, name: str) -> npt.NDArray[np.float64]:
    return column(rows, lambda row: row["methods"][str(method)].get(name))


def draw_curves(chosen: dict[str, tuple[Figures, Path]], path: Path) -> None:
    """The pooled forecast of some patients. chosen: row and file of the curve by unit."""
    deep = -(-len(chosen) // PANELS_A_ROW)
    figure = Figure(figsize=(3.6 * PANELS_A_ROW, 3.1 * deep), layout="constrained")
    panels = figure.subplots(deep, PANELS_A_ROW, squeeze=False).ravel()
    for axes, (row, file) in zip(panels, chosen.values(), strict=False):
        with np.load(file) as curve:
            _draw_curve(axes, row, dict(curve))
    for axes in panels[len(chosen) :]:
        axes.axis("off")
    save_png(figure, path)


def _draw_curve(axes: Axes, row: Figures, curve: dict[str, Any]) -> None:
    ahead = curve["days"] > curve["observed_days"][-1]
    for span, colour in ((~ahead, PAST_COLOUR), (ahead, FORECAST_COLOUR)):
        days, low, middle, high = (curve[name][span] for name in ("days", "q05", "q50", "q95"))
        axes.fill_between(days, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(days, middle, color=colour)
    axes.plot(curve["observed_days"], curve["observed_sizes"], "o", color="black", markersize=4)
    axes.plot(row["day"], row["observed"], "D", color=TRUE_COLOUR, markersize=6, zorder=5)
    top = max(curve["observed_sizes"].max(), row["observed"], min(curve["q95"][-1], 3 * row["observed"]), 1.0)
    axes.set(ylim=(0, 1.15 * top), xlabel="day", ylabel=size_label(row["size_name"]))
    error = row["methods"][str(SizeMethod.POOLED)]["error"]
    axes.set_title(f"{row['patient_id']}: error {error:+.2f} (log)", fontsize=9)


def draw_by_count(lines: dict[str, dict[int, dict[str, Estimate]]], path: Path) -> None:
    """CRPS and coverage by the number of scans given, a line a method."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for shift, (label, points) in enumerate(lines.items()):
        for axes, name in zip(panels, ("crps", "covered"), strict=True):
            found = [one[name] for one in points.values()]
            value, low, high = (np.array([getattr(one, part) for one in found]) for part in ("value", "low", "high"))
            places = np.array(list(points)) + 0.08 * (shift - 1)
            axes.errorbar(places, value, [value - low, high - value], fmt="o-", capsize=2, label=label.replace("*", ""))
    panels[0].set(xlabel="scans given", ylabel="CRPS, log size", ylim=(0, None))
    panels[1].set(xlabel="scans given", ylabel="truth in the 90 % interval", ylim=(0, 1.03))
    panels[1].axhline(0.9, color="0.6", linewidth=0.8)
    panels[0].legend(fontsize=8)
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
    save_png(figure, path)


def draw_by_horizon(forecasts: Sequence[Figures], path: Path) -> None:
    """Errors of the pooled median against the horizon, coloured by the number of scans given."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    most = max(one["given"] for one in forecasts)
    for kind, filled in (("last", True), ("thinned", False), ("older", False)):
        some = [one for one in forecasts if one["kind"] == kind]
        colours = SCANS_COLOURS([one["given"] / most for one in some])
        horizons = [one["horizon_days"] for one in some]
        errors = [one["methods"][str(SizeMethod.POOLED)]["error"] for one in some]
        axes.scatter(horizons, errors, s=18, facecolors=colours if filled else "none", edgecolors=colours)
    axes.axhline(0.0, color="0.5", linewidth=0.8)
    axes.set(xlabel="days from the latest scan given to the target", ylabel="error of the median (log)")
    norm = Normalize(0, most)
    figure.colorbar(ScalarMappable(norm, SCANS_COLOURS), ax=axes, label="scans given")
    save_png(figure, path)
