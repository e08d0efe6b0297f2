"""Reading the volumes of one scan: whole, finite, on one grid, in LPS orientation.

Of a header nothing is kept but the grid: what else stands in it may name a patient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data.imaging.brain_mask import BoolArray
from tumorcast.data.imaging.geometry import AxisOrder, Grid
from tumorcast.data.imaging.transforms import Displacement
from tumorcast.data.readers import nifti
from tumorcast.data.readers.dicom import is_dicom, read_series
from tumorcast.data.readers.labels import read_labels
from tumorcast.data.readers.source_session import SEG, SourceSession
from tumorcast.errors import InputError
from tumorcast.records import Contrast, FloatArray

LABELS = "labels"  # in a session's `source`: by which scheme the mask was read (labels.MaskLabels.record)
LARGEST_NEGATIVE = 0.25  # of the largest value; interpolation rings less, z-scored volumes are far beyond
LARGEST_INTENSITY = 1e9  # beyond, a number was read for another
SLICE_SIZE = 240  # BraTS; the paper's code crops larger slices by CROP on each side
CROP = 8
# The paper's 2D slices carry an identity affine that is not theirs: by the anatomy their first axis runs to posterior
# and their second to left (which of left and right cannot be seen; BraTS volumes, read the same way, give left).
SLICE_DIRECTION = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Scan:
    """The volumes of one scan in LPS orientation, (Z, Y, X) each; fields with a default fill on the way to slices.

    reference: the contrast that the others are laid on. images: float32 by contrast, not negative. grids: of the files,
    by contrast, the same for all where they lie on one. labels: uint8, BraTS 2023, on the voxels of `mask_on`; None
    without a mask. source_slice: (Z,) index of each slice along the third axis of the reference's grid in LPS order.
    sha256: checksum by what the file is, as `t1c`, `seg` or, of single slices, `t1c/041`: a file's own name may name
        a patient. notes: what was repaired or assumed, for the user.
    record: what the cohort's `source` keeps of how mask, brain and bias were found, and of the registration.
    brains: masks that together are the brain, by the contrast on whose voxels they lie. outlines: what is not air in
        each contrast, where it has a grid of its own.
    tumour_mm3: the tumour's volume before it was resampled; displacement: how the scan was deformed, if it was.
    """

    reference: Contrast
    images: dict[Contrast, FloatArray]
    grids: dict[Contrast, Grid]
    labels: npt.NDArray[np.uint8] | None
    mask_on: Contrast
    source_slice: npt.NDArray[np.int64]
    sha256: dict[str, str]
    notes: tuple[str, ...]
    record: dict[str, Any] = field(default_factory=dict)
    brains: dict[Contrast, BoolArray] = field(default_factory=dict)
    outlines: dict[Contrast, BoolArray] = field(default_factory=dict)
    tumour_mm3: float | None = None
    displacement: Displacement | None = None

    @property
    def grid(self) -> Grid:
        """The grid of the reference's file."""
        return self.grids[self.reference]

    @property
    def brain(self) -> BoolArray:
        """(Z, Y, X) the brain of a scan on one grid."""
        return np.asarray(np.logical_or.reduce(list(self.brains.values())))

    def voxels(self, contrast: Contrast) -> Grid:
        """The grid of a contrast's voxels in LPS order."""
        return self.grids[contrast].canonical()

    def image(self, contrast: Contrast) -> sitk.Image:
        """A contrast as an image."""
        return self.voxels(contrast).image(self.images[contrast])


@dataclass(frozen=True)
class _Part:
    """One volume as read: the (first) file, its grid and voxels (Z, Y, X) in its own order, checksums by what it is."""

    role: str
    path: Path
    grid: Grid
    voxels: np.ndarray[Any, Any]
    sha256: dict[str, str]
    notes: tuple[str, ...] = ()


