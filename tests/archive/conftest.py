"""Small shards and archives of made-up ensembles."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from tumorcast.archive.integrity import USER_BLOCK
from tumorcast.archive.maps import PatientForecast, SliceForecast, VolumeForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.packing import Packing
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.forecasting.inputs import UnitReader
from tumorcast.forecasting.plan import RunPlan, Unit, plan_patient
from tumorcast.records import PatientOutcome, SessionVolume, Status
from tumorcast.settings import ForecastSettings

RUN = "0123456789abcdef" * 4
PROVENANCE = {"seed": 1, "settings": {"members": 3}, "contrasts": ["t1n", "t1c", "t2w", "t2f"]}
Images = npt.NDArray[np.float32]
Plan = dict[str, dict[int, list[int]]]  # by patient and slice, the members of each block


def images_of(seed: int, count: int, pixels: int) -> Images:
    """(count, 4, pixels, pixels) noise round a ramp, so that maps compress a little."""
    ramp = np.linspace(-1, 1, pixels, dtype=np.float32)
    noise = np.random.default_rng(seed).standard_normal((count, 4, pixels, pixels), dtype=np.float32)
    return ramp + np.float32(0.1) * noise


def slice_of(members: Images, source_slice: int = 7, *, first: int = 0, keep: bool = False) -> SliceForecast:
    """A slice's forecast from its members, of which the first is number `first`, by numpy alone.

    Slice 11 is of a model with a progression network, and has a growth map.
    """
    pixels = members.shape[-1]
    rng = np.random.default_rng(source_slice)
    image = images_of(source_slice, 1, pixels)[0]
    numbers = np.arange(first, first + len(members), dtype=np.float64)
    return SliceForecast(
        image=image,
        labels=rng.integers(0, 4, (pixels, pixels), dtype=np.uint8),
        brain=rng.random((pixels, pixels)) > 0.5,
        affine=np.diag([1.0, 2.0, 3.0, 1.0]),
        mean=members.mean(axis=0),
        std=members.std(axis=0),
        changed=(np.abs(members - image).sum(axis=1) > 0.4).mean(axis=0, dtype=np.float32),
        tumour=np.tanh(members[:, 0] ** 2).mean(axis=0),
        tumour_now=np.tanh(image[0] ** 2),
        aimed_mm2=100 + numbers,
        reached_mm2=90 + numbers / 2,
        present_mm2=12.5,
        present_segmented_mm2=13.5,
        source_slice=source_slice,
        members=members if keep else None,
        growth=np.tanh(members[:, 1] ** 2).mean(axis=0) if source_slice == 11 else None,
    )


def patient_of(patient_id: str = "P1", *, curve: bool = True) -> PatientForecast:
    """A patient, with or without a growth curve."""
    values = {"days": np.arange(600.0), "q50": np.linspace(1, 2, 600), "observed_days": np.arange(3.0)}
    return PatientForecast(
        patient_id,
        "000",
        5.0,
        35.0 if curve else None,
        "area_mm2" if curve else None,
        values if curve else None,
        {"size": [8, 8, 9], "spacing": [1.0, 1.0, 2.0]},
    )


def write_run(
    folder: Path, plan: Plan, *, pixels: int = 8, keep: bool = False, curve: bool = True
) -> list[PatientShards]:
    """Write a shard for each slice and block of a plan."""
    patients = []
    for patient_id, slices in plan.items():
        shards: dict[str, list[tuple[Path, ShardKey]]] = {}
        for number, blocks in slices.items():
            members = images_of(number, sum(blocks), pixels)
            ends = np.cumsum(blocks)
            for block, (end, count) in enumerate(zip(ends, blocks, strict=True)):
                name = f"{number:04d}"
                part = slice_of(members[end - count : end], number, first=int(end - count), keep=keep)
                path = folder / patient_id / f"{name}.{block:03d}.h5"
                key = ShardKey(RUN, f"{patient_id}/{name}.{block:03d}")
                write_shard(path, key, patient_of(patient_id, curve=curve), {name: part})
                shards.setdefault(name, []).append((path, key))
        patients.append(PatientShards(patient_id, shards))
    return patients


def write_archive(path: Path, plan: Plan, *, packing: Packing = Packing.BLOSC2, **options: Any) -> Path:
    """Write the shards of a plan, and the archive of them."""
    patients = write_run(path.with_suffix(".parts"), plan, **options)
    outcomes = [PatientOutcome(patient_id, Status.OK) for patient_id in plan]
    merge(path, patients, PROVENANCE, [*outcomes, PatientOutcome("P9", Status.FAILED, "no fit")], packing=packing)
    return path


def forecast_of(present: CohortSlice, seed: int) -> SliceForecast:
    """A made-up forecast of a real slice, with other values in each of its maps."""
    rng = np.random.default_rng(seed)
    shape = present.labels.shape
    maps = {name: rng.random(shape, np.float32) for name in ("changed", "tumour", "tumour_now", "growth")}
    images = {name: rng.uniform(-1, 1, present.image.shape).astype(np.float32) for name in ("mean", "std")}
    return SliceForecast(
        present.image,
        present.labels,
        present.brain,
        present.affine,
        **maps,
        **images,
        aimed_mm2=np.array([present.area_mm2 + 100]),
        reached_mm2=np.array([present.area_mm2 + 90]),
        present_mm2=present.area_mm2,
        present_segmented_mm2=present.area_mm2,
        source_slice=present.source_slice,
    )


def volume_of(present: SessionVolume, days: tuple[float, ...] = (30.0, 90.0), members: int = 8) -> VolumeForecast:
    """A made-up forecast of a volume: balls about the middle of its tumour, that grow by 1 in ln volume a horizon."""
    voxels = np.moveaxis(np.indices(present.labels.shape), 0, -1)
    radius = (present.volume_mm3 / present.voxel_mm**3 * 3 / (4 * np.pi)) ** (1 / 3)
    distance = np.linalg.norm(voxels - voxels[present.tumour].mean(axis=0), axis=-1)
    log_volume = np.where(present.brain, 3 * np.log(np.maximum(distance, 0.5) / radius), np.inf).astype(np.float16)
    later = np.linspace(0.0, 1.0, members) * np.arange(1, len(days) + 1)[:, None]
    surely = 1 / (1 + np.exp(8 * (log_volume.astype(np.float64) - later[..., None, None, None])))
    growth = surely.mean(axis=1).astype(np.float16)
    return VolumeForecast(
        image=present.images,
        labels=present.labels,
        brain=present.brain,
        affine=np.asarray(present.affine),
        growth=growth,
        log_volume=log_volume,
        horizon_days=np.array(days),
        target_ratio=np.exp(later),
        expected_mm3=growth.sum(axis=(1, 2, 3), dtype=np.float64) * present.voxel_mm**3,
        present_mm3=present.volume_mm3,
        model="made-up",
    )


def archive_of_volumes(cohort_path: Path, path: Path, days: tuple[float, ...] = (30.0, 90.0)) -> Path:
    """An archive of made-up forecasts of the volume of the last scan of every patient; no days: of a change."""
    settings, patients = ForecastSettings(relative_change=0.25), []
    with Cohort.open(cohort_path) as cohort:
        for name in cohort.patient_ids():
            last = cohort.sessions(name)[-1]
            unit = Unit(name, last.id, (), 0, 0, 8)
            patient = UnitReader(cohort, None, settings).read(unit).patient
            present = cohort.volume(name, last.id)
            assert present is not None
            foretold = volume_of(present, days or (np.nan,))
            target = patient.day + days[0] if days else None
            shard, key = path.parent / f"{path.stem}.parts" / f"{name}.h5", ShardKey("run", unit.name)
            write_shard(shard, key, replace(patient, target_day=target), {}, foretold)
            patients.append(PatientShards(name, {}, (shard, key)))
        contrasts, sha256 = [str(contrast) for contrast in cohort.contrasts], cohort.sha256
    told = {"horizon_days": days[0], "later_horizons": list(days[1:])} if days else {"relative_change": 0.25}
    provenance = {
        "cohort_sha256": sha256,
        "contrasts": contrasts,
        "engine": None,
        "place": {"name": "made-up", "sha256": "5b"},
        "settings": {"seed": 4, **told},
    }
    merge(path, patients, provenance, [PatientOutcome(patient.patient_id, Status.OK) for patient in patients])
    return path


def archive_of_cohort(cohort_path: Path, path: Path, max_slices: int | None = None) -> Path:
    """An archive of made-up forecasts of the last scan of every patient of a cohort, told as a run tells them."""
    settings, patients = ForecastSettings(relative_change=0.25, members=1, batch=1000), []
    with Cohort.open(cohort_path) as cohort:
        plan = RunPlan.of(tuple(plan_patient(cohort, name, max_slices) for name in cohort.patient_ids()), settings)
        for unit in plan:
            read = UnitReader(cohort, None, settings).read(unit)
            slices = {
                place.name: forecast_of(one, one.source_slice)
                for place, one in zip(unit.slices, read.slices, strict=True)
            }
            patient = replace(read.patient, target_day=read.patient.day + 90, size_name="area_mm2")
            shard, key = path.parent / f"{path.stem}.parts" / f"{unit.patient_id}.h5", ShardKey("run", unit.name)
            write_shard(shard, key, patient, slices)
            patients.append(PatientShards(unit.patient_id, {name: [(shard, key)] for name in slices}))
        contrasts, sha256 = [str(contrast) for contrast in cohort.contrasts], cohort.sha256
    provenance = {
        "cohort_sha256": sha256,
        "contrasts": contrasts,
        "model_sha256": "5a",
        "settings": {"horizon_days": 90.0, "relative_change": None, "change_threshold": 0.3, "seed": 4},
    }
    merge(path, patients, provenance, [PatientOutcome(patient.patient_id, Status.OK) for patient in patients])
    return path


@pytest.fixture(scope="session")
def archive_of() -> Callable[..., Path]:
    return archive_of_cohort


@pytest.fixture
def make_slice() -> Callable[..., SliceForecast]:
    return slice_of


@pytest.fixture
def make_images() -> Callable[[int, int, int], Images]:
    return images_of


@pytest.fixture
def make_patient() -> Callable[..., PatientForecast]:
    return patient_of


@pytest.fixture
def make_run() -> Callable[..., list[PatientShards]]:
    return write_run


@pytest.fixture
def make_archive() -> Callable[..., Path]:
    return write_archive


def content_starts(content: bytearray) -> int:
    """Where addresses of the file count from: HDF5 gives them from the start of the file or of the superblock."""
    return 0 if h5py.version.hdf5_version_tuple >= (1, 14) else USER_BLOCK
