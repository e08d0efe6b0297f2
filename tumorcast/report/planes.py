"""The three planes of a volume that pictures show: axial, coronal and sagittal, in radiological convention.

Volumes are (Z, Y, X) in the order LPS. The patient's right is on the left of axial and coronal planes, the front on the
left of sagittal ones; the front is at the top of axial planes, the head at that of the others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import VolumeForecast

NAMES = ("axial", "coronal", "sagittal")  # by the axis that the plane stands on
ENDS = (("R", "L", "A", "P"), ("R", "L", "H", "F"), ("A", "P", "H", "F"))  # left, right, top and bottom


@dataclass(frozen=True)
class Plane:
    """A plane that stands on an axis (0, 1, 2: z, y, x) of a volume, at a voxel of it."""

    axis: int
    at: int

    @property
    def name(self) -> str:
        """What it is called."""
        return NAMES[self.axis]

    @property
    def ends(self) -> tuple[str, str, str, str]:
        """What is to the left, the right, the top and the bottom: right, left, anterior, posterior, head or feet."""
        return ENDS[self.axis]

    def cut(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(…, H, W) as it is seen, of (…, Z, Y, X).

        >>> head_to_feet = Plane(1, 0).cut(np.arange(3).reshape(3, 1, 1))
        >>> head_to_feet.ravel()
        array([2, 1, 0])
        """
        return self._upright(np.take(values, self.at, axis=self.axis - 3))

    def shadow(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(H, W) what a mask (Z, Y, X) covers in any plane of this direction."""
        return self._upright(np.asarray(np.any(mask, axis=self.axis)))

    def _upright(self, layer: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return layer if self.axis == 0 else np.flip(layer, axis=-2)


def planes_through(forecast: VolumeForecast) -> tuple[Plane, Plane, Plane]:
    """The planes through the middle of the tumour that is foretold to be new at the last horizon.

    Of one that does not grow, through the middle of the present tumour.
    """
    present = forecast.labels > 0
    new = forecast.outline(len(forecast.horizon_days) - 1) & ~present
    middle = [int(np.median(places)) for places in np.nonzero(new if new.any() else present)]
    axial, coronal, sagittal = (Plane(axis, at) for axis, at in enumerate(middle))
    return axial, coronal, sagittal
