"""N4 bias correction (Tustison 2010, SimpleITK): found on a coarse image, where the field is smooth anyhow."""

import numpy as np
import SimpleITK as sitk

from tumorcast.data.imaging.brain_mask import BoolArray
from tumorcast.data.imaging.geometry import Grid
from tumorcast.errors import InputError
from tumorcast.records import FloatArray

COARSE_MM = 4.0
LEVELS = (50, 50, 30)  # iterations of each; the B-spline mesh doubles from one to the next
CONVERGED = 1e-3
LEAST_VOXELS = 4  # of an axis, coarse: the spline needs them


def corrected(array: FloatArray, brain: BoolArray, grid: Grid) -> tuple[FloatArray, tuple[float, float]]:
    """(Z, Y, X) float32 without its bias field, and the field's least and largest factor in the brain.

    array: not negative; brain: where the field is found, with values above 0. The field's mean in the brain is 1, so
    intensities keep their scale. Call it within `registration.one_thread`. Raises InputError without a brain.
    """
    counted = brain & (array > 0)
    if not counted.any():
        raise InputError("no brain to find the bias field in; leave --n4 out, or give the brain (--brain-mask)")
    image = grid.image(np.asarray(array, np.float32))
    field = np.exp(_log_field(image, grid.image(counted.astype(np.uint8))))
    field /= field[brain].mean()
    return np.asarray(array / field, np.float32), (float(field[brain].min()), float(field[brain].max()))


def _log_field(image: sitk.Image, mask: sitk.Image) -> FloatArray:
    """(Z, Y, X) logarithm of the field, on all voxels of the image."""
    coarse = [
        max(1, min(round(COARSE_MM / spacing), side // LEAST_VOXELS))
        for spacing, side in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    method = sitk.N4BiasFieldCorrectionImageFilter()
    method.SetMaximumNumberOfIterations(LEVELS)
    method.SetConvergenceThreshold(CONVERGED)
    method.Execute(sitk.Shrink(image, coarse), sitk.Shrink(mask, coarse))
    return np.asarray(sitk.GetArrayFromImage(method.GetLogBiasFieldAsImage(image)), np.float32)
