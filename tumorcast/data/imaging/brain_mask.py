"""The brain mask and the intensity scaling of one scan: arrays in, arrays out.

Volumes that are not skull-stripped get a mask of the whole head (Otsu's threshold on the first
contrast, largest component, holes filled): "brain" areas and fractions then mean the head's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorcast.records import Contrast, FloatArray

STRIPPED_ZERO_SHARE = 0.4  # a ball that touches its box leaves 48 % of it empty; air in a scan with skull is noise
PERCENTILES = (0.5, 99.5)
BINS = 256
IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]

ALL_NEIGHBOURS = np.ones((3, 3, 3), bool)
DEEP = 0.3  # of the head's greatest depth: what lies deeper is nearly all brain
BRIGHTNESS = (0.6, 2.2)  # of brain, over its median: bone is darker, fat brighter
SKIN = 0.03  # of the head's breadth
BRIDGE = 0.012  # of the head's breadth: half of what is thinner is cut, so that the brain comes off the scalp
HOLLOW = 4  # bridges: hollows up to so wide (sulci, cysts, a resection cavity) belong to the inside

BoolArray = npt.NDArray[np.bool_]


class BrainMask(StrEnum):
    """Where the brain is taken from; `auto` decides by the share of voxels that are exactly 0: nonzero or head.

    inner: the inside of the skull, by the rule of `intracranial` on the first contrast.
    """

    AUTO = "auto"
    NONZERO = "nonzero"
    HEAD = "head"
    INNER = "inner"


@dataclass(frozen=True)
class Window:
    """The intensities that become -1 and 1."""

    low: float
    high: float

    def scale(self, volume: FloatArray, brain: BoolArray) -> FloatArray:
        """Intensities to [-1, 1], clipped; -1 outside the brain. Any shape."""
        scaled = np.clip((volume - self.low) * (2.0 / (self.high - self.low)) - 1.0, -1.0, 1.0)
        return np.where(brain, scaled, np.float32(-1.0)).astype(np.float32)


def resolve(choice: BrainMask, images: dict[Contrast, FloatArray]) -> BrainMask:
    """`choice`, with `auto` settled: nonzero where every contrast is mostly exact zeros."""
    if choice is not BrainMask.AUTO:
        return choice
    stripped = all(float((volume == 0).mean()) >= STRIPPED_ZERO_SHARE for volume in images.values())
    return BrainMask.NONZERO if stripped else BrainMask.HEAD


def brain_mask(images: dict[Contrast, FloatArray], choice: BrainMask) -> BoolArray:
    """(Z, Y, X) brain of volumes of that shape, holes filled slice by slice."""
    volumes = list(images.values())
    if resolve(choice, images) is BrainMask.NONZERO:
        return filled(np.logical_or.reduce([volume > 0 for volume in volumes]))
    # Roots, for the bright fat under the skin lifts a threshold on intensities above much of the brain.
    roots = np.sqrt(volumes[0])
    head = filled(_largest(roots > otsu(roots)))
    return intracranial(volumes[0], head) if choice is BrainMask.INNER else head


def otsu(volume: FloatArray) -> float:
    """Otsu's threshold (1979) over 256 bins up to the 99.5 percentile, which bright vessels would else stretch."""
    top = float(np.percentile(volume, PERCENTILES[1]))
    if top == float(volume.min()):  # all but a few voxels have one value: only those few can be split off
        top = float(volume.max())
    counts, edges = np.histogram(np.minimum(volume, top), BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below, moment = np.cumsum(counts)[:-1], np.cumsum(counts * centres)[:-1]
    above, rest = counts.sum() - below, (counts * centres).sum() - moment
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (moment / below - rest / above) ** 2
    return float(edges[1:-1][np.nanargmax(between)])


def window_of(volume: FloatArray, brain: BoolArray) -> Window | None:
    """The robust window of a volume's brain voxels; None if they have one value only."""
    inside = volume[brain]
    if inside.size == 0:
        return None
    low, high = (float(value) for value in np.percentile(inside, PERCENTILES))
    return Window(low, high) if high > low else None


def _largest(mask: BoolArray, neighbours: BoolArray | None = None) -> BoolArray:
    """The largest component; neighbours: which voxels of a cube of three join its middle, by default its faces."""
    components, count = ndimage.label(mask, neighbours)
    return mask if count < 2 else np.asarray(components == np.bincount(components.ravel())[1:].argmax() + 1)


def filled(mask: BoolArray) -> BoolArray:
    """(Z, Y, X) the mask without holes: background that no path in the slice joins to the slice's border."""
    background, _ = ndimage.label(~mask, IN_PLANE)
    rim = [background[:, 0], background[:, -1], background[:, :, 0], background[:, :, -1]]
    open_air = np.zeros(background.max() + 1, bool)
    for side in rim:
        open_air[side.ravel()] = True
    open_air[0] = False
    return mask | ~(open_air[background] | mask)


def intracranial(volume: FloatArray, head: BoolArray) -> BoolArray:
    """(Z, Y, X) the inside of the skull within the mask of the head; the head itself where nothing is found.

    A rule of thumb for T1 and T1c that were not stripped, where no tool or segmentation is at hand: bone is dark, the
    brain is one piece. Look at its edge before trusting it. Slices are worked on one by one, as they may lie far apart.
    """
    smooth = ndimage.gaussian_filter(volume.astype(np.float32), (0.0, 1.0, 1.0))
    depth = np.stack([ndimage.distance_transform_edt(part) for part in head])
    breadth = float(np.sqrt(head.any(axis=0).sum()))
    reach = max(2, round(BRIDGE * breadth))
    typical = float(np.median(smooth[depth > DEEP * depth.max()]))
    low, high = (share * typical for share in BRIGHTNESS)
    below_skin = depth > SKIN * breadth
    brainlike = below_skin & (smooth > low) & (smooth < high)
    core = _largest(_by_slice(ndimage.binary_erosion, brainlike, 2 * reach), ALL_NEIGHBOURS)
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


def disk(radius: int) -> BoolArray:
    """A disk as a structuring element.

    >>> disk(1).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2)
