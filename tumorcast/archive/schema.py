"""What lies where in an HDF5 file of ours: paths, types, shapes, compression, attributes; what is alike is told once.

docs/formats.md says what each means; tests/golden holds the layout of each format in full.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from tumorcast.durable import why_unreadable
from tumorcast.errors import InputError

NAMED = {"patients": "ID", "slices": "NNNN"}  # by a group's name, what stands for the names of its children
SESSION = "SESSION"  # a patient's groups in a cohort file
COHORT = "tumorcast-cohort"
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32026: "blosc2"}


@dataclass
class Entry:
    """One place: how often it was met, its types, shapes and compressions; of a group they are empty."""

    count: int = 0
    types: set[str] = field(default_factory=set)
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)


def layout_of(path: Path) -> list[str]:
    """A line for each place in a file: path, type, shape, how it is stored; `?` where not all that are alike have it.

    Attributes follow their group or data set, as PATH@NAME. Nothing of the data is read. Raises InputError if it is no
    HDF5 file.
    """
    try:
        with h5py.File(path, "r") as file:
            found = _entries(file)
    except OSError as fault:
        raise InputError(f"{path}: {why_unreadable(path, fault)}; give a cohort, growth or maps file") from None
    return [_line(place, entry, found) for place, entry in found.items()]


def _entries(file: h5py.File) -> dict[str, Entry]:
    found: dict[str, Entry] = defaultdict(Entry)
    session = SESSION if file.attrs.get("format") == COHORT else None
    for place, item in _walk(file, "", session):
        entry = found[place or "/"]
        entry.count += 1
        if isinstance(item, h5py.Dataset):
            entry.types.add(_type(item.dtype))
            entry.shapes.add(item.shape)
            entry.stored.add(_stored(item))
        for name in sorted(item.attrs):
            told = item.attrs.get_id(name)
            attribute = found[f"{place}@{name}"]
            attribute.count += 1
            attribute.types.add(_type(told.dtype))
            attribute.shapes.add(told.shape)
    return {place: found[place] for place in sorted(found)}


def _walk(item: Any, place: str, session: str | None) -> Iterator[tuple[str, Any]]:
    """Every group and data set with its place, in which the names of patients, scans and slices are left out."""
    yield place, item
    if isinstance(item, h5py.Dataset):
        return
    own = place.rpartition("/")[2]
    general = session if own == NAMED["patients"] else NAMED.get(own)
    for name in sorted(item):
        yield from _walk(item[name], f"{place}/{general or name}", session)


def _type(dtype: Any) -> str:
    """A type as numpy writes it, `text` of any length, `enum` with its names, or `bool`."""
    if h5py.check_string_dtype(dtype) is not None:
        return "text"
    names = h5py.check_enum_dtype(dtype)
    if names is not None:
        return "bool" if set(names) == {"FALSE", "TRUE"} else f"enum({', '.join(sorted(names, key=names.get))})"
    return str(dtype)


def _stored(dataset: h5py.Dataset) -> str:
    plist = dataset.id.get_create_plist()
    numbers = [plist.get_filter(place)[0] for place in range(plist.get_nfilters())]
    return "+".join(FILTERS.get(number, str(number)) for number in numbers) or "raw"


def _line(place: str, entry: Entry, found: dict[str, Entry]) -> str:
    """One place in words.

    >>> _line("/a@b", Entry(1, {"float64"}, {(2,), (3,)}), {"/a": Entry(2)})
    '/a@b ? float64 (2|3,)'
    """
    parent = place.rpartition("@")[0] if "@" in place else place.rpartition("/")[0]
    siblings = found.get(parent or "/", entry).count
    optional = "?" if entry.count < siblings else ""
    words = [place, optional, "|".join(sorted(entry.types)), _shape(entry), "|".join(sorted(entry.stored))]
    return " ".join(word for word in words if word)


def _shape(entry: Entry) -> str:
    """The shapes as one, with the lengths that differ."""
    if not entry.shapes:
        return ""
    if len({len(shape) for shape in entry.shapes}) > 1:
        return " or ".join(map(str, sorted(entry.shapes)))
    lengths = ["|".join(map(str, sorted(set(axis)))) for axis in zip(*entry.shapes, strict=True)]
    return f"({lengths[0]},)" if len(lengths) == 1 else f"({', '.join(lengths)})"
