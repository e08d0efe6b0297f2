"""Whether an archive is whole, what is wrong within it, and what it says as one sum (`digest`).

The sum of the file's bytes is looked at before the HDF5 library sees the file, which may crash on damaged metadata.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import h5py

from tumorcast.archive.integrity import SUM, VOLUME, fault_of, has_seal, sum_of, text_of
from tumorcast.archive.maps import FORMAT, FORMAT_VERSION, PROVENANCE, RECORD, MapArchive, record_sum
from tumorcast.archive.packing import READING
from tumorcast.archive.unmerged import how_to_get_archive
from tumorcast.errors import InputError
from tumorcast.hdf5_file import UNREADABLE
from tumorcast.records import Status

SEARCH = "import sys; from tumorcast.archive.verify import print_faults; print_faults(sys.argv[1])"
SEARCH_SECONDS, SEARCH_BYTES_A_SECOND = 60.0, 20e6  # how long a search may take: at least, and by the file's size


def digest(path: Path) -> str:
    """The SHA-256 of what an archive says: its patients, growth curves and slices, made from the data.

    It does not depend on provenance, device, packing or order, nor on how the run was spread or interrupted. Raises
    InputError if the archive cannot be read, or is not as it was written.
    """
    refuse_broken(path)
    total = hashlib.sha256()
    with MapArchive.open(path) as archive:
        try:
            for patient_id in sorted(archive.patient_ids()):
                _add(total, archive, patient_id)
        except UNREADABLE as fault:
            raise InputError(f"{path}: cannot be read ({fault}); see `tumorcast archive verify {path}`") from None
    return total.hexdigest()


def refuse_broken(path: Path) -> None:
    """Raise InputError if the archive's bytes are not those that were written."""
    fault = fault_of(path, FORMAT, FORMAT_VERSION)
    if fault is not None:
        ours = has_seal(path, FORMAT, FORMAT_VERSION)
        remedy = f"see `tumorcast archive verify {path}`" if ours else how_to_get_archive(path)
        raise InputError(f"{fault}; {remedy}")


def _add(total: "hashlib._Hash", archive: MapArchive, patient_id: str) -> None:
    """Add a patient and its slices to the sum."""
    total.update(f"{patient_id} {sum_of(archive.group(patient_id))}\n".encode())
    if archive.has_volume(patient_id):
        total.update(f"{patient_id}/{VOLUME} {sum_of(archive.group(patient_id)[VOLUME])}\n".encode())
    for name in archive.slice_names(patient_id):
        total.update(f"{patient_id}/{name} {sum_of(archive.group(patient_id, name))}\n".encode())


def verify(path: Path) -> list[str]:
    """The faults of an archive, a line each; none: it is whole.

    Damaged bytes; a patient or a slice that is missing, or that was not planned; content with a wrong sum.
    """
    fault = fault_of(path, FORMAT, FORMAT_VERSION)
    if fault is None:
        return list(faults_within(path))
    return [fault, *(damaged_parts(path) if has_seal(path, FORMAT, FORMAT_VERSION) else [])]


def damaged_parts(path: Path) -> list[str]:
    """The faults within a damaged file; none where they cannot be found.

    A process of its own looks for them: the HDF5 library may crash on damaged metadata, or never end.
    """
    limit = SEARCH_SECONDS + path.stat().st_size / SEARCH_BYTES_A_SECOND
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SEARCH, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return [f"{path}: which parts are damaged was not found out in {limit:.0f} s"]
    return done.stdout.splitlines()


def print_faults(path: str) -> None:
    """Print the faults within a file, each as soon as it is found."""
    for fault in faults_within(Path(path)):
        print(" ".join(fault.split()), flush=True)


def faults_within(path: Path) -> Iterator[str]:
    """The faults of the content; the bytes of the file as a whole are not looked at."""
    try:
        with h5py.File(path, "r", **READING) as file:
            for fault in _faults(MapArchive(file), file):
                yield f"{path}: {fault}"
    except UNREADABLE as fault:
        yield f"{path}: cannot be read as HDF5 ({fault})"
    except InputError as fault:
        yield str(fault)


def _faults(archive: MapArchive, file: h5py.File) -> Iterator[str]:
    provenance = text_of(file.attrs[PROVENANCE])
    if record_sum(file[RECORD][()], provenance) != text_of(file[RECORD].attrs[SUM]):
        yield "the sum of its record and provenance is not right"
    planned: dict[str, list[str]] = archive.record["slices"]
    for outcome in archive.outcomes():
        if outcome.status is Status.OK and outcome.patient_id not in planned:
            yield f"{outcome.patient_id}: is ok by its outcome, and was not merged"
    yield from _differences("", planned, archive.patient_ids(), "patient")
    with_volume = [patient_id for patient_id in archive.patient_ids() if archive.has_volume(patient_id)]
    yield from _differences("", archive.record.get("volumes", []), with_volume, "the volume of")
    for patient_id in archive.patient_ids():
        yield from _faults_of_patient(archive, patient_id, planned.get(patient_id, []))


def _faults_of_patient(archive: MapArchive, patient_id: str, planned: list[str]) -> Iterator[str]:
    """The faults of a patient and its slices; what cannot be read is one, and the others are looked at."""
    try:
        group = archive.group(patient_id)
        names = archive.slice_names(patient_id)
        if text_of(group.attrs["patient_id"]) != patient_id or sum_of(group) != text_of(group.attrs[SUM]):
            yield f"{patient_id}: its content is not what was written"
    except (*UNREADABLE, InputError) as fault:
        yield f"{patient_id}: cannot be read ({fault})"
        return
    yield from _differences(f"{patient_id}: ", planned, names, "slice")
    parts = {f"slice {name}": partial(archive.group, patient_id, name) for name in names}
    if VOLUME in group:
        parts["its volume"] = partial(group.__getitem__, VOLUME)
    for what, part in parts.items():
        fault_ = _fault_of_part(part)
        if fault_ is not None:
            yield f"{patient_id}, {what}: {fault_}"


def _fault_of_part(open_part: Callable[[], h5py.Group]) -> str | None:
    try:
        group = open_part()
        return None if sum_of(group) == text_of(group.attrs[SUM]) else "its content is not what was written"
    except UNREADABLE as fault:
        return f"cannot be read ({fault})"


def _differences(where: str, planned: Collection[str], present: Collection[str], what: str) -> Iterator[str]:
    for name in sorted(set(planned) - set(present)):
        yield f"{where}{what} {name} is missing"
    for name in sorted(set(present) - set(planned)):
        yield f"{where}{what} {name} is foreign: it was not merged into this archive"
