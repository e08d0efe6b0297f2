"""growth.h5: the fitted growth law of every patient, with its bootstrap. docs/formats.md describes the layout."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.records import FitStatus, GrowthFit, RadiotherapyCourse, SizeSeries, Treatment

FORMAT, FORMAT_VERSION = "tumorcast-growth", 1


def write_growth(path: Path, fits: Iterable[GrowthFit], provenance: Mapping[str, Any]) -> None:
    """Write the fits of a cohort, whole or not at all."""
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION})
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        patients = file.create_group("patients")
        for fit in fits:
            _fill(patients.create_group(fit.series.patient_id), fit)


def _fill(group: h5py.Group, fit: GrowthFit) -> None:
    courses = fit.series.treatment.radiotherapy
    group.attrs.update(
        {
            "law": fit.law,
            "parameter_names": list(fit.parameter_names),
            "loss": fit.loss,
            "status": str(fit.status),
            "size_name": fit.series.size_name,
            "radiotherapy_start_days": [course.start_days for course in courses],
            "radiotherapy_end_days": [course.end_days for course in courses],
        }
    )
    for name in ("days", "sizes"):
        group.create_dataset(name, data=getattr(fit.series, name))
    group.create_dataset("parameters", data=fit.parameters)
    group.create_dataset("replicates", data=fit.replicates)
    group.create_dataset("replicate_status", data=[str(status) for status in fit.replicate_status])


def read_growth(path: Path) -> dict[str, GrowthFit]:
    """The fits by patient. Raises InputError if the file is missing or is not ours."""
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("format"), file.attrs.get("format_version")
            if found != (FORMAT, FORMAT_VERSION):
                raise InputError(
                    f"{path}: format {found}, expected {(FORMAT, FORMAT_VERSION)}; make it with `tumorcast fit`"
                )
            return {name: _read(name, group) for name, group in file["patients"].items()}
    except OSError as fault:
        raise InputError(f"{path}: cannot be read as HDF5 ({fault}); make it with `tumorcast fit`") from None


def _read(patient_id: str, group: h5py.Group) -> GrowthFit:
    spans = zip(group.attrs["radiotherapy_start_days"], group.attrs["radiotherapy_end_days"], strict=True)
    treatment = Treatment(tuple(RadiotherapyCourse(float(start), float(end)) for start, end in spans))
    series = SizeSeries(patient_id, group.attrs["size_name"], group["days"][()], group["sizes"][()], treatment)
    return GrowthFit(
        series=series,
        law=group.attrs["law"],
        parameter_names=tuple(group.attrs["parameter_names"]),
        parameters=group["parameters"][()],
        replicates=group["replicates"][()],
        replicate_status=tuple(FitStatus(text) for text in np.char.decode(group["replicate_status"][()].astype("S"))),
        loss=float(group.attrs["loss"]),
        status=FitStatus(group.attrs["status"]),
    )
