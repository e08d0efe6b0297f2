"""Rigid registration of two volumes by mutual information, from coarse to fine (SimpleITK), the same on every run.

Mattes' mutual information of the fixed brain and its rim, without either tumour, is climbed from several starts: as the
headers have it, brain centre on brain centre, and the latter turned about each axis. The best at 8 mm goes on to finer
voxels. Samples have a fixed seed; one thread adds them up, as sums of several would differ in their last bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from tumorcast.data.imaging.brain_mask import BoolArray, window_of
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.transforms import IDENTITY, Affine, Transform, resample, resample_mask
from tumorcast.errors import InputError
from tumorcast.records import FloatArray

LEVELS_MM = (8.0, 4.0, 2.0, 1.0)  # of voxels; none finer than the fixed image's own is used but the last of those
BINS = 32
SAMPLES = 40_000  # of the brain; more change a shift by less than 0.05 mm
SEED = 1
RIM_MM = 6.0  # round the brain: its edge says more than anything in it
LEAST_VOXELS = 4
MARGIN_MM = 12.0  # what is kept round a brain
TURN_DEGREES = 20.0
FOLLOWED = 2  # starts that are climbed from; the others are only looked at
LEAST_OVERLAP = 0.5  # of the fixed brain within the moving image: mutual information of a few voxels means nothing
ITERATIONS, LEAST_STEP_MM, RELAXATION = 150, 0.005, 0.6


@dataclass(frozen=True)
class RegistrationImage:
    """A volume to be registered.

    image: float32, on a grid in LPS order; brain: (Z, Y, X); tumour: (Z, Y, X), what must not count; None: nothing.
    """

    image: sitk.Image
    brain: BoolArray
    tumour: BoolArray | None = None

    @property
    def grid(self) -> Grid:
        """The grid of the voxels."""
        return Grid.of(self.image)

    def centre(self) -> FloatArray:
        """(3,) centre of the brain, LPS mm."""
        middle = np.argwhere(self.brain).mean(axis=0)[::-1]
        return np.array(self.image.TransformContinuousIndexToPhysicalPoint(middle.tolist()))

    def cropped(self) -> "RegistrationImage":
        """The part that holds the brain and its rim."""
        voxels = np.argwhere(self.brain)
        if not voxels.size:
            raise InputError("its brain is empty: give it with --brain-mask, or try --brain inner")
        rim = np.ceil(MARGIN_MM / np.array(self.grid.spacing[::-1])).astype(int)
        low, high = np.maximum(voxels.min(axis=0) - rim, 0), np.minimum(voxels.max(axis=0) + rim + 1, self.brain.shape)
        part = tuple(slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
        tumour = None if self.tumour is None else self.tumour[part]
        return RegistrationImage(self.image[part[::-1]], self.brain[part], tumour)

    def resampled(self, grid: Grid, transform: Transform = IDENTITY) -> "RegistrationImage":
        """All of it on another grid, through a transform that leads from there to here."""
        tumour = None if self.tumour is None else resample_mask(self.tumour, self.grid, grid, transform) > 0
        brain = resample_mask(self.brain, self.grid, grid, transform) > 0
        return RegistrationImage(resample(self.image, grid, transform), brain, tumour)

    def brain_points(self, count: int = 4000) -> FloatArray:
        """(N, 3) voxels of the brain evenly picked, RAS mm; about `count`."""
        voxels = np.argwhere(self.brain)
        picked = voxels[:: max(1, len(voxels) // count), ::-1]
        return np.asarray(np.c_[picked, np.ones(len(picked))] @ self.grid.affine().T)[:, :3]


@contextmanager
def one_thread() -> Iterator[None]:
    """SimpleITK uses one thread within the block: what several threads sum up differs from run to run."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def rigid_between(fixed: RegistrationImage, moving: RegistrationImage) -> Affine:
    """Where each point of `fixed` lies in `moving`. Call it within `one_thread`.

    Raises InputError if a brain is empty or has one value, or no start puts one brain on the other.
    """
    levels = _levels(fixed.cropped(), moving.cropped())
    best = levels[0].best_of(_starts(fixed, moving))
    for level in levels[1:]:
        best, _ = level.climb(best)
    return Affine.of_itk(best)


def _starts(fixed: RegistrationImage, moving: RegistrationImage) -> list[sitk.Euler3DTransform]:
    """As the headers have it, brain centre on brain centre, and the latter turned about one axis either way."""
    centre, nothing = fixed.centre(), np.zeros(3)
    shift = moving.centre() - centre
    turns = [nothing, *(sign * TURN_DEGREES * axis for axis in np.eye(3) for sign in (1.0, -1.0))]
    return [_euler(centre, nothing, nothing), *(_euler(centre, np.radians(turn), shift) for turn in turns)]


def _euler(centre: FloatArray, turn: FloatArray, shift: FloatArray) -> sitk.Euler3DTransform:
    start = sitk.Euler3DTransform()
    start.SetCenter(centre.tolist())
    start.SetRotation(*turn.tolist())
    start.SetTranslation(shift.tolist())
    return start


