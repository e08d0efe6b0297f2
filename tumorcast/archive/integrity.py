"""Sums of content and seals of files: whether a file says what was written, and holds the bytes that were written.

A group's sum is over what it says, however it is packed (names, types, shapes, values): the SHA-256 of one line for
each array and attribute, in the order of their names; a line holds the SHA-256 of the values' own bytes, little-endian
and in C order.

A seal is the first 1024 bytes of a shard or an archive: a line of JSON with the size of the file and the sum of the
rest. So a file that was cut short or damaged is found before the HDF5 library sees it, which may crash on damaged
metadata.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from tumorcast.errors import InputError

SUM = "sha256"  # the attribute that holds a group's sum
SLICES, VOLUME = "slices", "volume"  # a patient's slices, and its volume, have sums of their own
USER_BLOCK = 1024  # HDF5 leaves it to its user. More than 512, since the name of a patient may have 255 bytes


def array_line(name: str, values: npt.NDArray[Any]) -> str:
    """What a sum takes in of an array."""
    digest = hashlib.sha256(bytes_of(values)).hexdigest()
    return line(name, values.dtype, values.shape, digest)


def line(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], digest: str) -> str:
    """What a sum takes in of an array of which the sum of its bytes is known.

    >>> line("std", np.dtype(np.float32), (4, 64, 64), "9f…")
    'std <f4 (4, 64, 64) 9f…'
    """
    return f"{name} {dtype.newbyteorder('<').str} {tuple(shape)} {digest}"


def bytes_of(values: npt.NDArray[Any]) -> memoryview:
    """The bytes of the values, little-endian and in C order."""
    ordered = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data


def attribute_line(name: str, value: Any) -> str:
    """What a sum takes in of an attribute: a number or a text, as written or as read back."""
    if isinstance(value, str | bytes):
        return f"{name} text {hashlib.sha256(text_of(value).encode()).hexdigest()}"
    return array_line(name, np.atleast_1d(np.asarray(value)))


def content_sum(lines: Iterable[str]) -> str:
    """The sum over the lines, in any order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def sum_of(group: h5py.Group) -> str:
    """The sum of a group, from its data; a patient's slices and volume are left out."""
    return content_sum(_lines(group, ""))


def _lines(group: h5py.Group, prefix: str) -> Iterator[str]:
    for name, value in group.attrs.items():
        if name != SUM:
            yield attribute_line(prefix + name, value)
    for name in group:
        item = group[name]  # not by items(), which gives None for what cannot be opened
        if isinstance(item, h5py.Dataset):
            yield line(prefix + name, item.dtype, item.shape, _sum_of_values(item))
        elif name not in (SLICES, VOLUME):
            yield from _lines(item, f"{prefix}{name}/")


def _sum_of_values(dataset: h5py.Dataset) -> str:
    """The SHA-256 of a data set's bytes; members are read one at a time."""
    digest = hashlib.sha256()
    for part in dataset if dataset.ndim == 4 else (dataset[()],):
        digest.update(bytes_of(part))
    return digest.hexdigest()


def put_text(group: h5py.Group, name: str, text: str) -> None:
    """Write a text as an attribute of fixed length: those of any length lie where HDF5 keeps no checksum."""
    data = text.encode()
    group.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(len(data), 1)))


def text_of(value: str | bytes) -> str:
    """A text as h5py reads it."""
    return value.decode() if isinstance(value, bytes) else value


def block_of(record: Mapping[str, Any]) -> bytes:
    """The block: the record as JSON, filled up with spaces, and a newline. Raises InputError if it is too long."""
    line = json.dumps(record, sort_keys=True, ensure_ascii=False).encode()
    if len(line) >= USER_BLOCK:
        raise InputError(
            f"{record}: {len(line)} bytes, at most {USER_BLOCK - 1} are possible; shorten the patient's name"
        )
    return line.ljust(USER_BLOCK - 1) + b"\n"


def record_of(block: bytes) -> dict[str, Any] | None:
    """The record of a block; None if it is not one, or has changed since it was written."""
    try:
        record = json.loads(block)
        return record if isinstance(record, dict) and block_of(record) == block else None
    except (ValueError, RecursionError, InputError):
        return None


def read_seal(path: Path, form: str, version: int) -> dict[str, Any] | None:
    """What the seal of a file says, if it is of this format and version and as long as the file; else None."""
    try:
        record, size = _block_and_size(path)
    except OSError:
        return None
    return record if record and _is_of(record, form, version) and record.get("size") == size else None


def has_seal(path: Path, form: str, version: int) -> bool:
    """Whether a file has a seal of this format and version, be it damaged otherwise."""
    try:
        record, _ = _block_and_size(path)
    except OSError:
        return False
    return record is not None and _is_of(record, form, version)


def _block_and_size(path: Path) -> tuple[dict[str, Any] | None, int]:
    """The record of a file's block, if it is one, and how long the file is. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return record_of(file.read(USER_BLOCK)), path.stat().st_size


def _is_of(record: Mapping[str, Any], form: str, version: int) -> bool:
    return (record.get("format"), record.get("version")) == (form, version)


def has_right_sum(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether the bytes after the block are those of the seal; reads the file once."""
    try:
        return sum_of_rest(path) == record.get("sha256")
    except OSError:
        return False


def sum_of_rest(path: Path) -> str:
    """The SHA-256 of all bytes after the block."""
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_file(path: Path, record: Mapping[str, Any]) -> None:
    """Write the block of a file whose rest is complete: the record, its size, and the sum of the rest."""
    block = block_of({**record, "size": path.stat().st_size, "sha256": sum_of_rest(path)})
    with path.open("r+b") as file:
        file.write(block)


def fault_of(path: Path, form: str, version: int) -> str | None:
    """What is wrong with a sealed file as a whole; None if it is as it was written. Reads it once."""
    try:
        record, size = _block_and_size(path)
    except OSError as fault:
        return f"{path}: cannot be read ({fault.strerror})"
    if record is None or not _is_of(record, form, version):
        return f"{path}: not a {form} of version {version}, or its first {USER_BLOCK} bytes are damaged"
    if record.get("size") != size:
        return f"{path}: has {size} bytes, and was written with {record.get('size')}"
    if not has_right_sum(path, record):
        return f"{path}: damaged, or changed since it was written: the sum of its bytes is not right"
    return None
