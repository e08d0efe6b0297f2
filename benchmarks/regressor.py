"""How well the guiding regressor reads tumour over brain off clean and noisy slices, as R²."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.diffusion.schedule import alpha_bars
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.statistics import Estimate, estimate
from tumorcast.forecasting.plan import member_noise

Floats = npt.NDArray[np.float64]

NOISY_LEVEL = 200
NOISE_MEMBER = 2**31  # no member of an ensemble has this number
SAME_SIZES = 1e-12  # slices whose squared deviations sum to less are all alike, and R² has no value


def regressor_sizes(
    cohort: Cohort, patient_id: str, engine: Engine, *, slices: int, batch: int, seed: int
) -> dict[str, list[float]]:
    """true, clean and noisy (at t = NOISY_LEVEL) tumour over brain of at most `slices` of a patient's slices.

    They are spread evenly over all scans. noisy is empty for a regressor that does not know such noise.
    """
    chosen = list(_spread(cohort, patient_id, slices))
    sizes: dict[str, list[float]] = {"true": [present.brain_fraction for present in chosen], "clean": [], "noisy": []}
    abar = alpha_bars()
    for start in range(0, len(chosen), batch):
        block = chosen[start : start + batch]
        images = np.stack([present.image for present in block]).astype(np.float32)
        brain = np.stack([present.brain for present in block]).astype(np.float32)
        sizes["clean"] += engine.sizes(images, 0, brain).tolist()
        if engine.info.noise_levels > NOISY_LEVEL:
            shape = images.shape[1:]
            noise = np.stack(
                [member_noise(patient_id, start + k, NOISE_MEMBER, seed, shape) for k in range(len(block))]
            )
            noisy = np.sqrt(abar[NOISY_LEVEL]) * images + np.sqrt(1 - abar[NOISY_LEVEL]) * noise
            sizes["noisy"] += engine.sizes(noisy.astype(np.float32), NOISY_LEVEL, brain).tolist()
    return sizes


def _spread(cohort: Cohort, patient_id: str, count: int) -> Iterator[CohortSlice]:
    every = [
        (info.id, index)
        for info in cohort.sessions(patient_id)
        for index in range(info.n_slices)
        if np.isfinite(info.area_mm2[index])
    ]
    for number in np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).astype(int)):
        yield cohort.slice(patient_id, *every[number])


def r_squared(patients: list[dict[str, Any]], name: str, *, tumour_only: bool = False) -> Estimate:
    """R² over all slices of regressor_sizes, with an interval over patients. name: clean or noisy."""
    sums = np.array([_moments(sizes, name, tumour_only) for sizes in patients if sizes[name]]).reshape(-1, 4)
    return estimate(sums[sums[:, 0] > 0], _explained)


def _moments(sizes: dict[str, Any], name: str, tumour_only: bool) -> list[float]:
    """Of one patient: slices, sums of the true sizes, of their squares and of the squared errors."""
    true, read = np.array(sizes["true"]), np.array(sizes[name])
    kept = true > 0 if tumour_only else np.full(true.shape, True)
    true, read = true[kept], read[kept]
    return [true.size, true.sum(), np.square(true).sum(), np.square(read - true).sum()]


def _explained(sums: Floats, axis: int) -> Floats:
    count, total, squares, errors = np.moveaxis(sums.sum(axis=axis), -1, 0)
    spread = squares - total**2 / count
    differ = spread > SAME_SIZES
    return np.where(differ, 1 - errors / np.where(differ, spread, 1.0), np.nan)
