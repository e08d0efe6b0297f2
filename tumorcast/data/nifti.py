"""NIfTI files looked at before SimpleITK reads them: whole, finite, of a type and size that can be meant.

SimpleITK turns into zeros what a truncated file lacks and NaN, and allocates what a header asks for. So the header is
read first, by itself, and no more of a compressed file than it announces.
"""

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from tumorcast.data.scans import LARGEST_VOXELS, is_file
from tumorcast.errors import InputError

FLOAT_TYPES = {16: "f4", 64: "f8"}
INTEGER_BITS = {2: 8, 4: 16, 8: 32, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64}
BITS = {16: 32, 64: 64, 128: 24, 2304: 32} | INTEGER_BITS  # 128 and 2304 are colours, which are told as channels
HEADER_BYTES, NIFTI_2_BYTES = 348, 540  # which the header begins with
# Where in it stand, and in which format: dims, datatype, bits a voxel, spacing, offset of the data, the affines.
DIMS, DATATYPE, SPACING, OFFSET, AFFINES = (40, "8h"), (70, "2h"), (76, "4f"), (108, "f"), (256, "18f")
LARGEST_OFFSET = 2**26  # bytes of extensions before the voxels
EXTRA_BYTES = 2**20  # after the voxels
MOST_DEFLATED = 1032  # bytes that one compressed byte can stand for


@dataclass(frozen=True)
class NiftiHeader:
    """What a header says. dims: voxels along each axis; datatype: NIfTI's code; order: struct's byte order."""

    dims: tuple[int, ...]
    bits: int
    datatype: int
    offset: int
    order: str

    @property
    def voxels(self) -> int:
        """How many voxels there are."""
        return math.prod(self.dims)

    @property
    def expected_bytes(self) -> int:
        """How long the file is, uncompressed, at the least."""
        return self.offset + self.voxels * self.bits // 8

    def not_finite(self, payload: bytes) -> int:
        """Voxels that are NaN or infinite."""
        if self.datatype not in FLOAT_TYPES:
            return 0
        values = np.frombuffer(payload, self.order + FLOAT_TYPES[self.datatype], self.voxels, self.offset)
        return self.voxels - int(np.isfinite(values).sum())


def read_header(path: Path) -> NiftiHeader:
    """The header of a NIfTI file; nothing behind it is read. Raises InputError as `check_whole` does."""
    try:
        with _opened(path) as file:
            return _parsed(path, file.read(HEADER_BYTES))
    except (EOFError, zlib.error, OSError) as error:
        raise _unreadable(path, error) from None


def check_whole(path: Path) -> str:
    """SHA-256 of a NIfTI file whose voxels are all there and finite.

    Raises InputError where it is missing, damaged, no NIfTI, longer or shorter than its header says, or not finite.
    """
    try:
        with _opened(path) as file:
            header = _parsed(path, file.read(HEADER_BYTES))
            _check_size(path, header)
            file.seek(0)
            payload = file.read(header.expected_bytes + EXTRA_BYTES + 1)
        if len(payload) < header.expected_bytes:
            raise InputError(f"{path}: truncated, {len(payload)} of {header.expected_bytes} bytes; copy it again")
        if len(payload) > header.expected_bytes + EXTRA_BYTES:
            raise InputError(f"{path}: goes on after its {header.expected_bytes} bytes of voxels; export it again")
        bad = header.not_finite(payload)
        if bad:
            raise InputError(f"{path}: {bad} voxels are NaN or infinite; replace them (0 for air)")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, zlib.error, OSError) as error:
        raise _unreadable(path, error) from None


def _check_size(path: Path, header: NiftiHeader) -> None:
    """Refuses a file that cannot hold what its header announces, before memory is asked for."""
    size = path.stat().st_size
    most = size * MOST_DEFLATED if path.suffix == ".gz" else size
    if most < header.expected_bytes:
        raise InputError(f"{path}: truncated, {size} of {header.expected_bytes} bytes; copy it again")


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    if not is_file(path):
        raise InputError(f"{path}: cannot be read (No such file, or a folder); correct the name")
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        reason = error.strerror or error
        return InputError(f"{path}: cannot be read ({reason}); correct the name, or allow it to be read")
    return InputError(f"{path}: the compressed file is truncated or damaged ({error}); copy it again")


def _parsed(path: Path, head: bytes) -> NiftiHeader:
    if len(head) == HEADER_BYTES:
        for order in "<>":
            length = struct.unpack_from(f"{order}i", head)[0]
            if length == NIFTI_2_BYTES:
                raise InputError(f"{path}: NIfTI-2, which is not read; save it as NIfTI-1 (.nii.gz)")
            if length == HEADER_BYTES and (header := _header(path, head, order)) is not None:
                _check(path, header)
                return header
    raise InputError(f"{path}: not a NIfTI file (its header says otherwise); convert it to .nii.gz")


def _header(path: Path, head: bytes, order: str) -> NiftiHeader | None:
    """The header's fields, None where they cannot be meant."""
    fields = [struct.unpack_from(order + form, head, at) for at, form in (DIMS, DATATYPE, SPACING, OFFSET, AFFINES)]
    (rank, *dims), (datatype, bits), spacing, (offset,), affines = fields
    if not (1 <= rank <= 7 and min(dims[:rank]) >= 1 and math.isfinite(offset) and offset >= 0):
        return None
    if not all(map(math.isfinite, (*spacing, *affines))):
        raise InputError(f"{path}: its spacing or affine is not finite; correct the header")
    return NiftiHeader(tuple(dims[:rank]), bits, datatype, int(offset), order)


def _check(path: Path, header: NiftiHeader) -> None:
    if header.voxels > LARGEST_VOXELS or header.offset > LARGEST_OFFSET:
        size = "x".join(map(str, header.dims))
        raise InputError(
            f"{path}: its header asks for {size} voxels after {header.offset} bytes; up to {LARGEST_VOXELS} voxels can "
            "be read: the file is damaged, or must be split"
        )
    if BITS.get(header.datatype) != header.bits:
        raise InputError(
            f"{path}: voxels of NIfTI type {header.datatype} with {header.bits} bits; store whole or real numbers"
        )
