"""Copies of an archive or a cohort file: compressed otherwise, or one archive a patient.

By gzip, every HDF5 reader opens them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tumorcast.archive.integrity import SUM, VOLUME, sum_of, text_of
from tumorcast.archive.maps import MapArchive, NewArchive, new_archive
from tumorcast.archive.packing import GZIP_LEVEL, Packing, copy_attributes
from tumorcast.data.cohort import FORMAT as COHORT
from tumorcast.errors import InputError, UsageError
from tumorcast.hdf5_file import UNREADABLE, new_hdf5

Report = Callable[[int, int], None]
GZIP = {"compression": "gzip", "compression_opts": GZIP_LEVEL, "shuffle": True, "fletcher32": True}


def repack(
    path: Path, out: Path, *, packing: Packing = Packing.PORTABLE, report: Report = lambda done, total: None
) -> None:
    """Write a copy of a maps.h5, with the same digest, or of a cohort file, which becomes portable.

    report: gets how many patients are copied, of how many. Raises UsageError if the copy would replace its source, or a
    cohort is to be packed by Blosc2; InputError if the source is neither, or damaged; StorageError if the copy cannot
    be written.
    """
    if out.resolve() == path.resolve():
        raise UsageError(f"--out {out}: is the file itself; give another name")
    if _is_cohort(path):
        if packing is not Packing.PORTABLE:
            raise UsageError(f"{path}: a cohort file is packed by Blosc2 as it is; leave --blosc2 out")
        _repack_cohort(path, out, report)
    else:
        _repack_maps(path, out, packing, report)


def _is_cohort(path: Path) -> bool:
    """Whether a file is a cohort; whatever else it is, its own reader tells."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == COHORT)
    except UNREADABLE:
        return False


def _repack_maps(path: Path, out: Path, packing: Packing, report: Report) -> None:
    with MapArchive.open(path) as archive:
        names = archive.patient_ids()
        with new_archive(out, archive.provenance, archive.outcomes(), packing) as new:
            for done, patient_id in enumerate(names, start=1):
                add_patient(new, archive, patient_id)
                report(done, len(names))


def _repack_cohort(path: Path, out: Path, report: Report) -> None:
    with h5py.File(path, "r") as source, new_hdf5(out) as new:
        total = len(source["patients"])
        copy_attributes(source, new.root)
        patients = _new_group(source["patients"], new.root, "patients")
        try:
            for done, name in enumerate(source["patients"], start=1):
                _copy(source["patients"][name], patients, name)
                report(done, total)
        except UNREADABLE as fault:
            raise InputError(
                f"{path}: {name} cannot be read ({fault}); make it again with `tumorcast prepare`"
            ) from None


def _new_group(source: h5py.Group, parent: h5py.Group, name: str) -> h5py.Group:
    """A group with the attributes of another, and its order of names: that of their making, where it keeps one."""
    tracked = bool(source.id.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED)
    group = parent.create_group(name, track_order=tracked)
    copy_attributes(source, group)
    return group


def _copy(source: Any, parent: h5py.Group, name: str) -> None:
    """Copy a group with all in it, or a data set in its chunks, which are read and written one at a time."""
    if isinstance(source, h5py.Group):
        group = _new_group(source, parent, name)
        for inner in source:
            _copy(source[inner], group, inner)
        return
    if source.chunks is None:
        source.file.copy(source, parent, name)
        return
    made = parent.create_dataset(name, source.shape, source.dtype, chunks=source.chunks, **GZIP)
    copy_attributes(source, made)
    for chunk in source.iter_chunks():
        made[chunk] = np.asarray(source[chunk])


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
        _check_sum(archive, archive.group(patient_id), patient_id)
        new.add_patient(patient_id, archive.group(patient_id), archive.packing)
        if archive.has_volume(patient_id):
            _check_sum(archive, archive.group(patient_id)[VOLUME], f"{patient_id}, its volume")
            new.add_volume(patient_id, archive.group(patient_id)[VOLUME], archive.packing)
        for name in archive.slice_names(patient_id):
            _check_sum(archive, archive.group(patient_id, name), f"{patient_id}, slice {name}")
            new.add_slice(patient_id, name, archive.group(patient_id, name), archive.packing)
    except UNREADABLE as fault:
        raise InputError(f"{archive.path}: {patient_id} cannot be read ({fault}); {_SEE}") from None


def _check_sum(archive: MapArchive, group: h5py.Group, where: str) -> None:
    """Raise InputError if the content of a group has not its sum. where: in words, whose it is."""
    if sum_of(group) != text_of(group.attrs[SUM]):
        raise InputError(f"{archive.path}: {where}: is not what was written; {_SEE}")


_SEE = "`tumorcast archive verify` tells all that is damaged"
