"""The cohort file (HDF5): the only module that writes or reads it. Its layout is described in docs/formats.md.

/patients/{patient_id}/{session_id} holds the slices of one scan, one compressed chunk a slice.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, assert_never

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt

from tumorcast.data.imaging.geometry import Grid, pixel_mm, pixel_size_mm
from tumorcast.data.imaging.transforms import Displacement
from tumorcast.durable import sha256_of, why_unreadable, written_whole
from tumorcast.errors import InputError
from tumorcast.hdf5_file import LIBRARY, UNREADABLE, hdf5_at, treatment_attributes, treatment_from
from tumorcast.records import (
    Contrast,
    FloatArray,
    Session,
    SessionVolume,
    SizeSeries,
    Treatment,
)
from tumorcast.version import VERSION

FORMAT = "tumorcast-cohort"
FORMAT_VERSION = 1
PATIENTS = "patients"
STACKS = ("images", "labels", "brain")
NAMED = 5  # patients or sessions, where one is asked for that is not there
VECTORS = ("area_mm2", "brain_mm2", "source_slice")
DISPLACEMENT = "displacement"
VOLUME, COARSEST = "volume", "coarsest_mm"
DATED = "dated"  # in `config`: whether the days are days, see Cohort.dated
SLICE_AREAS = "slice_area_mm2"  # in a session's `source`: tumour area of every slice, chosen or not; null where absent


class SizeMeasure(StrEnum):
    """What a growth curve follows.

    `area_mm2` is the tumour's area in one slice of the patient: the one where the last scan with tumour is largest.
    """

    VOLUME_MM3 = "volume_mm3"
    AREA_MM2 = "area_mm2"


@dataclass(frozen=True)
class SessionInfo:
    """What the file knows about a scan without reading its images; arrays are (n_slices,)."""

    id: str
    day: float
    volume_mm3: float
    n_slices: int
    source_slice: npt.NDArray[np.int64]
    area_mm2: FloatArray
    brain_mm2: FloatArray


@dataclass(frozen=True)
class CohortSlice:
    """One slice: image (C, H, W) in [-1, 1], labels and brain (H, W), areas in mm², affine as in Session."""

    image: FloatArray
    labels: npt.NDArray[np.uint8]
    brain: npt.NDArray[np.bool_]
    affine: FloatArray
    area_mm2: float
    brain_mm2: float
    source_slice: int

    @property
    def brain_fraction(self) -> float:
        """Tumour area over brain area: the size that regressors learn and guidance aims at."""
        return self.area_mm2 / self.brain_mm2


@dataclass(frozen=True)
class DeformedSession(Session):
    """A scan that was bent onto the patient's first, see tumorcast.data.imaging.deformation.

    displacement: of points of the cohort's space, before the rigid way to the scan.
    """

    displacement: Displacement | None = None


def deformed(session: Session, displacement: Displacement) -> DeformedSession:
    """The session with how it was bent."""
    return DeformedSession(
        **{item.name: getattr(session, item.name) for item in fields(session)}, displacement=displacement
    )


def write_cohort(
    path: Path,
    sessions: Iterable[Session],
    treatments: Mapping[str, Treatment],
    *,
    image_size: int,
    contrasts: tuple[Contrast, ...],
    config: dict[str, Any] | Callable[[], dict[str, Any]],
) -> None:
    """Write sessions as they come, then put the finished file in place; an older file of that name is replaced.

    config: the settings, or what tells them once the sessions are through.

    Raises InputError if the file cannot be written. An error while sessions are made leaves nothing behind.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; give --out the name of a file")
    header = {"image_size": image_size, "pixel_mm": pixel_mm(image_size), "contrasts": [str(c) for c in contrasts]}
    with written_whole(path) as temporary, _full_disk_reported(path), hdf5_at(temporary, libver=LIBRARY) as new:
        file = new.root
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, tumorcast_version=VERSION, **header)
        patients = file.create_group(PATIENTS, track_order=True)
        for session in sessions:
            if session.contrasts != contrasts or session.images.shape[1:] != (len(contrasts), image_size, image_size):
                raise ValueError(f"{session.patient_id}/{session.session_id} does not fit a cohort of {header}")
            if session.patient_id not in patients:
                _write_treatment(patients, session.patient_id, treatments.get(session.patient_id, Treatment()))
            _write_session(patients[session.patient_id], session)
        file.attrs["config"] = json.dumps(config() if callable(config) else config, sort_keys=True)


