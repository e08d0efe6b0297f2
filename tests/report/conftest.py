"""A report of a small archive with all that is awkward: marks of HTML in names, paths in reasons, a broken patient."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.archive.conftest import images_of, patient_of, slice_of, volume_of
from tests.fakes import write_growth
from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast, VolumeForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.durable import sha256_of
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import (
    Forecaster,
    PatientOutcome,
    RadiotherapyCourse,
    SessionVolume,
    SizeSeries,
    Status,
    Treatment,
)
from tumorcast.report.html import WrittenReport, write_report
from tumorcast.running.ranks import Ranks

SIDE = 32
TAGGED = 'Q<b>"&amp;'  # a name as HTML would like it least
SECRET = "/home/ada lovelace/Jane Doe 1961/scan 1.nii.gz"
SLICES = {"P1": (7, 9), "P2": (7,), TAGGED: (7,), "broken": (7,)}
AIMS = {"P1": 150.0, "P2": 50.0, TAGGED: 120.0, "broken": 120.0}
AFFINE = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 40], [0, 0, 3.0, -50], [0, 0, 0, 1]])
QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
CONTRASTS = ["t1n", "t1c", "t2w", "t2f"]
VOLUME_SHAPE = (24, 28, 26)
VOLUME_GRID = {"size": [32, 32, 12], "spacing": [2.0, 2.0, 3.0], "origin": [-30.0, -40.0, -50.0]}
VOLUME_GRID["direction"] = np.eye(3).ravel().tolist()
GREYS = {7: 0.25, 9: 0.75}  # of the brain of a slice, black 0 to white 1


def forecast_of(number: int, aim: float) -> SliceForecast:
    """A slice: an even brain with a bright mark at the patient's right, and a map that is 1 in its tumour, else 0.

    100 mm² of tumour now; members aim at `aim` and about, and reach it but for slice 9, which is far too large.
    """
    rows, columns = np.mgrid[:SIDE, :SIDE]
    brain = np.hypot(rows - 16, columns - 16) < 12
    tumour = np.hypot(rows - 16, columns - 20) < 3
    image = np.where(brain, 2 * GREYS[number] - 1, -1.0).astype(np.float32)
    image[14:18, 6:9] = 1.0
    likely = tumour.astype(np.float32)
    aims = aim + np.arange(-3.0, 4.0)
    return replace(
        slice_of(images_of(number, 7, SIDE), number),
        image=np.tile(image, (4, 1, 1)),
        mean=np.tile(-image * brain - (~brain), (4, 1, 1)).astype(np.float32),
        labels=tumour.astype(np.uint8),
        brain=brain,
        affine=AFFINE,
        growth=likely,
        tumour=likely,
        tumour_now=likely,
        changed=np.float32(0.5) * likely,
        present_mm2=100.0,
        present_segmented_mm2=100.0,
        aimed_mm2=aims,
        reached_mm2=aims if number == 7 else 2 * aims,
    )


def curve_of() -> dict[str, Any]:
    """The curve that an archive holds."""
    days = np.linspace(0, 120, 9)
    observed = {"observed_days": np.array([0.0, 30.0]), "observed_sizes": np.array([90.0, 100.0])}
    return {"days": days, "q05": 80 + days / 9, "q50": 90 + days / 4, "q95": 100 + days, **observed}


def patient_with_curve(name: str) -> PatientForecast:
    """A patient whose scan of day 30 is forecast for day 90; "broken" lacks what a curve must have."""
    curve = {"days": np.arange(3.0)} if name == "broken" else curve_of()
    if name == "P2":
        curve |= {quantile: 0.5 * curve[quantile] for quantile in ("q05", "q50", "q95")}  # shrinking
    elif name not in {"P1", "broken"}:
        curve |= {"q50": curve["q50"] - 5}
    return replace(patient_of(name), day=30.0, target_day=90.0, curve=curve)


def write_fit(path: Path) -> Path:
    """The growth file of P1, fitted alone, treated on days that a page must tell."""
    treatment = Treatment((RadiotherapyCourse(10.0, 52.0, 60.0, 30),), (), (20.0,))
    series = SizeSeries("P1", "area_mm2", np.array([0.0, 15.0, 30.0]), np.array([80.0, 90.0, 100.0]), treatment)
    write_growth(
        path, [GrowthModel(QUICK, Forecaster.MECHANISTIC, fixed_prior(None)).fit(series)], {"version": "0.1.0"}
    )
    return path


def write_maps(path: Path, growth_sha256: str | None = None) -> Path:
    """The archive: four patients, one who failed and one who was skipped."""
    shards = []
    for name, numbers in SLICES.items():
        slices = {f"{number:04d}": forecast_of(number, AIMS[name]) for number in numbers}
        shard, key = path.with_suffix(".parts") / f"{len(shards)}.h5", ShardKey("run", f"{name}/0000.000")
        write_shard(shard, key, patient_with_curve(name), slices)
        shards.append(PatientShards(name, {number: [(shard, key)] for number in slices}))
    failed = PatientOutcome("P9", Status.FAILED, f"{SECRET}: 3 of 4 contrasts found (no t2f); add it")
    skipped = PatientOutcome("P10", Status.SKIPPED, "no tumour <i>")
    outcomes = [*(PatientOutcome(name, Status.OK) for name in SLICES), failed, skipped]
    told = {"contrasts": CONTRASTS, "version": "0.1.0", "growth_sha256": growth_sha256, "settings": {"seed": 7}}
    merge(path, shards, told, outcomes)
    return path


def write_evaluation(folder: Path, provenance: dict[str, Any]) -> Path:
    """What `tumorcast evaluate` writes, as far as a report reads it; P1 was judged, P2 was not."""
    means = {
        "dice": {"value": 0.875, "low": 0.8, "high": 0.95, "patients": 2},
        "ap": {"value": 0.5, "low": None, "high": None, "patients": 1},
    }
    areas = {"present_mm2": 100.0, "true_mm2": 140.0, "aimed_mm2": [140.0, 160.0], "reached_mm2": [150.0, 150.0]}
    methods = {"product": {"dice": 0.9, "hd95_mm": 2.0, "ap": None}, "no_change": {"dice": 0.8}}
    told = {
        "archive": {"name": "maps.h5", "provenance": provenance},
        "settings": {"size": "aimed"},
        "notes": [f"the truth is {SECRET}"],
        "methods": [{"method": name, "means": means} for name in methods],
        "outcomes": [{"patient_id": "P2", "status": "skipped", "reason": f"not in {SECRET}"}],
        "patients": [
            {
                "patient_id": "P1",
                "days": 63.0,
                "days_off": 3.0,
                "slices_left_out": 1,
                "slices": [{"methods": methods, "areas": areas}],
            }
        ],
    }
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Made:
    """A report, and what it was made from."""

    out: Path
    maps: Path
    growth: Path
    evaluation: Path
    written: WrittenReport


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The report, made once with all that can be given; tests change nothing of it."""
    folder = tmp_path_factory.mktemp("html")
    growth = write_fit(folder / "growth.h5")
    maps = write_maps(folder / "maps.h5", sha256_of(growth))
    with MapArchive.open(maps) as archive:
        evaluation = write_evaluation(folder / "evaluation", archive.provenance)
    written = write_report(maps, folder / "report", Ranks(), growth=growth, evaluation=evaluation, pictures=1)
    return Made(folder / "report", maps, growth, evaluation, written)


