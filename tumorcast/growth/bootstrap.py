"""Randomness of one patient's growth, keyed by seed, patient and purpose, never by order of work."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from tumorcast.keys import patient_key
from tumorcast.records import FloatArray

Array = npt.NDArray[np.float64]


class Stream(IntEnum):
    """What the numbers are for; each purpose has a stream of its own, so that one more draw here shifts none there."""

    NOISE = 0
    STARTS = 1
    BEST_STARTS = 2
    PRIOR = 3


def patient_rng(seed: int, patient_id: str, stream: Stream) -> np.random.Generator:
    """The generator of one patient and purpose. Raises ValueError if seed < 0."""
    sequence = np.random.SeedSequence(seed, spawn_key=(patient_key(patient_id), int(stream)))
    return np.random.default_rng(sequence)


def log_normal_noise(rng: np.random.Generator, shape: tuple[int, ...], spread: float) -> Array:
    """Factors exp(N(-s²/2, s)) of mean exactly 1, so that a bootstrap neither grows nor shrinks tumours on average.

    spread: s, the standard deviation of the logarithm; 0.1 is 10 %, the paper's.
    """
    return np.exp(rng.normal(-0.5 * spread * spread, spread, shape))


def noisy_sizes(sizes: FloatArray, rng: np.random.Generator, *, replicates: int, spread: float) -> Array:
    """(replicates, T) sizes: (T,) as they might have been measured another time. A size of zero stays zero."""
    return np.asarray(sizes, dtype=np.float64) * log_normal_noise(rng, (replicates, sizes.size), spread)


def latin_hypercube(rng: np.random.Generator, replicates: int, points: int, dimensions: int) -> Array:
    """(replicates, points, dimensions) starts in [0, 1): in each replicate every dimension is covered evenly."""
    cells = np.broadcast_to(np.arange(points, dtype=np.float64)[None, :, None], (replicates, points, dimensions))
    cells = rng.permuted(cells, axis=1)
    return (cells + rng.random(cells.shape)) / points
