"""A slice on the axes of a picture: the image, outlines over it, and the brain with a narrow margin."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

Mask = npt.NDArray[np.bool_]

MARGIN = 2.5  # pixels round the brain


def draw_image(axes: Axes, image: npt.NDArray[Any], brain: Mask, title: str = "") -> None:
    """An image (H, W) in [-1, 1], cut to the brain, without axes."""
    axes.imshow(image.astype(np.float32), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    rows, columns = np.nonzero(brain)
    axes.set(xlim=(columns.min() - MARGIN, columns.max() + MARGIN), ylim=(rows.max() + MARGIN, rows.min() - MARGIN))
    axes.set_title(title, fontsize=8)


def draw_outline(axes: Axes, mask: Mask, colour: str, width: float = 1.0) -> None:
    """The edge of a mask (H, W), if it has one."""
    if mask.any() and not mask.all():
        axes.contour(mask.astype(np.float64), [0.5], colors=colour, linewidths=width)
