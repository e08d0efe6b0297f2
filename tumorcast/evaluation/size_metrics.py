"""How near told sizes come to the true ones, over patients."""

import numpy as np

from tumorcast.evaluation.metrics import Floats

SAME_SIZES_MM4 = 1e-6  # squared deviations that sum to less are rounding


def relative_error(told: Floats, truth: Floats) -> Floats:
    """|told / truth - 1|, NaN where no tumour is left."""
    left = truth > 0
    return np.where(left, np.abs(told / np.where(left, truth, 1.0) - 1), np.nan)


def r_squared(both: Floats, axis: int) -> Floats:
    """1 - squared errors over squared deviations, of (P, …, 2) told and true; NaN where all true sizes are alike."""
    told, truth = both[..., 0], both[..., 1]
    deviations = np.square(truth - truth.mean(axis=axis, keepdims=True)).sum(axis=axis)
    errors = np.square(told - truth).sum(axis=axis)
    differ = deviations > SAME_SIZES_MM4
    return np.where(differ, 1 - errors / np.where(differ, deviations, 1.0), np.nan)


def nrmse(both: Floats, axis: int) -> Floats:
    """Root of the mean squared error over the mean true size, of (P, …, 2); NaN where no tumour is left anywhere."""
    told, truth = both[..., 0], both[..., 1]
    mean, error = truth.mean(axis=axis), np.sqrt(np.square(told - truth).mean(axis=axis))
    left = mean > 0
    return np.where(left, error / np.where(left, mean, 1.0), np.nan)
