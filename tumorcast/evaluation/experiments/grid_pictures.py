"""The pictures of a grid: a contact sheet of one slice, and preservation against reach."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.evaluation.experiments.grid_report import REACHED, Cell, Line
from tumorcast.evaluation.experiments.shown import Shown
from tumorcast.evaluation.experiments.slice_axes import draw_image, draw_outline
from tumorcast.evaluation.figures import DISCLAIMER, LATER_COLOUR, PRESENT_COLOUR
from tumorcast.evaluation.paired import Estimate

GENERATED_COLOUR = "orange"


def draw_sheet(shown: Mapping[Cell, Shown], path: Path) -> None:
    """A row a noise level, a column a strength, to the left the present scan and the later one."""
    levels = sorted({cell.noise_level for cell in shown})
    strengths = sorted({cell.strength for cell in shown})
    figure = Figure(figsize=(2.0 * (1 + len(strengths)), 2.3 * len(levels) + 0.3), layout="constrained")
    panels = figure.subplots(len(levels), 1 + len(strengths), squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    first = next(iter(shown.values()))
    draw_image(panels[0, 0], first.present, first.brain, "present scan")
    _outlines(panels[0, 0], first)
    if len(levels) > 1 and not np.array_equal(first.later, first.present):
        draw_image(panels[1, 0], first.later, first.brain, "later scan")
        _outlines(panels[1, 0], first)
    for cell, one in shown.items():
        axes = panels[levels.index(cell.noise_level), 1 + strengths.index(cell.strength)]
        draw_image(axes, one.images[0], one.brain, cell.told)
        _outlines(axes, one)
        draw_outline(axes, one.maps[0] > 0.5, GENERATED_COLOUR)
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=110)


def _outlines(axes: Axes, one: Shown) -> None:
    draw_outline(axes, one.later_outline, LATER_COLOUR, 0.7)
    draw_outline(axes, one.outline, PRESENT_COLOUR, 0.7)


def draw_trade_off(lines: Sequence[Line], path: Path) -> None:
    """SSIM outside the tumour against reach."""
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(*REACHED, color="0.93")
    for level in sorted({line.cell.noise_level for line in lines}):
        here = [line for line in lines if line.cell.noise_level == level]
        reach, kept = ([line.figures[name] for line in here] for name in ("reach", "ssim_outside"))
        x, y = _values(reach), _values(kept)
        axes.errorbar(x, y, xerr=_bars(reach), yerr=_bars(kept), fmt="o-", markersize=4, capsize=2, label=f"NL {level}")
        for line, place in zip(here, zip(x, y, strict=True), strict=True):
            if np.isfinite(place).all():
                axes.annotate(line.cell.strength_told, place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="reach: area gained / area wanted, median over patients", ylabel="SSIM outside the tumour, mean")
    axes.legend()
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=120)


def _values(found: Sequence[Estimate]) -> npt.NDArray[np.float64]:
    return np.array([one.value for one in found])


def _bars(found: Sequence[Estimate]) -> npt.NDArray[np.float64]:
    """(2, K) from each value down and up to its interval; nothing where there is none."""
    ends = np.array([[one.value - one.low, one.high - one.value] for one in found]).T
    return np.asarray(np.nan_to_num(np.maximum(ends, 0.0)))