def read_session(source: SourceSession, contrasts: tuple[Contrast, ...], *, one_grid: bool = True) -> Scan:
    """Read and check the volumes of one scan. Raises InputError naming the file that cannot be used.

    one_grid: all must lie on the voxels of the first; else each keeps its own, and the mask must lie on those of one.
    """
    for required in [contrasts] if one_grid else [(contrast,) for contrast in contrasts]:
        require_contrasts(source, required)
    images = {contrast: _read_part(source, contrast) for contrast in contrasts}
    mask = None if source.mask is None else _read_part(source, None)
    reference = Contrast.T1C if Contrast.T1C in contrasts else contrasts[0]
    bases = dict.fromkeys(contrasts, images[contrasts[0]]) if one_grid else images
    mask_on = reference if one_grid or mask is None else _drawn_on(mask, images, reference)
    voxels = {contrast: _in_lps(part, bases[contrast]) for contrast, part in images.items()}
    labels = None if mask is None else read_labels(mask.path, _in_lps(mask, bases[mask_on]), source.labels)
    parts = [*images.values(), *([] if mask is None else [mask])]
    beside = [parts] if one_grid else [[part] for part in images.values()]
    if mask is not None and not one_grid:
        beside.append([images[mask_on], mask])
    return Scan(
        reference,
        {contrast: _intensities(images[contrast].path, array) for contrast, array in voxels.items()},
        {contrast: _full_grid(source, base) for contrast, base in bases.items()},
        None if labels is None else labels.labels,
        mask_on,
        _slice_numbers(source, voxels[reference].shape[0]),
        {name: value for part in parts for name, value in part.sha256.items()},
        (*dict.fromkeys(note for group in beside for note in _notes_of(group)), *(labels.notes if labels else ())),
        {} if labels is None else {LABELS: labels.record()},
    )


def _notes_of(parts: Sequence[_Part]) -> tuple[str, ...]:
    """The notes of all parts, each with what it is of."""
    roles: dict[str, list[str]] = {}
    for part in parts:
        for note in part.notes:
            roles.setdefault(note, []).append(part.role)
    return tuple(f"{', '.join(of)}: {note}" for note, of in roles.items())


def require_contrasts(source: SourceSession, contrasts: tuple[Contrast, ...]) -> None:
    """Raises InputError if the scan lacks one of `contrasts`."""
    present = [contrast for contrast in contrasts if contrast in source.images]
    if len(present) == len(contrasts):
        return
    where = next((str(path.parent) for path in source.images.values()), f"{source.patient_id}/{source.session_id}")
    missing = ", ".join(contrast for contrast in contrasts if contrast not in present)
    remedy = f", or train a model without it (--contrasts {','.join(present)})" if present else ""
    raise InputError(f"{where}: {len(present)} of {len(contrasts)} contrasts found (no {missing}); add it{remedy}")


class ReadImage(NamedTuple):
    """A file as read. notes: what of its header does not agree with how it was read."""

    image: sitk.Image
    sha256: str
    notes: tuple[str, ...] = ()


def read_image(path: Path) -> ReadImage:
    """A NIfTI image, or a DICOM series (dicom.read_series).

    Raises InputError if it is missing, damaged, not finite or has channels, and where it does not say where it lies.
    """
    if is_dicom(path):
        return ReadImage(*read_series(path))
    volume = nifti.read_volume(path)
    header, voxels = volume.header, volume.voxels
    while voxels.ndim > 3 and voxels.shape[0] == 1:
        voxels = voxels[0]
    if voxels.ndim > 3 or header.is_colour:
        shape = "x".join(map(str, voxels.shape[::-1])) + (" of colours" if header.is_colour else "")
        raise InputError(f"{path}: {shape}; one contrast a file is needed: split it into 3D volumes")
    if voxels.ndim < 3:
        return ReadImage(_plane_of(voxels, header), volume.sha256, header.notes)
    grid = Grid.from_affine(header.affine, voxels.shape[::-1])
    return ReadImage(grid.image(voxels), volume.sha256, header.notes)


def _plane_of(voxels: np.ndarray[Any, Any], header: nifti.NiftiHeader) -> sitk.Image:
    image = sitk.GetImageFromArray(np.atleast_2d(voxels))
    image.SetSpacing(np.linalg.norm(header.affine[:3, :2], axis=0).tolist())
    return image


def _read_part(source: SourceSession, contrast: Contrast | None) -> _Part:
    """One contrast of the scan, or its mask when `contrast` is None."""
    role = SEG if contrast is None else str(contrast)
    if source.slices:
        paths = {files.number: files.mask if contrast is None else files.images[contrast] for files in source.slices}
        return _stack({number: path for number, path in paths.items() if path is not None}, role)
    path = source.mask if contrast is None else source.images[contrast]
    assert path is not None
    read = read_image(path)
    if read.image.GetDimension() != 3:
        raise InputError(f"{path}: a 2D image; give the 3D volume, or single slices in the layout 'slices'")
    return _Part(role, path, Grid.of(read.image), sitk.GetArrayFromImage(read.image), {role: read.sha256}, read.notes)


