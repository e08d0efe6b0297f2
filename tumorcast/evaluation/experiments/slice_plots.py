"""Pictures of slices: what is kept of one beside a unit's row; sheets of variants, of grid cells and of flags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.durable import written_whole
from tumorcast.evaluation.experiments.base import ReportPicture, spread_by_value
from tumorcast.evaluation.experiments.plots import save_png
from tumorcast.evaluation.followup import FollowUp
from tumorcast.evaluation.metrics import Floats
from tumorcast.records import Contrast

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FILE = "slices.npz"
MOST_SHOWN = 4  # patients of one picture
CONTRASTS_SHOWN = (Contrast.T2F, Contrast.T1C)
PRESENT_COLOUR, LATER_COLOUR, GENERATED_COLOUR = "cyan", "red", "orange"
MARGIN = 2.5  # pixels round the brain
CAPTION = (
    "Above: the present scan, the later scan, and the mean image of each variant; below: its map. Cyan: the present "
    "outline; red: the later one."
)
LEGEND = "below: each one's map\ncyan: present outline\nred: later outline"


@dataclass(frozen=True)
class SliceExample:
    """What a picture of one slice is drawn from, kept beside a unit's row.

    present, later: (H, W) of one contrast, in [-1, 1]; outline, later_outline, brain: (H, W); images: (V, H, W) of the
    same contrast and maps: (V, H, W) in [0, 1], of the variants `names`.
    """

    present: Array
    later: Array
    outline: Mask
    later_outline: Mask
    brain: Mask
    names: npt.NDArray[np.str_]
    images: Array
    maps: Array

    @classmethod
    def of(cls, followup: FollowUp, variants: Mapping[str, tuple[Array, Array]], channel: int) -> Self:
        """variants: by name, an image (H, W) of the contrast `channel`, and a map (H, W) in [0, 1]."""
        return cls(
            followup.now.image[channel].astype(np.float32),
            followup.later.image[channel].astype(np.float32),
            followup.now.labels > 0,
            followup.later.labels > 0,
            followup.now.brain,
            np.array(list(variants)),
            np.stack([image for image, _ in variants.values()]).astype(np.float32),
            np.stack([variant_map for _, variant_map in variants.values()]).astype(np.float32),
        )

    def save(self, folder: Path) -> None:
        """Keep it in a unit's folder."""
        with written_whole(folder / FILE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From a unit's folder."""
        with np.load(folder / FILE) as arrays:
            return cls(**arrays)


def channel_shown(contrasts: Sequence[Contrast]) -> int:
    """FLAIR, where it is there, else T1c, else the first."""
    return next((contrasts.index(name) for name in CONTRASTS_SHOWN if name in contrasts), 0)


def examples_picture(name: str, caption: str, rows: Path, titles: Mapping[str, str], values: Floats) -> ReportPicture:
    """A picture of some units, from the lowest of `values` (U,) to the highest.

    rows: the folder that holds theirs; titles: by unit.
    """
    chosen = {titles[unit]: rows / unit for unit in spread_by_value(list(titles), values, MOST_SHOWN)}
    return ReportPicture(name, f"{caption} {CAPTION}", partial(draw_examples, chosen))


def draw_examples(folders: Mapping[str, Path], path: Path) -> None:
    """Two lines of panels a slice, as CAPTION says. folders: by title, of slices under the same variants."""
    examples = {title: SliceExample.read(folder) for title, folder in folders.items()}
    columns = 2 + max(len(example.names) for example in examples.values())
    figure = Figure(figsize=(2.3 * columns, 5.0 * len(examples)), layout="constrained")
    panels = figure.subplots(2 * len(examples), columns, squeeze=False)
    for line, (title, example) in enumerate(examples.items()):
        _draw_example(panels[2 * line], panels[2 * line + 1], title, example)
    save_png(figure, path, dpi=90)


def _draw_example(upper: Sequence[Axes], lower: Sequence[Axes], title: str, example: SliceExample) -> None:
    for axes in (*upper, *lower):
        axes.axis("off")
    images = {title: example.present, "later scan": example.later}
    images |= dict(zip(example.names, example.images, strict=True))
    for axes, (name, image) in zip(upper, images.items(), strict=False):
        draw_image(axes, image, example.brain, str(name))
        _draw_outlines(axes, example)
    lower[0].text(0.0, 0.9, LEGEND, va="top", fontsize=8, transform=lower[0].transAxes)
    for axes, variant_map in zip(lower[2:], example.maps, strict=False):
        draw_image(axes, example.present, example.brain)
        axes.imshow(variant_map, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        _draw_outlines(axes, example)


def _draw_outlines(axes: Axes, example: SliceExample) -> None:
    draw_outline(axes, example.outline, PRESENT_COLOUR, 0.8)
    draw_outline(axes, example.later_outline, LATER_COLOUR, 0.8)


def draw_image(axes: Axes, image: npt.NDArray[Any], brain: Mask, title: str = "") -> None:
    """An image (H, W) in [-1, 1], cut to the brain, without axes."""
    axes.imshow(image.astype(np.float32), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    _cut_to(axes, brain)
    axes.set_title(title, fontsize=8)


def _cut_to(axes: Axes, brain: Mask) -> None:
    rows, columns = np.nonzero(brain)
    axes.set(xlim=(columns.min() - MARGIN, columns.max() + MARGIN), ylim=(rows.max() + MARGIN, rows.min() - MARGIN))


def draw_outline(axes: Axes, mask: Mask, colour: str, width: float = 1.0) -> None:
    """The edge of a mask (H, W), if it has one."""
    if mask.any() and not mask.all():
        axes.contour(mask.astype(np.float64), [0.5], colors=colour, linewidths=width)


@dataclass(frozen=True)
class SheetCell:
    """Where a slice stands on a contact sheet, and what is written above it. folder: of its SliceExample."""

    row: float
    column: float
    title: str
    folder: Path


def draw_sheet(cells: Sequence[SheetCell], path: Path) -> None:
    """A contact sheet of the first variant of each cell, rows and columns ascending; left: present and later scan."""
    rows, columns = sorted({cell.row for cell in cells}), sorted({cell.column for cell in cells})
    figure = Figure(figsize=(2.0 * (1 + len(columns)), 2.3 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), 1 + len(columns), squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    first = SliceExample.read(cells[0].folder)
    draw_image(panels[0, 0], first.present, first.brain, "present scan")
    _draw_sheet_outlines(panels[0, 0], first)
    if len(rows) > 1 and not np.array_equal(first.later, first.present):
        draw_image(panels[1, 0], first.later, first.brain, "later scan")
        _draw_sheet_outlines(panels[1, 0], first)
    for cell in cells:
        axes, example = panels[rows.index(cell.row), 1 + columns.index(cell.column)], SliceExample.read(cell.folder)
        draw_image(axes, example.images[0], example.brain, cell.title)
        _draw_sheet_outlines(axes, example)
        draw_outline(axes, example.maps[0] > 0.5, GENERATED_COLOUR)
    save_png(figure, path, dpi=110)


def _draw_sheet_outlines(axes: Axes, example: SliceExample) -> None:
    draw_outline(axes, example.later_outline, LATER_COLOUR, 0.7)
    draw_outline(axes, example.outline, PRESENT_COLOUR, 0.7)


@dataclass(frozen=True)
class FlaggedSlice:
    """A slice under a flag. image: (H, W) of one contrast; flag_map: (H, W), that the flag is read from, by name."""

    title: str
    map_name: str
    image: Array
    flag_map: Array
    brain: Mask
    outline: Mask
    later_outline: Mask


def draw_flagged(lines: Sequence[Sequence[FlaggedSlice]], path: Path) -> None:
    """Two rows of panels a line: images, and the map that the flag is read from."""
    wide, deep = max([1, *map(len, lines)]), max(1, len(lines))
    figure = Figure(figsize=(2.5 * wide + 0.6, 5.2 * deep), layout="constrained")
    panels = figure.subplots(2 * deep, wide, squeeze=False)
    for axes in panels.ravel():
        axes.axis("off")
    if not lines:
        panels[0, 0].set_title("never flagged, never missed", fontsize=9)
    for number, slices in enumerate(lines):
        for column, flagged in enumerate(slices):
            _draw_flagged(panels[2 * number, column], panels[2 * number + 1, column], flagged)
    save_png(figure, path)


def _draw_flagged(upper: Axes, lower: Axes, flagged: FlaggedSlice) -> None:
    draw_image(upper, flagged.image, flagged.brain)
    lower.imshow(flagged.flag_map, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
    _cut_to(lower, flagged.brain)
    for axes in (upper, lower):
        draw_outline(axes, flagged.outline, PRESENT_COLOUR, 0.8)
        draw_outline(axes, flagged.later_outline, LATER_COLOUR, 0.8)
    upper.set_title(flagged.title, fontsize=7, loc="left")
    lower.set_title(flagged.map_name, fontsize=7, loc="left")
