"""The sum over what a group of the archive says, however it is packed: names, types, shapes, values.

It is the SHA-256 of one line for each array and attribute, in the order of their names; a line holds the SHA-256 of the
values' own bytes, little-endian and in C order.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

SUM = "sha256"  # the attribute that holds a group's sum
SLICES = "slices"  # a patient's slices have sums of their own


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
    """The sum of a group, from its data; a patient's slices are left out."""
    return content_sum(_lines(group, ""))


def _lines(group: h5py.Group, prefix: str) -> Iterator[str]:
    for name, value in group.attrs.items():
        if name != SUM:
            yield attribute_line(prefix + name, value)
    for name in group:
        item = group[name]  # not by items(), which gives None for what cannot be opened
        if isinstance(item, h5py.Dataset):
            yield line(prefix + name, item.dtype, item.shape, _sum_of_values(item))
        elif name != SLICES:
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
