"""The prepared grid and the way between it and the source's own voxels.

A source volume is flipped and permuted to LPS (never resampled along the third axis). In its plane a square of
256 mm round the grid's centre is sampled at `image_size` pixels; its corner lies on a source pixel's edge, so that 1 mm
pixels come through 256 pixels untouched. Coordinates along an axis are in source pixels: pixel i spans [i, i + 1].
"""

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from itertools import product
from typing import Any, assert_never

import numpy as np
import SimpleITK as sitk

from tumorcast.records import FloatArray

FIELD_OF_VIEW_MM = 256.0
IMAGE_SIZES = (64, 128, 256)
CANONICAL = "LPS"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
GRID_TOLERANCE = 0.05  # voxels; headers of one scan differ by rounding, not by more
SAME_SPACING = 1e-4  # relative; header rounding below this counts as equal pixels


class Interpolation(StrEnum):
    """How values are resampled: `nearest` for labels, `linear` for intensities and probabilities."""

    NEAREST = "nearest"
    LINEAR = "linear"


@dataclass(frozen=True)
class Grid:
    """A voxel grid in SimpleITK's convention (x, y, z order; LPS mm; direction row by row)."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> "Grid":
        """The grid of a 3D image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Grid":
        """The grid that `as_dict` wrote, as a session's `source["grid"]` holds it."""
        return cls(*(tuple(values[name]) for name in ("size", "spacing", "origin", "direction")))

    @classmethod
    def from_affine(cls, affine: FloatArray, size: tuple[int, ...]) -> "Grid":
        """The grid of `size` voxels whose (4, 4) affine to RAS mm has its axes at right angles.

        >>> grid = Grid.from_affine(np.diag([-2.0, -2.0, 5.0, 1.0]), (8, 8, 3))
        >>> grid.spacing, grid.direction[:5]
        ((2.0, 2.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0))
        """
        lps = LPS_TO_RAS @ np.asarray(affine, np.float64)
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        direction = lps[:3, :3] / spacing + 0.0  # no negative zeros
        return cls(tuple(size), *(tuple(values.tolist()) for values in (spacing, lps[:3, 3], direction.ravel())))

    def as_dict(self) -> dict[str, list[Any]]:
        """The grid as JSON can hold it."""
        return {name: list(values) for name, values in asdict(self).items()}

    def image(self, array: np.ndarray[Any, Any]) -> sitk.Image:
        """A SimpleITK image of `array`, (Z, Y, X) or of vectors (Z, Y, X, 3), on this grid."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=array.ndim == 4)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def affine(self) -> FloatArray:
        """(4, 4) voxel (x, y, z) to world, RAS mm, as NIfTI has it."""
        lps = np.eye(4)
        lps[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        lps[:3, 3] = self.origin
        return np.asarray(LPS_TO_RAS @ lps)

    def distance_mm(self, other: "Grid") -> float:
        """How far the corners of two grids lie apart at most; infinite if they differ in size."""
        if self.size != other.size:
            return math.inf
        return float(np.abs(self.corners() @ (self.affine() - other.affine()).T).max())

    def is_of_the_voxels_of(self, other: "Grid") -> bool:
        """Whether both are the same voxels in one order of axes, but for the rounding of headers."""
        return self.distance_mm(other) <= GRID_TOLERANCE * min(other.spacing)

    def apart_mm(self, other: "Grid") -> float:
        """How far the corners of two grids in LPS order, of any sizes, lie apart at most."""
        corners = [grid.affine() @ grid.corners().T for grid in (self, other)]
        return float(np.linalg.norm((corners[0] - corners[1])[:3], axis=0).max())

    def corners(self) -> FloatArray:
        """(8, 4) voxel coordinates of the corners, homogeneous."""
        return np.array([(*corner, 1.0) for corner in product(*((0, side - 1) for side in self.size))])

    def canonical(self) -> "Grid":
        """This grid after flips and permutations to LPS."""
        return self._canonical

    @cached_property
    def _canonical(self) -> "Grid":  # every volume of a scan asks for it
        width, height, depth = self.size
        return Grid.of(canonical(self.image(np.zeros((depth, height, width), np.uint8))))


def canonical(image: sitk.Image) -> sitk.Image:
    """`image` flipped and permuted to LPS; values and voxels are untouched."""
    oriented: sitk.Image = sitk.DICOMOrient(image, CANONICAL)
    return oriented


@dataclass(frozen=True)
class AxisOrder:
    """How the axes of a grid run along those of another: which one, and whether against it. No voxel moves in space.

    axes: by axis x, y, z of the other grid, the axis of this one that lies nearest; reversed_axes: those of the other
    that run against it.
    """

    axes: tuple[int, ...]
    reversed_axes: tuple[int, ...]

    @classmethod
    def between(cls, grid: Grid, other: Grid) -> "AxisOrder":
        """How `grid` is put into the order of `other`; axes that are no permutation stay as they are."""
        along = np.reshape(other.direction, (3, 3)).T @ np.reshape(grid.direction, (3, 3))
        axes = np.abs(along).argmax(axis=1)
        if len(set(axes.tolist())) < len(axes):
            return cls((0, 1, 2), ())
        against = tuple(axis for axis in range(3) if along[axis, axes[axis]] < 0)
        return cls(tuple(map(int, axes)), against)

    def voxels(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(Z, Y, X) voxels of the grid in the order of the other."""
        return np.flip(np.transpose(array.T, self.axes), self.reversed_axes).T

    def grid(self, grid: Grid) -> Grid:
        """The grid in the order of the other."""
        affine = grid.affine()
        to_grid = np.zeros((4, 4))
        to_grid[3, 3] = 1.0
        for axis, source in enumerate(self.axes):
            backwards = axis in self.reversed_axes
            to_grid[source, axis] = -1.0 if backwards else 1.0
            to_grid[source, 3] = grid.size[source] - 1 if backwards else 0.0
        return Grid.from_affine(affine @ to_grid, tuple(grid.size[source] for source in self.axes))


