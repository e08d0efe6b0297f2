"""Transforms between the spaces of scans, and images resampled through them.

A transform leads from the space in which an image is wanted to the space it comes from, as SimpleITK has it. Points and
matrices are in world coordinates, RAS mm, as NIfTI has them; the vectors of a displacement, which SimpleITK makes and
the cohort file keeps, are in LPS mm. `a @ b` is b and then a, `~a` leads back, `a.map(points)` moves (N, 3) points.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data.imaging.geometry import LPS_TO_RAS, AxisOrder, Grid, Interpolation
from tumorcast.data.imaging.shares import largest_shares
from tumorcast.records import FloatArray

Matrix = npt.NDArray[np.float64]
INVERSE_ITERATIONS = 60
INVERSE_TOLERANCE_MM = 1e-4
INTERPOLATORS = {Interpolation.NEAREST: sitk.sitkNearestNeighbor, Interpolation.LINEAR: sitk.sitkLinear}
UNLIKE = 1.5  # sides of voxels, the longer over the shorter
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])  # of points


@dataclass(frozen=True, eq=False)
class Affine:
    """A linear transform; matrix: (4, 4), RAS mm.

    >>> turn = Affine(np.array([[0.0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    >>> turn.map(np.array([[1.0, 0, 0]])), (~turn @ turn).map(np.array([[1.0, 0, 0]])), round(turn.rotation_degrees)
    (array([[5., 1., 0.]]), array([[1., 0., 0.]]), 90)
    """

    matrix: Matrix

    @classmethod
    def identity(cls) -> "Affine":
        """What moves nothing."""
        return cls(np.eye(4))

    @classmethod
    def of_itk(cls, transform: sitk.Transform) -> "Affine":
        """A linear transform of SimpleITK.

        >>> Affine.of_itk(sitk.TranslationTransform(3, (1.0, 2.0, 3.0))).matrix[:3, 3]
        array([-1., -2.,  3.])
        """
        lps = np.eye(4)
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        images = [np.array(transform.TransformPoint(axis)) for axis in np.eye(3).tolist()]
        lps[:3, :3] = np.stack([image - origin for image in images], axis=1)
        lps[:3, 3] = origin
        return cls(np.asarray(LPS_TO_RAS @ lps @ LPS_TO_RAS))

    def itk(self) -> sitk.Transform:
        """The transform as SimpleITK has it."""
        lps = LPS_TO_RAS @ self.matrix @ LPS_TO_RAS
        return sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())

    def map(self, points: FloatArray) -> FloatArray:
        """(N, 3) where points are moved to."""
        return np.asarray(points @ self.matrix[:3, :3].T + self.matrix[:3, 3])

    def distances_mm(self, points: FloatArray) -> FloatArray:
        """(N,) how far points are moved."""
        return np.asarray(np.linalg.norm(self.map(points) - points, axis=1))

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves, to the last bit."""
        return np.array_equal(self.matrix, np.eye(4))

    @property
    def rotation_degrees(self) -> float:
        """The angle of the rotation, of a rigid transform."""
        turned = self.matrix[:3, :3]
        axial = np.array([turned[2, 1] - turned[1, 2], turned[0, 2] - turned[2, 0], turned[1, 0] - turned[0, 1]])
        return float(np.degrees(np.arctan2(np.linalg.norm(axial) / 2, (np.trace(turned) - 1) / 2)))

    def __invert__(self) -> "Affine":
        """The way back."""
        return Affine(np.asarray(np.linalg.inv(self.matrix), np.float64))

    @overload
    def __matmul__(self, other: "Affine") -> "Affine": ...
    @overload
    def __matmul__(self, other: "Displacement") -> "TransformChain": ...
    def __matmul__(self, other: "Affine | Displacement") -> "Affine | TransformChain":
        """The other and then this."""
        return Affine(self.matrix @ other.matrix) if isinstance(other, Affine) else TransformChain((self, other))


@dataclass(frozen=True)
class Displacement:
    """How far each point moves: vectors (Z, Y, X, 3) float32, LPS mm, on a lattice `grid`; nothing moves outside it."""

    vectors: FloatArray
    grid: Grid

    def itk(self) -> sitk.Transform:
        """The transform as SimpleITK has it."""
        return sitk.DisplacementFieldTransform(self._image())

    def map(self, points: FloatArray) -> FloatArray:
        """(N, 3) where points are moved to."""
        transform = self.itk()
        moved = [transform.TransformPoint(point) for point in (points * RAS_TO_LPS).tolist()]
        return np.asarray(np.array(moved).reshape(-1, 3) * RAS_TO_LPS)

    def __invert__(self) -> "Displacement":
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
        return self.grid.image(np.asarray(self.vectors, np.float64))


@dataclass(frozen=True, eq=False)
class TransformChain:
    """Transforms one after the other; what is done last stands first, as in a product and in SimpleITK's composite."""

    steps: tuple[Affine | Displacement, ...]

    def itk(self) -> sitk.Transform:
        """The transform as SimpleITK has it."""
        return sitk.CompositeTransform([step.itk() for step in self.steps])

    def map(self, points: FloatArray) -> FloatArray:
        """(N, 3) where points are moved to."""
        for step in reversed(self.steps):
            points = step.map(points)
        return points

    def __invert__(self) -> "TransformChain":
        """The way back."""
        return TransformChain(tuple(~step for step in reversed(self.steps)))


Transform = Affine | Displacement | TransformChain
IDENTITY = Affine.identity()


def resample(
    image: sitk.Image,
    grid: Grid,
    transform: Transform = IDENTITY,
    *,
    interpolation: Interpolation = Interpolation.LINEAR,
    outside: float = 0.0,
) -> sitk.Image:
    """`image` on `grid`, each voxel of which is read once, at the point that the transform leads to.

    Where nothing moves and the grid is the image's own, the voxels are untouched.
    """
    if isinstance(transform, Affine) and transform.is_identity and Grid.of(image) == grid:
        return image
    onto = (grid.size, transform.itk(), INTERPOLATORS[interpolation], grid.origin, grid.spacing, grid.direction)
    return sitk.Resample(image, *onto, outside, image.GetPixelID())


def resample_mask(
    mask: npt.NDArray[np.bool_ | np.uint8], own: Grid, grid: Grid, transform: Transform = IDENTITY
) -> npt.NDArray[np.uint8]:
    """(Z, Y, X) a mask, or labels, of the grid `own` on another grid; 0 outside.

    Each voxel is the nearest of its own, but between voxels of unlike sizes: there the nearest is often none of two,
    and a mask would move by half a voxel. Those that hold most of it are taken, as many as keep its volume, each with
    its most frequent label.
    """
    labels = mask.astype(np.uint8)
    if not _unlike(own, grid):
        moved = resample(own.image(labels), grid, transform, interpolation=Interpolation.NEAREST)
        return np.asarray(sitk.GetArrayFromImage(moved), np.uint8)
    largest = np.zeros(grid.size[::-1], np.float32)
    total, found = np.zeros_like(largest), np.zeros(largest.shape, np.uint8)
    for label in np.unique(labels[labels > 0]).tolist():
        image = own.image((labels == label).astype(np.float32))
        share = sitk.GetArrayFromImage(resample(image, grid, transform))
        total += share
        found[share > largest] = label
        np.maximum(largest, share, out=largest)
    return np.where(largest_shares(total, round(float(total.sum(dtype=np.float64)))), found, np.uint8(0))


def _unlike(one: Grid, other: Grid) -> bool:
    """Whether the voxels of two grids differ in size so much that several of one lie in one of the other."""
    ratio = np.divide(AxisOrder.between(one, other).grid(one).spacing, other.spacing)
    return bool((np.maximum(ratio, 1 / ratio) >= UNLIKE).any())
