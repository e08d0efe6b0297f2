"""The curves of maps by their number of members."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tumorcast.evaluation.experiments.consistency_report import MAPS, MEMBERS, Curve
from tumorcast.evaluation.figures import DISCLAIMER
from tumorcast.forecasting.select import ENOUGH_AGREEMENT

LOGARITHMIC = ("from_full", "from_another")


def draw_curves(curves: Sequence[Curve], path: Path) -> None:
    """A panel a figure that some patient has, a line a map."""
    shown = [name for name in MEMBERS if any(one.patients for curve in curves for one in curve.figures[name])]
    figure = Figure(figsize=(4.2 * len(shown), 4.2), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        for curve in curves:
            found = np.array([(one.value, one.low, one.high) for one in curve.figures[name]])
            (line,) = axes.plot(curve.counts, found[:, 0], "o-", markersize=4, label=MAPS[curve.name])
            axes.fill_between(curve.counts, found[:, 1], found[:, 2], color=line.get_color(), alpha=0.15)
        axes.set_xscale("log", base=2)
        axes.set_xticks(curves[0].counts, [str(count) for count in curves[0].counts])
        axes.set(xlabel="members", title=MEMBERS[name][0])
        if name in LOGARITHMIC and any((axes_line.get_ydata() > 0).any() for axes_line in axes.lines):
            axes.set_yscale("log", nonpositive="mask")
    if "agreement" in shown:
        panels[shown.index("agreement")].axhline(ENOUGH_AGREEMENT, color="0.7", linewidth=0.8)
    panels[0].legend(fontsize=7)
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=110)