@dataclass(frozen=True)
class PlaneAxis:
    """One in-plane axis of the prepared grid over a source axis.

    start: the field of view's edge, whole source pixels; scale: source pixels a prepared pixel.
    """

    source_size: int
    image_size: int
    start: int
    scale: float

    @classmethod
    def over(cls, source_size: int, spacing_mm: float, image_size: int) -> "PlaneAxis":
        """The axis centred on `source_size` pixels of `spacing_mm`.

        >>> PlaneAxis.over(240, 1.0, 256)
        PlaneAxis(source_size=240, image_size=256, start=-8, scale=1.0)
        """
        scale = scale_between(pixel_mm(image_size), spacing_mm)
        start = round(source_size / 2 - FIELD_OF_VIEW_MM / spacing_mm / 2)
        return cls(source_size, image_size, start, scale)

    def weights(self) -> FloatArray:
        """(image_size, source_size) float32: area average where pixels grow, linear interpolation where they shrink.

        Rows reaching beyond the source sum to less than 1: what is missing is air.
        """
        source = np.arange(self.source_size)
        if self.scale >= 1.0:
            edges = self.start + np.arange(self.image_size + 1)[:, None] * self.scale
            overlap = np.minimum(edges[1:], source + 1) - np.maximum(edges[:-1], source)
            return np.asarray(np.clip(overlap, 0.0, None) / self.scale, np.float32)
        centres = self.start + (np.arange(self.image_size)[:, None] + 0.5) * self.scale - 0.5
        return np.asarray(np.clip(1.0 - np.abs(centres - source), 0.0, None), np.float32)

    def source_positions(self) -> FloatArray:
        """(source_size,) position of each source pixel's centre in prepared pixels (0 is the first centre)."""
        return np.asarray((np.arange(self.source_size) + 0.5 - self.start) / self.scale - 0.5)

    @property
    def field(self) -> slice:
        """The source pixels that lie in the field of view, wholly or in part.

        >>> PlaneAxis.over(600, 0.5, 64).field, PlaneAxis.over(240, 1.0, 256).field
        (slice(44, 556, None), slice(0, 240, None))
        """
        stop = math.ceil(self.start + self.image_size * self.scale)
        return slice(max(self.start, 0), min(stop, self.source_size))

    @property
    def offset(self) -> float:
        """Position of the first prepared pixel's centre, in source pixel centres."""
        return self.start + (self.scale - 1.0) / 2


def scale_between(made_mm: float, spacing_mm: float) -> float:
    """Source pixels a pixel that is made; whole where it is but for a header's rounding.

    >>> scale_between(2.0, 0.99999), scale_between(2.0, 0.9)
    (2.0, 2.2222222222222223)
    """
    scale = made_mm / spacing_mm
    return float(round(scale)) if abs(scale - round(scale)) < SAME_SPACING * scale else scale