def ball_volume() -> SessionVolume:
    """A ball of brain with a tumour at the patient's left and back, and a bright mark at the other end."""
    z, y, x = np.indices(VOLUME_SHAPE)
    brain = (z - 12) ** 2 / 11**2 + (y - 14) ** 2 / 13**2 + (x - 13) ** 2 / 12**2 < 1
    labels = np.where((z - 9) ** 2 + (y - 18) ** 2 + (x - 17) ** 2 < 9, 3, 0).astype(np.uint8)
    image = np.where(brain, 100, 0).astype(np.uint8)
    image[18:20, 7:9, 9:11] = 255
    affine = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 40], [0, 0, 2.0, -50], [0, 0, 0, 1]])
    return SessionVolume(np.tile(image, (4, 1, 1, 1)), labels, brain, affine, 3.0)


@pytest.fixture(scope="session")
def foretold() -> VolumeForecast:
    return volume_of(ball_volume())


@pytest.fixture(scope="session")
def volume_maps(foretold: VolumeForecast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """P1 has a volume alone, P2 a volume and a slice, P3 failed."""
    folder = tmp_path_factory.mktemp("volumes")
    shards = []
    for name, slices in (("P1", {}), ("P2", {"0007": forecast_of(7, 120.0)})):
        patient = replace(patient_with_curve("P1"), patient_id=name, target_day=60.0, source_grid=VOLUME_GRID)
        key = ShardKey("run", name)
        write_shard(folder / f"{name}.slices", key, patient, slices)
        write_shard(folder / f"{name}.volume", key, patient, {}, foretold)
        stands = {number: [(folder / f"{name}.slices", key)] for number in slices}
        shards.append(PatientShards(name, stands, (folder / f"{name}.volume", key)))
    told = {"contrasts": CONTRASTS, "engine": None, "judge": None, "place": {"name": "front"}, "settings": {"seed": 7}}
    outcomes = [PatientOutcome("P1", Status.OK), PatientOutcome("P2", Status.OK)]
    merge(folder / "maps.h5", shards, told, [*outcomes, PatientOutcome("P3", Status.FAILED, "no mask; draw one")])
    return folder / "maps.h5"


@pytest.fixture(scope="session")
def volume_report(volume_maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(volume_maps, out, Ranks())
    return out
