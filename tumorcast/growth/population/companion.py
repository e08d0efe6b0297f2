"""A second compartment of the tumour as a sign of what comes: oedema about the enhancing part, or enhancement in it.

Between two scans of mu_glioma_post the enhancing volume changes by 0.25 more in log size for every unit by which the
log of the oedema exceeds its usual distance (likelihood ratio 15 on one degree of freedom): it lowers the CRPS by 1 %.
For oedema with enhancement the gain is too small to count on. It is optional: where the companion is not known,
forecasts are as without it.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from tumorcast.growth.population.history import History
from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]


def companion_gaps(histories: Sequence[History]) -> Array:
    """(N,) y of the companion less that of the tumour at the last scan; NaN where it is not known."""
    return np.array([np.nan if one.companion is None else one.companion[-1] - one.log_sizes[-1] for one in histories])


class CompanionScale(Settings):
    """What gaps are usual: their mean, least and greatest among the training cases."""

    mean: float
    low: float
    high: float

    @classmethod
    def around(cls, gaps: Array) -> Self | None:
        """The scale of gaps: (N,); None where fewer than ten are known, too few to learn from."""
        known = gaps[np.isfinite(gaps)]
        return (
            cls(mean=float(known.mean()), low=float(known.min()), high=float(known.max())) if known.size >= 10 else None
        )


def companion_excess(scale: CompanionScale | None, gaps: Array) -> Array:
    """(…,) gaps above the usual, none beyond the range seen; zero where the gap or the scale is not known."""
    if scale is None:
        return np.zeros_like(gaps)
    return np.nan_to_num(np.clip(gaps, scale.low, scale.high) - scale.mean, nan=0.0)
