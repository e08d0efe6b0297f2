"""verify finds what is damaged, missing or foreign, digest what has another content, and neither can be crashed."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from tests.archive.conftest import content_starts
from tumorcast.archive.integrity import USER_BLOCK, seal_file
from tumorcast.archive.maps import FORMAT, FORMAT_VERSION, MapArchive
from tumorcast.archive.merge import merge
from tumorcast.archive.packing import Packing
from tumorcast.archive.verify import digest, verify
from tumorcast.errors import InputError

Maker = Callable[..., Any]
PLAN = {"P1": {7: [3], 9: [2, 2]}, "P2": {7: [3]}}


@pytest.fixture
def maps(make_archive: Maker, tmp_path: Path) -> Path:
    path: Path = make_archive(tmp_path / "maps.h5", PLAN)
    return path


def changed(path: Path, change: Callable[[h5py.File], None]) -> list[str]:
    """The faults of an archive after a change by h5py, and with a new seal: those of its content alone."""
    with h5py.File(path, "r+") as file:
        change(file)
    assert any("the sum of its bytes" in fault or "was written with" in fault for fault in verify(path))
    seal_file(path, {"format": FORMAT, "version": FORMAT_VERSION})
    return verify(path)


def test_a_whole_archive_has_no_fault(maps: Path) -> None:
    assert verify(maps) == []


def test_an_archive_without_patients_is_whole(tmp_path: Path) -> None:
    merge(tmp_path / "maps.h5", [], {}, [])
    assert verify(tmp_path / "maps.h5") == []
    assert len(digest(tmp_path / "maps.h5")) == 64


def _delete(place: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(place)


def _set(place: str, name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file[place].attrs.__setitem__(name, value)


def _copy(source: str, place: str) -> Callable[[h5py.File], None]:
    return lambda file: file.copy(source, place)


def _overwrite(place: str, value: float) -> Callable[[h5py.File], None]:
    return lambda file: file[place].__setitem__((0, 0), value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_delete("patients/P2"), "patient P2 is missing"),
        (_delete("patients/P1/slices/0009"), "P1: slice 0009 is missing"),
        (_copy("patients/P1", "patients/P3"), "patient P3 is foreign"),
        (_copy("patients/P1/slices/0007", "patients/P2/slices/0008"), "P2: slice 0008 is foreign"),
        (_overwrite("patients/P1/slices/0007/changed", 9.0), "P1, slice 0007: its content is not what was written"),
        (_set("patients/P1/slices/0009", "present_mm2", 9.0), "P1, slice 0009: its content"),
        (_delete("patients/P1/slices/0007/std"), "P1, slice 0007: its content"),
        (_set("patients/P2", "day", 9.0), "P2: its content is not what was written"),
        (_delete("patients/P2/growth/q50"), "P2: its content"),
        (_set("/", "provenance", "{}"), "the sum of its record and provenance is not right"),
        (_delete("record"), "cannot be read"),
        (_delete("patients"), "cannot be read"),
        (_delete("patients/P1/slices"), "P1: .*cannot be read"),
    ],
)
def test_what_is_missing_foreign_or_changed_is_named(
    change: Callable[[h5py.File], None], fault: str, maps: Path
) -> None:
    faults = changed(maps, change)
    assert any(re.search(fault, found) for found in faults), faults


def test_an_outcome_without_a_patient_is_found(make_run: Maker, tmp_path: Path) -> None:
    from tumorcast.records import PatientOutcome, Status

    outcomes = [PatientOutcome(patient_id, Status.OK) for patient_id in ("P1", "P2")]
    merge(tmp_path / "maps.h5", make_run(tmp_path, {"P1": {7: [2]}}), {}, outcomes)
    assert verify(tmp_path / "maps.h5") == [
        f"{tmp_path / 'maps.h5'}: P2: is ok by its outcome, and was not merged",
    ]


@pytest.mark.parametrize("packing", Packing)
def test_the_damaged_slice_of_a_damaged_file_is_named(make_archive: Maker, tmp_path: Path, packing: Packing) -> None:
    path = make_archive(tmp_path / "maps.h5", PLAN, pixels=40, packing=packing)
    with h5py.File(path, "r") as file:
        place = file["patients/P1/slices/0009/mean"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[content_starts(content) + place.byte_offset + place.size // 2] ^= 4
    path.write_bytes(content)
    first, *others = verify(path)
    assert "the sum of its bytes is not right" in first
    assert [fault.split(": ")[1].split(" can")[0] for fault in others] == ["P1, slice 0009"]
    with MapArchive.open(path) as archive, pytest.raises(InputError, match="P1, slice 0009"):
        archive.slices("P1")


@pytest.mark.parametrize("content", [b"", b"no", b"{}".ljust(1023) + b"\n", b"\x89HDF\r\n\x1a\n", b"\0" * 5000])
def test_what_is_no_archive_is_one_fault(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    path.write_bytes(content)
    (fault,) = verify(path)
    assert fault.startswith(f"{path}: ")
    with pytest.raises(InputError, match=r"other\.h5"):
        digest(path)


def test_a_folder_a_missing_file_and_a_shard_are_one_fault_each(maps: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.h5", tmp_path / "maps.parts" / "P1" / "0007.000.h5"):
        assert len(verify(path)) == 1


def test_an_archive_that_is_cut_short_is_a_fault(maps: Path) -> None:
    content = maps.read_bytes()
    for size in (10, USER_BLOCK, len(content) // 2, len(content) - 1):
        maps.write_bytes(content[:size])
        assert verify(maps)
        with pytest.raises(InputError, match=r"maps\.h5"):
            digest(maps)


def test_no_flipped_bit_passes(maps: Path) -> None:
    """Over the whole file. The search for the damaged part is left out, so that there can be many."""
    from tumorcast.archive.integrity import fault_of

    content, whole = maps.read_bytes(), digest(maps)
    for place in np.random.default_rng(1).integers(0, len(content), 400).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        maps.write_bytes(damaged)
        assert fault_of(maps, FORMAT, FORMAT_VERSION), place
        with pytest.raises(InputError, match=r"maps\.h5"):
            digest(maps)
    maps.write_bytes(content)
    assert digest(maps) == whole


@pytest.mark.slow
def test_damage_ends_neither_verify_nor_a_reader(maps: Path) -> None:
    """In the structure of the file, where HDF5 itself is at risk. A process of its own, so that a crash would show."""
    content = maps.read_bytes()
    script = (
        "import sys\nfrom pathlib import Path\nfrom tumorcast.archive.verify import verify\n"
        "from tumorcast.archive.verify import faults_within\n"
        "from tumorcast.archive.maps import MapArchive\nfrom tumorcast.errors import InputError\n"
        "path, content = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()\n"
        "for place in map(int, sys.argv[3:]):\n"
        "    damaged = bytearray(content)\n    damaged[place] ^= 1 << (place % 8)\n    path.write_bytes(damaged)\n"
        "    list(faults_within(path))\n"
        "    try:\n        with MapArchive.open(path) as archive:\n"
        "            [archive.slices(p.patient_id) for p in archive.patients()], archive.outcomes()\n"
        "    except InputError:\n        pass\n"
        "print('through')"
    )
    places = [*range(USER_BLOCK, USER_BLOCK + 200, 2)]
    places += np.random.default_rng(2).integers(USER_BLOCK, len(content), 400).tolist()
    whole = maps.with_name("whole.h5")
    whole.write_bytes(content)
    command = [sys.executable, "-c", script, str(maps.with_name("damaged.h5")), str(whole), *map(str, places)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "through\n"), done.stderr[-2000:]


def test_a_portable_archive_needs_no_plugin(make_archive: Maker, tmp_path: Path) -> None:
    maps = make_archive(tmp_path / "maps.h5", PLAN, pixels=40, keep=True, packing=Packing.PORTABLE)
    filters: set[str] = set()

    def note(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            filters.update(item._filters)

    with h5py.File(maps) as file:
        file.visititems(note)
    assert filters == {"gzip", "shuffle", "fletcher32"}
    assert hdf5plugin.Blosc2.filter_id == 32026  # by which the other packing would be found in the set above


def test_the_digest_is_that_of_the_documented_format(maps: Path) -> None:
    """docs/formats.md, followed by h5py and hashlib alone: what others compute must not change by accident."""
    total = ""
    with h5py.File(maps) as file:
        for patient_id, patient in sorted(file["patients"].items()):
            total += f"{patient_id} {_documented_sum(patient)}\n"
            for name, group in sorted(patient["slices"].items()):
                assert _documented_sum(group) == group.attrs["sha256"].decode()
                total += f"{patient_id}/{name} {_documented_sum(group)}\n"
    assert digest(maps) == hashlib.sha256(total.encode()).hexdigest()


def _documented_sum(group: h5py.Group) -> str:
    lines = []
    for name, value in group.attrs.items():
        if isinstance(value, bytes) and name != "sha256":
            lines.append(f"{name} text {hashlib.sha256(value).hexdigest()}")
        elif name != "sha256":
            lines.append(f"{name} {value.dtype.str} (1,) {hashlib.sha256(value.tobytes()).hexdigest()}")
    arrays = {f"growth/{name}": item[()] for name, item in group.get("growth", {}).items()}
    arrays |= {name: item[()] for name, item in group.items() if isinstance(item, h5py.Dataset)}
    for name, values in arrays.items():
        lines.append(f"{name} {values.dtype.str} {values.shape} {hashlib.sha256(values.tobytes()).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