def _some_of(group: h5py.Group) -> str:
    """The first names in a group, and how many more there are."""
    names = list(group)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}; correct the name"


@contextmanager
def _full_disk_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); free some space, or give another --out") from error


def _write_treatment(patients: h5py.Group, patient_id: str, treatment: Treatment) -> None:
    patients.create_group(patient_id, track_order=True).attrs.update(treatment_attributes(treatment))


def _write_session(patient: h5py.Group, session: Session) -> None:
    group = patient.create_group(session.session_id)
    group.attrs.update(day=session.day, volume_mm3=session.volume_mm3, source=json.dumps(session.source))
    for name, data in (("images", session.images), ("labels", session.labels), ("brain", session.brain)):
        packed = {"chunks": (1, *data.shape[1:]), **_compression()} if data.shape[0] else {}
        group.create_dataset(name, data=data, **packed)
    for name in VECTORS:
        group.create_dataset(name, data=getattr(session, name))
    group.create_dataset("affine", data=session.affine)
    if session.volume is not None:
        _write_volume(group.create_group(VOLUME), session.volume)
    if isinstance(session, DeformedSession) and session.displacement is not None:
        field = session.displacement
        data = group.create_dataset(DISPLACEMENT, data=field.vectors, chunks=field.vectors.shape, **_compression())
        data.attrs["grid"] = json.dumps(field.grid.as_dict())


def _write_volume(group: h5py.Group, volume: SessionVolume) -> None:
    group.attrs[COARSEST] = volume.coarsest_mm
    group.create_dataset("affine", data=volume.affine)
    group.create_dataset("images", data=volume.images, chunks=(1, *volume.images.shape[1:]), **_compression())
    for name, data in (("labels", volume.labels), ("brain", volume.brain)):
        group.create_dataset(name, data=data, chunks=data.shape, **_compression())


def _compression() -> dict[str, Any]:
    return dict(hdf5plugin.Blosc2(cname="lz4", clevel=5, filters=hdf5plugin.Blosc2.SHUFFLE))


