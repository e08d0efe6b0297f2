"""The archive of forecasts, maps.h5: what it holds, how that lies in groups, and its reader.

docs/formats.md describes the layout; merge.py writes the archive.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from tumorcast.archive.content import SLICES, SUM, array_line, attribute_line, content_sum, put_text, sum_of, text_of
from tumorcast.archive.packing import READING, Packing, load_all, store
from tumorcast.archive.seal import read_seal
from tumorcast.durable import why_unreadable
from tumorcast.errors import InputError
from tumorcast.hdf5_file import UNREADABLE
from tumorcast.records import FloatArray, PatientOutcome, Status

FORMAT, FORMAT_VERSION = "tumorcast-maps", 2
PATIENTS, GROWTH = "patients", "growth"
RECORD, PROVENANCE, PACKING = "record", "provenance", "packing"
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SliceForecast:
    """What an ensemble says of one slice. M members; images are (C, H, W) in [-1, 1], maps (H, W).

    image, labels, brain, affine: the present slice, as in the cohort file.
    mean, std: over members. changed: the share of members whose image changed there (the paper's map).
    tumour: the segmenter's probability of tumour, mean over members; tumour_now: the same of the present slice.
    aimed_mm2, reached_mm2: (M,) tumour area aimed at, and got as the segmenter sees it; present_mm2 from the mask,
    present_segmented_mm2 as the segmenter sees the present slice. members: (M, C, H, W), or None if not kept.
    growth: probability of tumour at the time aimed at, from the progression network and the images together; None where
    the model has no such network.
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
    growth: Array | None = None


@dataclass(frozen=True)
class PatientForecast:
    """What holds for all slices of a patient: the scan forecast from, and the growth curve behind the targets.

    curve: None, or days (T,) with quantiles q05, q50, q95 (T,) and the observed days and sizes, on the patient's clock.
    source_grid: size, spacing, origin and direction of the grid that the slices are of (data/geometry.py), and of a
        registered scan the way to its own voxels (data/native.py, grid_record).
    """

    patient_id: str
    session_id: str
    day: float
    target_day: float | None
    size_name: str | None
    curve: Mapping[str, npt.NDArray[np.float64]] | None
    source_grid: dict[str, Any]


def write_slice(group: h5py.Group, forecast: SliceForecast, packing: Packing, told: Iterable[str] = ()) -> None:
    """Fill a group with a slice's forecast and its sum. told: lines of content.py on what is in the group already."""
    lines = list(told)
    for field in fields(forecast):
        value = getattr(forecast, field.name)
        if isinstance(value, np.ndarray):
            store(group, field.name, value, packing)
            lines.append(array_line(field.name, value))
        elif value is not None:
            group.attrs[field.name] = value
            lines.append(attribute_line(field.name, value))
    put_text(group, SUM, content_sum(lines))


def read_slice(group: h5py.Group) -> SliceForecast:
    """The forecast in a group."""
    found: dict[str, Any] = {name: group.attrs[name] for name in group.attrs if name != SUM}
    return SliceForecast(**(found | load_all(group)))


def write_patient(group: h5py.Group, patient: PatientForecast) -> None:
    """Fill a group with what holds for all slices of a patient, and its sum."""
    for name in ("day", "target_day"):
        if getattr(patient, name) is not None:
            group.attrs[name] = float(getattr(patient, name))
    for name in ("patient_id", "session_id", "size_name"):
        if getattr(patient, name) is not None:
            put_text(group, name, getattr(patient, name))
    put_text(group, "source_grid", json.dumps(patient.source_grid, sort_keys=True))
    if patient.curve is not None:
        curve = group.create_group(GROWTH)
        for name, values in patient.curve.items():
            store(curve, name, np.asarray(values), Packing.PORTABLE)
    put_text(group, SUM, sum_of(group))


def read_patient(group: h5py.Group) -> PatientForecast:
    """What holds for all slices of a patient, from its group."""
    told: dict[str, Any] = {name: text_of(v) if isinstance(v, bytes) else v for name, v in group.attrs.items()}
    return PatientForecast(
        patient_id=told["patient_id"],
        session_id=told["session_id"],
        day=told["day"],
        target_day=told.get("target_day"),
        size_name=told.get("size_name"),
        curve=load_all(group[GROWTH]) if GROWTH in group else None,
        source_grid=json.loads(told["source_grid"]),
    )


def archive_provenance(path: Path) -> dict[str, Any] | None:
    """What made the archive at `path`; None if there is no readable archive."""
    try:
        with MapArchive.open(path) as archive:
            return archive.provenance
    except InputError:
        return None


class MapArchive:
    """maps.h5, read. Use `MapArchive.open`. Whatever cannot be read is an InputError that names it."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self.path = Path(file.filename)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open an archive. Raises InputError if it is missing, cut short, no archive of forecasts, or of version 1."""
        try:
            file = h5py.File(path, "r", **READING)
        except OSError as fault:
            raise InputError(f"{path}: {why_unreadable(path, fault)}; give a maps.h5 of `tumorcast forecast`") from None
        with file:
            _check(path, file)
            yield cls(file)

    @property
    def provenance(self) -> dict[str, Any]:
        """Version, configuration, hashes, seed and devices of the run."""
        with self._reading("its provenance"):
            record: dict[str, Any] = json.loads(text_of(self._file.attrs[PROVENANCE]))
            return record

    @property
    def packing(self) -> Packing:
        """How its arrays are compressed."""
        with self._reading("its packing"):
            return Packing(text_of(self._file.attrs[PACKING]))

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the archive was planned to hold: `slices`, names by patient, and `outcomes`."""
        with self._reading("its record"):
            told: dict[str, Any] = json.loads(self._file[RECORD][()])
            return told

    def outcomes(self) -> list[PatientOutcome]:
        """How each patient of the run fared, in the order of the cohort."""
        return [PatientOutcome(name, Status(status), reason) for name, status, reason in self.record["outcomes"]]

    def patient_ids(self) -> list[str]:
        """The patients that have slices here, in the order they were merged in."""
        with self._reading("its patients"):
            return list(self._file[PATIENTS])

    def slice_names(self, patient_id: str) -> list[str]:
        """The names of a patient's slices, from the feet up."""
        with self._reading(patient_id):
            return sorted(self.group(patient_id)[SLICES])

    def count_slices(self) -> int:
        """How many slices there are, of all patients."""
        return sum(len(names) for names in self.record["slices"].values())

    def group(self, patient_id: str, slice_name: str | None = None) -> h5py.Group:
        """The group of a patient, or of one of its slices. Raises KeyError if it is not there."""
        group = self._file[PATIENTS][patient_id]
        return group if slice_name is None else group[SLICES][slice_name]

    def patients(self) -> list[PatientForecast]:
        """Every patient, in the order they were merged in."""
        return [self.patient(patient_id) for patient_id in self.patient_ids()]

    def patient(self, patient_id: str) -> PatientForecast:
        """What holds for all slices of a patient."""
        with self._reading(patient_id):
            return read_patient(self.group(patient_id))

    def slices(self, patient_id: str) -> list[SliceForecast]:
        """Every slice of a patient, from the feet up."""
        return [self.slice(patient_id, name) for name in self.slice_names(patient_id)]

    def slice(self, patient_id: str, name: str) -> SliceForecast:
        """One slice of a patient."""
        with self._reading(f"{patient_id}, slice {name},"):
            return read_slice(self.group(patient_id, name))

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as fault:
            raise InputError(
                f"{self.path}: {what} cannot be read ({fault}); `tumorcast archive verify` tells what is damaged"
            ) from None


def _check(path: Path, file: h5py.File) -> None:
    """Raises InputError if an HDF5 file is no archive of this version, or not as long as it was written."""
    try:
        found, version = file.attrs.get("format"), file.attrs.get("format_version")
    except UNREADABLE as fault:
        raise InputError(f"{path}: damaged ({fault}); make it again with `tumorcast forecast`") from None
    form = text_of(found) if isinstance(found, str | bytes) else found
    if form != FORMAT:
        raise InputError(f"{path}: format {form}, expected {FORMAT}; give a maps.h5 of `tumorcast forecast`")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {version}, and this tumorcast reads {FORMAT_VERSION}; "
            "make it again with `tumorcast forecast`"
        )
    if read_seal(path, FORMAT, FORMAT_VERSION) is None:
        raise InputError(f"{path}: damaged, or changed since it was written; see `tumorcast archive verify {path}`")
