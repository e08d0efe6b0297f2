"""The noise schedule of the paper: 1000 steps, β linear from 1e-4 to 0.02 (Ho et al. 2020)."""

import numpy as np
import numpy.typing as npt

TRAINING_STEPS = 1000
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def alpha_bars() -> FloatArray:
    """(1000,) ᾱ_t in float64: the share of the signal's variance left at diffusion time t.

    >>> alpha_bars()[[0, 199, 999]].round(4)
    array([0.9999, 0.659 , 0.    ])
    """
    betas = np.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=np.float64)
    return np.cumprod(1.0 - betas).astype(np.float64)


def strided_times(noise_level: int, steps: int | None) -> IntArray:
    """(K + 1,) increasing diffusion times 0 … noise_level - 1 to visit with K = `steps` steps; None visits all.

    >>> strided_times(200, 4)
    array([  0,  50, 100, 149, 199])
    >>> strided_times(4, None)
    array([0, 1, 2, 3])
    """
    last = noise_level - 1
    return np.linspace(0, last, (steps or last) + 1).round().astype(np.int64)
