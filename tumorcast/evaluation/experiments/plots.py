"""Charts of figures over patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tumorcast.evaluation.metrics import Floats
from tumorcast.evaluation.statistics import Estimate
from tumorcast.growth.plot import DISCLAIMER, FORECAST_COLOUR, GrowthCurve, plot_growth, size_label

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito 2008
MARKS = "os^Dv*P"
LINEAR_BELOW = 100.0  # of the axes of sizes
PANELS_A_ROW = 4
SCANS_COLOURS = colormaps["viridis"]


def save_png(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write it, with the word that it is for research; the path may have any name."""
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=dpi, format="png")


def draw_by_patient(units: Sequence[str], values: Mapping[str, Floats], label: str, path: Path) -> None:
    """A column a patient, a mark a variant, in the order of the first variant. values: (P,) by variant."""
    figure = Figure(figsize=(max(5.0, 0.22 * len(units) + 3.5), 4.5), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(next(iter(values.values())), kind="stable")
    for number, (name, of_variant) in enumerate(values.items()):
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)]}
        axes.plot(np.arange(len(order)), of_variant[order], linestyle="", markersize=5, alpha=0.8, label=name, **look)
    axes.set_xticks(np.arange(len(order)), [units[k] for k in order], rotation=90, fontsize=6)
    axes.set_ylabel(label)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    figure.legend(loc="outside right upper", fontsize=7)
    save_png(figure, path)


