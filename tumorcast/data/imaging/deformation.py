"""Deformable registration of what lies outside the tumour, which itself is moved rigidly, whatever grew or shrank.

Demons with symmetric forces (SimpleITK) on two scans of one contrast, of which each voxel is compared with its
surroundings, so that bias and scanner do not count. Both tumours are left out: where either is, the images are 0, which
exerts no force. What the field says of the tumours' surroundings would still carry their outline along: tissue that a
growing tumour has pushed away would be pushed back, and the growth with it. So displacements count nothing within
MARGIN_MM of either tumour and in full RAMP_MM further: there a tumour has the voxels, and the volume, that the rigid
registration gave it.
"""

from functools import reduce

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from tumorcast.data.imaging.brain_mask import BoolArray
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.registration import RegistrationImage, coarse, scaled
from tumorcast.data.imaging.transforms import Affine, Displacement, resample
from tumorcast.records import FloatArray

LEVELS = ((8.0, 40), (4.0, 40), (2.0, 40))  # mm of a voxel, iterations
SMOOTHING = 2.5  # of the field after each iteration, in mm a mm of the level: mass effect is smooth, noise is not
SURROUNDINGS_MM = 10.0
LEAST_CONTRAST = 0.3  # of the brain's typical: what varies less is noise
MOST_DEVIATIONS = 3.0
LATTICE_MM = 4.0  # of the field that is kept
MARGIN_MM = 8.0  # more than the diagonal of a cell of the lattice, so that no tumour voxel lies in one that moves
RAMP_MM = 16.0
EDGE_MM = 8.0  # from the edge of the field, over which it fades


def deformation_between(fixed: RegistrationImage, moving: RegistrationImage, rigid: Affine) -> Displacement:
    """How far each point of `fixed` moves before `rigid` leads it to `moving`; both need their tumour.

    On a lattice over the brain's box; zero within MARGIN_MM of either tumour. Call it within `registration.one_thread`.
    """
    part = fixed.cropped()
    _require_tumour(moving)
    there = moving.resampled(part.grid, rigid)
    tumours = _require_tumour(part) | _require_tumour(there)
    compared = (part.brain | there.brain) & ~tumours
    field = _demons(_contrast(part, compared), _contrast(there, compared))
    lattice = _lattice(part.grid)
    onto = (lattice.origin, lattice.spacing, lattice.direction)
    kept = sitk.Resample(field, lattice.size, sitk.Transform(), sitk.sitkLinear, *onto)
    weight = part.grid.image(_weight(tumours, part.grid).astype(np.float32))
    weights = sitk.GetArrayFromImage(resample(weight, lattice))
    return Displacement((sitk.GetArrayFromImage(kept) * weights[..., None]).astype(np.float32), lattice)


def _require_tumour(volume: RegistrationImage) -> BoolArray:
    if volume.tumour is None:
        raise ValueError("the tumour must be known, or it would be bent too")
    return volume.tumour


def _contrast(volume: RegistrationImage, compared: BoolArray) -> sitk.Image:
    """Each voxel's deviation from its surroundings, in their standard deviations; 0 where nothing is compared."""
    values, counted = sitk.GetArrayFromImage(scaled(volume)), compared.astype(np.float32)
    reach = [SURROUNDINGS_MM / spacing for spacing in reversed(volume.grid.spacing)]
    share = ndimage.gaussian_filter(counted, reach) + 1e-3
    mean = ndimage.gaussian_filter(values * counted, reach) / share
    variance = ndimage.gaussian_filter(values**2 * counted, reach) / share - mean**2
    spread = np.sqrt(np.maximum(variance, 0.0))
    deviation = (values - mean) / (spread + LEAST_CONTRAST * spread[compared].mean() + 1e-6)
    return volume.grid.image((np.clip(deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS) * counted).astype(np.float32))


def _demons(fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """The field from coarse to fine, on the last level's voxels."""
    coarsest = coarse(fixed, LEVELS[0][0])
    field = sitk.Image(coarsest.GetSize(), sitk.sitkVectorFloat64)
    field.CopyInformation(coarsest)
    for level_mm, iterations in LEVELS:
        levels = coarse(fixed, level_mm), coarse(moving, level_mm)
        method = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        method.SetNumberOfIterations(iterations)
        method.SetStandardDeviations([SMOOTHING * level_mm / spacing for spacing in levels[0].GetSpacing()])
        field = method.Execute(*levels, sitk.Resample(field, levels[0], sitk.Transform(), sitk.sitkLinear))
    return field


def _lattice(grid: Grid) -> Grid:
    """Points every LATTICE_MM over the box of a grid, from its first voxel to its last or beyond."""
    sides = zip(grid.size, grid.spacing, strict=True)
    size = tuple(int(np.ceil((side - 1) * step / LATTICE_MM)) + 1 for side, step in sides)
    return Grid(size, (LATTICE_MM,) * 3, grid.origin, grid.direction)


def _weight(tumours: BoolArray, grid: Grid) -> FloatArray:
    """(Z, Y, X) of the grid: 0 round the tumours and at the edge, 1 far from both."""
    spacing = grid.spacing[::-1]
    away = ndimage.distance_transform_edt(~tumours, spacing) if tumours.any() else np.full(tumours.shape, np.inf)
    depths = (
        np.minimum(np.arange(side), side - 1 - np.arange(side)) * step
        for side, step in zip(tumours.shape, spacing, strict=True)
    )
    edge = reduce(np.minimum, np.meshgrid(*depths, indexing="ij", sparse=True))
    return _smooth((away - MARGIN_MM) / RAMP_MM) * _smooth(edge / EDGE_MM)


def _smooth(rise: FloatArray) -> FloatArray:
    """0 below 0, 1 above 1, and between them without a corner."""
    held = np.clip(rise, 0.0, 1.0)
    return np.asarray(held * held * (3 - 2 * held))