def _stack(paths: dict[int, Path], role: str) -> _Part:
    """Single slices in the order of their numbers as one volume."""
    read = {number: read_image(path) for number, path in paths.items()}
    arrays = {number: _plane(paths[number], image.image) for number, image in read.items()}
    first, path = next(iter(arrays.values())), next(iter(paths.values()))
    for number, array in arrays.items():
        if array.shape != first.shape:
            raise InputError(
                f"{paths[number]}: {_size(array)} pixels, but {path.name} has {_size(first)}; use one size"
            )
    spacing = next(iter(read.values())).image.GetSpacing()[:2]
    grid = Grid((*first.shape[::-1], len(arrays)), (*spacing, 1.0), (0.0, 0.0, 0.0), SLICE_DIRECTION)
    sums = {f"{role}/{number:03d}": image.sha256 for number, image in read.items()}
    return _Part(role, path, grid, np.stack(list(arrays.values())), sums)


def _plane(path: Path, image: sitk.Image) -> np.ndarray[Any, Any]:
    array = sitk.GetArrayFromImage(image)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise InputError(f"{path}: a 3D volume where one slice belongs; give the layout 'brats' or 'table'")
    return array[CROP:-CROP, CROP:-CROP] if min(array.shape) > SLICE_SIZE else array


def _size(array: np.ndarray[Any, Any]) -> str:
    return "x".join(str(side) for side in array.shape[::-1])


def _slice_numbers(source: SourceSession, depth: int) -> npt.NDArray[np.int64]:
    if source.slices:
        return np.array([files.number for files in source.slices], np.int64)
    return np.arange(depth, dtype=np.int64)


def _full_grid(source: SourceSession, part: _Part) -> Grid:
    """The source's grid; for single slices, the volume up to the last of them."""
    if source.slices:
        size = (*part.grid.size[:2], source.slices[-1].number + 1)
        return Grid(size, part.grid.spacing, part.grid.origin, part.grid.direction)
    return part.grid


def _in_lps(part: _Part, base: _Part) -> np.ndarray[Any, Any]:
    """(Z, Y, X) the part's voxels in the LPS order of the base's grid, on which they must lie."""
    lps = base.grid.canonical()
    order = AxisOrder.between(part.grid, lps)
    require_same_grid(part.path, order.grid(part.grid), base.path.name, lps)
    return np.ascontiguousarray(order.voxels(part.voxels))


def _drawn_on(mask: _Part, images: dict[Contrast, _Part], reference: Contrast) -> Contrast:
    """The contrast on whose grid the mask lies, the reference before others."""
    for contrast in (reference, *images):
        lps = images[contrast].grid.canonical()
        if AxisOrder.between(mask.grid, lps).grid(mask.grid).is_of_the_voxels_of(lps):
            return contrast
    raise InputError(
        f"{mask.path}: its grid is that of none of {', '.join(images)}, so what it was drawn on is not known; "
        "resample it onto that contrast's voxels"
    )


def require_same_grid(path: Path, grid: Grid, other_name: str, other: Grid) -> None:
    """Raises InputError unless two grids, in one order of axes, are the same voxels in space."""
    if grid.size != other.size:
        sizes = ["x".join(map(str, size)) for size in (grid.size, other.size)]
        raise InputError(
            f"{path}: {sizes[0]} voxels, but {other_name} has {sizes[1]} (both turned to LPS); "
            "resample one, or use --register rigid"
        )
    if not grid.is_of_the_voxels_of(other):
        raise InputError(
            f"{path}: lies {grid.distance_mm(other):.3g} mm away from {other_name} (spacing, origin or direction "
            "differ); if it was drawn on those voxels, copy their header (fslcpgeom); else resample it, or "
            "use --register rigid"
        )


def _intensities(path: Path, stored: np.ndarray[Any, Any]) -> FloatArray:
    with np.errstate(over="ignore"):  # what is beyond single precision is refused below
        voxels = stored.astype(np.float32)
    lowest, highest = float(voxels.min()), float(voxels.max())
    if not (math.isfinite(highest - lowest) and highest < LARGEST_INTENSITY):
        raise InputError(
            f"{path}: values from {lowest:g} to {highest:g}; scale it below {LARGEST_INTENSITY:g}, or correct scl_slope"
        )
    if lowest == highest:
        raise InputError(f"{path}: every voxel is {lowest:g}; export it again, or leave the contrast out (--contrasts)")
    if -lowest > LARGEST_NEGATIVE * highest:
        raise InputError(
            f"{path}: values from {lowest:g} to {highest:g} look normalised; give raw intensities with air at 0, "
            "or where only these are left, add a number that lifts the brain above 0 and set what lies outside it to 0"
        )
    return np.asarray(np.maximum(voxels, 0.0))
