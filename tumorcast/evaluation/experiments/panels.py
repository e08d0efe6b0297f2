"""Pictures of slices under several variants, two lines of panels a patient."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.evaluation.experiments.shown import Shown
from tumorcast.evaluation.experiments.slice_axes import draw_image, draw_outline
from tumorcast.evaluation.figures import DISCLAIMER, LATER_COLOUR, PRESENT_COLOUR

LEGEND = "below: each one's map\ncyan: present outline\nred: later outline"


def draw_shown(rows: Sequence[tuple[str, Shown]], path: Path) -> None:
    """Two lines of panels a slice, as CAPTION says. rows: titles and what is shown, of the same variants."""
    columns = 2 + max(len(shown.names) for _, shown in rows)
    figure = Figure(figsize=(2.3 * columns, 5.0 * len(rows)), layout="constrained")
    panels = figure.subplots(2 * len(rows), columns, squeeze=False)
    for place, (title, shown) in enumerate(rows):
        _draw_one(panels[2 * place], panels[2 * place + 1], title, shown)
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=90)


def _draw_one(upper: Sequence[Axes], lower: Sequence[Axes], title: str, shown: Shown) -> None:
    for axes in (*upper, *lower):
        axes.axis("off")
    images = {title: shown.present, "later scan": shown.later} | dict(zip(shown.names, shown.images, strict=True))
    for axes, (name, image) in zip(upper, images.items(), strict=False):
        draw_image(axes, image, shown.brain, str(name))
        _outline(axes, shown)
    lower[0].text(0.0, 0.9, LEGEND, va="top", fontsize=8, transform=lower[0].transAxes)
    for axes, one in zip(lower[2:], shown.maps, strict=False):
        draw_image(axes, shown.present, shown.brain)
        axes.imshow(one, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        _outline(axes, shown)


def _outline(axes: Axes, shown: Shown) -> None:
    draw_outline(axes, shown.outline, PRESENT_COLOUR, 0.8)
    draw_outline(axes, shown.later_outline, LATER_COLOUR, 0.8)
