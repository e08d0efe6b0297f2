"""The box round a tumour in which its growth is foretold."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Box = tuple[slice, slice, slice]
Sides = tuple[int, int, int]

MARGIN_MM = 20.0
LEAST_SIDES = (48, 64, 64)  # z, y, x, as in training
SIDES_OF = 8  # the network halves three times


@dataclass(frozen=True)
class Crop:
    """A box of voxels, z, y, x: its first one, which may lie before the volume, and its sides.

    volume: the sides of the volume that it is cut from.
    """

    start: tuple[int, int, int]
    sides: tuple[int, int, int]
    volume: tuple[int, int, int]

    @classmethod
    def round(cls, tumour: npt.NDArray[np.bool_], voxel_mm: float) -> Self:
        """The box round a tumour (Z, Y, X), which is not empty: LEAST_SIDES or more, multiples of SIDES_OF.

        It goes MARGIN_MM beyond the tumour on every side, or to the end of the volume.

        >>> mask = np.zeros((80, 100, 100), bool)
        >>> mask[40:50, 5:45, 10:90] = True
        >>> Crop.round(mask, 2.0)
        Crop(start=(21, -7, -2), sides=(48, 64, 104), volume=(80, 100, 100))
        """
        margin = round(MARGIN_MM / voxel_mm)
        extents, sides = _extents(tumour), []
        for axis, least in enumerate(LEAST_SIDES):
            wanted, whole = extents[axis][1] - extents[axis][0] + 2 * margin, max(tumour.shape[axis], least)
            sides.append(max(least, -(-min(wanted, whole) // SIDES_OF) * SIDES_OF))
            if wanted > whole:  # all of the axis, however far from its middle the tumour is
                extents[axis] = (0, tumour.shape[axis])
        return cls._centred(extents, (sides[0], sides[1], sides[2]), tumour)

    @classmethod
    def of_sides(cls, tumour: npt.NDArray[np.bool_], sides: Sides) -> Self:
        """The box of these sides round the middle of a tumour (Z, Y, X), which is not empty."""
        return cls._centred(_extents(tumour), sides, tumour)

    @classmethod
    def _centred(cls, extents: list[tuple[int, int]], sides: Sides, tumour: npt.NDArray[np.bool_]) -> Self:
        z, y, x = ((first + past - side) // 2 for (first, past), side in zip(extents, sides, strict=True))
        depth, height, width = tumour.shape
        return cls((z, y, x), sides, (depth, height, width))

    def widened(self, voxels: int) -> "Crop":
        """The box with so many voxels more to every side."""
        (z, y, x), (depth, height, width), more = self.start, self.sides, 2 * voxels
        sides = (depth + more, height + more, width + more)
        return Crop((z - voxels, y - voxels, x - voxels), sides, self.volume)

    def cut(self, volume: npt.NDArray[Any], outside: Any = 0) -> npt.NDArray[Any]:
        """The last three axes of an array, within the box; `outside` fills what lies beyond the volume."""
        inner, whole = self._overlap()
        cut = np.full((*volume.shape[:-3], *self.sides), outside, volume.dtype)
        cut[..., *inner] = volume[..., *whole]
        return cut

    def put_back(self, cut: npt.NDArray[Any], outside: Any = 0) -> npt.NDArray[Any]:
        """The whole volume: what `cut` took out, and `outside` elsewhere."""
        inner, whole = self._overlap()
        volume = np.full((*cut.shape[:-3], *self.volume), outside, cut.dtype)
        volume[..., *whole] = cut[..., *inner]
        return volume

    def _overlap(self) -> tuple[Box, Box]:
        """Where box and volume meet: in the box, and in the volume."""
        inner: list[slice] = []
        whole: list[slice] = []
        for start, side, size in zip(self.start, self.sides, self.volume, strict=True):
            first, past = max(start, 0), min(start + side, size)
            whole.append(slice(first, past))
            inner.append(slice(first - start, past - start))
        return (inner[0], inner[1], inner[2]), (whole[0], whole[1], whole[2])


def _extents(tumour: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and one-past-last index of a tumour along z, y, x."""
    along = (np.flatnonzero(tumour.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return [(int(found[0]), int(found[-1]) + 1) for found in along]


def signed_distance_mm(tumour: npt.NDArray[np.bool_], voxel_mm: float) -> npt.NDArray[np.float32]:
    """(Z, Y, X) distance to the outline, negative within."""
    outside = ndimage.distance_transform_edt(~tumour)
    inside = ndimage.distance_transform_edt(tumour)
    return np.asarray((outside - inside) * voxel_mm, np.float32)
