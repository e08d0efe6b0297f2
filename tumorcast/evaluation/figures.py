"""The pictures of a comparison: reliability curves, and some patients."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.evaluation.comparison import Example, TargetMode
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.methods import Method
from tumorcast.evaluation.metrics import Reliability
from tumorcast.evaluation.summary import methods_of, mode_told, reliability_bins

DISCLAIMER = "For research. Not a medical device."
PRESENT_COLOUR, LATER_COLOUR = "cyan", "red"
MARGIN = 2.5  # pixels round the brain
PANELS = ("forecast, mean of members", "growth map")


def draw_reliability(rows: Sequence[Figures], path: Path) -> None:
    """Share of true pixels against the probability said, a panel a target mode, patients weighted equally."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, len(TargetMode), squeeze=False)[0]
    for axes, mode in zip(panels, TargetMode, strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        for method in methods_of(rows, mode):
            bins = reliability_bins(rows, mode, method, "reliability")
            if len(bins):
                said, true = Reliability(*bins.mean(axis=0)).curve()
                axes.plot(said, true, "o-", markersize=4, label=plain_name(method))
        axes.set(xlabel="probability said", ylabel="share of pixels that became tumour", title=mode_told(mode))
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def plain_name(method: Method) -> str:
    """The method in words, without marks of Markdown."""
    return method.told.replace("**", "")


def draw_examples(examples: Sequence[tuple[str, Example]], path: Path) -> None:
    """A row a patient: its present scan under its title, and PANELS."""
    figure = Figure(figsize=(9, 3 * len(examples)), layout="constrained")
    panels = figure.subplots(len(examples), 1 + len(PANELS), squeeze=False)
    for row, (title, example) in zip(panels, examples, strict=True):
        row[0].imshow(example.present, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        row[1].imshow(example.generated, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        row[2].imshow(example.product, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        for axes in row:
            _outline(axes, example.later, LATER_COLOUR)
        for axes in row[::2]:
            _outline(axes, example.outline, PRESENT_COLOUR)
        for axes, name in zip(row, (title, *PANELS), strict=True):
            _frame(axes, example.brain, name)
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=100)


def _outline(axes: Axes, mask: npt.NDArray[np.bool_], colour: str) -> None:
    if mask.any() and not mask.all():
        axes.contour(mask.astype(np.float64), [0.5], colors=colour, linewidths=1.0)


def _frame(axes: Axes, brain: npt.NDArray[np.bool_], title: str) -> None:
    """The brain with a narrow margin, and no axes."""
    rows, columns = np.nonzero(brain)
    axes.set(xlim=(columns.min() - MARGIN, columns.max() + MARGIN), ylim=(rows.max() + MARGIN, rows.min() - MARGIN))
    axes.set_title(title, fontsize=9)
    axes.axis("off")
