"""growth.h5: the fitted growth law of every patient, with its bootstrap. docs/formats.md describes the layout.

Patients are written and read one at a time, since one of them may have a million replicates.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from tumorcast.durable import why_unreadable
from tumorcast.errors import InputError
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.prior import PopulationPrior, parse_prior
from tumorcast.hdf5_file import NewFile, new_hdf5, treatment_attributes, treatment_from
from tumorcast.records import ErrorModel, FitStatus, Forecaster, GrowthFit, LawName, SizeSeries

FORMAT, FORMAT_VERSION = "tumorcast-growth", 2
PATIENTS = "patients"
TEXT = h5py.string_dtype()
STATUS = h5py.enum_dtype({str(status): place for place, status in enumerate(FitStatus)}, basetype="u1")
CHUNK_BYTES = 2**20
PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}  # finds a flipped bit


@contextmanager
def growth_writer(
    path: Path, provenance: Mapping[str, Any], *, forecaster: str = "mechanistic", prior: str | None = None
) -> Iterator[Callable[[GrowthFit], None]]:
    """A function that adds a patient to a new growth file, which stands at `path` when the block ends without error.

    forecaster: which forecast is to be drawn from the fits. prior: the population model that informed them, JSON text.
    """
    with _new_file(path, provenance, forecaster, prior) as file:

        def add(fit: GrowthFit) -> None:
            _fill(file.root[PATIENTS].create_group(fit.series.patient_id), fit)
            file.flush()

        yield add


def merge_growth(
    path: Path,
    shards: Iterable[tuple[str, Path]],
    provenance: Mapping[str, Any],
    *,
    forecaster: str = "mechanistic",
    prior: str | None = None,
) -> None:
    """Write one growth file from others, whole or not at all: (patient, the file that has it), in the order given."""
    with _new_file(path, provenance, forecaster, prior) as file:
        for patient_id, shard in shards:
            with h5py.File(shard, "r") as source:
                source.copy(f"{PATIENTS}/{patient_id}", file.root[PATIENTS], patient_id)


@contextmanager
def _new_file(path: Path, provenance: Mapping[str, Any], forecaster: str, prior: str | None) -> Iterator[NewFile]:
    """A new file without a patient yet; its group of patients keeps the order they are added in."""
    with new_hdf5(path) as file:
        attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, "forecaster": forecaster}
        attributes |= {"provenance": json.dumps(provenance, sort_keys=True)} | (
            {} if prior is None else {"prior": prior}
        )
        file.root.attrs.update(attributes)
        file.root.create_group(PATIENTS, track_order=True)
        yield file


def _fill(group: h5py.Group, fit: GrowthFit) -> None:
    series = fit.series
    attributes = {
        "law": str(fit.law),
        "parameter_names": np.array(fit.parameter_names, dtype=TEXT),
        "loss": fit.loss,
        "loss_name": fit.loss_name,
        "origin_day": fit.origin_day,
        "doses": fit.doses,
        "status": str(fit.status),
        "notes": np.array(fit.notes, dtype=TEXT),
        "interval_names": np.array(list(fit.intervals), dtype=TEXT),
        "intervals": np.array(list(fit.intervals.values()), dtype=np.float64).reshape(-1, 2),
        "size_name": series.size_name,
        "inferred_resection_days": np.array(fit.inferred_resections, dtype=np.float64),
    }
    errors = {} if fit.errors is None else asdict(fit.errors)
    group.attrs.update(attributes | errors | treatment_attributes(series.treatment))
    vectors = {"days": series.days, "sizes": series.sizes, "parameters": fit.parameters}
    if series.companion is not None:
        vectors["companion"] = series.companion
    for name, values in vectors.items():
        group.create_dataset(name, data=np.asarray(values, dtype=np.float64))
    _pack(group, "replicates", fit.replicates, np.dtype(np.float64))
    _pack(group, "replicate_status", fit.replicate_status, STATUS)
    _pack(group, "deviations", fit.deviations, np.dtype(np.float64))


def _pack(group: h5py.Group, name: str, rows: npt.NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Write rows: (B,) or (B, P), compressed in chunks of some rows if they are more than one chunk."""
    per_chunk = CHUNK_BYTES // max(rows[:1].nbytes, 1)
    packed = {"chunks": (per_chunk, *rows.shape[1:]), **PACKED} if len(rows) > per_chunk else {}
    group.create_dataset(name, data=rows, dtype=dtype, **packed)


