"""The volume of a DICOM series, decoded by GDCM through SimpleITK.

Its files are put in order and checked here, from their headers: GDCM leaves out what it cannot read, and a volume
without its last slice looks whole.
"""

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.readers.dicom_header import (
    BITS,
    COLUMNS,
    FRAMES,
    INSTANCE_UID,
    INTERCEPT,
    ORIENTATION,
    PHOTOMETRY,
    PIXEL_SPACING,
    POSITION,
    ROWS,
    SAMPLES,
    SERIES_UID,
    SLOPE,
    TAGS,
    WANTED,
    DicomHeader,
    has_mark,
    number,
    read_header,
)
from tumorcast.data.readers.files import LARGEST_VOXELS, is_dangling, is_debris, is_file, is_folder, why_absent
from tumorcast.errors import InputError

SHEAR_TOLERANCE = 0.1  # of a pixel, over all slices: how far they may lie beside the straight line
GAP_TOLERANCE = 0.1  # of the distance of two slices; positions are rounded to less
SAME_DIRECTION = 1e-3
SEVERAL_FRAMES = (
    "several frames (enhanced MR), which are not read; convert them with dcm2niix, or with highdicom if their "
    "RescaleSlopes differ (dcm2niix takes the last for all)"
)
STUB_BYTES = 132  # a file that is shorter cannot even have DICOM's mark
Array = npt.NDArray[np.float64]


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a file with DICOM's mark: what `read_series` takes."""
    return is_folder(path) or has_mark(path)


@dataclass(frozen=True)
class FolderContents:
    """What DICOM a folder holds.

    series: images by series, in the order of file names; faults: files that cannot be read, and why; pictureless: files
    without an image, with their modality; copies: files that hold an image which another file holds too.
    """

    series: dict[str, list[DicomHeader]] = field(default_factory=dict)
    faults: dict[Path, InputError] = field(default_factory=dict)
    pictureless: dict[Path, str] = field(default_factory=dict)
    copies: dict[Path, Path] = field(default_factory=dict)


def series_in(folder: Path) -> FolderContents:
    """The DICOM files of a folder."""
    contents = FolderContents()
    instances: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_debris(path):
            continue
        try:
            absent = why_absent(path) if is_dangling(path) else ""
            if absent:
                raise InputError(absent)
            header = read_header(path, WANTED) if has_mark(path) else None
        except InputError as fault:
            contents.faults[path] = fault
            continue
        if header is None:
            continue
        if header.pixel_bytes == 0:
            contents.pictureless[path] = header.text(TAGS["modality"])
            continue
        first = instances.setdefault(header.text(INSTANCE_UID) or str(path), path)
        if first is not path:
            contents.copies[path] = first
        else:
            contents.series.setdefault(header.text(SERIES_UID), []).append(header)
    return contents


def read_series(path: Path) -> tuple[sitk.Image, str]:
    """The volume of a series, and the SHA-256 of its files in the order of slices.

    path: a folder with one series, or one file of the series that is meant. Raises InputError for a folder of several,
    a file that is none or is cut short, and slices that are missing, lie on each other or point elsewhere.
    """
    headers = _in_order(path, _headers(path))
    quiet_itk()
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(header.path) for header in headers])
    if _is_scaled(headers):  # else the volume has the first slice's type, to which the others are rounded or cut
        reader.SetOutputPixelType(sitk.sitkFloat64)
    try:
        image = reader.Execute()
    except RuntimeError:
        raise InputError(f"{path}: GDCM cannot read this series; export it again, or use dcm2niix") from None
    total = hashlib.sha256()
    for header in headers:
        total.update(header.path.read_bytes())
    return image, total.hexdigest()


def read_grid(path: Path) -> Grid:
    """The grid of a series, from its headers. Raises InputError as read_series does."""
    headers = _in_order(path, _headers(path))
    placements = np.array([_placement(header) for header in headers])
    rows, columns = placements[0, 3:6], placements[0, 6:]
    between_rows, between_columns = (number(part) for part in headers[0].text(PIXEL_SPACING).split("\\"))
    step = (placements[-1, :3] - placements[0, :3]) / (len(headers) - 1)
    direction = np.stack([rows, columns, step / np.linalg.norm(step)], axis=1)
    size = (int(headers[0].text(COLUMNS)), int(headers[0].text(ROWS)), len(headers))
    spacing = (between_columns, between_rows, float(np.linalg.norm(step)))
    return Grid(size, spacing, tuple(placements[0, :3].tolist()), tuple(direction.ravel().tolist()))


def _is_scaled(headers: list[DicomHeader]) -> bool:
    """Whether the values of any slice are other than the numbers stored."""
    pairs = {(header.text(SLOPE) or "1", header.text(INTERCEPT) or "0") for header in headers}
    return any((number(slope), number(intercept)) != (1.0, 0.0) for slope, intercept in pairs)