def pixel_mm(image_size: int) -> float:
    """Side of a prepared pixel.

    >>> [pixel_mm(size) for size in IMAGE_SIZES]
    [4.0, 2.0, 1.0]
    """
    return FIELD_OF_VIEW_MM / image_size


def pixel_size_mm(affine: FloatArray) -> float:
    """Side of a prepared pixel by its slice's (4, 4) affine.

    >>> pixel_size_mm(np.diag([-2.0, 2.0, 5.0, 1.0]))
    2.0
    """
    return float(np.linalg.norm(affine[:3, 0]))


@dataclass(frozen=True)
class PreparedGrid:
    """The prepared plane over a source grid."""

    source: Grid
    canonical: Grid
    columns: PlaneAxis
    rows: PlaneAxis

    @classmethod
    def over(cls, source: Grid, image_size: int) -> "PreparedGrid":
        """The plane of `image_size` pixels over `source`, which may point anywhere."""
        grid = source.canonical()
        columns, rows = (PlaneAxis.over(grid.size[axis], grid.spacing[axis], image_size) for axis in (0, 1))
        return cls(source, grid, columns, rows)

    def affine(self) -> FloatArray:
        """(4, 4) prepared (column, row, source slice) to world, RAS mm."""
        to_source = np.diag([self.columns.scale, self.rows.scale, 1.0, 1.0])
        to_source[:2, 3] = self.columns.offset, self.rows.offset
        return np.asarray(self.canonical.affine() @ to_source)

    def sample(self, slices: np.ndarray[Any, Any]) -> FloatArray:
        """(S, Y, X) canonical slices, air 0, to (S, image_size, image_size) float32."""
        # Two large products: numpy multiplies a stack of small matrices seven times slower.
        along_rows = np.tensordot(np.asarray(slices, np.float32), self.columns.weights(), (2, 1))
        return np.ascontiguousarray(np.tensordot(along_rows, self.rows.weights(), (1, 1)).swapaxes(1, 2))


def to_source_grid(
    stack: np.ndarray[Any, Any],
    source_slice: np.ndarray[Any, Any],
    source: Grid,
    *,
    interpolation: Interpolation = Interpolation.LINEAR,
    outside: float = 0.0,
) -> sitk.Image:
    """A stack of prepared slices as an image on the source's own grid.

    stack: (S, H, W); source_slice: (S,) index of each along the third LPS axis; `outside` fills the voxels that no
    prepared slice covers. At 1 mm and 256 pixels the values come back exactly, with either interpolation.
    """
    plane = PreparedGrid.over(source, stack.shape[-1])
    width, height, depth = plane.canonical.size
    volume = np.full((depth, height, width), outside, stack.dtype)
    volume[source_slice] = _on_source_pixels(stack, plane, interpolation, outside)
    # Orienting back by a code such as RAI could err: near 45 degrees ITK may settle it otherwise than on the way there.
    return source.image(AxisOrder.between(plane.canonical, source).voxels(volume))


def _on_source_pixels(
    stack: np.ndarray[Any, Any], plane: PreparedGrid, interpolation: Interpolation, outside: float
) -> np.ndarray[Any, Any]:
    rows, columns = plane.rows.source_positions(), plane.columns.source_positions()
    match interpolation:
        case Interpolation.NEAREST:
            values = stack[:, _nearest(rows, plane.rows)][:, :, _nearest(columns, plane.columns)]
        case Interpolation.LINEAR:
            values = (_linear(rows, plane.rows) @ stack @ _linear(columns, plane.columns).T).astype(stack.dtype)
        case _:
            assert_never(interpolation)
    covered = _covered(rows, plane.rows)[:, None] & _covered(columns, plane.columns)[None, :]
    return np.where(covered, values, np.asarray(outside, stack.dtype))


def _covered(positions: FloatArray, axis: PlaneAxis) -> np.ndarray[Any, Any]:
    return np.asarray((positions >= -0.5) & (positions < axis.image_size - 0.5))


def _nearest(positions: FloatArray, axis: PlaneAxis) -> np.ndarray[Any, Any]:
    return np.asarray(np.clip(np.floor(positions + 0.5).astype(np.int64), 0, axis.image_size - 1))


def _linear(positions: FloatArray, axis: PlaneAxis) -> FloatArray:
    inside = np.clip(positions, 0, axis.image_size - 1)[:, None]
    return np.asarray(np.clip(1.0 - np.abs(inside - np.arange(axis.image_size)), 0.0, None))
