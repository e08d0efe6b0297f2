"""HDF5 files that open and yet do not hold what they should: what that raises, and how a cohort file is checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from tumorcast.errors import InputError

LIBRARY = ("v110", "v110")  # what files are written for, HDF5 1.10: the oldest with a checksum on all metadata
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py raises on a damaged file


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever h5py or a check raises within the block becomes one InputError that names the file and `what`."""
    try:
        yield
    except UNREADABLE as fault:
        raise InputError(
            f"{path}: {what} cannot be read ({reason_of(fault)}); the file is damaged: copy it again, or make it with "
            "`tumorcast prepare`"
        ) from None


def reason_of(fault: BaseException) -> str:
    """The fault in a line; a KeyError by itself would quote its text.

    >>> reason_of(KeyError("no labels")), reason_of(ValueError())
    ('no labels', 'ValueError')
    """
    text = fault.args[0] if isinstance(fault, KeyError) and fault.args else fault
    return " ".join(str(text).split()) or type(fault).__name__


def group_in(parent: h5py.Group, name: str) -> h5py.Group:
    """The group of that name. Raises KeyError if there is none, ValueError if it is something else."""
    group = parent[name]
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{name} is no group")
    return group


def check_session(group: h5py.Group, channels: int, pixels: int) -> None:
    """Raises KeyError or ValueError unless the data sets of a scan are there, in shapes that go together."""
    slices = len(group["source_slice"])
    plane = (slices, pixels, pixels)
    shapes = {"images": (slices, channels, pixels, pixels), "labels": plane, "brain": plane}
    shapes |= {"area_mm2": (slices,), "brain_mm2": (slices,), "source_slice": (slices,), "affine": (4, 4)}
    for name, shape in shapes.items():
        found = group[name].shape
        if found != shape:
            raise ValueError(f"{name} is {_told(found)} and not {_told(shape)}")
    for name in ("day", "volume_mm3", "source"):
        if name not in group.attrs:
            raise KeyError(f"it has no {name}")


def _told(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one value"
