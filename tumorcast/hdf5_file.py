"""An HDF5 file that is there whole or not at all, and a full disk that ends in an error and not in a crash.

The HDF5 library cannot bear a write that fails: it ends the process with a segmentation fault when it closes the file.
So it is kept from the library; the failure is remembered, and raised when the file is flushed or closed.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from tumorcast.durable import written_whole


@contextmanager
def new_hdf5(path: Path) -> Iterator["NewFile"]:
    """A new HDF5 file to fill; it takes the place of `path` when the block ends without an error.

    Raises StorageError if the folder cannot be written to or is full.
    """
    with written_whole(path) as temporary, hdf5_at(temporary) as file:
        yield file


@contextmanager
def hdf5_at(path: Path, **layout: Any) -> Iterator["NewFile"]:
    """A new HDF5 file at a place of the caller's, who sees to it that it is there whole or not at all.

    layout: what h5py.File takes beside, as `userblock_size`. Raises OSError if anything could not be written.
    """
    with _Storage(path, "w+") as storage:
        try:
            with h5py.File(storage, "w", **layout) as root:
                yield NewFile(root, storage)
        finally:
            storage.raise_fault()


@dataclass(frozen=True)
class NewFile:
    """An HDF5 file under way; `root` is its outermost group."""

    root: h5py.File
    _storage: "_Storage"

    def flush(self) -> None:
        """Hand everything so far to the operating system. Raises OSError if anything could not be written."""
        self.root.flush()
        self._storage.raise_fault()


class _Storage(io.FileIO):
    """A file on disk that remembers its first failure, and from then on takes what it is given and drops it."""

    fault: OSError | None = None

    def raise_fault(self) -> None:
        """Raise what writing failed with, if it did."""
        if self.fault is not None:
            raise self.fault

    def write(self, data: Any, /) -> int:
        """Write all of `data`."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.fault is None:
                left = left[super().write(left) :]
        except OSError as fault:
            self.fault = fault
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Set the length of the file."""
        try:
            return super().truncate(size)
        except OSError as fault:
            self.fault = self.fault or fault
            return size or 0
