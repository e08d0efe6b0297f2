"""What the progression network on volumes reads. No torch is needed to make it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

EXTRA_PLANES = 3  # beside the contrasts: outline, signed distance, front
FARTHEST_MM, FARTHEST_FRONT = 20.0, 2.0  # planes hold no more, scaled to ±1
AIR = -1.0


def planes_of(
    images: npt.NDArray[np.float32],
    outline: npt.NDArray[np.bool_],
    distance_mm: npt.NDArray[np.float32],
    front: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """(P, Z, Y, X) what the network reads: images (C, Z, Y, X) in [-1, 1], and three maps (Z, Y, X)."""
    maps = [
        2.0 * outline - 1.0,
        np.clip(distance_mm / FARTHEST_MM, -1.0, 1.0),
        np.clip(front / FARTHEST_FRONT, -1.0, 1.0),
    ]
    return np.concatenate([images, np.stack(maps).astype(np.float32)])


def images_for(images: npt.NDArray[np.float32], have: Sequence[str], wanted: Sequence[str]) -> npt.NDArray[np.float32]:
    """(W, Z, Y, X) the contrasts that a network wants, of those (C, Z, Y, X) that there are; one that is absent is air.

    Networks are trained with contrasts left out at random, and so know that air in a brain is a contrast not taken.
    """
    absent = np.full(images.shape[1:], AIR, np.float32)
    return np.stack([images[list(have).index(name)] if name in have else absent for name in wanted])
