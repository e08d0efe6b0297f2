"""A mask on other pixels or voxels: those that hold most of it, as many as keep its size, with its middle in place."""

import numpy as np
import numpy.typing as npt

from tumorcast.records import FloatArray

Mask = npt.NDArray[np.bool_]

ALIKE = 1e-4  # shares that differ by less are of rounding
WEIGHED = 500  # voxels that are chosen one by one; of more the others are drawn


def largest_shares(share: FloatArray, count: int) -> Mask:
    """Mask of the `count` largest shares, in any number of dimensions, of those above 0.

    Where voxels grow by an even factor, all round a mask are half full, and one rim would be chosen before the other.
    So of shares that are alike, those are taken that leave the mask's middle where the shares have theirs.

    >>> largest_shares(np.array([0.5, 1.0, 0.5, 0.25]), 2)
    array([False,  True,  True, False])
    >>> largest_shares(np.array([0.5, 1.0, 1.0, 0.5, 0.5]), 4)
    array([ True,  True,  True,  True, False])
    """
    flat = share.ravel()
    touched = np.flatnonzero(flat)
    mask = np.zeros(share.shape, np.bool_)
    if count < touched.size:
        last = np.partition(flat[touched], -count)[-count]
        sure, alike = (touched[part] for part in _sure_and_alike(flat[touched], float(last)))
        places = np.stack(np.unravel_index(touched, share.shape), axis=1).astype(np.float64)
        middle = np.average(places, axis=0, weights=flat[touched])
        wanted = count * middle - _places(sure, share).sum(axis=0)
        touched = np.concatenate([sure, alike[_balanced(_places(alike, share), count - sure.size, wanted)]])
    mask.flat[touched] = True
    return mask


def _sure_and_alike(values: FloatArray, last: float) -> tuple[Mask, Mask]:
    """Which values are above the last one that is taken, and which are the same."""
    return np.asarray(values > last + ALIKE), np.asarray(np.abs(values - last) <= ALIKE)


def _places(flat: npt.NDArray[np.int64], share: FloatArray) -> npt.NDArray[np.float64]:
    """(K, D) where voxels lie, by their flat indices."""
    return np.stack(np.unravel_index(flat, share.shape), axis=1).astype(np.float64)


def _balanced(places: npt.NDArray[np.float64], count: int, wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(count,) of the places (K, D), chosen so that their sum comes to what is wanted (D,)."""
    if count == len(places):
        return np.arange(count)
    drawn = np.random.default_rng(0).choice(len(places), max(count - WEIGHED, 0), replace=False)
    left = np.ones(len(places), np.bool_)
    left[drawn] = False
    chosen, lacking = drawn.tolist(), wanted - places[drawn].sum(axis=0)
    for remaining in range(count - len(chosen), 0, -1):
        away = ((places - lacking / remaining) ** 2).sum(axis=1)
        best = int(np.where(left, away, np.inf).argmin())
        left[best] = False
        chosen.append(best)
        lacking = lacking - places[best]
    return np.array(chosen, np.int64)
