"""The archive of forecasts, maps.h5: what it holds, how that lies in groups, and its reader and writer.

docs/formats.md describes the layout; merge.py fills an archive from the shards of a run.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from tumorcast.archive.integrity import (
    SLICES,
    SUM,
    USER_BLOCK,
    VOLUME,
    array_line,
    attribute_line,
    content_sum,
    put_text,
    read_seal,
    seal_file,
    sum_of,
    text_of,
)
from tumorcast.archive.packing import READING, Packing, copy_attributes, copy_group, load_all, store
from tumorcast.archive.unmerged import how_to_get_archive
from tumorcast.data.imaging.geometry import pixel_size_mm
from tumorcast.durable import why_unreadable, written_whole
from tumorcast.errors import InputError
from tumorcast.hdf5_file import LIBRARY, UNREADABLE, hdf5_at
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
class VolumeForecast:
    """What an ensemble of M members says of the whole tumour at H horizons, on the cubic voxels of the cohort file.

    image: (C, Z, Y, X) grey levels, labels and brain (Z, Y, X), affine (4, 4): the present scan, as in SessionVolume.
    growth: (H, Z, Y, X) float16, probability of tumour in the brain, mean over members; 0 beyond the box looked at.
    log_volume: (Z, Y, X) float16, ln of the volume over the present one when the tumour reaches the voxel: the order in
    which it goes (field.py); infinite where it never comes.
    horizon_days: (H,), NaN for a change asked for. target_ratio: (H, M) volume aimed at over the present one;
    expected_mm3: (H,) the sum of the growth map. present_mm3: of the mask, as it was acquired.
    model: what foretold the place.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    brain: npt.NDArray[np.bool_]
    affine: FloatArray
    growth: npt.NDArray[np.float16]
    log_volume: npt.NDArray[np.float16]
    horizon_days: npt.NDArray[np.float64]
    target_ratio: npt.NDArray[np.float64]
    expected_mm3: npt.NDArray[np.float64]
    present_mm3: float
    model: str

    @property
    def voxel_mm(self) -> float:
        """Side of a voxel."""
        return pixel_size_mm(self.affine)

    @property
    def aimed_mm3(self) -> npt.NDArray[np.float64]:
        """(H, M) volume aimed at."""
        return self.present_mm3 * self.target_ratio

    def outline(self, horizon: int, volume_mm3: float | None = None) -> npt.NDArray[np.bool_]:
        """(Z, Y, X) the tumour at a horizon: the voxels that are reached first, as many as make its volume.

        volume_mm3: by default the one expected.
        """
        wanted = float(self.expected_mm3[horizon]) if volume_mm3 is None else volume_mm3
        return first_voxels(self.log_volume, round(wanted / self.voxel_mm**3))


def first_voxels(order: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.bool_]:
    """(Z, Y, X) the `count` voxels that come first in an order, such as log_volume, of those that are reached at all.

    Of voxels alike in order that do not all fit in, those taken are drawn, from a fixed seed: so no order gains by how
    voxels are stored.

    >>> first_voxels(np.array([[[0.5, np.inf, -1.0]]]), 2)
    array([[[ True, False,  True]]])
    """
    reached: npt.NDArray[np.bool_] = np.isfinite(order)
    if count >= reached.sum():
        return reached
    if count <= 0:
        return np.zeros_like(reached)
    last = np.partition(order, count - 1, axis=None)[count - 1]
    chosen: npt.NDArray[np.bool_] = order < last
    alike = np.flatnonzero(order == last)
    drawn = np.random.default_rng(0).choice(alike, count - int(chosen.sum()), replace=False)
    chosen.flat[drawn] = True
    return chosen


@dataclass(frozen=True)
class PatientForecast:
    """What holds for all slices of a patient: the scan forecast from, and the growth curve behind the targets.

    curve: None, or days (T,) with quantiles q05, q50, q95 (T,) and the observed days and sizes, on the patient's clock.
    source_grid: size, spacing, origin and direction of the grid that the slices are of (data/imaging/geometry.py), and
        of a registered scan the way to its own voxels (data/native.py, grid_record).
    """

    patient_id: str
    session_id: str
    day: float
    target_day: float | None
    size_name: str | None
    curve: Mapping[str, npt.NDArray[np.float64]] | None
    source_grid: dict[str, Any]


def write_slice(group: h5py.Group, forecast: SliceForecast, packing: Packing, lines: Iterable[str] = ()) -> None:
    """Fill a group with a slice's forecast and its sum. lines: of the sum, on what is in the group already."""
    _write_forecast(group, forecast, packing, list(lines))


