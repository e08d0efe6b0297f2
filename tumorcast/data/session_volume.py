"""A scan on cubic voxels: what growth maps in three dimensions are made of. The slices are made beside it (session)."""

import math

import numpy as np
import numpy.typing as npt

from tumorcast.data.grey import to_grey
from tumorcast.data.imaging.brain_mask import BoolArray, Window
from tumorcast.data.imaging.geometry import SAME_SPACING, Grid, PlaneAxis, scale_between
from tumorcast.data.imaging.shares import largest_shares
from tumorcast.data.readers.volumes import Scan
from tumorcast.records import Contrast, FloatArray, SessionVolume

THICK_MM = 3.5  # of a spacing that is told


def volume_of(scan: Scan, brain: BoolArray, windows: dict[Contrast, Window], voxel_mm: float) -> SessionVolume:
    """The scan on voxels of `voxel_mm`, from the first corner of its grid in LPS order.

    Intensities are averaged where voxels grow and interpolated where they shrink; the tumour keeps its volume. Scans on
    one grid give volumes on one grid.
    """
    axes = [_axis(size, spacing, voxel_mm) for size, spacing in _sides(scan.grid.canonical())]
    inside = _sample(brain, axes) >= 0.5
    # Air must be 0 while sampling, so that what lies beyond the source is air too.
    images = [
        np.where(inside, to_grey(_sample(window.scale(scan.images[contrast], brain) + 1.0, axes) - 1.0), np.uint8(0))
        for contrast, window in windows.items()
    ]
    return SessionVolume(
        images=np.stack(images),
        labels=_labels(scan.labels, axes),
        brain=inside,
        affine=_affine(scan.grid.canonical(), axes),
        coarsest_mm=float(max(scan.grid.spacing)),
    )


def doubts_of(volume: SessionVolume) -> list[str]:
    """What a user of growth maps in three dimensions should know of a scan."""
    doubts = []
    if volume.coarsest_mm > THICK_MM:
        doubts.append(f"slices {volume.coarsest_mm:g} mm apart: between them the volume is interpolated")
    tumour = volume.tumour
    at_edge = [np.take(tumour, side, axis=axis).any() for axis in range(3) for side in (0, -1)]
    if any(at_edge):
        doubts.append("the tumour reaches the edge of the scan: no growth is foretold beyond it")
    return doubts


def _sides(grid: Grid) -> list[tuple[int, float]]:
    """Size and spacing of the axes z, y, x."""
    return [(grid.size[axis], grid.spacing[axis]) for axis in (2, 1, 0)]


def _axis(size: int, spacing_mm: float, voxel_mm: float) -> PlaneAxis:
    """The cubic voxels over an axis, as many as cover it.

    >>> _axis(155, 1.0, 2.0)
    PlaneAxis(source_size=155, image_size=78, start=0, scale=2.0)
    """
    scale = scale_between(voxel_mm, spacing_mm)
    return PlaneAxis(size, max(1, math.ceil(size / scale - SAME_SPACING)), 0, scale)


def _sample(volume: npt.NDArray[np.generic], axes: list[PlaneAxis]) -> FloatArray:
    """(Z, Y, X) of the source, air 0, to the cubic voxels, float32."""
    sampled: FloatArray = np.asarray(volume, np.float32)
    for axis in axes:  # each product moves its axis to the end: after three they are in order again
        untouched = axis.scale == 1.0 and axis.image_size == axis.source_size
        moved = np.moveaxis(sampled, 0, -1)
        sampled = moved if untouched else moved @ _weights(axis).T
    return np.ascontiguousarray(sampled)


def _weights(axis: PlaneAxis) -> FloatArray:
    """Those of the axis, of what the source has alone: beyond its last voxel's centre that voxel goes on."""
    weights = axis.weights()
    return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-6)), np.float32)


def _labels(labels: npt.NDArray[np.uint8] | None, axes: list[PlaneAxis]) -> npt.NDArray[np.uint8]:
    """The voxels with most tumour, as many as keep its volume, each with its most frequent label."""
    shape = tuple(axis.image_size for axis in axes)
    if labels is None or not labels.any():
        return np.zeros(shape, np.uint8)
    shares = np.stack([_sample(labels == label, axes) for label in (1, 2, 3)])
    cells = math.prod(axis.scale for axis in axes)
    voxels = max(round(np.count_nonzero(labels) / cells), 1)
    chosen = largest_shares(shares.sum(axis=0), voxels)
    return np.where(chosen, shares.argmax(axis=0) + 1, 0).astype(np.uint8)


def _affine(grid: Grid, axes: list[PlaneAxis]) -> FloatArray:
    """(4, 4) voxel (x, y, z) to world, RAS mm."""
    to_source = np.diag([axis.scale for axis in axes[::-1]] + [1.0])
    to_source[:3, 3] = [axis.offset for axis in axes[::-1]]
    return np.asarray(grid.affine() @ to_source)
