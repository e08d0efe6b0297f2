"""Where a point of the cohort's space lies in a scan, and images carried along: matrices, displacements, resampling.

A transform leads from the space an image is wanted in to the space it comes from, as SimpleITK has it. Matrices are
(4, 4) in world coordinates, RAS mm, as NIfTI has them; displacements are in LPS mm, as SimpleITK has them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data.imaging.geometry import LPS_TO_RAS, Grid, Interpolation
from tumorcast.records import FloatArray

Matrix = npt.NDArray[np.float64]
INVERSE_ITERATIONS = 60
INVERSE_TOLERANCE_MM = 1e-4
INTERPOLATORS = {Interpolation.NEAREST: sitk.sitkNearestNeighbor, Interpolation.LINEAR: sitk.sitkLinear}


@dataclass(frozen=True)
class Displacement:
    """How far each point moves: vectors (Z, Y, X, 3) float32, LPS mm, on a lattice `grid`; nothing moves outside it."""

    vectors: FloatArray
    grid: Grid

    def transform(self) -> sitk.Transform:
        """Point to displaced point."""
        return sitk.DisplacementFieldTransform(self._image())

    def inverse(self) -> "Displacement":
        """The displacements that lead back, on the same lattice; nowhere further off than a ten-thousandth of a mm
        where the field does not fold.
        """
        return self._inverse

    @cached_property
    def _inverse(self) -> "Displacement":  # looked for step by step, and every image of a scan needs it
        back = sitk.InvertDisplacementField(
            self._image(),
            maximumNumberOfIterations=INVERSE_ITERATIONS,
            maxErrorToleranceThreshold=INVERSE_TOLERANCE_MM,
            meanErrorToleranceThreshold=INVERSE_TOLERANCE_MM / 10,
        )
        return Displacement(sitk.GetArrayFromImage(back).astype(np.float32), self.grid)

    def least_jacobian(self) -> float:
        """The least volume that a unit of volume is moved to; the field folds where it is not positive."""
        jacobian = sitk.DisplacementFieldJacobianDeterminant(self._image())
        return float(sitk.GetArrayViewFromImage(jacobian).min())

    def largest_mm(self) -> float:
        """The longest vector."""
        return float(np.linalg.norm(self.vectors, axis=-1).max())

    def _image(self) -> sitk.Image:
        image = sitk.GetImageFromArray(np.asarray(self.vectors, np.float64), isVector=True)
        image.SetSpacing(self.grid.spacing)
        image.SetOrigin(self.grid.origin)
        image.SetDirection(self.grid.direction)
        return image


def matrix_of(transform: sitk.Transform) -> Matrix:
    """(4, 4) RAS of a linear SimpleITK transform.

    >>> matrix_of(sitk.TranslationTransform(3, (1.0, 2.0, 3.0)))[:3, 3]
    array([-1., -2.,  3.])
    """
    lps = np.eye(4)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    lps[:3, :3] = np.stack([np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()], axis=1)
    lps[:3, 3] = origin
    return np.asarray(LPS_TO_RAS @ lps @ LPS_TO_RAS)


def transform_of(matrix: Matrix) -> sitk.Transform:
    """The SimpleITK transform of a (4, 4) RAS matrix."""
    lps = LPS_TO_RAS @ matrix @ LPS_TO_RAS
    return sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())


def rotation_degrees(matrix: Matrix) -> float:
    """The angle of the rotation in a rigid (4, 4) matrix."""
    turned = matrix[:3, :3]
    axial = np.array([turned[2, 1] - turned[1, 2], turned[0, 2] - turned[2, 0], turned[1, 0] - turned[0, 1]])
    return float(np.degrees(np.arctan2(np.linalg.norm(axial) / 2, (np.trace(turned) - 1) / 2)))


def moved_mm(matrix: Matrix, points: FloatArray) -> FloatArray:
    """(N,) how far a (4, 4) matrix moves each of the points (N, 3)."""
    return np.asarray(np.linalg.norm(points @ matrix[:3, :3].T + matrix[:3, 3] - points, axis=1))


def carried(
    image: sitk.Image,
    grid: Grid,
    matrix: Matrix,
    displacement: Displacement | None = None,
    *,
    interpolation: Interpolation = Interpolation.LINEAR,
    outside: float = 0.0,
) -> sitk.Image:
    """`image` on `grid`, read once, at matrix · displaced(point) for each point of the grid.

    Where nothing moves and the grid is the image's own, the voxels are untouched.
    """
    if _stays(image, grid, matrix, displacement):
        return image
    steps = [transform_of(matrix), *([] if displacement is None else [displacement.transform()])]
    return _read_at(image, grid, steps, interpolation=interpolation, outside=outside)


def returned(
    image: sitk.Image,
    grid: Grid,
    matrix: Matrix,
    displacement: Displacement | None = None,
    *,
    interpolation: Interpolation = Interpolation.LINEAR,
    outside: float = 0.0,
) -> sitk.Image:
    """The way back of `carried`: `image`, in the space that was led from, on a `grid` of the space that was led to."""
    if _stays(image, grid, matrix, displacement):
        return image
    home = transform_of(np.asarray(np.linalg.inv(matrix), np.float64))
    steps = [home] if displacement is None else [displacement.inverse().transform(), home]
    return _read_at(image, grid, steps, interpolation=interpolation, outside=outside)


def _stays(image: sitk.Image, grid: Grid, matrix: Matrix, displacement: Displacement | None) -> bool:
    return displacement is None and Grid.of(image) == grid and np.array_equal(matrix, np.eye(4))


def _read_at(
    image: sitk.Image, grid: Grid, steps: list[sitk.Transform], *, interpolation: Interpolation, outside: float
) -> sitk.Image:
    """steps: what is done last stands first, as SimpleITK's composite has it."""
    way = steps[0] if len(steps) == 1 else sitk.CompositeTransform(steps)
    place = (grid.origin, grid.spacing, grid.direction)
    return sitk.Resample(image, grid.size, way, INTERPOLATORS[interpolation], *place, outside, image.GetPixelID())
