"""What an archive says, in one sum; and whether it is whole.

The sum of the file's bytes is looked at before the HDF5 library sees the file, which may crash on damaged metadata.
"""

import hashlib
from pathlib import Path

from tumorcast.archive.content import sum_of
from tumorcast.archive.faults import damaged_parts, faults_within
from tumorcast.archive.maps import FORMAT, FORMAT_VERSION, MapArchive
from tumorcast.archive.seal import fault_of, has_seal
from tumorcast.errors import InputError
from tumorcast.hdf5_file import UNREADABLE


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
        remedy = f"see `tumorcast archive verify {path}`" if ours else "give a maps.h5 of `tumorcast forecast`"
        raise InputError(f"{fault}; {remedy}")


def _add(total: "hashlib._Hash", archive: MapArchive, patient_id: str) -> None:
    """Add a patient and its slices to the sum."""
    total.update(f"{patient_id} {sum_of(archive.group(patient_id))}\n".encode())
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
