"""Shards: what a run writes of a unit as soon as it is done, one or several slices of a patient for a block of members.

The first 1024 bytes hold whose it is and the sum of the rest (integrity.py), so that one is checked without HDF5.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py

from tumorcast.archive.integrity import SLICES, USER_BLOCK, VOLUME, block_of, has_right_sum, read_seal, record_of
from tumorcast.archive.maps import (
    PatientForecast,
    SliceForecast,
    VolumeForecast,
    write_patient,
    write_slice,
    write_volume,
)
from tumorcast.archive.packing import READING, Packing
from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.hdf5_file import LIBRARY, UNREADABLE

FORMAT, FORMAT_VERSION = "tumorcast-shard", 1
PATIENT = "patient"
PACKED = Packing.BLOSC2  # as the archive's default, so that merge copies compressed chunks


@dataclass(frozen=True)
class ShardKey:
    """Whose a shard must be. run: SHA-256 of the run's provenance; unit: patient, first slice, block of members."""

    run: str
    unit: str


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself. size: bytes of the whole file; sha256: of all after the first 1024."""

    run: str
    unit: str
    size: int
    sha256: str


def write_shard(
    path: Path,
    key: ShardKey,
    patient: PatientForecast,
    slices: Mapping[str, SliceForecast],
    volume: VolumeForecast | None = None,
) -> None:
    """Write a unit's slices, by name, or its volume, and its patient as one file; whole or not at all.

    It is built in memory.
    """
    storage = io.BytesIO()
    with h5py.File(storage, "w", userblock_size=USER_BLOCK, libver=LIBRARY) as file:
        write_patient(file.create_group(PATIENT), patient)
        for name, forecast in slices.items():
            write_slice(file.create_group(f"{SLICES}/{name}"), forecast, PACKED)
        if volume is not None:
            write_volume(file.create_group(VOLUME), volume, PACKED)
    content = storage.getbuffer()
    summed = {"size": len(content), "sha256": hashlib.sha256(content[USER_BLOCK:]).hexdigest()}
    content[:USER_BLOCK] = block_of({"format": FORMAT, "version": FORMAT_VERSION, **asdict(key), **summed})
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def header(path: Path) -> ShardHeader | None:
    """What a shard says of itself; None if there is none, or not as long as it was written. Reads 1024 bytes."""
    record = read_seal(path, FORMAT, FORMAT_VERSION)
    try:
        return None if record is None else ShardHeader(*(record[name] for name in ("run", "unit", "size", "sha256")))
    except KeyError:
        return None


def is_whole(path: Path, key: ShardKey) -> bool:
    """Whether the shard stands, is of this run and unit, and has the right sum. Reads the file once, raises nothing."""
    own = header(path)
    return own is not None and ShardKey(own.run, own.unit) == key and has_right_sum(path, asdict(own))


@contextmanager
def open_shard(path: Path, key: ShardKey) -> Iterator[h5py.File]:
    """A shard in memory, read once and checked. Raises InputError if it is missing, damaged or another one."""
    try:
        content = path.read_bytes()
    except OSError as refusal:
        raise _unusable(path, f"cannot be read ({refusal.strerror})") from None
    fault = _fault_of(content, key)
    if fault is not None:
        raise _unusable(path, fault)
    try:
        file = h5py.File(io.BytesIO(content), "r", **READING)
    except UNREADABLE as refusal:
        raise _unusable(path, f"cannot be read as HDF5 ({refusal})") from None
    with file:
        yield file


def _fault_of(content: bytes, key: ShardKey) -> str | None:
    record = record_of(content[:USER_BLOCK])
    if record is None or (record.get("format"), record.get("version")) != (FORMAT, FORMAT_VERSION):
        return "not a shard of this version, or damaged"
    if record.get("size") != len(content):
        return f"cut short: {len(content)} of {record.get('size')} bytes"
    if (record.get("run"), record.get("unit")) != (key.run, key.unit):
        return (
            f"a shard of unit {record.get('unit')} of run {str(record.get('run'))[:12]}, not of {key.unit} of this run"
        )
    if record.get("sha256") != hashlib.sha256(memoryview(content)[USER_BLOCK:]).hexdigest():
        return "damaged: its sum is not right"
    return None


def _unusable(path: Path, fault: str) -> InputError:
    return InputError(f"{path}: {fault}; start the forecast again, which makes this unit anew")
