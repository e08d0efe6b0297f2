"""How arrays lie in the archive: compressed by Blosc2, or by gzip for readers that lack its plugin.

The choice is measured (benchmarks/archive.py; one core, maps of 256 px with noise). LZ4 after a shuffle of bytes writes
at 970 MB/s and slices are read at 1900, in files of 0.52 of the raw size; Zstd 1: 640 and 1560, 0.46; gzip 4 as most
use it, without a shuffle: 60 and 380, 0.55. A shuffle of bits makes float32 larger, a higher level nothing better.

A checksum (Fletcher-32) is taken of the compressed bytes, so a damaged chunk is refused before it is decompressed: it
costs a sixth of the time of reading. What is at most 4 KiB lies uncompressed in the object header, which has a checksum
of its own.
"""

from enum import StrEnum
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5p, h5s, h5t, h5z

Array = npt.NDArray[Any]

READING: dict[str, Any] = {"rdcc_nbytes": 0}  # every chunk is read once: HDF5's cache of chunks only costs time
COMPACT_BYTES = 4096
GZIP_LEVEL = 4
BLOSC2 = hdf5plugin.Blosc2(cname="lz4", clevel=5, filters=hdf5plugin.Blosc2.SHUFFLE)


class Packing(StrEnum):
    """How arrays are compressed. PORTABLE is read by every HDF5; BLOSC2 needs `import hdf5plugin` or its like."""

    BLOSC2 = "blosc2"
    PORTABLE = "portable"


def store(group: h5py.Group, name: str, values: Array, packing: Packing) -> None:
    """Write an array as a data set of the group."""
    values = np.ascontiguousarray(values)
    plist = _timeless()
    if values.nbytes <= COMPACT_BYTES:
        plist.set_layout(h5d.COMPACT)
    else:
        _compress(plist, chunk_of(values.shape), packing)
    space = h5s.create_simple(values.shape)
    made = h5d.create(group.id, name.encode(), h5t.py_create(values.dtype, logical=True), space, plist)
    made.write(h5s.ALL, h5s.ALL, values)


def growing(group: h5py.Group, name: str, item: Array, packing: Packing) -> h5py.Dataset:
    """A new data set without items yet, each of the shape and type of `item`; it grows by `resize`."""
    plist = _timeless()
    _compress(plist, (1, *item.shape), packing)
    space = h5s.create_simple((0, *item.shape), (h5s.UNLIMITED, *item.shape))
    return h5py.Dataset(h5d.create(group.id, name.encode(), h5t.py_create(item.dtype, logical=True), space, plist))


def _timeless() -> h5p.PropDCID:
    """So that the same content makes the same bytes."""
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    return plist


def chunk_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """All of a map, one member of an ensemble.

    >>> chunk_of((4, 64, 64)), chunk_of((16, 4, 64, 64))
    ((4, 64, 64), (1, 4, 64, 64))
    """
    return shape if len(shape) < 4 else (1, *shape[1:])


def _compress(plist: h5p.PropDCID, chunk: tuple[int, ...], packing: Packing) -> None:
    plist.set_chunk(chunk)
    plist.set_fill_time(h5d.FILL_TIME_NEVER)
    if packing is Packing.BLOSC2:
        plist.set_filter(BLOSC2.filter_id, h5z.FLAG_MANDATORY, BLOSC2.filter_options)
    else:
        plist.set_shuffle()
        plist.set_deflate(GZIP_LEVEL)
    plist.set_fletcher32()


def load_all(group: h5py.Group, leave_out: str = "") -> dict[str, Array]:
    """Every data set of the group but one, by name. By h5py's low level, which takes half the time on small maps."""
    names = [name for name in group.id if name.decode() != leave_out]
    return {name.decode(): _load(h5d.open(group.id, name)) for name in names}


def _load(dataset: h5d.DatasetID) -> Array:
    values = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return values


def copy_group(source: h5py.Group, parent: h5py.Group, name: str, *, was: Packing, packing: Packing) -> None:
    """Copy a group with all in it; compressed chunks are copied as they are where the packing stays."""
    if was is packing:
        source.file.copy(source, parent, name)
    else:
        _repack(source, parent.create_group(name), packing)


def _repack(source: h5py.Group, group: h5py.Group, packing: Packing) -> None:
    copy_attributes(source, group)
    for name in source:
        item = source[name]
        if isinstance(item, h5py.Group):
            _repack(item, group.create_group(name), packing)
        elif item.ndim < 4:
            store(group, name, item[()], packing)
        else:
            _repack_members(item, group, name, packing)


def copy_attributes(source: h5py.Group | h5py.Dataset, group: h5py.Group | h5py.Dataset) -> None:
    """Copy the attributes of a group, or a data set, with their types."""
    for name in source.attrs:
        group.attrs.create(name, source.attrs[name], dtype=source.attrs.get_id(name).dtype)


def _repack_members(source: h5py.Dataset, group: h5py.Group, name: str, packing: Packing) -> None:
    """One member at a time, since there may be thousands."""
    copied = growing(group, name, source[0], packing)
    copied.resize(len(source), axis=0)
    for number in range(len(source)):
        copied[number] = source[number]
