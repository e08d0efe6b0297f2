"""What an archive is, in a few figures; nothing of its arrays is read."""

from pathlib import Path
from typing import Any

import h5py

from tumorcast.archive.maps import MapArchive
from tumorcast.records import count_by_status


def describe(path: Path) -> dict[str, Any]:
    """Counts (members are those of one slice), statuses, bytes (on disk, and unpacked), packing and provenance.

    Raises InputError if it is no archive.
    """
    with MapArchive.open(path) as archive:
        members, raw = _members_and_bytes(archive)
        return {
            "patients": len(archive.patient_ids()),
            "slices": archive.count_slices(),
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
        for slice_name in archive.slice_names(patient_id):
            group: h5py.Group = archive.group(patient_id, slice_name)
            members = max(members, len(group["aimed_mm2"]))
            raw += sum(group[name].nbytes for name in group)
    return members, raw
