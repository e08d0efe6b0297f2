"""An HDF5 file that is there whole or not at all, and a full disk that ends in an error and not in a crash.

The HDF5 library cannot bear a write that fails: it ends the process with a segmentation fault when it closes the file.
So it is kept from the library; the failure is remembered, and raised when the file is flushed or closed.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from tumorcast.durable import written_whole
from tumorcast.records import ChemotherapyCourse, RadiotherapyCourse, Treatment

LIBRARY = ("v110", "v110")  # what files are written for, HDF5 1.10: the oldest with a checksum on all metadata
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py raises on a damaged file


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


def treatment_attributes(treatment: Treatment) -> dict[str, npt.NDArray[Any]]:
    """A treatment as HDF5 attributes, one value a course or resection: an unknown dose is NaN, unknown fractions are 0.

    >>> treatment_attributes(Treatment((RadiotherapyCourse(0.0, 42.0, fractions=30),)))["radiotherapy_fractions"]
    array([30])
    """
    radiotherapy, chemotherapy = treatment.radiotherapy, treatment.chemotherapy
    days = {
        "radiotherapy_start_days": [course.start_days for course in radiotherapy],
        "radiotherapy_end_days": [course.end_days for course in radiotherapy],
        "radiotherapy_dose_gy": [course.dose_gy for course in radiotherapy],
        "chemotherapy_start_days": [course.start_days for course in chemotherapy],
        "chemotherapy_end_days": [course.end_days for course in chemotherapy],
        "resection_days": treatment.resection_days,
    }
    fractions = np.array([course.fractions or 0 for course in radiotherapy], np.int64)
    return {name: np.array(values, np.float64) for name, values in days.items()} | {"radiotherapy_fractions": fractions}


def treatment_from(attributes: Mapping[str, Any]) -> Treatment:
    """The treatment that was written as attributes. What an older file does not have is unknown, or was not done."""
    starts, ends = (attributes[f"radiotherapy_{date}_days"].tolist() for date in ("start", "end"))
    doses = attributes.get("radiotherapy_dose_gy", np.full(len(starts), np.nan)).tolist()
    fractions = attributes.get("radiotherapy_fractions", np.zeros(len(starts), np.int64)).tolist()
    spans = (attributes.get(f"chemotherapy_{date}_days", np.empty(0)).tolist() for date in ("start", "end"))
    return Treatment(
        tuple(
            RadiotherapyCourse(start, end, None if np.isnan(dose) else dose, count or None)
            for start, end, dose, count in zip(starts, ends, doses, fractions, strict=True)
        ),
        tuple(ChemotherapyCourse(start, end) for start, end in zip(*spans, strict=True)),
        tuple(attributes.get("resection_days", np.empty(0)).tolist()),
    )