class Cohort:
    """A cohort file, open for reading. What is damaged is an InputError that names it, where it is read.

    with Cohort.open(path) as cohort: ...
    """

    def __init__(self, path: Path, file: h5py.File, *, hidden: int = 0) -> None:
        """Use Cohort.open. hidden: how many of each patient's last scans cannot be read."""
        self.path = path
        self._file = file
        self._hidden = hidden
        self._checked: set[tuple[str, str]] = set()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises InputError if the file is missing, is not a cohort file, is of another format version, or damaged."""
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise InputError(
                f"{path}: {why_unreadable(path, error)}; give a cohort.h5, which `tumorcast prepare SCANS --out "
                "cohort.h5` makes of scans"
            ) from None
        try:
            _check_header(path, file)
        except InputError:
            file.close()
            raise
        return cls(path, file)

    def before_last_scan(self) -> "Cohort":
        """The cohort as it was before each patient's last scan, of which nothing can be read. It closes with this one.

        What was done to the patient in between is taken as planned, and so as known.
        """
        return Cohort(self.path, self._file, hidden=self._hidden + 1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """The cohort itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return int(self._file.attrs["image_size"])

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel."""
        return float(self._file.attrs["pixel_mm"])

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The channels of every image, in order."""
        return tuple(Contrast(name) for name in self._file.attrs["contrasts"])

    @property
    def config(self) -> dict[str, Any]:
        """The settings the file was prepared with."""
        with _reading(self.path, "its config"):
            return dict(json.loads(self._file.attrs["config"]))

    @property
    def dated(self) -> bool:
        """Whether every day comes from a table; False where some patient's scans are only counted 0, 1, 2 …"""
        return bool(self.config.get(DATED, True))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return sha256_of(self.path)

    def patient_ids(self) -> list[str]:
        """All patients, in the order of the file."""
        with _reading(self.path, "its patients"):
            return list(self._file[PATIENTS])

    def treatment(self, patient_id: str) -> Treatment:
        """What was done to the patient."""
        with _reading(self.path, f"the treatment of {patient_id}"):
            return treatment_from(self._patient(patient_id).attrs)

    def sessions(self, patient_id: str) -> list[SessionInfo]:
        """The patient's scans in the order of days."""
        with _reading(self.path, patient_id):
            infos = [_info(name, self._scan(patient_id, name)) for name in self._patient(patient_id)]
        return sorted(infos, key=lambda info: info.day)[: max(len(infos) - self._hidden, 0)]

    def session(self, patient_id: str, session_id: str) -> Session:
        """A whole scan, read into memory."""
        group = self._session(patient_id, session_id)
        with _reading(self.path, f"{patient_id}, session {session_id}"):
            arrays = {name: group[name][...] for name in (*STACKS, *VECTORS, "affine")}
            day, volume = float(group.attrs["day"]), float(group.attrs["volume_mm3"])
        source = self.source(patient_id, session_id)
        session = Session(patient_id, session_id, day, self.contrasts, volume_mm3=volume, source=source, **arrays)
        displacement = self.displacement(patient_id, session_id)
        return session if displacement is None else deformed(session, displacement)

    def source(self, patient_id: str, session_id: str) -> dict[str, Any]:
        """Where a scan came from: files, checksums, grid, windows."""
        group = self._session(patient_id, session_id)
        with _reading(self.path, f"the source of {patient_id}, session {session_id}"):
            return dict(json.loads(group.attrs["source"]))

    def is_deformed(self, patient_id: str, session_id: str) -> bool:
        """Whether a scan was bent onto the patient's first."""
        return DISPLACEMENT in self._session(patient_id, session_id)

    def displacement(self, patient_id: str, session_id: str) -> Displacement | None:
        """How a scan was bent onto the patient's first; None where it was not."""
        group = self._session(patient_id, session_id)
        if DISPLACEMENT not in group:
            return None
        with _reading(self.path, f"the displacement of {patient_id}, session {session_id}"):
            data = group[DISPLACEMENT]
            return Displacement(data[...], Grid.from_dict(json.loads(data.attrs["grid"])))

    def slice_grid(self, patient_id: str, session_id: str) -> tuple[FloatArray, int]:
        """(4, 4) affine of a scan's slices, as in Session, and how many its source has, chosen or not."""
        group = self._session(patient_id, session_id)
        with _reading(self.path, f"the grid of {patient_id}, session {session_id}"):
            return group["affine"][...], len(json.loads(group.attrs["source"]).get(SLICE_AREAS, []))

    def slice(self, patient_id: str, session_id: str, index: int) -> CohortSlice:
        """One slice; `index` counts the slices in the file, not those of the source."""
        group = self._session(patient_id, session_id)
        with _reading(self.path, f"slice {index} of {patient_id}, session {session_id}"):
            image, labels, brain = (group[name][index] for name in STACKS)
            area, brain_area, number = (group[name][index] for name in VECTORS)
            affine = group["affine"][...]
        return CohortSlice(image, labels, brain, affine, float(area), float(brain_area), int(number))

    @cached_property
    def keeps_volumes(self) -> bool:
        """Whether the file holds volumes beside slices: one of an earlier version does not, nor one of 2D slices."""
        with _reading(self.path, "its volumes"):
            return any(VOLUME in scan for patient in self._file[PATIENTS].values() for scan in patient.values())

    @cached_property
    def voxel_mm(self) -> float | None:
        """Side of the voxels of the first volume in the file; None where there is none."""
        with _reading(self.path, "its volumes"):
            for patient in self._file[PATIENTS].values():
                for scan in patient.values():
                    if VOLUME in scan:
                        return pixel_size_mm(scan[VOLUME]["affine"][...])
        return None

    def has_volume(self, patient_id: str, session_id: str) -> bool:
        """Whether the file keeps a scan's volume."""
        return VOLUME in self._session(patient_id, session_id)

    def volume(self, patient_id: str, session_id: str) -> SessionVolume | None:
        """A scan on cubic voxels; None where the file keeps none."""
        group = self._session(patient_id, session_id)
        if VOLUME not in group:
            return None
        with _reading(self.path, f"the volume of {patient_id}, session {session_id}"):
            stored = group[VOLUME]
            arrays = {name: stored[name][...] for name in ("images", "labels", "brain", "affine")}
            _check_volume(arrays, len(self.contrasts))
            return SessionVolume(**arrays, coarsest_mm=float(stored.attrs[COARSEST]))

    def size_series(self, patient_id: str, size: SizeMeasure) -> SizeSeries:
        """The patient's tumour size over time.

        Scans without a mask are left out, and single slices too where the volume is asked for, which they have not.
        """
        infos = self.sessions(patient_id)
        match size:
            case SizeMeasure.VOLUME_MM3:
                known = [info for info in infos if not np.isnan(info.volume_mm3)]
                sizes = [info.volume_mm3 for info in known]
            case SizeMeasure.AREA_MM2:
                known = [info for info in infos if self._has_areas(patient_id, info)]
                sizes = self._reference_areas(patient_id, known)
            case _:
                assert_never(size)
        days = np.array([info.day for info in known], np.float64)
        return SizeSeries(patient_id, str(size), days, np.array(sizes, np.float64), self.treatment(patient_id))

    def _has_areas(self, patient_id: str, info: SessionInfo) -> bool:
        """Whether the scan has a mask. One without slices may still have it: its tumour is small or gone."""
        if info.n_slices:
            return not bool(np.isnan(info.area_mm2).any())
        areas = self.source(patient_id, info.id).get(SLICE_AREAS, [])
        return not np.isnan(info.volume_mm3) or any(area is not None for area in areas)

    def _reference_areas(self, patient_id: str, known: list[SessionInfo]) -> list[float]:
        """Area of the slice that is largest in the last scan with tumour, in every scan."""
        with_tumour = [info for info in known if info.n_slices and np.nanmax(info.area_mm2) > 0]
        if not with_tumour:
            return [0.0] * len(known)
        last = with_tumour[-1]
        reference = int(last.source_slice[np.nanargmax(last.area_mm2)])
        return [self._area_at(patient_id, info, reference) for info in known]

    def _area_at(self, patient_id: str, info: SessionInfo, source_slice: int) -> float:
        """Area in one source slice; a slice that was not chosen is looked up among the areas of all slices."""
        chosen = np.flatnonzero(info.source_slice == source_slice)
        if chosen.size:
            return float(info.area_mm2[chosen[0]])
        areas = self.source(patient_id, info.id).get(SLICE_AREAS)
        if areas is None:
            return 0.0
        if source_slice >= len(areas) or areas[source_slice] is None:
            raise InputError(
                f"{self.path}: {patient_id}, session {info.id} has no slice {source_slice}, the largest of "
                f"the last scan; the scans are not on one grid: follow the {SizeMeasure.VOLUME_MM3}"
            )
        return float(areas[source_slice])

    def _patient(self, patient_id: str) -> h5py.Group:
        if patient_id not in self._file[PATIENTS]:
            raise InputError(f"{self.path}: no patient {patient_id}; it has {_some_of(self._file[PATIENTS])}")
        with _reading(self.path, patient_id):
            return _group_in(self._file[PATIENTS], patient_id)

    def _session(self, patient_id: str, session_id: str) -> h5py.Group:
        """Every reading of what a scan holds comes here. Raises ValueError for a hidden one."""
        if self._hidden and session_id not in {info.id for info in self.sessions(patient_id)}:
            raise ValueError(f"{patient_id}, session {session_id}: not known before the last scan")
        return self._scan(patient_id, session_id)

    def _scan(self, patient_id: str, session_id: str) -> h5py.Group:
        patient = self._patient(patient_id)
        if session_id not in patient:
            raise InputError(f"{self.path}: {patient_id} has no session {session_id}; it has {_some_of(patient)}")
        with _reading(self.path, f"{patient_id}, session {session_id}"):
            group = _group_in(patient, session_id)
            if (patient_id, session_id) not in self._checked:
                _check_session(group, len(self.contrasts), self.image_size)
                self._checked.add((patient_id, session_id))
        return group


