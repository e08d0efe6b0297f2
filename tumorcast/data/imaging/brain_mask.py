"""The brain mask and the intensity scaling of one scan: arrays in, arrays out.

Volumes that are not skull-stripped get a mask of the whole head (Otsu's threshold on the first
contrast, largest component, holes filled): "brain" areas and fractions then mean the head's.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorcast.data.imaging.intracranial import intracranial
from tumorcast.records import Contrast, FloatArray

STRIPPED_ZERO_SHARE = 0.4  # a ball that touches its box leaves 48 % of it empty; air in a scan with skull is noise
PERCENTILES = (0.5, 99.5)
BINS = 256
IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]

BoolArray = npt.NDArray[np.bool_]


class BrainMask(StrEnum):
    """Where the brain is taken from; `auto` decides by the share of voxels that are exactly 0: nonzero or head.

    inner: the inside of the skull, by the rule of intracranial.py on the first contrast.
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


def _largest(mask: BoolArray) -> BoolArray:
    components, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(components == np.bincount(components.ravel())[1:].argmax() + 1)


def filled(mask: BoolArray) -> BoolArray:
    """(Z, Y, X) the mask without holes: background that no path in the slice joins to the slice's border."""
    background, _ = ndimage.label(~mask, IN_PLANE)
    rim = [background[:, 0], background[:, -1], background[:, :, 0], background[:, :, -1]]
    open_air = np.zeros(background.max() + 1, bool)
    for side in rim:
        open_air[side.ravel()] = True
    open_air[0] = False
    return mask | ~(open_air[background] | mask)
