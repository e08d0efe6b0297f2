"""One slice's ensemble from its blocks of members, added in their order; no more than one member is held at a time."""

import hashlib
from dataclasses import fields
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from tumorcast.archive.content import bytes_of, line
from tumorcast.archive.maps import SliceForecast, write_slice
from tumorcast.archive.packing import Packing, growing, load_all
from tumorcast.errors import InputError
from tumorcast.kernels.maps import add_moments, add_share, add_votes

Array = npt.NDArray[Any]

MEMBERS = "members"
LISTED = ("aimed_mm2", "reached_mm2")
SHARES = ("tumour", "growth")  # means over members
POOLED = ("mean", "std", "changed", *SHARES)
JUDGED = {"tumour_now": 0.02, "present_segmented_mm2": 0.02}  # by a network: another processor rounds otherwise


class Combined:
    """The combination under way. group: where the slice will lie; kept members are written to it as they come."""

    def __init__(self, group: h5py.Group, packing: Packing) -> None:
        self._group, self._packing = group, packing
        self._count = 0
        self._first: dict[str, Any] = {}
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._listed: dict[str, list[Array]] = {name: [] for name in LISTED}
        self._members = hashlib.sha256()

    def add(self, block: h5py.Group, was: Packing) -> None:
        """Add the next block. Raises InputError if it is of another slice, or tells other fields."""
        found = load_all(block, leave_out=MEMBERS) | {name: block.attrs[name] for name in _numbers(block)}
        if not self._first:
            self._first = found
            self._sums = {name: np.zeros(found[name].shape) for name in POOLED if name in found}
            if MEMBERS in block:
                growing(self._group, MEMBERS, block[MEMBERS][0], self._packing)
        self._check(found, block)
        self._pool(found, len(found[LISTED[0]]))
        if MEMBERS in block:
            self._add_members(block[MEMBERS], was)

    def _check(self, found: dict[str, Any], block: h5py.Group) -> None:
        if found.keys() != self._first.keys() or (MEMBERS in block) != (MEMBERS in self._group):
            raise InputError(f"{block.name}: {_AGAIN.format('fields')}")
        for name in found.keys() - {*POOLED, *LISTED}:
            if not _agree(found[name], self._first[name], JUDGED.get(name, 0.0)):
                raise InputError(f"{block.name}: {_AGAIN.format(name)}")

    def _pool(self, found: dict[str, Any], count: int) -> None:
        add_moments(self._count, self._sums["mean"], self._sums["std"], count, found["mean"], found["std"])
        add_votes(self._sums["changed"], count, found["changed"])
        for name in self._sums.keys() & set(SHARES):
            add_share(self._sums[name], count, found[name])
        for name in LISTED:
            self._listed[name].append(found[name])
        self._count += count

    def _add_members(self, source: h5py.Dataset, was: Packing) -> None:
        """Append the block's members; compressed ones are copied as they are where the packing stays."""
        kept = self._group[MEMBERS]
        first = len(kept)
        kept.resize(first + len(source), axis=0)
        for number, member in enumerate(source):
            self._members.update(bytes_of(member))
            if was is self._packing and source.chunks is not None:
                mask, chunk = source.id.read_direct_chunk((number, 0, 0, 0))
                kept.id.write_direct_chunk((first + number, 0, 0, 0), chunk, mask)
            else:
                kept[first + number] = member

    def finish(self) -> None:
        """Write the combined slice and its sum."""
        sums, count = self._sums, self._count
        pooled = {
            "mean": sums["mean"],
            "std": np.sqrt(sums["std"] / count),
            "changed": sums["changed"] / count,
            **{name: sums[name] / count for name in SHARES if name in sums},
        }
        pooled = {name: values.astype(np.float32) for name, values in pooled.items()}
        listed = {name: np.concatenate(parts) for name, parts in self._listed.items()}
        forecast = SliceForecast(**(self._first | pooled | listed))
        write_slice(self._group, forecast, self._packing, self._lines())

    def _lines(self) -> list[str]:
        if MEMBERS not in self._group:
            return []
        members = self._group[MEMBERS]
        return [line(MEMBERS, members.dtype, members.shape, self._members.hexdigest())]


_AGAIN = "{} differ between its blocks of members; remove the folder of shards and start the forecast again"


def _numbers(block: h5py.Group) -> list[str]:
    """The attributes that are of the forecast."""
    return [field.name for field in fields(SliceForecast) if field.name in block.attrs]


def _agree(found: Any, first: Any, limit: float) -> bool:
    """Whether two values are the same, or within a limit: absolute, and relative where they are above 1."""
    return np.shape(found) == np.shape(first) and bool(
        np.allclose(found, first, rtol=limit, atol=limit, equal_nan=True)
    )
