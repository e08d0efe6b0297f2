"""NIfTI files: whole, finite, of a type and size that can be meant, and where their voxels lie.

The header is read first, by itself, and no more of a compressed file than it announces. The affine is nibabel's (the
sform where its code is set, else the qform, else none: LAS), which FSL and SPM take too. What the header says besides
and does not agree stands in `notes`; what cannot be read beyond doubt is refused.
"""

import gzip
import hashlib
import io
import math
import re
import zlib
from dataclasses import dataclass
from io import BufferedReader
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from tumorcast.counted import counted
from tumorcast.data.readers.files import LARGEST_VOXELS, is_file, why_absent
from tumorcast.errors import InputError
from tumorcast.records import FloatArray

INTEGER_BITS = {2: 8, 4: 16, 8: 32, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64}
COLOURS = {128: 24, 2304: 32}  # which are refused as channels
BITS = {16: 32, 64: 64} | COLOURS | INTEGER_BITS
HEADERS: dict[int, type[nib.Nifti1Header]] = {
    348: nib.Nifti1Header,
    540: nib.Nifti2Header,
}  # by the length that a header begins with
SINGLE, PAIR = (b"n+1", b"n+2"), (b"ni1", b"ni2")  # magic words; Analyze 7.5 has none
OTHER_FORMATS = {
    **dict.fromkeys((".mgz", ".mgh"), ("FreeSurfer's format", "mri_convert")),
    **dict.fromkeys((".mha", ".mhd"), ("a MetaImage", "SimpleITK's ReadImage and WriteImage")),
    ".nrrd": ("NRRD", "SimpleITK's ReadImage and WriteImage, or Slicer"),
}
LARGEST_OFFSET = 2**26  # bytes of extensions before the voxels
EXTRA_BYTES = 2**20  # after the voxels
MOST_DEFLATED = 1032  # bytes that one compressed byte can stand for
SPACINGS_MM = (1e-3, 1e3)  # beyond, the header is damaged
EXTENT_MM = (2.0, 3000.0)  # of the longest side; beyond, its numbers are no mm
MILLIMETRES = ("mm", "unknown")
AGREE_VOXELS = 0.1  # two affines that differ by less are one, rounded
AGREE_SPACING, SAME_SPACING = 0.01, 1e-5  # relative; the same for pixdim, and where the two are one number, rounded
STRAIGHT_VOXELS, BENT_VOXELS = 0.05, 0.5  # at the corners: what a shear may move, without a word and with one
Header = nib.Nifti1Header  # NIfTI-2 is a subclass


@dataclass(frozen=True)
class NiftiHeader:
    """What a header says.

    dims: voxels along each axis; affine: (4, 4) voxel to world, RAS mm, its axes at right angles; notes: what in the
    header does not agree with it.
    """

    dims: tuple[int, ...]
    affine: FloatArray
    notes: tuple[str, ...]
    fields: Header

    @property
    def voxels(self) -> int:
        """How many voxels there are."""
        return math.prod(self.dims)

    @property
    def offset(self) -> int:
        """Bytes before the voxels."""
        return int(self.fields["vox_offset"])

    @property
    def is_colour(self) -> bool:
        """Whether a voxel is a colour."""
        return int(self.fields["datatype"]) in COLOURS

    @property
    def expected_bytes(self) -> int:
        """How long the file is, uncompressed, at the least."""
        return self.offset + self.voxels * int(self.fields["bitpix"]) // 8

    def array(self, payload: bytes) -> npt.NDArray[np.generic]:
        """(…, Z, Y, X) the voxels in the file's content, as stored, in the machine's byte order."""
        stored = np.frombuffer(payload, self.fields.get_data_dtype(), self.voxels, self.offset)
        return stored.astype(stored.dtype.newbyteorder("="), copy=False).reshape(self.dims[::-1])


@dataclass(frozen=True)
class NiftiVolume:
    """A file as read. voxels: (…, Z, Y, X), slope and intercept applied; sha256: of the file as it lies on disk."""

    header: NiftiHeader
    voxels: npt.NDArray[np.generic]
    sha256: str


