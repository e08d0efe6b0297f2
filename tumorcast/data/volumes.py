"""Reading the volumes of one scan: whole, finite, on one grid, in LPS orientation.

Of a header nothing is kept but the grid: what else stands in it may name a patient.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data import nifti
from tumorcast.data.dicom import is_dicom, quiet_itk, read_series
from tumorcast.data.geometry import Grid, canonical
from tumorcast.data.scans import SEG, FoundSession, SlicedSession
from tumorcast.errors import InputError
from tumorcast.records import Contrast, FloatArray, SourceSession

GRID_TOLERANCE = 0.05  # voxels; headers of one scan differ by rounding, not by more
LARGEST_NEGATIVE = 0.25  # of the largest value; interpolation rings less, z-scored volumes are far beyond
LARGEST_LABEL = 4
LARGEST_INTENSITY = 1e9  # beyond, a number was read for another
SPACINGS_MM = (1e-3, 1e3)  # beyond, the header is damaged
SLICE_SIZE = 240  # BraTS; the paper's code crops larger slices by CROP on each side
CROP = 8
# The paper's 2D slices carry an identity affine that is not theirs: by the anatomy their first axis runs to posterior
# and their second to left (which of left and right cannot be seen; BraTS volumes, read the same way, give left).
SLICE_DIRECTION = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class SourceVolume:
    """The voxels of one scan in LPS orientation.

    images: (Z, Y, X) float32 by contrast, not negative; labels: (Z, Y, X) uint8, BraTS 2023, None without a mask.
    source_slice: (Z,) index of each slice along the third axis of the canonical grid. grid: the source's own grid.
    sha256: checksum by what the file is, as `t1c`, `seg` or, of single slices, `t1c/041`: a file's own name may name
        a patient. notes: what was repaired, for the user.
    """

    images: dict[Contrast, FloatArray]
    labels: npt.NDArray[np.uint8] | None
    source_slice: npt.NDArray[np.int64]
    grid: Grid
    sha256: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """One volume as read: the source grid, the canonical voxels, the (first) file and the checksums by what it is."""

    path: Path
    grid: Grid
    voxels: np.ndarray[Any, Any]
    sha256: dict[str, str]


def read_session(source: SourceSession, contrasts: tuple[Contrast, ...]) -> SourceVolume:
    """Read and check the volumes of one scan. Raises InputError naming the file that cannot be used."""
    require_contrasts(source, contrasts)
    images = {contrast: _read_part(source, contrast) for contrast in contrasts}
    mask = None if source.mask is None else _read_part(source, None)
    first = next(iter(images.values()))
    for part in [*images.values(), *([] if mask is None else [mask])]:
        _require_same_grid(part, first)
    labels, notes = (None, ()) if mask is None else _labels(mask, source)
    sums = {name: value for part in [*images.values(), mask] if part for name, value in part.sha256.items()}
    intensities = {contrast: _intensities(part) for contrast, part in images.items()}
    return SourceVolume(intensities, labels, _slice_numbers(source, first), _full_grid(source, first), sums, notes)


def require_contrasts(source: SourceSession, contrasts: tuple[Contrast, ...]) -> None:
    """Raises InputError if the scan lacks one of `contrasts`."""
    found = [contrast for contrast in contrasts if contrast in source.images]
    if len(found) == len(contrasts):
        return
    where = next((str(path.parent) for path in source.images.values()), f"{source.patient_id}/{source.session_id}")
    missing = ", ".join(contrast for contrast in contrasts if contrast not in found)
    remedy = f", or train a model without it (--contrasts {','.join(found)})" if found else ""
    raise InputError(f"{where}: {len(found)} of {len(contrasts)} contrasts found (no {missing}); add it{remedy}")


def read_image(path: Path) -> tuple[sitk.Image, str]:
    """A NIfTI image, or a DICOM series (dicom.read_series), with its SHA-256.

    Raises InputError if it is missing, damaged, not finite or has channels.
    """
    quiet_itk()
    if is_dicom(path):
        return read_series(path)
    checksum = nifti.check_whole(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read as an image ({_reason(error)}); export it again as .nii.gz") from None
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        image = image[(slice(None),) * (image.GetDimension() - 1) + (0,)]
    channels = image.GetNumberOfComponentsPerPixel()
    if channels > 1 or image.GetDimension() > 3:
        shape = "x".join(map(str, image.GetSize())) + (f" with {channels} channels" if channels > 1 else "")
        raise InputError(f"{path}: {shape}; one contrast a file is needed: split it into 3D volumes")
    return image, checksum


def _reason(error: Exception) -> str:
    return str(error).strip().rsplit("\n", maxsplit=1)[-1].strip()


def _read_part(source: SourceSession, contrast: Contrast | None) -> _Part:
    """One contrast of the scan, or its mask when `contrast` is None."""
    role = SEG if contrast is None else str(contrast)
    if isinstance(source, SlicedSession):
        paths = {files.number: files.mask if contrast is None else files.images[contrast] for files in source.slices}
        return _stack({number: path for number, path in paths.items() if path is not None}, role)
    path = source.mask if contrast is None else source.images[contrast]
    assert path is not None
    image, checksum = read_image(path)
    if image.GetDimension() != 3:
        raise InputError(f"{path}: a 2D image; give the 3D volume, or single slices in the layout 'slices'")
    return _part(path, image, {role: checksum})


def _part(path: Path, image: sitk.Image, sha256: dict[str, str]) -> _Part:
    grid = Grid.of(image)
    low, high = SPACINGS_MM
    if not all(low <= spacing <= high for spacing in grid.spacing) or not np.isfinite(grid.affine()).all():
        spacing = " x ".join(f"{side:.3g}" for side in grid.spacing)
        raise InputError(f"{path}: voxels of {spacing} mm; between {low:g} and {high:g} mm: correct the header")
    return _Part(path, grid, sitk.GetArrayFromImage(canonical(image)), sha256)


def _stack(paths: dict[int, Path], role: str) -> _Part:
    """Single slices in the order of their numbers as one volume."""
    read = {number: read_image(path) for number, path in paths.items()}
    arrays = {number: _plane(paths[number], image) for number, (image, _) in read.items()}
    first, path = next(iter(arrays.values())), next(iter(paths.values()))
    for number, array in arrays.items():
        if array.shape != first.shape:
            raise InputError(
                f"{paths[number]}: {_size(array)} pixels, but {path.name} has {_size(first)}; use one size"
            )
    spacing = next(iter(read.values()))[0].GetSpacing()[:2]
    grid = Grid((*first.shape[::-1], len(arrays)), (*spacing, 1.0), (0.0, 0.0, 0.0), SLICE_DIRECTION)
    sums = {f"{role}/{number:03d}": checksum for number, (_, checksum) in read.items()}
    return _part(path, grid.image(np.stack(list(arrays.values()))), sums)


def _plane(path: Path, image: sitk.Image) -> np.ndarray[Any, Any]:
    array = sitk.GetArrayFromImage(image)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise InputError(f"{path}: a 3D volume where one slice belongs; give the layout 'brats' or 'table'")
    return array[CROP:-CROP, CROP:-CROP] if min(array.shape) > SLICE_SIZE else array


def _size(array: np.ndarray[Any, Any]) -> str:
    return "x".join(str(side) for side in array.shape[::-1])


def _slice_numbers(source: SourceSession, part: _Part) -> npt.NDArray[np.int64]:
    if isinstance(source, SlicedSession):
        return np.array([files.number for files in source.slices], np.int64)
    return np.arange(part.voxels.shape[0], dtype=np.int64)


def _full_grid(source: SourceSession, part: _Part) -> Grid:
    """The source's grid; for single slices, the volume up to the last of them."""
    if isinstance(source, SlicedSession):
        size = (*part.grid.size[:2], source.slices[-1].number + 1)
        return Grid(size, part.grid.spacing, part.grid.origin, part.grid.direction)
    return part.grid


