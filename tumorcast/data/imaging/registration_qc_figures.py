"""A picture a scan: each of its registrations as a chequerboard and as edges, to be judged at a glance."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.data.imaging.brain_mask import BoolArray, window_of
from tumorcast.data.imaging.geometry import Interpolation
from tumorcast.data.imaging.registration import RegistrationImage
from tumorcast.data.imaging.registration_qc import checked_grid
from tumorcast.data.imaging.transforms import Displacement, Matrix, carried
from tumorcast.durable import written_whole
from tumorcast.records import FloatArray

SQUARES = 8  # of a chequerboard, along its longer side
EDGES_COLOUR = "orangered"
DPI = 80
PLANES = (("axial", 0), ("coronal", 1), ("sagittal", 2))


@dataclass(frozen=True)
class ComparedVolumes:
    """Two volumes (Z, Y, X) on one upright (LPS) grid. spacing: mm, of z, y, x; brain: the fixed one's."""

    title: str
    fixed: FloatArray
    moved: FloatArray
    brain: BoolArray
    spacing: tuple[float, ...]


def compared_volumes(
    title: str,
    fixed: RegistrationImage,
    moving: RegistrationImage,
    matrix: Matrix,
    displacement: Displacement | None = None,
) -> ComparedVolumes:
    """Both volumes on the thinned grid of the fixed brain."""
    grid = checked_grid(fixed.cropped().grid)
    brain = carried(
        fixed.grid.image(fixed.brain.astype(np.uint8)), grid, np.eye(4), interpolation=Interpolation.NEAREST
    )
    images = carried(fixed.image, grid, np.eye(4)), carried(moving.image, grid, matrix, displacement)
    one, other = (sitk.GetArrayFromImage(image) for image in images)
    return ComparedVolumes(title, one, other, sitk.GetArrayFromImage(brain) > 0, grid.spacing[::-1])


def draw_comparisons(path: Path, title: str, pairs: list[ComparedVolumes]) -> None:
    """Write a PNG with a row a pair: the chequerboard of an axial slice, and the moved edges on the fixed image."""
    figure = Figure(figsize=(12, 0.6 + 3.2 * len(pairs)), layout="constrained")
    panels = figure.subplots(len(pairs), 1 + len(PLANES), squeeze=False)
    for row, pair in zip(panels, pairs, strict=True):
        images = _shown(pair.fixed, pair.brain), _shown(pair.moved, pair.brain)
        _draw(row[0], _chequered(*(_cut(image, pair.brain, 0) for image in images)), _aspect(pair, 0), pair.title)
        for axes, (name, axis) in zip(row[1:], PLANES, strict=True):
            fixed, moved = (_cut(image, pair.brain, axis) for image in images)
            _draw(axes, fixed, _aspect(pair, axis), f"{name}: edges of what was moved")
            axes.contour(moved, levels=[0.25, 0.55], colors=EDGES_COLOUR, linewidths=0.6)
    figure.suptitle(title, fontsize=11)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def _shown(volume: FloatArray, brain: BoolArray) -> FloatArray:
    """From 0 to 1 by the window of its values in the brain."""
    window = window_of(volume, brain)
    if window is None:
        return np.zeros(volume.shape, np.float32)
    return (window.scale(volume, np.ones(volume.shape, bool)) + 1) / 2


def _cut(volume: FloatArray, brain: BoolArray, axis: int) -> FloatArray:
    """The slice through the brain's middle; head up."""
    places = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
    plane: FloatArray = np.take(volume, int(places[len(places) // 2]), axis)
    return plane if axis == 0 else plane[::-1]


def _aspect(pair: ComparedVolumes, axis: int) -> float:
    """Height of a pixel over its width."""
    rows, columns = (pair.spacing[other] for other in range(3) if other != axis)
    return rows / columns


def _chequered(one: FloatArray, other: FloatArray) -> FloatArray:
    """Squares of both in turn.

    >>> _chequered(np.zeros((2, 2)), np.ones((2, 2))).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    side = max(1, max(one.shape) // SQUARES)
    rows, columns = np.indices(one.shape) // side
    return np.where((rows + columns) % 2 == 0, one, other)


def _draw(axes: Axes, image: FloatArray, aspect: float, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.axis("off")
