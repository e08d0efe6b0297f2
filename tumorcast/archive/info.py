"""What a file of ours holds, without reading its arrays: an archive in a few figures; the layout of any HDF5 file.

docs/formats.md says what each place means; tests/golden holds the layout of each format in full.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from tumorcast.archive.integrity import VOLUME
from tumorcast.archive.maps import MapArchive
from tumorcast.durable import why_unreadable
from tumorcast.errors import InputError
from tumorcast.records import count_by_status

NAMED = {"patients": "ID", "slices": "NNNN"}  # by a group's name, what stands for the names of its children
SESSION = "SESSION"  # a patient's groups in a cohort file
COHORT = "tumorcast-cohort"
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32026: "blosc2"}


def describe(path: Path) -> dict[str, Any]:
    """Counts (members are those of one slice), statuses, bytes (on disk, and unpacked), packing and provenance.

    Raises InputError if it is no archive.
    """
    with MapArchive.open(path) as archive:
        members, raw = _members_and_bytes(archive)
        return {
            "patients": len(archive.patient_ids()),
            "slices": archive.count_slices(),
            "volumes": len(archive.record.get("volumes", [])),
            "members": members,
            "statuses": count_by_status(archive.outcomes()),
            "packing": str(archive.packing),
            "bytes": path.stat().st_size,
            "raw_bytes": raw,
            "provenance": archive.provenance,
        }


def _members_and_bytes(archive: MapArchive) -> tuple[int, int]:
    """The members of a slice, which are as many in all slices of a run, and what all arrays take unpacked."""
    members = raw = 0
    for patient_id in archive.patient_ids():
        if archive.has_volume(patient_id):
            volume: h5py.Group = archive.group(patient_id)[VOLUME]
            members = max(members, volume["target_ratio"].shape[1])
            raw += sum(volume[name].nbytes for name in volume)
        for slice_name in archive.slice_names(patient_id):
            group: h5py.Group = archive.group(patient_id, slice_name)
            members = max(members, len(group["aimed_mm2"]))
            raw += sum(group[name].nbytes for name in group)
    return members, raw


@dataclass
class LayoutEntry:
    """One place in a file: how often it was met, its types, shapes and compressions; of a group they are empty."""

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
            entries = _entries(file)
    except OSError as fault:
        raise InputError(f"{path}: {why_unreadable(path, fault)}; give a cohort, growth or maps file") from None
    return [_line(place, entry, entries) for place, entry in entries.items()]


def _entries(file: h5py.File) -> dict[str, LayoutEntry]:
    entries: dict[str, LayoutEntry] = defaultdict(LayoutEntry)
    session = SESSION if file.attrs.get("format") == COHORT else None
    for place, item in _walk(file, "", session):
        entry = entries[place or "/"]
        entry.count += 1
        if isinstance(item, h5py.Dataset):
            entry.types.add(_type(item.dtype))
            entry.shapes.add(item.shape)
            entry.stored.add(_stored(item))
        for name in sorted(item.attrs):
            stored = item.attrs.get_id(name)
            attribute = entries[f"{place}@{name}"]
            attribute.count += 1
            attribute.types.add(_type(stored.dtype))
            attribute.shapes.add(stored.shape)
    return {place: entries[place] for place in sorted(entries)}


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


def _line(place: str, entry: LayoutEntry, entries: dict[str, LayoutEntry]) -> str:
    """One place in words.

    >>> _line("/a@b", LayoutEntry(1, {"float64"}, {(2,), (3,)}), {"/a": LayoutEntry(2)})
    '/a@b ? float64 (2|3,)'
    """
    parent = place.rpartition("@")[0] if "@" in place else place.rpartition("/")[0]
    siblings = entries.get(parent or "/", entry).count
    optional = "?" if entry.count < siblings else ""
    words = [place, optional, "|".join(sorted(entry.types)), _shape(entry), "|".join(sorted(entry.stored))]
    return " ".join(word for word in words if word)


def _shape(entry: LayoutEntry) -> str:
    """The shapes as one, with the lengths that differ."""
    if not entry.shapes:
        return ""
    if len({len(shape) for shape in entry.shapes}) > 1:
        return " or ".join(map(str, sorted(entry.shapes)))
    lengths = ["|".join(map(str, sorted(set(axis)))) for axis in zip(*entry.shapes, strict=True)]
    return f"({lengths[0]},)" if len(lengths) == 1 else f"({', '.join(lengths)})"
