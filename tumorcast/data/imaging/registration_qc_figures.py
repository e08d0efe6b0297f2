"""A figure a scan: each of its registrations as a chequerboard and as edges, to be judged at a glance."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.data.imaging.brain_mask import BoolArray, window_of
from tumorcast.data.imaging.registration import RegistrationImage
from tumorcast.data.imaging.registration_qc import checked_grid
from tumorcast.data.imaging.transforms import Transform, resample, resample_mask
from tumorcast.durable import written_whole
from tumorcast.records import FloatArray

SQUARES = 8  # of a chequerboard, along its longer side
EDGES_COLOUR = "orangered"
DPI = 80
PLANES = (("axial", 0), ("coronal", 1), ("sagittal", 2))


@dataclass(frozen=True)
class ComparedVolumes:
    """Two volumes (Z, Y, X) on one grid in LPS order. spacing: mm, of z, y, x; brain: the fixed one's."""

    title: str
    fixed: FloatArray
    moved: FloatArray
    brain: BoolArray
    spacing: tuple[float, ...]


def compared_volumes(
    title: str, fixed: RegistrationImage, moving: RegistrationImage, transform: Transform
) -> ComparedVolumes:
    """Both volumes on the thinned grid of the fixed brain."""
    grid = checked_grid(fixed.cropped().grid)
    brain = resample_mask(fixed.brain, fixed.grid, grid) > 0
    images = resample(fixed.image, grid), resample(moving.image, grid, transform)
    still, moved = (sitk.GetArrayFromImage(image) for image in images)
    return ComparedVolumes(title, still, moved, brain, grid.spacing[::-1])


def draw_comparisons(path: Path, title: str, comparisons: list[ComparedVolumes]) -> None:
    """Write a PNG with a row for each: the chequerboard of an axial slice, and the moved edges on the fixed image."""
    figure = Figure(figsize=(12, 0.6 + 3.2 * len(comparisons)), layout="constrained")
    panels = figure.subplots(len(comparisons), 1 + len(PLANES), squeeze=False)
    for row, volumes in zip(panels, comparisons, strict=True):
        images = _windowed(volumes.fixed, volumes.brain), _windowed(volumes.moved, volumes.brain)
        squares = _chequered(*(_cut(image, volumes.brain, 0) for image in images))
        _draw(row[0], squares, _aspect(volumes, 0), volumes.title)
        for axes, (name, axis) in zip(row[1:], PLANES, strict=True):
            fixed, moved = (_cut(image, volumes.brain, axis) for image in images)
            _draw(axes, fixed, _aspect(volumes, axis), f"{name}: edges of what was moved")
            axes.contour(moved, levels=[0.25, 0.55], colors=EDGES_COLOUR, linewidths=0.6)
    figure.suptitle(title, fontsize=11)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def _windowed(volume: FloatArray, brain: BoolArray) -> FloatArray:
    """From 0 to 1 by the window of its values in the brain."""
    window = window_of(volume, brain)
    if window is None:
        return np.zeros(volume.shape, np.float32)
    return (window.scale(volume, np.ones(volume.shape, bool)) + 1) / 2


def _cut(volume: FloatArray, brain: BoolArray, axis: int) -> FloatArray:
    """The slice through the brain's middle; head up."""
    slices = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
    plane: FloatArray = np.take(volume, int(slices[len(slices) // 2]), axis)
    return plane if axis == 0 else plane[::-1]


def _aspect(volumes: ComparedVolumes, axis: int) -> float:
    """Height of a pixel over its width."""
    rows, columns = (volumes.spacing[other] for other in range(3) if other != axis)
    return rows / columns


def _chequered(first: FloatArray, second: FloatArray) -> FloatArray:
    """Squares of both in turn.

    >>> _chequered(np.zeros((2, 2)), np.ones((2, 2))).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    side = max(1, max(first.shape) // SQUARES)
    rows, columns = np.indices(first.shape) // side
    return np.where((rows + columns) % 2 == 0, first, second)


def _draw(axes: Axes, image: FloatArray, aspect: float, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.axis("off")