def quiet_itk() -> None:
    """ITK writes to stderr itself what is no fault of the user's, and may quote a header there."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def _headers(path: Path) -> list[DicomHeader]:
    """The images of the series in a folder, or of that to which a file belongs."""
    contents = series_in(path if path.is_dir() else path.parent)
    series = contents.series
    faults = [*contents.faults.values(), *_stubs(path, series)]
    if faults:
        raise faults[0]
    if not path.is_dir():
        return next(headers for headers in series.values() if any(header.path == path for header in headers))
    match list(series.values()):
        case [headers]:
            return headers
        case []:
            raise InputError(f"{path}: cannot be read (a folder without a DICOM series); correct the name")
        case several:
            raise InputError(f"{path}: {len(several)} DICOM series; name one file of the series that is meant")


def _stubs(path: Path, series: dict[str, list[DicomHeader]]) -> list[InputError]:
    """Files named as those of the series are, and so short that they have lost their mark."""
    endings = {header.path.suffix for headers in series.values() for header in headers}
    others = sorted((path if path.is_dir() else path.parent).iterdir())
    short = [file for file in others if file.suffix in endings and is_file(file) and file.stat().st_size < STUB_BYTES]
    visible = [file for file in short if not file.name.startswith(".")]
    return [InputError(why_absent(file) or f"{file}: damaged or cut short; copy it again") for file in visible]


def _in_order(path: Path, headers: list[DicomHeader]) -> list[DicomHeader]:
    """The images from the first slice to the last."""
    if len(headers) < 2:
        raise InputError(
            f"{path}: a series of one file; convert it with dcm2niix, and name the .nii.gz in a sessions.csv"
        )
    for header in headers:
        _check_image(path, header, headers[0], len(headers))
    placements = np.array([_placement(header) for header in headers])
    if not np.isfinite(placements).all() or np.abs(placements[:, 3:] - placements[0, 3:]).max() > SAME_DIRECTION:
        raise InputError(
            f"{path}: its images point in different directions, or do not say where; convert the series with "
            "dcm2niix, and name the .nii.gz that is meant in a sessions.csv"
        )
    along = placements[:, :3] @ np.cross(placements[0, 3:6], placements[0, 6:])
    order = np.argsort(along, kind="stable")
    _check_steps(path, np.diff(along[order]))
    _check_straight(path, headers[0], placements[order])
    return [headers[index] for index in order]


def _check_image(path: Path, header: DicomHeader, first: DicomHeader, count: int) -> None:
    if number(header.text(FRAMES) or "1") != 1:
        raise InputError(f"{path}: files with {SEVERAL_FRAMES}")
    if header.text(SAMPLES) != "1":
        raise InputError(f"{path}: images of colours, which are none of a scanner's; name another series")
    if header.text(PHOTOMETRY) not in {"", "MONOCHROME2"}:
        raise InputError(f"{header.path}: {header.text(PHOTOMETRY)}, not MONOCHROME2; convert the series with dcm2niix")
    if any(header.text(tag) != first.text(tag) for tag in (ROWS, COLUMNS, BITS, PIXEL_SPACING)):
        raise InputError(
            f"{header.path}: of another size than {first.path.name}; convert the series with dcm2niix, "
            "and name the .nii.gz that is meant in a sessions.csv"
        )
    pixels = number(header.text(ROWS)) * number(header.text(COLUMNS))
    if not 0 < pixels * count <= LARGEST_VOXELS:
        raise InputError(
            f"{path}: {pixels * count:.3g} voxels; up to {LARGEST_VOXELS:.2g} can be read: export it again"
        )
    least = pixels * number(header.text(BITS)) / 8
    if header.pixel_bytes is not None and header.pixel_bytes < least:
        raise InputError(f"{header.path}: {header.pixel_bytes} of {least:.0f} bytes of pixels; copy it again")


def _placement(header: DicomHeader) -> list[float]:
    """(9,) position of an image's first voxel and directions of its rows and columns, LPS mm; NaN where absent."""
    parts = (*header.text(POSITION).split("\\"), *header.text(ORIENTATION).split("\\"))
    return [number(part) for part in parts] if len(parts) == 9 else [math.nan] * 9


def _check_steps(path: Path, steps: Array) -> None:
    """steps: (N - 1,) mm between slices, none of them negative."""
    step = float(np.median(steps))
    worst = int(np.abs(steps - step).argmax())
    if step < SAME_DIRECTION or abs(steps[worst] - step) > GAP_TOLERANCE * step:
        raise InputError(
            f"{path}: slices {worst + 1} and {worst + 2} are {steps[worst]:.3g} mm apart, others {step:.3g}; "
            "slices are missing, or there are several at one place: copy the series again, or split it"
        )


def _check_straight(path: Path, header: DicomHeader, placements: Array) -> None:
    """placements: (N, 9) of the slices in order. Refuses a stack whose slices are shifted sideways, each by more."""
    rows, columns, offsets = placements[0, 3:6], placements[0, 6:], placements[:, :3] - placements[0, :3]
    sideways = np.abs(np.stack([offsets @ rows, offsets @ columns])).max()
    pixel = min(number(part) for part in header.text(PIXEL_SPACING).split("\\"))
    if not sideways <= SHEAR_TOLERANCE * pixel:
        raise InputError(
            f"{path}: its slices are shifted sideways, the last by {sideways:.3g} mm (a sheared stack, as of a tilted "
            "gantry), or their pixel spacing is not told; convert it with dcm2niix and resample that onto a straight "
            "grid (mri_convert, or nibabel.processing.resample_to_output), then name the .nii.gz in a sessions.csv"
        )
