"""A new archive: the attributes of its root, its patients, the record of what it holds, and the seal over it all."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from tumorcast.archive.content import SLICES, SUM, put_text
from tumorcast.archive.maps import FORMAT, FORMAT_VERSION, GROWTH, PACKING, PATIENTS, PROVENANCE, RECORD
from tumorcast.archive.packing import Packing, copy_attributes, copy_group
from tumorcast.archive.seal import USER_BLOCK, seal_file
from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.hdf5_file import LIBRARY, hdf5_at
from tumorcast.records import PatientOutcome


@dataclass(frozen=True)
class NewArchive:
    """An archive under way. slices: the names of each patient's slices so far."""

    patients: h5py.Group
    packing: Packing
    slices: dict[str, list[str]] = field(default_factory=dict)

    def add_patient(self, patient_id: str, source: h5py.Group, was: Packing) -> None:
        """Copy a patient's group, whose slices are yet to come. Raises InputError if the patient is there already."""
        if patient_id in self.slices:
            raise InputError(f"{patient_id}: given twice; merge each patient once")
        group = self.patients.create_group(patient_id)
        copy_attributes(source, group)
        if GROWTH in source:
            copy_group(source[GROWTH], group, GROWTH, was=was, packing=self.packing)
        group.create_group(SLICES)
        self.slices[patient_id] = []

    def add_slice(self, patient_id: str, name: str, source: h5py.Group, was: Packing) -> None:
        """Copy a slice's group."""
        copy_group(source, self.patients[patient_id][SLICES], name, was=was, packing=self.packing)
        self.slices[patient_id].append(name)

    def new_slice(self, patient_id: str, name: str) -> h5py.Group:
        """The empty group of a slice, to fill."""
        self.slices[patient_id].append(name)
        return self.patients[patient_id][SLICES].create_group(name)


@contextmanager
def new_archive(
    path: Path, provenance: Mapping[str, Any], outcomes: Sequence[PatientOutcome], packing: Packing
) -> Iterator[NewArchive]:
    """An archive to fill; it takes the place of `path` when the block ends without an error.

    Raises StorageError if the folder cannot be written to or is full.
    """
    with written_whole(path) as temporary:
        with hdf5_at(temporary, userblock_size=USER_BLOCK, libver=LIBRARY) as file:
            text = json.dumps(provenance, sort_keys=True)
            put_text(file.root, "format", FORMAT)
            file.root.attrs["format_version"] = FORMAT_VERSION
            put_text(file.root, PACKING, packing)
            put_text(file.root, PROVENANCE, text)
            archive = NewArchive(file.root.create_group(PATIENTS, track_order=True), packing)
            yield archive
            _write_record(file.root, archive, outcomes, text)
        seal_file(temporary, {"format": FORMAT, "version": FORMAT_VERSION})


def _write_record(root: h5py.File, archive: NewArchive, outcomes: Sequence[PatientOutcome], provenance: str) -> None:
    told = [[outcome.patient_id, str(outcome.status), outcome.reason] for outcome in outcomes]
    slices = {patient_id: sorted(names) for patient_id, names in archive.slices.items()}
    text = json.dumps({"slices": slices, "outcomes": told}).encode()
    record = root.create_dataset(RECORD, data=text, dtype=h5py.string_dtype("utf-8", len(text)))
    put_text(record, SUM, record_sum(text, provenance))


def record_sum(record: bytes, provenance: str) -> str:
    """The sum over the record and the provenance."""
    return hashlib.sha256(record + b"\n" + provenance.encode()).hexdigest()