def read_header(path: Path) -> NiftiHeader:
    """The header of a NIfTI file. Raises InputError as `read_volume` does, but of what lies behind the header."""
    try:
        with _opened(path) as file:
            header = _parsed(path, file)
            _check_size(path, header)
            return header
    except (EOFError, zlib.error, OSError) as error:
        raise _unreadable(path, error) from None


def read_volume(path: Path) -> NiftiVolume:
    """A NIfTI file whose voxels are all there and finite.

    Raises InputError where it is missing, damaged, no NIfTI, longer or shorter than its header says, or not finite, and
    where its header cannot be meant or does not say how its voxels lie.
    """
    try:
        with _opened(path) as file:
            header = _parsed(path, file)
            _check_size(path, header)
            file.seek(0)
            payload = file.read(header.expected_bytes + EXTRA_BYTES + 1)
        if len(payload) < header.expected_bytes:
            raise InputError(f"{path}: truncated, {len(payload)} of {header.expected_bytes} bytes; copy it again")
        if len(payload) > header.expected_bytes + EXTRA_BYTES:
            raise InputError(f"{path}: goes on after its {header.expected_bytes} bytes of voxels; export it again")
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, zlib.error, OSError) as error:
        raise _unreadable(path, error) from None
    return NiftiVolume(header, _scaled(path, header, header.array(payload)), checksum)


