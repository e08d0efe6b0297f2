"""Statistics of an ensemble from those of its blocks. numpy, float64; arrays of any shape, filled in place."""

import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[np.float64]
Map = npt.NDArray[np.float32]


def add_moments(count: int, mean: Sums, spread: Sums, block_count: int, block_mean: Map, block_std: Map) -> None:
    """Add a block to the mean and to the sum of squared deviations of `count` members (Chan et al. 1979, eq. 2.1).

    block_std: the block's standard deviation, over its count and not that less one. Changes mean and spread.
    """
    total = count + block_count
    step = block_mean - mean  # float64, since the mean is
    mean += step * (block_count / total)
    spread += np.square(block_std, dtype=np.float64) * block_count + np.square(step) * (count * block_count / total)


def add_share(total: Sums, block_count: int, block_share: Map) -> None:
    """Add a block's mean to the sum over members. Changes total."""
    total += np.multiply(block_share, block_count, dtype=np.float64)


def add_votes(votes: Sums, block_count: int, block_share: Map) -> None:
    """Add how many of a block's members there are of which `block_share` is the rounded share. Changes votes.

    It is a whole number, so that no rounding of the blocks' shares is left in the sum.
    """
    votes += np.rint(np.multiply(block_share, block_count, dtype=np.float64))