@dataclass(frozen=True)
class _Level:
    """Both volumes with voxels of about `level_mm`; masks: uint8, where samples are taken and where they count."""

    level_mm: float
    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image
    moving_mask: sitk.Image | None

    def best_of(self, starts: list[sitk.Euler3DTransform]) -> sitk.Euler3DTransform:
        """The best end of the FOLLOWED starts that begin best."""
        begun = sorted((self.value(start), index) for index, start in enumerate(starts))
        ends = [self.climb(starts[index]) for value, index in begun[:FOLLOWED] if np.isfinite(value)]
        if not ends:
            raise InputError("the two brains cannot be laid on each other")
        return min(ends, key=lambda end: end[1])[0]

    def value(self, at: sitk.Transform) -> float:
        """Minus the mutual information; infinite where too little of the brain lies in the moving image."""
        if self._overlap(at) < LEAST_OVERLAP:
            return np.inf
        method = self._method()
        method.SetInitialTransform(at)
        return float(method.MetricEvaluate(self.fixed, self.moving))

    def climb(self, start: sitk.Euler3DTransform) -> tuple[sitk.Euler3DTransform, float]:
        """Where the ascent from `start` ends, and minus the mutual information there."""
        end = sitk.Euler3DTransform(start)
        method = self._method()
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=self.level_mm / 2,
            minStep=LEAST_STEP_MM,
            numberOfIterations=ITERATIONS,
            relaxationFactor=RELAXATION,
            gradientMagnitudeTolerance=1e-8,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(end, inPlace=True)
        method.Execute(self.fixed, self.moving)
        return end, self.value(end)

    def _method(self) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(BINS)
        method.SetMetricFixedMask(self.fixed_mask)
        if self.moving_mask is not None:
            method.SetMetricMovingMask(self.moving_mask)
        share = SAMPLES / max(1, int(sitk.GetArrayViewFromImage(self.fixed_mask).sum()))
        if share < 1:
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(share, SEED)
        method.SetInterpolator(sitk.sitkLinear)
        return method

    def _overlap(self, at: sitk.Transform) -> float:
        """Share of the fixed region whose points lie in the moving image."""
        everywhere = sitk.Image(self.moving.GetSize(), sitk.sitkUInt8) + 1
        everywhere.CopyInformation(self.moving)
        seen = sitk.Resample(everywhere, self.fixed_mask, at, sitk.sitkNearestNeighbor, 0.0)
        inside = sitk.GetArrayViewFromImage(self.fixed_mask) > 0
        return float(sitk.GetArrayViewFromImage(seen)[inside].mean()) if inside.any() else 0.0


def _levels(fixed: RegistrationImage, moving: RegistrationImage) -> list[_Level]:
    """From coarse to fine; each is thinned from the next finer one."""
    images = scaled(fixed), scaled(moving)
    masks = region_of(fixed), None if moving.tumour is None else moving.grid.image((~moving.tumour).astype("u1"))
    levels: list[_Level] = []
    for level_mm in [level for level in reversed(LEVELS_MM) if level > 0.8 * min(fixed.grid.spacing)]:
        images = coarse(images[0], level_mm), coarse(images[1], level_mm)
        thin = thinned(masks[0], level_mm), None if masks[1] is None else thinned(masks[1], level_mm)
        levels.insert(0, _Level(level_mm, *images, *thin))
    return levels


def region_of(volume: RegistrationImage, *, rim_mm: float = RIM_MM) -> sitk.Image:
    """uint8: the brain with a rim, without the tumour."""
    reach = [2 * round(rim_mm / spacing) + 1 for spacing in reversed(volume.grid.spacing)]
    region = ndimage.maximum_filter(volume.brain.astype(np.uint8), reach)
    if volume.tumour is not None:
        region[volume.tumour] = 0
    return volume.grid.image(region)


def scaled(volume: RegistrationImage) -> sitk.Image:
    """The image with the brain's robust window as 0 to 1, clipped: bright vessels and fat would take most bins."""
    window = window_of(sitk.GetArrayViewFromImage(volume.image), volume.brain)
    if window is None:
        raise InputError(
            "its brain is empty or has one value only: give the brain with --brain-mask, or try --brain inner"
        )
    image: sitk.Image = sitk.IntensityWindowing(volume.image, window.low, window.high, 0.0, 1.0)
    return image


def _factors(image: sitk.Image, level_mm: float) -> list[int]:
    """Voxels of each axis that become one; at least LEAST_VOXELS stay, which ITK's filters need."""
    sides = zip(image.GetSize(), image.GetSpacing(), strict=True)
    return [max(1, min(round(level_mm / spacing), side // LEAST_VOXELS)) for side, spacing in sides]


def coarse(image: sitk.Image, level_mm: float) -> sitk.Image:
    """Smoothed by half of the new voxel and thinned, along the axes that are not coarse enough already."""
    factors = _factors(image, level_mm)
    for axis, (factor, spacing) in enumerate(zip(factors, image.GetSpacing(), strict=True)):
        if factor > 1:
            image = sitk.RecursiveGaussian(image, factor * spacing / 2, direction=axis)
    thin: sitk.Image = sitk.Shrink(image, factors)
    return thin


def thinned(mask: sitk.Image, level_mm: float) -> sitk.Image:
    """A mask with about the voxels of `coarse`."""
    thin: sitk.Image = sitk.Shrink(mask, _factors(mask, level_mm))
    return thin