def write_volume(group: h5py.Group, forecast: VolumeForecast, packing: Packing) -> None:
    """Fill a group with a patient's volume and its sum."""
    _write_forecast(group, forecast, packing, [])


def _write_forecast(
    group: h5py.Group, forecast: SliceForecast | VolumeForecast, packing: Packing, lines: list[str]
) -> None:
    for name in (member.name for member in fields(forecast)):
        value = getattr(forecast, name)
        if isinstance(value, np.ndarray):
            store(group, name, value, packing)
            lines.append(array_line(name, value))
        elif isinstance(value, str):
            put_text(group, name, value)
            lines.append(attribute_line(name, value))
        elif value is not None:
            group.attrs[name] = value
            lines.append(attribute_line(name, value))
    put_text(group, SUM, content_sum(lines))


def read_volume(group: h5py.Group) -> VolumeForecast:
    """The forecast of a volume in a group."""
    attributes: dict[str, Any] = {name: group.attrs[name] for name in ("present_mm3", "model")}
    return VolumeForecast(**(attributes | {"model": text_of(attributes["model"])} | load_all(group)))


def read_slice(group: h5py.Group) -> SliceForecast:
    """The forecast in a group."""
    numbers: dict[str, Any] = {name: group.attrs[name] for name in group.attrs if name != SUM}
    return SliceForecast(**(numbers | load_all(group)))


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
    attributes: dict[str, Any] = {name: text_of(v) if isinstance(v, bytes) else v for name, v in group.attrs.items()}
    return PatientForecast(
        patient_id=attributes["patient_id"],
        session_id=attributes["session_id"],
        day=attributes["day"],
        target_day=attributes.get("target_day"),
        size_name=attributes.get("size_name"),
        curve=load_all(group[GROWTH]) if GROWTH in group else None,
        source_grid=json.loads(attributes["source_grid"]),
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
            raise InputError(f"{path}: {why_unreadable(path, fault)}; {how_to_get_archive(path)}") from None
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
        """What the archive was planned to hold: `slices` by patient, `outcomes`, and the patients of `volumes`."""
        with self._reading("its record"):
            record: dict[str, Any] = json.loads(self._file[RECORD][()])
            return record

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

    def has_volume(self, patient_id: str) -> bool:
        """Whether there is a growth map in three dimensions."""
        with self._reading(patient_id):
            return VOLUME in self.group(patient_id)

    def volume(self, patient_id: str) -> VolumeForecast | None:
        """What is foretold of the whole tumour; None of an archive of slices alone."""
        with self._reading(f"{patient_id}, its volume,"):
            group = self.group(patient_id)
            return read_volume(group[VOLUME]) if VOLUME in group else None

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
        value, version = file.attrs.get("format"), file.attrs.get("format_version")
    except UNREADABLE as fault:
        raise InputError(f"{path}: damaged ({fault}); make it again with `tumorcast forecast`") from None
    form = text_of(value) if isinstance(value, str | bytes) else value
    if form != FORMAT:
        raise InputError(f"{path}: format {form}, expected {FORMAT}; give a maps.h5 of `tumorcast forecast`")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {version}, and this tumorcast reads {FORMAT_VERSION}; "
            "make it again with `tumorcast forecast`"
        )
    if read_seal(path, FORMAT, FORMAT_VERSION) is None:
        raise InputError(f"{path}: damaged, or changed since it was written; see `tumorcast archive verify {path}`")


@dataclass(frozen=True)
class NewArchive:
    """An archive under way. slices: the names of each patient's slices so far; volumes: who has one."""

    patients: h5py.Group
    packing: Packing
    slices: dict[str, list[str]] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)

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

    def add_volume(self, patient_id: str, source: h5py.Group, was: Packing) -> None:
        """Copy the group of a patient's volume."""
        copy_group(source, self.patients[patient_id], VOLUME, was=was, packing=self.packing)
        self.volumes.append(patient_id)

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
    fates = [[outcome.patient_id, str(outcome.status), outcome.reason] for outcome in outcomes]
    slices = {patient_id: sorted(names) for patient_id, names in archive.slices.items()}
    record = {"slices": slices, "outcomes": fates} | ({"volumes": sorted(archive.volumes)} if archive.volumes else {})
    text = json.dumps(record).encode()
    stored = root.create_dataset(RECORD, data=text, dtype=h5py.string_dtype("utf-8", len(text)))
    put_text(stored, SUM, record_sum(text, provenance))


def record_sum(record: bytes, provenance: str) -> str:
    """The sum over the record and the provenance."""
    return hashlib.sha256(record + b"\n" + provenance.encode()).hexdigest()