def _check_header(path: Path, file: h5py.File) -> None:
    """Raises InputError if a file is no cohort file of this version, or does not say what holds for all of it."""
    with _reading(path, "its header"):
        version = (file.attrs.get("format"), int(file.attrs.get("format_version", 0)))
    if version != (FORMAT, FORMAT_VERSION):
        found = version[0].decode(errors="replace") if isinstance(version[0], bytes) else version[0]
        raise InputError(
            f"{path}: not a cohort file of version {FORMAT_VERSION} (found {found} {version[1]}); "
            "make it with `tumorcast prepare`"
        )
    with _reading(path, "its header"):
        cohort = Cohort(path, file)
        if not (cohort.contrasts and cohort.image_size > 0 and cohort.pixel_mm > 0):
            raise ValueError("it names no contrast, or has no pixels")
        _group_in(file, PATIENTS)


def _info(name: str, group: h5py.Group) -> SessionInfo:
    numbers, area, brain = (group[vector][...] for vector in ("source_slice", "area_mm2", "brain_mm2"))
    return SessionInfo(
        name, float(group.attrs["day"]), float(group.attrs["volume_mm3"]), len(numbers), numbers, area, brain
    )


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Whatever h5py or a check raises within the block becomes one InputError that names the file and `what`."""
    try:
        yield
    except UNREADABLE as fault:
        raise InputError(
            f"{path}: {what} cannot be read ({_reason_of(fault)}); the file is damaged: copy it again, or make it with "
            "`tumorcast prepare`"
        ) from None


def _reason_of(fault: BaseException) -> str:
    """The fault in a line; a KeyError by itself would quote its text.

    >>> _reason_of(KeyError("no labels")), _reason_of(ValueError())
    ('no labels', 'ValueError')
    """
    text = fault.args[0] if isinstance(fault, KeyError) and fault.args else fault
    return " ".join(str(text).split()) or type(fault).__name__


def _group_in(parent: h5py.Group, name: str) -> h5py.Group:
    """The group of that name. Raises KeyError if there is none, ValueError if it is something else."""
    group = parent[name]
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{name} is no group")
    return group


def _check_session(group: h5py.Group, channels: int, pixels: int) -> None:
    """Raises KeyError or ValueError unless the data sets of a scan are there, in shapes that go together."""
    slices = len(group["source_slice"])
    plane = (slices, pixels, pixels)
    shapes = {"images": (slices, channels, pixels, pixels), "labels": plane, "brain": plane}
    shapes |= {"area_mm2": (slices,), "brain_mm2": (slices,), "source_slice": (slices,), "affine": (4, 4)}
    for name, shape in shapes.items():
        stored = group[name].shape
        if stored != shape:
            raise ValueError(f"{name} is {_sides(stored)} and not {_sides(shape)}")
    for name in ("day", "volume_mm3", "source"):
        if name not in group.attrs:
            raise KeyError(f"it has no {name}")


def _check_volume(arrays: Mapping[str, npt.NDArray[Any]], channels: int) -> None:
    """Raises ValueError unless the arrays of a volume go together."""
    shape = arrays["labels"].shape
    for name, wanted in {"images": (channels, *shape), "brain": shape, "affine": (4, 4)}.items():
        if arrays[name].shape != wanted:
            raise ValueError(f"{name} is {_sides(arrays[name].shape)} and not {_sides(wanted)}")


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one value"