def _require_same_grid(part: _Part, first: _Part) -> None:
    if part.grid.size != first.grid.size:
        size, other = ("x".join(map(str, grid.size)) for grid in (part.grid, first.grid))
        raise InputError(
            f"{part.path}: {size} voxels, but {first.path.name} has {other}; resample one, or use --register rigid"
        )
    distance = part.grid.distance_mm(first.grid)
    if distance > GRID_TOLERANCE * min(first.grid.spacing):
        raise InputError(
            f"{part.path}: lies {distance:.3g} mm away from {first.path.name} (spacing, origin or direction differ); "
            "resample one, or use --register rigid"
        )


def _intensities(part: _Part) -> FloatArray:
    with np.errstate(over="ignore"):  # what is beyond single precision is told below
        voxels = part.voxels.astype(np.float32)
    lowest, highest = float(voxels.min()), float(voxels.max())
    if not (math.isfinite(highest - lowest) and highest < LARGEST_INTENSITY):
        raise InputError(
            f"{part.path}: values from {lowest:g} to {highest:g}; export it again, below {LARGEST_INTENSITY:g}"
        )
    if lowest == highest:
        raise InputError(
            f"{part.path}: every voxel is {lowest:g}; export it again, or leave the contrast out (--contrasts)"
        )
    if -lowest > LARGEST_NEGATIVE * highest:
        raise InputError(
            f"{part.path}: values from {lowest:g} to {highest:g} look normalised; give raw intensities with air at 0"
        )
    return np.asarray(np.maximum(voxels, 0.0))


def _labels(part: _Part, source: SourceSession) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """BraTS 2023 labels: an old 4 becomes 3; beside a 3 it is a resection cavity (BraTS 2024) and left out.

    Labels that the layout gives another meaning are renamed as it says.
    """
    values = np.unique(part.voxels)
    label_map = source.label_map if isinstance(source, FoundSession) else None
    allowed = range(LARGEST_LABEL + 1) if label_map is None else (0, *label_map)
    odd = [value for value in values.tolist() if value not in allowed]
    if odd:
        told = "the whole numbers 0 to 4" if label_map is None else ", ".join(map(str, sorted(allowed)))
        raise InputError(f"{part.path}: label {odd[0]:g} found; allowed are {told}")
    if label_map is not None:
        renamed = [label_map.get(int(value), 0) for value in values]
        return np.array(renamed, np.uint8)[np.searchsorted(values, part.voxels)], ()
    labels = part.voxels.astype(np.uint8)
    if 4 not in values:
        return labels, ()
    cavity = 3 in values
    labels[labels == 4] = 0 if cavity else 3
    note = "its mask has label 4 beside label 3, read as a resection cavity and left out"
    return labels, (note,) if cavity else ()