def draw_centred(before: Floats, after: Floats, names: tuple[str, str], path: Path) -> None:
    """A dot a patient and point, each patient's mean taken off. before, after: (P, G)."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    for first, second in zip(before, after, strict=True):
        axes.plot(first - first.mean(), second - second.mean(), "o", markersize=4, alpha=0.5)
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.set(xlabel=f"{names[0]}, less the patient's mean", ylabel=f"{names[1]}, less the patient's mean")
    save_png(figure, path)


def draw_trade_off(
    lines: Mapping[str, Sequence[tuple[str, Estimate, Estimate]]],
    labels: tuple[str, str],
    band: tuple[float, float],
    path: Path,
) -> None:
    """Lines of points, each (its name, x, y), with intervals. labels: of the axes; band: of x, in grey."""
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(*band, color="0.93")
    for line_name, points in lines.items():
        x, y = [x for _, x, _ in points], [y for _, _, y in points]
        x_bars, y_bars = _bars(x), _bars(y)
        axes.errorbar(
            _values(x), _values(y), xerr=x_bars, yerr=y_bars, fmt="o-", markersize=4, capsize=2, label=line_name
        )
        for name, x_estimate, y_estimate in points:
            position = (x_estimate.value, y_estimate.value)
            if np.isfinite(position).all():
                axes.annotate(name, position, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.legend()
    save_png(figure, path, dpi=120)


def _values(estimates: Sequence[Estimate]) -> npt.NDArray[np.float64]:
    return np.array([estimate.value for estimate in estimates])


def _bars(estimates: Sequence[Estimate]) -> npt.NDArray[np.float64]:
    """(2, K) from each value down and up to its interval; nothing where there is none."""
    ends = np.array([[estimate.value - estimate.low, estimate.high - estimate.value] for estimate in estimates]).T
    return np.asarray(np.nan_to_num(np.maximum(ends, 0.0)))


@dataclass(frozen=True)
class CurvePanel:
    """A panel of draw_curves: estimates by label, one an entry of x. guide: where a grey line is drawn."""

    title: str
    curves: Mapping[str, Sequence[Estimate]]
    logarithmic: bool = False
    guide: float | None = None


def draw_curves(x: Sequence[int], x_label: str, panels: Sequence[CurvePanel], path: Path) -> None:
    """Panels side by side, a line with a band of intervals a label, over powers of two."""
    figure = Figure(figsize=(4.2 * len(panels), 4.2), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        for label, estimates in panel.curves.items():
            (line,) = axes.plot(x, _values(estimates), "o-", markersize=4, label=label)
            low, high = ([getattr(estimate, end) for estimate in estimates] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(number) for number in x])
        axes.set(xlabel=x_label, title=panel.title)
        if panel.logarithmic and any((line.get_ydata() > 0).any() for line in axes.lines):
            axes.set_yscale("log", nonpositive="mask")
        if panel.guide is not None:
            axes.axhline(panel.guide, color="0.7", linewidth=0.8)
    every[0].legend(fontsize=7)
    save_png(figure, path)


@dataclass(frozen=True)
class SizePanel:
    """A panel of draw_against_truth: (P,) forecast sizes, median and ends of the interval, NaN where there is none."""

    title: str
    median: Floats
    low: Floats
    high: Floats


def draw_against_truth(truth: Floats, panels: Sequence[SizePanel], size_name: str, path: Path) -> None:
    """Forecast sizes against the true ones (P,), a panel a method."""
    figure = Figure(figsize=(3.4 * len(panels), 3.8), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    least = 0.3 * float(truth.min()) if truth.min() > LINEAR_BELOW else 0.0
    for axes, panel in zip(every, panels, strict=True):
        median, low, high = panel.median, panel.low, panel.high
        if not np.isnan(low).all():
            axes.errorbar(truth, median, [median - low, high - median], fmt="none", ecolor="0.7", elinewidth=0.8)
        axes.plot(truth, median, "o", color=FORECAST_COLOUR, markersize=4, alpha=0.8)
        axes.axline((1.0, 1.0), (2.0, 2.0), color="0.4", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=LINEAR_BELOW)
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
        axes.set_title(panel.title, fontsize=9)
        axes.set(xlim=(least, 2 * truth.max()), ylim=(least, 4 * truth.max()))
        axes.set_xlabel("true", fontsize=9)
    every[0].set_ylabel(f"forecast: {size_label(size_name)}", parse_math=False)
    save_png(figure, path)


@dataclass(frozen=True)
class GrowthPanel:
    """A panel of draw_growth. day, size: of the scan that was forecast."""

    title: str
    curve: GrowthCurve
    day: float
    size: float


def draw_growth(panels: Sequence[GrowthPanel], path: Path) -> None:
    """Scans given, the growth law up to the last of them, the forecast with its 90 % band, and the true size."""
    deep = -(-len(panels) // PANELS_A_ROW)
    figure = Figure(figsize=(3.6 * PANELS_A_ROW, 3.1 * deep), layout="constrained")
    every = figure.subplots(deep, PANELS_A_ROW, squeeze=False).ravel()
    for axes, panel in zip(every, panels, strict=False):
        plot_growth(axes, panel.curve, held_out=(panel.day, panel.size))
        axes.set_title(panel.title, fontsize=9)
    for axes in every[len(panels) :]:
        axes.axis("off")
    save_png(figure, path)


def draw_by_count(lines: Mapping[str, Mapping[int, tuple[Estimate, Estimate]]], path: Path) -> None:
    """CRPS and coverage by the number of scans given, a line a method."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for shift, (label, points) in enumerate(lines.items()):
        for side, axes in enumerate(panels):
            estimates = [point[side] for point in points.values()]
            value = _values(estimates)
            low, high = (np.array([getattr(estimate, end) for estimate in estimates]) for end in ("low", "high"))
            x = np.array(list(points)) + 0.08 * (shift - 1)
            axes.errorbar(x, value, [value - low, high - value], fmt="o-", capsize=2, label=label)
    panels[0].set(xlabel="scans given", ylabel="CRPS, log size", ylim=(0, None))
    panels[1].set(xlabel="scans given", ylabel="truth in the 90 % interval", ylim=(0, 1.03))
    panels[1].axhline(0.9, color="0.6", linewidth=0.8)
    panels[0].legend(fontsize=8)
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
    save_png(figure, path)


@dataclass(frozen=True)
class HorizonDots:
    """Forecasts of draw_by_horizon that are drawn alike: (F,) horizon in days, error of the median, scans given."""

    filled: bool
    horizon_days: Sequence[float]
    error: Sequence[float]
    given: Sequence[int]


def draw_by_horizon(groups: Sequence[HorizonDots], path: Path) -> None:
    """Errors of the median against the horizon, coloured by the number of scans given."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    most = max(max(group.given, default=0) for group in groups)
    for group in groups:
        colours: Any = SCANS_COLOURS([count / most for count in group.given])
        faces = colours if group.filled else "none"
        axes.scatter(group.horizon_days, group.error, s=18, facecolors=faces, edgecolors=colours)
    axes.axhline(0.0, color="0.5", linewidth=0.8)
    axes.set(xlabel="days from the latest scan given to the target", ylabel="error of the median (log)")
    figure.colorbar(ScalarMappable(Normalize(0, most), SCANS_COLOURS), ax=axes, label="scans given")
    save_png(figure, path)
