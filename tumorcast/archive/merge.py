"""From shards to one archive. Shards are read once, one at a time, so memory does not grow with them.

A slice whose members are in several shards, in blocks, is combined from them in their order; no more than one member is
held at a time.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from tumorcast.archive.integrity import SLICES, SUM, VOLUME, bytes_of, line
from tumorcast.archive.maps import NewArchive, SliceForecast, new_archive, write_slice
from tumorcast.archive.packing import Packing, growing, load_all
from tumorcast.archive.shard import PACKED, PATIENT, ShardKey, open_shard
from tumorcast.errors import InputError
from tumorcast.hdf5_file import UNREADABLE
from tumorcast.kernels.maps import add_moments, add_share, add_votes
from tumorcast.records import PatientOutcome, Status

Shard = tuple[Path, ShardKey]
Array = npt.NDArray[Any]
MEMBERS = "members"
LISTED = ("aimed_mm2", "reached_mm2")
SHARES = ("tumour", "growth")  # means over members
POOLED = ("mean", "std", "changed", *SHARES)
TOLERANCE = {"tumour_now": 0.02, "present_segmented_mm2": 0.02}  # by a network: another processor rounds otherwise


@dataclass(frozen=True)
class PatientShards:
    """Where a patient's forecast stands: its volume's shard, if it has one, and the slices'.

    slices: by the slice's name, its shards, one a block of members, in their order.
    """

    patient_id: str
    slices: Mapping[str, Sequence[Shard]]
    volume: Shard | None = None


def merge(
    path: Path,
    patients: Iterable[PatientShards],
    provenance: Mapping[str, Any],
    outcomes: Sequence[PatientOutcome],
    *,
    packing: Packing = Packing.BLOSC2,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write an archive from shards, with the patients in the order given; whole or not at all.

    report: gets how many patients are merged, of how many. Raises InputError if a shard is missing, damaged, of
    another run or unit, or does not fit the others of its patient; StorageError if the archive cannot be written.
    """
    total = sum(outcome.status is Status.OK for outcome in outcomes)
    with new_archive(path, provenance, outcomes, packing) as archive:
        for done, patient in enumerate(patients, start=1):
            if patient.volume is not None:
                _add_volume(archive, patient.patient_id, patient.volume)
            for shards, names in _together(patient.slices).items():
                _add(archive, patient.patient_id, names, shards)
            report(done, max(total, done))


def _together(slices: Mapping[str, Sequence[Shard]]) -> dict[tuple[Shard, ...], list[str]]:
    """The slices that lie in the same shards, so that none is read twice."""
    together: dict[tuple[Shard, ...], list[str]] = {}
    for name, shards in slices.items():
        together.setdefault(tuple(shards), []).append(name)
    return together


def _add_volume(archive: NewArchive, patient_id: str, stands: Shard) -> None:
    path, key = stands
    with open_shard(path, key) as shard:
        try:
            _add_patient(archive, patient_id, shard, path)
            archive.add_volume(patient_id, shard[VOLUME], PACKED)
        except UNREADABLE as fault:
            raise InputError(f"{path}: does not hold what it should ({fault}); start the forecast again") from None


def _add(archive: NewArchive, patient_id: str, names: list[str], shards: tuple[Shard, ...]) -> None:
    """Add slices from their shards: as they are, or combined where there are several blocks."""
    combined: dict[str, BlockCombination] = {}
    for path, key in shards:
        with open_shard(path, key) as shard:
            try:
                _add_patient(archive, patient_id, shard, path)
                for name in names:
                    _add_block(archive, patient_id, name, shard, combined if len(shards) > 1 else None)
            except UNREADABLE as fault:
                raise InputError(f"{path}: does not hold what it should ({fault}); start the forecast again") from None
    for slice_ in combined.values():
        slice_.finish()


def _add_patient(archive: NewArchive, patient_id: str, shard: h5py.File, path: Path) -> None:
    """Add the patient from its first shard. Raises InputError if another shard tells otherwise."""
    if patient_id not in archive.slices:
        archive.add_patient(patient_id, shard[PATIENT], PACKED)
    elif shard[PATIENT].attrs[SUM] != archive.patients[patient_id].attrs[SUM]:
        raise InputError(
            f"{path}: its patient's scan or growth curve is not that of the patient's other shards; remove the folder "
            "of shards and start the forecast again"
        )


def _add_block(
    archive: NewArchive, patient_id: str, name: str, shard: h5py.File, combined: dict[str, "BlockCombination"] | None
) -> None:
    source = shard[SLICES][name]
    if combined is None:
        archive.add_slice(patient_id, name, source, PACKED)
        return
    if name not in combined:
        combined[name] = BlockCombination(archive.new_slice(patient_id, name), archive.packing)
    combined[name].add(source, PACKED)


class BlockCombination:
    """A slice's ensemble as it is put together from its blocks of members.

    group: where the slice will lie; kept members are written to it as they come.
    """

    def __init__(self, group: h5py.Group, packing: Packing) -> None:
        self._group, self._packing = group, packing
        self._count = 0
        self._first: dict[str, Any] = {}
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._listed: dict[str, list[Array]] = {name: [] for name in LISTED}
        self._members = hashlib.sha256()

    def add(self, block: h5py.Group, was: Packing) -> None:
        """Add the next block. Raises InputError if it is of another slice, or has other fields."""
        content = load_all(block, leave_out=MEMBERS) | {name: block.attrs[name] for name in _numbers(block)}
        if not self._first:
            self._first = content
            self._sums = {name: np.zeros(content[name].shape) for name in POOLED if name in content}
            if MEMBERS in block:
                growing(self._group, MEMBERS, block[MEMBERS][0], self._packing)
        self._check(content, block)
        self._pool(content, len(content[LISTED[0]]))
        if MEMBERS in block:
            self._add_members(block[MEMBERS], was)

    def _check(self, content: dict[str, Any], block: h5py.Group) -> None:
        if content.keys() != self._first.keys() or (MEMBERS in block) != (MEMBERS in self._group):
            raise InputError(f"{block.name}: {_AGAIN.format('fields')}")
        for name in content.keys() - {*POOLED, *LISTED}:
            if not _agree(content[name], self._first[name], TOLERANCE.get(name, 0.0)):
                raise InputError(f"{block.name}: {_AGAIN.format(name)}")

    def _pool(self, content: dict[str, Any], count: int) -> None:
        add_moments(self._count, self._sums["mean"], self._sums["std"], count, content["mean"], content["std"])
        add_votes(self._sums["changed"], count, content["changed"])
        for name in self._sums.keys() & set(SHARES):
            add_share(self._sums[name], count, content[name])
        for name in LISTED:
            self._listed[name].append(content[name])
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


def _agree(value: Any, first: Any, limit: float) -> bool:
    """Whether two values are the same, or within a limit: absolute, and relative where they are above 1."""
    return np.shape(value) == np.shape(first) and bool(
        np.allclose(value, first, rtol=limit, atol=limit, equal_nan=True)
    )
