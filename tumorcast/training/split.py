"""Which patients are held out for validation: a choice by their names, whatever the cohort's order or size."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SURE_FROM = 10  # patients: from so many on, a share that is not zero holds out at least one


def held_out(patient_ids: Sequence[str], share: float) -> npt.NDArray[np.bool_]:
    """(P,) whether a patient is held out: about `share` of them.

    >>> held_out([f"P{k}" for k in range(12)], 0.25).sum(), held_out(["A", "B"], 0.0).sum()
    (np.int64(2), np.int64(0))
    """
    places = np.array([_place(patient_id) for patient_id in patient_ids])
    chosen = places < share
    if share > 0 and len(places) >= SURE_FROM and not chosen.any():
        chosen[places.argmin()] = True
    return chosen


def _place(patient_id: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8], "big") / 2.0**64