def read_growth(path: Path) -> "GrowthFile":
    """The fits by patient. Raises InputError if the file is missing, is not ours, or is of another version."""
    with _opened(path) as file:
        form, version = file.attrs.get("format"), file.attrs.get("format_version")
        if form != FORMAT:
            raise InputError(f"{path}: format {form}, expected {FORMAT}; make it with `tumorcast fit`")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path}: format_version {version}, and this tumorcast reads {FORMAT_VERSION}; "
                "make it again with `tumorcast fit`"
            )
        record = json.loads(file.attrs["provenance"])
        return GrowthFile(path, record, file.attrs["forecaster"], file.attrs.get("prior"))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as fault:
        raise InputError(f"{path}: {why_unreadable(path, fault)}; make it with `tumorcast fit`") from None


@dataclass(frozen=True, eq=False)
class GrowthFile(Mapping[str, GrowthFit]):
    """The fits by patient, in the order they were written in; each is read when it is asked for.

    No file is held open: every access opens it, which takes 0.2 ms.
    """

    path: Path
    provenance: dict[str, Any]
    forecaster: str
    prior: str | None

    def __getitem__(self, patient_id: str) -> GrowthFit:
        """The fit of a patient, read from the file."""
        with _opened(self.path) as file:
            if patient_id not in file[PATIENTS]:
                raise KeyError(patient_id)
            return _read(patient_id, file[PATIENTS][patient_id])

    def __contains__(self, patient_id: object) -> bool:
        """Whether the patient is there; nothing of it is read."""
        with _opened(self.path) as file:
            return isinstance(patient_id, str) and patient_id in file[PATIENTS]

    def __iter__(self) -> Iterator[str]:
        """The patients, in their order."""
        with _opened(self.path) as file:
            names = list(file[PATIENTS])
        return iter(names)

    def __len__(self) -> int:
        """How many patients there are."""
        with _opened(self.path) as file:
            return len(file[PATIENTS])

    def series(self, patient_id: str) -> SizeSeries:
        """The sizes that a patient's fit is of; no replicate is read. Raises KeyError if the patient is not there."""
        with _opened(self.path) as file:
            return _read_series(patient_id, file[PATIENTS][patient_id])

    def forecast(self, patient_id: str) -> GrowthForecast:
        """What the file's own forecaster says of a patient. Raises KeyError if the patient is not there."""
        fit = self[patient_id]
        prior = self._population.for_size(fit.series.size_name) if self._population else None
        return GrowthForecast(fit, prior, Forecaster(self.forecaster))

    @cached_property
    def _population(self) -> PopulationPrior | None:
        return None if self.prior is None else parse_prior(self.prior, f"{self.path}: its prior")

    def statuses(self) -> dict[str, FitStatus]:
        """How the fit of each patient ended; no replicate is read."""
        with _opened(self.path) as file:
            return {name: FitStatus(group.attrs["status"]) for name, group in file[PATIENTS].items()}


def _read(patient_id: str, group: h5py.Group) -> GrowthFit:
    attributes = group.attrs
    limits = zip(attributes["interval_names"], attributes["intervals"].tolist(), strict=True)
    return GrowthFit(
        series=_read_series(patient_id, group),
        law=LawName(attributes["law"]),
        parameter_names=tuple(attributes["parameter_names"]),
        parameters=group["parameters"][()],
        replicates=group["replicates"][()],
        replicate_status=group["replicate_status"].astype(np.uint8)[()],
        loss=float(attributes["loss"]),
        loss_name=attributes["loss_name"],
        status=FitStatus(attributes["status"]),
        origin_day=float(attributes["origin_day"]),
        deviations=group["deviations"][()],
        doses=bool(attributes["doses"]),
        errors=_read_errors(attributes),
        notes=tuple(attributes["notes"]),
        intervals={name: (lower, upper) for name, (lower, upper) in limits},
        inferred_resections=tuple(map(float, attributes.get("inferred_resection_days", ()))),
    )


def _read_series(patient_id: str, group: h5py.Group) -> SizeSeries:
    attributes = group.attrs
    companion = group["companion"][()] if "companion" in group else None
    return SizeSeries(
        patient_id,
        attributes["size_name"],
        group["days"][()],
        group["sizes"][()],
        treatment_from(attributes),
        companion,
    )


def _read_errors(attributes: h5py.AttributeManager) -> ErrorModel | None:
    names = [field.name for field in fields(ErrorModel)]
    return ErrorModel(**{name: float(attributes[name]) for name in names}) if names[0] in attributes else None
