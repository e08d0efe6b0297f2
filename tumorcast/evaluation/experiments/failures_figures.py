"""The sheets of hits, misses and false alarms of a flag."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.evaluation.experiments.failures_summary import SHOWN, JudgedCase, Outcome
from tumorcast.evaluation.experiments.provoked import TOLD
from tumorcast.evaluation.experiments.size_figures import save_png
from tumorcast.evaluation.failures import Failure
from tumorcast.evaluation.figures import LATER_COLOUR, MARGIN, PRESENT_COLOUR

MAP_OF = {
    Failure.RIM_CHANGE: "changed",
    Failure.SEPARATE_BLOB: "tumour",
    Failure.WRONG_WAY: "tumour",
    Failure.MAP_APART: "growth",
}


def draw_judged(failure: Failure, lines: Mapping[Outcome, Sequence[JudgedCase]], folder: Path, path: Path) -> None:
    """Two rows of panels an outcome: images, and the map that the flag is read from. folder: of the units' folders."""
    wide, deep = max([1, *map(len, lines.values())]), max(1, len(lines))
    figure = Figure(figsize=(2.5 * wide + 0.6, 5.2 * deep), layout="constrained")
    panels = figure.subplots(2 * deep, wide, squeeze=False)
    for axes in panels.ravel():
        axes.axis("off")
    if not lines:
        panels[0, 0].set_title("never flagged, never missed", fontsize=9)
    for place, cases in enumerate(lines.values()):
        for column, case in enumerate(cases):
            with np.load(folder / case.unit / SHOWN) as arrays:
                _draw(panels[2 * place, column], panels[2 * place + 1, column], arrays, case, MAP_OF[failure])
    save_png(figure, path)


def _draw(upper: Axes, lower: Axes, arrays: Any, case: JudgedCase, name: str) -> None:
    mean, shown = (arrays[f"{case.number}.{one}"].astype(np.float32) for one in ("mean", name))
    upper.imshow(mean, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    lower.imshow(shown, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
    rows, columns = np.nonzero(arrays["brain"])
    for axes in (upper, lower):
        for mask, colour in ((arrays["outline"], PRESENT_COLOUR), (arrays["later"], LATER_COLOUR)):
            axes.contour(mask.astype(np.float64), [0.5], colors=colour, linewidths=0.8)
        axes.set(xlim=(columns.min() - MARGIN, columns.max() + MARGIN), ylim=(rows.max() + MARGIN, rows.min() - MARGIN))
    strength = (" (clear)" if case.clear else " (faint)") if case.planted else ""
    upper.set_title(f"{case.outcome}: {case.unit}\n{TOLD[case.how]}{strength}", fontsize=7, loc="left")
    lower.set_title(name, fontsize=7, loc="left")
