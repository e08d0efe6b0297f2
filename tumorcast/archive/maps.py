"""The archive of forecasts, maps.h5, and the shards it is merged from. docs/formats.md describes the layout.

A shard holds one slice and is written whole; a merged archive copies every shard under its patient.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.records import FloatArray

FORMAT, FORMAT_VERSION = "tumorcast-maps", 1
PACKED = {
    "compression": "gzip",
    "compression_opts": 4,
    "shuffle": True,
    "fletcher32": True,
}  # the last finds a flipped bit
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SliceForecast:
    """What an ensemble says of one slice. M members; images are (C, H, W) in [-1, 1], maps (H, W).

    image, labels, brain, affine: the present slice, as in the cohort file.
    mean, std: over members. changed: the share of members whose image changed there (the paper's map).
    tumour: the segmenter's probability of tumour, mean over members; tumour_now: the same of the present slice.
    aimed_mm2, reached_mm2: (M,) tumour area aimed at, and got as the segmenter sees it; present_mm2 from the mask,
    present_segmented_mm2 as the segmenter sees the present slice. members: (M, C, H, W), or None if not kept.
    """

    image: Array
    labels: npt.NDArray[np.uint8]
    brain: npt.NDArray[np.bool_]
    affine: FloatArray
    mean: Array
    std: Array
    changed: Array
    tumour: Array
    tumour_now: Array
    aimed_mm2: npt.NDArray[np.float64]
    reached_mm2: npt.NDArray[np.float64]
    present_mm2: float
    present_segmented_mm2: float
    source_slice: int
    members: Array | None = None


@dataclass(frozen=True)
class PatientForecast:
    """What holds for all slices of a patient: the scan forecast from, and the growth curve behind the targets.

    curve: None, or days (T,) with quantiles q05, q50, q95 (T,) and the observed days and sizes, on the patient's clock.
    source_grid: size, spacing, origin and direction of the scan's own voxels, for the way home (data/geometry.py).
    """

    patient_id: str
    session_id: str
    day: float
    target_day: float | None
    size_name: str | None
    curve: Mapping[str, npt.NDArray[np.float64]] | None
    source_grid: dict[str, Any]


def write_shard(path: Path, forecast: SliceForecast, provenance: Mapping[str, Any]) -> None:
    """Write one slice's forecast as a file of its own, whole or not at all."""
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        _fill(file.create_group("slice"), forecast)


def shard_provenance(path: Path) -> dict[str, Any] | None:
    """What made the shard at `path`; None if there is no readable shard."""
    try:
        with h5py.File(path, "r") as file:
            record: dict[str, Any] = json.loads(file.attrs["provenance"])
            return record if "slice" in file else None
    except (OSError, KeyError, ValueError):
        return None


def archive_provenance(path: Path) -> dict[str, Any] | None:
    """What made the archive at `path`; None if there is no readable archive."""
    try:
        with MapArchive.open(path) as archive:
            return archive.provenance
    except InputError:
        return None


def _fill(group: h5py.Group, forecast: SliceForecast) -> None:
    for field in fields(forecast):
        value = getattr(forecast, field.name)
        if isinstance(value, np.ndarray):
            group.create_dataset(field.name, data=value, **(PACKED if value.ndim > 1 else {}))
        elif value is not None:
            group.attrs[field.name] = value


def merge(
    path: Path, shards: Iterable[tuple[PatientForecast, Mapping[str, Path]]], provenance: Mapping[str, Any]
) -> None:
    """Write maps.h5 from shards, by patient and by slice name; whole or not at all."""
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION})
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        patients = file.create_group("patients")
        for patient, slices in shards:
            group = patients.create_group(patient.patient_id)
            _fill_patient(group, patient)
            for name, shard in sorted(slices.items()):
                with h5py.File(shard, "r") as source:
                    source.copy("slice", group, f"slices/{name}")


def _fill_patient(group: h5py.Group, patient: PatientForecast) -> None:
    for name in ("session_id", "day", "target_day", "size_name"):
        value = getattr(patient, name)
        if value is not None:
            group.attrs[name] = value
    group.attrs["source_grid"] = json.dumps(patient.source_grid)
    for name, values in (patient.curve or {}).items():
        group.create_dataset(f"growth/{name}", data=values)


class MapArchive:
    """maps.h5, read. Use `MapArchive.open`."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open an archive. Raises InputError if the file is missing or not an archive of forecasts."""
        try:
            file = h5py.File(path, "r")
        except OSError as fault:
            raise InputError(
                f"{path}: cannot be read as HDF5 ({fault}); give the --out of `tumorcast forecast`"
            ) from None
        with file:
            found = file.attrs.get("format"), file.attrs.get("format_version")
            if found != (FORMAT, FORMAT_VERSION):
                raise InputError(f"{path}: format {found}, expected {(FORMAT, FORMAT_VERSION)}; give a maps.h5")
            yield cls(file)

    @property
    def provenance(self) -> dict[str, Any]:
        """Version, configuration, hashes, seed and device of the run."""
        record: dict[str, Any] = json.loads(self._file.attrs["provenance"])
        return record

    def patients(self) -> list[PatientForecast]:
        """Every patient, in the order of their names."""
        return [self._patient(name, group) for name, group in sorted(self._file["patients"].items())]

    def _patient(self, patient_id: str, group: h5py.Group) -> PatientForecast:
        curve = {name: values[()] for name, values in group["growth"].items()} if "growth" in group else None
        values = {name: group.attrs.get(name) for name in ("session_id", "day", "target_day", "size_name")}
        grid = json.loads(group.attrs["source_grid"])
        return PatientForecast(patient_id=patient_id, curve=curve, source_grid=grid, **values)

    def slices(self, patient_id: str) -> list[SliceForecast]:
        """Every slice of a patient, from the feet up."""
        groups = self._file[f"patients/{patient_id}/slices"]
        return [self._slice(group) for _, group in sorted(groups.items())]

    def _slice(self, group: h5py.Group) -> SliceForecast:
        found = {name: values[()] for name, values in group.items()} | dict(group.attrs)
        return SliceForecast(**found)