def _scaled(path: Path, header: NiftiHeader, stored: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The values meant: slope and intercept, where there are any, make real numbers of stored ones."""
    if header.is_colour:
        return stored
    try:
        slope, intercept = header.fields.get_slope_inter()
    except HeaderDataError as error:
        raise InputError(f"{path}: its slope or intercept is no number ({error}); correct the header") from None
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        values: npt.NDArray[np.generic] = apply_read_scaling(stored, slope, intercept)
    bad = 0 if values.dtype.kind in "iu" else values.size - int(np.isfinite(values).sum())
    if bad:
        raise InputError(f"{path}: {counted(bad, 'voxel is', 'voxels are')} NaN or infinite; replace them (0 for air)")
    return values


def _check_size(path: Path, header: NiftiHeader) -> None:
    """Refuses a file that cannot hold what its header announces, before memory is asked for."""
    size = path.stat().st_size
    most = size * MOST_DEFLATED if _is_packed(path) else size
    if most < header.expected_bytes:
        raise InputError(f"{path}: truncated, {size} of {header.expected_bytes} bytes; copy it again")


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    other = OTHER_FORMATS.get(path.suffix.lower())
    if other is not None and is_file(path):
        raise InputError(f"{path}: {other[0]}, which is not read; make a .nii.gz of it ({other[1]})")
    if not is_file(path):
        raise InputError(why_absent(path) or f"{path}: cannot be read (No such file, or a folder); correct the name")
    return gzip.open(path) if _is_packed(path) else path.open("rb")


def _unreadable(path: Path, error: Exception) -> InputError:
    absent = why_absent(path)
    if absent:
        return InputError(absent)
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        reason = error.strerror or error
        return InputError(f"{path}: cannot be read ({reason}); correct the name, or allow it to be read")
    with path.open("rb") as file:
        start = file.read(max(HEADERS))
    if isinstance(error, gzip.BadGzipFile) and _kind(start) is not None:
        return InputError(f"{path}: ends in .gz and is not compressed; rename it to {path.name[: -len('.gz')]}")
    if start.lstrip()[:1] in (b"<", b"{"):
        return InputError(f"{path}: is a page or an answer of a server, not the file asked for; download it again")
    return InputError(f"{path}: the compressed file is truncated or damaged ({error}); copy it again")


def _kind(head: bytes) -> tuple[int, str] | None:
    """Which header it begins with: its length and byte order; None if it is none."""
    for order in "<>":
        length = int(np.frombuffer(head[:4], f"{order}i4")[0]) if len(head) >= 4 else 0
        if length in HEADERS and len(head) >= length:
            return length, order
    return None


def _parsed(path: Path, file: gzip.GzipFile | BufferedReader) -> NiftiHeader:
    head = file.read(max(HEADERS))
    kind = _kind(head)
    if kind is None:
        raise _no_nifti(path, head)
    length, order = kind
    fields: Header = HEADERS[length](head[:length], order, check=False)
    rank, *dims = (int(side) for side in fields["dim"])
    while 3 < rank <= len(dims) and dims[rank - 1] == 0:  # as some write for an axis that is not there
        rank -= 1
    offset = float(fields["vox_offset"])
    if not (1 <= rank <= 7 and min(dims[:rank]) >= 1 and math.isfinite(offset) and offset >= 0):
        raise _no_nifti(path, head)
    _check_magic(path, bytes(fields["magic"]))
    _check_fields(path, fields, tuple(dims[:rank]))
    affine, notes = _placement(path, _repaired(path, head[:length], order), (*dims[:rank], 1, 1)[:3])
    return NiftiHeader(tuple(dims[:rank]), affine, notes, fields)


def _no_nifti(path: Path, head: bytes) -> InputError:
    absent = why_absent(path)
    if absent:
        return InputError(absent)
    if head[:2] == b"\x1f\x8b" and not _is_packed(path):
        return InputError(f"{path}: is compressed; rename it to {path.name}.gz")
    return InputError(f"{path}: not a NIfTI file (its header says otherwise); convert it to .nii.gz")


def _check_magic(path: Path, magic: bytes) -> None:
    word = magic[:3]
    if word in SINGLE:
        return
    base = re.sub(r"(\.nii|\.hdr)?(\.gz)?$", "", path.name)
    what = "the header of a pair" if word in PAIR else "an Analyze 7.5 header"
    raise InputError(
        f"{path}: {what} (.hdr and .img), which is not read, as one half is soon lost; make one file of it: "
        f"fslchfiletype NIFTI_GZ {base}, or nibabel.save(nibabel.load('{base}.hdr'), '{base}.nii.gz')"
    )


def _check_fields(path: Path, fields: Header, dims: tuple[int, ...]) -> None:
    voxels, offset = math.prod(dims), int(fields["vox_offset"])
    names = ("qoffset_x", "qoffset_y", "qoffset_z", "quatern_b", "quatern_c", "quatern_d")
    numbers = [*fields["pixdim"][:4], *(fields[name] for name in names)]
    numbers += [value for row in "xyz" for value in fields[f"srow_{row}"]]
    if not np.isfinite(np.array(numbers, np.float64)).all():
        raise InputError(f"{path}: its spacing or affine is not finite; correct the header")
    if voxels > LARGEST_VOXELS or offset > LARGEST_OFFSET:
        size = "x".join(map(str, dims))
        raise InputError(
            f"{path}: its header asks for {size} voxels after {offset} bytes; up to {LARGEST_VOXELS} voxels can "
            "be read: the file is damaged, or must be split"
        )
    datatype, bits = int(fields["datatype"]), int(fields["bitpix"])
    if BITS.get(datatype) != bits:
        raise InputError(f"{path}: voxels of NIfTI type {datatype} with {bits} bits; store whole or real numbers")


def _repaired(path: Path, head: bytes, order: str) -> Header:
    """The header with what nibabel repairs when it loads a file: a qfac of 0, a negative pixdim."""
    try:
        with LoggingOutputSuppressor():
            fields: Header = HEADERS[len(head)].from_fileobj(io.BytesIO(head + b"\0" * 4), order, check=True)
        units = fields.get_xyzt_units()[0]
    except (HeaderDataError, ValueError, KeyError) as error:
        raise InputError(f"{path}: its header is not valid ({error}); correct it, or export it again") from None
    if units not in MILLIMETRES:
        raise InputError(
            f"{path}: its header gives spacing in {units}s (xyzt_units), where tools of the field read mm all the "
            "same; if its numbers are mm, set xyzt_units to mm, else scale pixdim and affine to mm"
        )
    return fields


def _placement(path: Path, fields: Header, size: tuple[int, ...]) -> tuple[FloatArray, tuple[str, ...]]:
    """(4, 4) where the voxels lie, RAS mm, and what in the header does not agree."""
    try:
        _, sform_code = fields.get_sform(coded=True)
        qform, qform_code = fields.get_qform(coded=True)
    except (HeaderDataError, ValueError) as error:
        raise InputError(f"{path}: its qform is not valid ({error}); correct the header") from None
    taken = np.asarray(fields.get_best_affine(), np.float64)
    if not sform_code and not qform_code:
        return _straight(path, fields, size, "affine", ""), (
            "its header does not say how the head lies (qform_code and sform_code are 0); taken as LAS, as nibabel, "
            "FSL and SPM take it: compare left and right with the source, or copy the header of a scan that says it",
        )
    name = "sform" if sform_code else "qform"
    way_out = " (its qform is sound: fslorient -copyqform2sform)" if sform_code and qform_code else ""
    affine = _straight(path, fields, size, name, way_out)
    notes = []
    if sform_code and qform_code:
        away, side = _apart(taken, np.asarray(qform, np.float64), size), float(_sides(taken).min())
        if away > AGREE_VOXELS * side:
            notes.append(
                f"its qform (code {qform_code}) places it up to {away:.3g} mm from its sform (code {sform_code}); the "
                "sform is taken, as nibabel, FSL and SPM take it (fslorient -copyqform2sform takes the other)"
            )
    return affine, (*notes, *_spacing_note(name, fields, taken), *_shear_note(name, taken, affine, size))


def _spacing_note(name: str, fields: Header, affine: FloatArray) -> tuple[str, ...]:
    stated, meant = np.asarray(fields["pixdim"][1:4], np.float64), _sides(affine)
    rank = min(int(fields["dim"][0]), 3)
    if np.allclose(stated[:rank], meant[:rank], rtol=AGREE_SPACING, atol=0.0):
        return ()
    sides = [" x ".join(f"{side:.4g}" for side in three) for three in (stated, meant)]
    return (f"its pixdim says {sides[0]} mm and its {name} {sides[1]} mm; the {name} is taken, as nibabel takes it",)


def _shear_note(name: str, affine: FloatArray, straight: FloatArray, size: tuple[int, ...]) -> tuple[str, ...]:
    away = _apart(affine, straight, size)
    if away <= STRAIGHT_VOXELS * _sides(affine).min():
        return ()
    return (f"its {name} is sheared by up to {away:.3g} mm, less than half a voxel; read as straight",)


def _straight(path: Path, fields: Header, size: tuple[int, ...], name: str, way_out: str) -> FloatArray:
    """nibabel's affine with its axes at right angles, the grid's centre where it was.

    Raises InputError if an axis has no length, or a corner would move by more than half a voxel.
    """
    affine = np.asarray(fields.get_best_affine(), np.float64)
    sides = _sides(affine)
    low, high = SPACINGS_MM
    if not all(low <= side <= high for side in sides):
        size_mm = " x ".join(f"{side:.3g}" for side in sides)
        raise InputError(
            f"{path}: voxels of {size_mm} mm by its {name}; between {low:g} and {high:g} mm: "
            f"correct the header{way_out}"
        )
    extent = float(max(sides * size))
    if not EXTENT_MM[0] <= extent <= EXTENT_MM[1]:
        raise InputError(
            f"{path}: its longest side is {extent:.3g} mm by its {name}, between {EXTENT_MM[0]:g} and "
            f"{EXTENT_MM[1]:g} mm is a head; scale pixdim and affine to mm"
        )
    u, _, vt = np.linalg.svd(affine[:3, :3] / sides)
    pixdim = np.asarray(fields["pixdim"][1:4], np.float64)  # rounded less than what the columns of an affine say
    sides = np.where(np.isclose(pixdim, sides, rtol=SAME_SPACING, atol=0.0), pixdim, sides)
    straight = np.eye(4)
    straight[:3, :3] = (u @ vt) * sides
    centre = (np.asarray(size) - 1) / 2
    straight[:3, 3] = affine[:3, 3] + (affine[:3, :3] - straight[:3, :3]) @ centre
    away = _apart(affine, straight, size)
    if away > BENT_VOXELS * sides.min():
        raise InputError(
            f"{path}: the axes of its {name} are not at right angles, a corner would lie {away:.3g} mm off; resample "
            f"it onto a straight grid (nibabel.processing.resample_to_output, mri_convert){way_out}"
        )
    return straight


def _sides(affine: FloatArray) -> FloatArray:
    """(3,) lengths of the voxel's sides, mm."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _apart(first: FloatArray, second: FloatArray, size: tuple[int, ...]) -> float:
    """How far two affines take a corner of the grid apart at most, mm."""
    corners = np.array([(*corner, 1.0) for corner in product(*((0, side - 1) for side in size))])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())
