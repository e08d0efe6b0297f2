"""The grid of a simulated scan and smooth random fields on it.

Arrays are (Z, Y, X) in LPS order: x grows to the patient's left, y to the back, z to the head. Computation happens in a
work box round the brain; `SimulationGrid.embed` puts the result into the full field of view.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FIELD_MM = (155.0, 240.0, 240.0)
WORK_BOX_MM = ((0.0, 155.0), (20.0, 220.0), (36.0, 204.0))


@dataclass(frozen=True)
class SimulationGrid:
    """Isotropic voxels over the BraTS field of view, 240 x 240 x 155 mm.

    >>> SimulationGrid(voxel_mm=2.0).field_shape
    (78, 120, 120)
    """

    voxel_mm: float

    @property
    def field_shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) voxels of the whole field."""
        depth, height, width = (math.ceil(size / self.voxel_mm) for size in FIELD_MM)
        return depth, height, width

    @property
    def work_slices(self) -> tuple[slice, slice, slice]:
        """The work box as slices into the whole field."""
        z, y, x = (
            slice(math.floor(low / self.voxel_mm), min(math.ceil(high / self.voxel_mm), count))
            for (low, high), count in zip(WORK_BOX_MM, self.field_shape, strict=True)
        )
        return z, y, x

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) voxels of the work box."""
        z, y, x = (part.stop - part.start for part in self.work_slices)
        return z, y, x

    def centres_mm(self, axis: int) -> npt.NDArray[np.float64]:
        """(N,) positions of the work box's voxel centres along one axis, mm from the corner of the field."""
        part = self.work_slices[axis]
        return (np.arange(part.start, part.stop) + 0.5) * self.voxel_mm

    def embed(self, work: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The whole field, zero outside the work box."""
        field = np.zeros(self.field_shape, work.dtype)
        field[self.work_slices] = work
        return field


def box_of(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """The smallest box that holds a mask, wider by a margin of voxels; empty if the mask is.

    >>> box_of(np.array([[False, False, False], [False, True, True]]))
    (slice(1, 2, None), slice(1, 3, None))
    """
    inside = np.nonzero(mask)
    if not inside[0].size:
        return (slice(0, 0),) * mask.ndim
    return tuple(slice(max(int(at.min()) - margin, 0), int(at.max()) + margin + 1) for at in inside)


@lru_cache(maxsize=512)
def _spline(grid: SimulationGrid, axis: int, spacing_mm: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Cubic B-spline: (N,) first of four knots of each voxel; (4, N) weights that keep unit variance on average."""
    at = (grid.centres_mm(axis) - WORK_BOX_MM[axis][0]) / spacing_mm
    first = np.clip(np.floor(at), 0, None)
    t = at - first
    weights = np.array([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    weights /= np.sqrt((weights**2).sum(0).mean())
    return first.astype(np.intp), weights.astype(np.float32)


def smooth_field(rng: np.random.Generator, grid: SimulationGrid, spacing_mm: float) -> Volume:
    """A random field of about zero mean and unit variance that is smooth over spacing_mm.

    Knots stand in the mm of the field, so that the same generator gives the same field at any voxel size.
    (Z, Y, X) float32. Sums of four terms rather than a matrix product: BLAS may round differently with its threads.
    """
    extents = [high - low for low, high in WORK_BOX_MM]
    knots = [math.ceil(extent / spacing_mm) + 4 for extent in extents]
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis in range(3):
        first, weights = _spline(grid, axis, spacing_mm)
        lined_up = [1, 1, 1]
        lined_up[axis] = -1
        field = sum(
            (np.take(field, first + k, axis=axis) * weights[k].reshape(lined_up) for k in range(1, 4)),
            start=np.take(field, first, axis=axis) * weights[0].reshape(lined_up),
        )
    return field
