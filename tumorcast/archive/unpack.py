"""From one archive to one a patient, each an archive by itself."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tumorcast.archive.content import SUM, sum_of, text_of
from tumorcast.archive.maps import MapArchive
from tumorcast.archive.packing import Packing
from tumorcast.archive.writing import NewArchive, new_archive
from tumorcast.errors import InputError
from tumorcast.hdf5_file import UNREADABLE


def unpack(
    path: Path,
    folder: Path,
    patient_ids: Sequence[str] | None = None,
    *,
    packing: Packing = Packing.PORTABLE,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write an archive for each patient, or for those named, as `folder`/PATIENT.h5; returns their paths.

    Every sum is checked on the way. Raises InputError if a patient is not there, or anything of it is damaged.
    """
    with MapArchive.open(path) as archive:
        chosen = _chosen(archive, patient_ids)
        paths = [folder / f"{patient_id}.h5" for patient_id in chosen]
        if path.resolve() in {made.resolve() for made in paths}:
            raise InputError(f"{path}: would be replaced by the archive of one patient; give another --out")
        for done, (patient_id, made) in enumerate(zip(chosen, paths, strict=True), start=1):
            _write_patient(archive, patient_id, made, packing)
            report(done, len(chosen))
    return paths


def _chosen(archive: MapArchive, patient_ids: Sequence[str] | None) -> list[str]:
    there = archive.patient_ids()
    if patient_ids is None:
        return there
    reasons = {outcome.patient_id: f"{outcome.status}: {outcome.reason}" for outcome in archive.outcomes()}
    for patient_id in patient_ids:
        if patient_id not in there:
            why = reasons.get(patient_id, "no patient of this run")
            raise InputError(f"{archive.path}: has no forecast of --patient {patient_id} ({why}); leave it out")
    return list(dict.fromkeys(patient_ids))


def _write_patient(archive: MapArchive, patient_id: str, made: Path, packing: Packing) -> None:
    outcomes = [outcome for outcome in archive.outcomes() if outcome.patient_id == patient_id]
    with new_archive(made, archive.provenance, outcomes, packing) as new:
        add_patient(new, archive, patient_id)


def add_patient(new: NewArchive, archive: MapArchive, patient_id: str) -> None:
    """Copy a patient with its slices into a new archive. Raises InputError if the content of any has not its sum."""
    try:
        _check(archive, patient_id)
        new.add_patient(patient_id, archive.group(patient_id), archive.packing)
        for name in archive.slice_names(patient_id):
            _check(archive, patient_id, name)
            new.add_slice(patient_id, name, archive.group(patient_id, name), archive.packing)
    except UNREADABLE as fault:
        raise InputError(f"{archive.path}: {patient_id} cannot be read ({fault}); {_SEE}") from None


def _check(archive: MapArchive, patient_id: str, name: str | None = None) -> None:
    """Raise InputError if the content of a patient, or of a slice, has not its sum."""
    group = archive.group(patient_id, name)
    if sum_of(group) != text_of(group.attrs[SUM]):
        where = patient_id if name is None else f"{patient_id}, slice {name}"
        raise InputError(f"{archive.path}: {where}: is not what was written; {_SEE}")


_SEE = "`tumorcast archive verify` tells all that is damaged"
