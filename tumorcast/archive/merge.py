"""From shards to one archive. Shards are read once, one at a time, so memory does not grow with them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from tumorcast.archive.combine import Combined
from tumorcast.archive.content import SLICES, SUM
from tumorcast.archive.packing import Packing
from tumorcast.archive.shard import PACKED, PATIENT, ShardKey, open_shard
from tumorcast.archive.writing import NewArchive, new_archive
from tumorcast.errors import InputError
from tumorcast.hdf5_file import UNREADABLE
from tumorcast.records import PatientOutcome, Status

Shard = tuple[Path, ShardKey]


@dataclass(frozen=True)
class PatientShards:
    """Where a patient's slices stand: by the slice's name, its shards, one a block of members, in their order."""

    patient_id: str
    slices: Mapping[str, Sequence[Shard]]


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
            for shards, names in _together(patient.slices).items():
                _add(archive, patient.patient_id, names, shards)
            report(done, max(total, done))


def _together(slices: Mapping[str, Sequence[Shard]]) -> dict[tuple[Shard, ...], list[str]]:
    """The slices that lie in the same shards, so that none is read twice."""
    found: dict[tuple[Shard, ...], list[str]] = {}
    for name, shards in slices.items():
        found.setdefault(tuple(shards), []).append(name)
    return found


def _add(archive: NewArchive, patient_id: str, names: list[str], shards: tuple[Shard, ...]) -> None:
    """Add slices from their shards: as they are, or combined where there are several blocks."""
    combined: dict[str, Combined] = {}
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
    archive: NewArchive, patient_id: str, name: str, shard: h5py.File, combined: dict[str, Combined] | None
) -> None:
    source = shard[SLICES][name]
    if combined is None:
        archive.add_slice(patient_id, name, source, PACKED)
        return
    if name not in combined:
        combined[name] = Combined(archive.new_slice(patient_id, name), archive.packing)
    combined[name].add(source, PACKED)
