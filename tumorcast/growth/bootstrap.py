"""Bootstrap replicates of one patient's sizes; randomness has a key (seed, patient, purpose), never a place in a queue.

Replicates are drawn in blocks of BLOCK with a key of their own, so that a million of them stream through little memory
and the first ones stay when more are asked for.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt

from tumorcast.random_keys import patient_key

Array = npt.NDArray[np.float64]

BLOCK = 4096


class Stream(IntEnum):
    """What the numbers are for; each purpose has a stream of its own, so that one more draw here shifts none there."""

    NOISE = 0
    STARTS = 1
    PILOT = 2
    PRIOR = 3
    PATHS = 4


class Noise(StrEnum):
    """How measured sizes err, and so what a fit minimises.

    LOGNORMAL: by a factor exp(N(-s²/2, s)), of mean 1; squares of log residuals. ADDITIVE: the same factors, squares
    of differences of sizes. PAPER: factors N(1, s) clipped at 1, so that sizes only shrink, and fourth powers of the
    differences, as in the paper's code.
    """

    LOGNORMAL = "lognormal"
    ADDITIVE = "additive"
    PAPER = "paper"


class Bootstrap(StrEnum):
    """What a replicate is made of.

    MEASUREMENT: the measured sizes, measured again with noise (the paper's). PARAMETRIC: the fitted curve with noise.
    RESIDUAL: the fitted curve with residuals of the fit, drawn with replacement. CASES: scans drawn with replacement.
    """

    MEASUREMENT = "measurement"
    PARAMETRIC = "parametric"
    RESIDUAL = "residual"
    CASES = "cases"


@dataclass(frozen=True)
class Resampling:
    """How replicates are drawn: spread is s, the standard deviation of the logarithm of a measured size."""

    kind: Bootstrap
    noise: Noise
    spread: float


@dataclass(frozen=True)
class Replicates:
    """sizes: (B, T) of each replicate; weights: (B, T) how often each scan counts."""

    sizes: Array
    weights: Array


def patient_rng(seed: int, patient_id: str, stream: Stream, block: int = 0) -> np.random.Generator:
    """The generator of one patient, purpose and block. Raises ValueError if seed < 0."""
    sequence = np.random.SeedSequence(seed, spawn_key=(patient_key(patient_id), int(stream), block))
    return np.random.default_rng(sequence)


def noise_factors(rng: np.random.Generator, shape: tuple[int, ...], resampling: Resampling) -> Array:
    """What sizes are multiplied by: positive, and of mean 1 but for the paper's.

    A spread of 0.1 is 10 %, the paper's.
    """
    spread = resampling.spread
    match resampling.noise:
        case Noise.LOGNORMAL | Noise.ADDITIVE:
            return np.exp(rng.normal(-0.5 * spread * spread, spread, shape))
        case Noise.PAPER:
            return np.clip(rng.normal(1.0, spread, shape), 0.01, 1.0)
        case _:
            assert_never(resampling.noise)


def draw(rng: np.random.Generator, count: int, sizes: Array, fitted: Array, resampling: Resampling) -> Replicates:
    """`count` replicates of sizes: (T,), whose fit gave fitted: (T,). A perturbed size of zero stays zero."""
    shape = (count, sizes.size)
    ones = np.ones(shape)
    match resampling.kind:
        case Bootstrap.MEASUREMENT:
            return Replicates(sizes * noise_factors(rng, shape, resampling), ones)
        case Bootstrap.PARAMETRIC:
            return Replicates(fitted * noise_factors(rng, shape, resampling), ones)
        case Bootstrap.RESIDUAL:
            return Replicates(_resampled(rng, shape, sizes, fitted, resampling.noise), ones)
        case Bootstrap.CASES:
            picks = rng.integers(0, sizes.size, shape)
            counts = np.apply_along_axis(np.bincount, 1, picks, minlength=sizes.size)
            return Replicates(np.broadcast_to(sizes, shape).copy(), counts.astype(np.float64))
        case _:
            assert_never(resampling.kind)


def _resampled(rng: np.random.Generator, shape: tuple[int, int], sizes: Array, fitted: Array, noise: Noise) -> Array:
    """The fitted curve with its own residuals, centred: of logarithms, or of sizes where those are compared."""
    picks = rng.integers(0, sizes.size, shape)
    if noise is Noise.LOGNORMAL:
        seen = sizes > 0
        residuals = np.zeros_like(sizes)
        residuals[seen] = np.log(sizes[seen] / fitted[seen])
        return np.asarray(fitted * np.exp((residuals - residuals.mean())[picks]))
    residuals = sizes - fitted
    return np.asarray(np.maximum(fitted + (residuals - residuals.mean())[picks], 0.0))


def latin_hypercube(rng: np.random.Generator, points: int, dimensions: int) -> Array:
    """(points, dimensions) starts in [0, 1): every dimension is covered evenly."""
    cells = rng.permuted(np.tile(np.arange(points, dtype=np.float64)[:, None], (1, dimensions)), axis=0)
    return (cells + rng.random(cells.shape)) / points
