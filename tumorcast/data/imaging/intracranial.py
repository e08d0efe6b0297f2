"""The inside of the skull in a scan that was not stripped, by a rule of thumb: bone is dark, the brain is one piece.

It is for T1 and T1c where no skull stripping is at hand, and no segmentation: look at it before trusting its edge.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorcast.records import FloatArray

BoolArray = npt.NDArray[np.bool_]

DEEP = 0.3  # of the head's greatest depth: what lies deeper is nearly all brain
BRIGHTNESS = (0.6, 2.2)  # of brain, over its median: bone is darker, fat brighter
SKIN = 0.03  # of the head's breadth
BRIDGE = 0.012  # of the head's breadth: half of what is thinner is cut, so that the brain comes off the scalp
HOLLOW = 4  # bridges: hollows up to so wide (sulci, cysts, a resection cavity) belong to the inside


def intracranial(volume: FloatArray, head: BoolArray) -> BoolArray:
    """(Z, Y, X) the inside of the skull within the mask of the head; the head itself where nothing is found.

    Slices are worked on one by one, since they may lie far apart.
    """
    smooth = ndimage.gaussian_filter(volume.astype(np.float32), (0.0, 1.0, 1.0))
    depth = np.stack([ndimage.distance_transform_edt(part) for part in head])
    breadth = float(np.sqrt(head.any(axis=0).sum()))
    reach = max(2, round(BRIDGE * breadth))
    typical = float(np.median(smooth[depth > DEEP * depth.max()]))
    low, high = (share * typical for share in BRIGHTNESS)
    below_skin = depth > SKIN * breadth
    brainlike = below_skin & (smooth > low) & (smooth < high)
    core = _largest(_by_slice(ndimage.binary_erosion, brainlike, 2 * reach))
    if not core.any():
        return head
    grown = _by_slice(ndimage.binary_dilation, core, 2 * reach + 1) & head
    return np.stack([_whole(part, HOLLOW * reach) for part in grown]) & below_skin


def _whole(mask: BoolArray, radius: int) -> BoolArray:
    """(Y, X) the mask closed over hollows of this radius, without holes."""
    closed = ndimage.binary_closing(np.pad(mask, radius), disk(radius))[radius:-radius, radius:-radius]
    return np.asarray(ndimage.binary_fill_holes(closed))


def _by_slice(change: Callable[[BoolArray, BoolArray], BoolArray], mask: BoolArray, radius: int) -> BoolArray:
    return np.stack([change(part, disk(radius)) for part in mask])


def _largest(mask: BoolArray) -> BoolArray:
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return mask if count < 2 else np.asarray(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)


def disk(radius: int) -> BoolArray:
    """A disk as a structuring element.

    >>> disk(1).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2)
