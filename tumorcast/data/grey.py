"""Grey levels of volumes: 0 … 255 for the slices' -1 … 1."""

from typing import Any

import numpy as np
import numpy.typing as npt

GREY_LEVELS = 255


def to_grey(images: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Images in [-1, 1] as grey levels; what lies beyond is cut off.

    >>> to_grey(np.array([-1.0, 0.0, 2.0]))
    array([  0, 128, 255], dtype=uint8)
    """
    return np.asarray(np.rint((np.clip(images, -1.0, 1.0) + 1.0) * (GREY_LEVELS / 2)), np.uint8)


def from_grey(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Grey levels as images in [-1, 1].

    >>> from_grey(np.array([0, 255], np.uint8))
    array([-1.,  1.], dtype=float32)
    """
    return np.asarray(images, np.float32) * np.float32(2 / GREY_LEVELS) - np.float32(1)
