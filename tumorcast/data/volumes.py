"""Reading the volumes of one scan: whole, finite, on one grid, in LPS orientation. The only reader of NIfTI."""

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data.geometry import Grid, canonical
from tumorcast.data.layouts import SlicedSession
from tumorcast.errors import InputError
from tumorcast.records import Contrast, FloatArray, SourceSession

GRID_TOLERANCE = 0.05  # voxels; headers of one scan differ by rounding, not by more
LARGEST_NEGATIVE = 0.25  # of the largest value; interpolation rings less, z-scored volumes are far beyond
LARGEST_LABEL = 4
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
    sha256: checksum by file name; notes: what was repaired, for the user.
    """

    images: dict[Contrast, FloatArray]
    labels: npt.NDArray[np.uint8] | None
    source_slice: npt.NDArray[np.int64]
    grid: Grid
    sha256: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """One volume as read: the source grid, the canonical voxels and the files it came from."""

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
    labels, notes = (None, ()) if mask is None else _labels(mask)
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
    """A NIfTI image with its SHA-256. Raises InputError if it is missing, damaged, not finite or has channels."""
    checksum = _check_whole(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK writes to stderr itself what is no fault of the user's
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


def _check_whole(path: Path) -> str:
    """SHA-256 of the file. SimpleITK turns into zeros what a truncated file lacks and NaN: both are caught here."""
    try:
        content = path.read_bytes()
        payload = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the compressed file is truncated or damaged ({error}); copy it again") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); correct the name, or allow it to be read"
        ) from None
    header = _header(path, payload)
    if len(payload) < header.expected_bytes:
        raise InputError(f"{path}: truncated, {len(payload)} of {header.expected_bytes} bytes; copy it again")
    bad = header.not_finite(payload)
    if bad:
        raise InputError(f"{path}: {bad} voxels are NaN or infinite; replace them (0 for air)")
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class _Header:
    """What a NIfTI header says about its data; `datatype` is NIfTI's code, `order` struct's byte order."""

    voxels: int
    bits: int
    datatype: int
    offset: int
    order: str

    @property
    def expected_bytes(self) -> int:
        return self.offset + self.voxels * self.bits // 8

    def not_finite(self, payload: bytes) -> int:
        """Voxels that are NaN or infinite."""
        if self.datatype not in FLOAT_TYPES:
            return 0
        values = np.frombuffer(payload, self.order + FLOAT_TYPES[self.datatype], self.voxels, self.offset)
        return self.voxels - int(np.isfinite(values).sum())


FLOAT_TYPES = {16: "f4", 64: "f8"}
# Length of the header, then where and in which format it holds: dims, datatype, bits a voxel, offset of the data.
NIFTI_1 = (348, ((40, "8h"), (70, "h"), (72, "h"), (108, "f")))
NIFTI_2 = (540, ((16, "8q"), (12, "h"), (14, "h"), (168, "q")))


def _header(path: Path, payload: bytes) -> _Header:
    for length, places in (NIFTI_1, NIFTI_2):
        for order in "<>":
            if len(payload) < length or struct.unpack_from(f"{order}i", payload)[0] != length:
                continue
            (rank, *dims), *numbers = (struct.unpack_from(order + form, payload, at) for at, form in places)
            datatype, bits, offset = (number[0] for number in numbers)
            if 1 <= rank <= 7 and min(dims[:rank]) >= 1 and math.isfinite(offset) and offset >= 0:
                return _Header(math.prod(dims[:rank]), bits, datatype, int(offset), order)
    raise InputError(f"{path}: not a NIfTI file (its header says otherwise); convert it to .nii.gz")


def _read_part(source: SourceSession, contrast: Contrast | None) -> _Part:
    """One contrast of the scan, or its mask when `contrast` is None."""
    if isinstance(source, SlicedSession):
        paths = [files.mask if contrast is None else files.images[contrast] for files in source.slices]
        return _stack([path for path in paths if path is not None])
    path = source.mask if contrast is None else source.images[contrast]
    assert path is not None
    image, checksum = read_image(path)
    if image.GetDimension() != 3:
        raise InputError(f"{path}: a 2D image; give the 3D volume, or single slices in the layout 'slices'")
    return _part(path, image, {path.name: checksum})


def _part(path: Path, image: sitk.Image, sha256: dict[str, str]) -> _Part:
    return _Part(path, Grid.of(image), sitk.GetArrayFromImage(canonical(image)), sha256)


def _stack(paths: list[Path]) -> _Part:
    """Single slices in the order of their numbers as one volume."""
    read = [(path, *read_image(path)) for path in paths]
    arrays = [(path, _plane(path, image)) for path, image, _ in read]
    first = arrays[0][1]
    for path, array in arrays:
        if array.shape != first.shape:
            raise InputError(f"{path}: {_size(array)} pixels, but {paths[0].name} has {_size(first)}; use one size")
    spacing = read[0][1].GetSpacing()[:2]
    grid = Grid((*first.shape[::-1], len(arrays)), (*spacing, 1.0), (0.0, 0.0, 0.0), SLICE_DIRECTION)
    return _part(paths[0], grid.image(np.stack([array for _, array in arrays])), {p.name: sum_ for p, _, sum_ in read})


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
        sizes = ["x".join(map(str, grid.size)) for grid in (part.grid, first.grid)]
        raise InputError(f"{part.path}: {sizes[0]} voxels, but {first.path.name} has {sizes[1]}; resample one")
    corners = np.array([[0, 0, 0], *(np.diag(first.grid.size) - 1).clip(0).tolist()])
    places = [np.c_[corners, np.ones(4)] @ grid.affine().T for grid in (part.grid, first.grid)]
    distance = np.abs(places[0] - places[1]).max()
    if distance > GRID_TOLERANCE * min(first.grid.spacing):
        raise InputError(
            f"{part.path}: lies {distance:.3g} mm away from {first.path.name} (spacing, origin or direction differ); "
            "resample one"
        )


def _intensities(part: _Part) -> FloatArray:
    voxels = part.voxels.astype(np.float32)
    lowest, highest = float(voxels.min()), float(voxels.max())
    if lowest == highest:
        raise InputError(
            f"{part.path}: every voxel is {lowest:g}; export it again, or leave the contrast out (--contrasts)"
        )
    if -lowest > LARGEST_NEGATIVE * highest:
        raise InputError(
            f"{part.path}: values from {lowest:g} to {highest:g} look normalised; give raw intensities with air at 0"
        )
    return np.asarray(np.maximum(voxels, 0.0))


def _labels(part: _Part) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """BraTS 2023 labels: an old 4 becomes 3; beside a 3 it is a resection cavity (BraTS 2024) and left out."""
    values = np.unique(part.voxels)
    odd = [value for value in values.tolist() if value not in range(LARGEST_LABEL + 1)]
    if odd:
        raise InputError(f"{part.path}: label {odd[0]:g} found; allowed are the whole numbers 0 to {LARGEST_LABEL}")
    labels = part.voxels.astype(np.uint8)
    if 4 not in values:
        return labels, ()
    cavity = 3 in values
    labels[labels == 4] = 0 if cavity else 3
    note = f"{part.path.name}: label 4 beside label 3 read as a resection cavity and left out"
    return labels, (note,) if cavity else ()
