"""The layout of each HDF5 file against its golden listing, and copies that a bare HDF5 reader opens.

A layout that changes is a new version of the format: raise FORMAT_VERSION, and write its listing with
TUMORCAST_GOLDEN=write.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.archive.conftest import volume_of
from tests.fakes import write_growth
from tumorcast.archive import growth_file, maps
from tumorcast.archive.info import layout_of
from tumorcast.archive.maps import PatientForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.packing import Packing
from tumorcast.archive.repack import repack
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.archive.verify import digest, verify
from tumorcast.cli.archive import archive
from tumorcast.data import cohort as cohort_file
from tumorcast.data.cohort import Cohort, deformed, write_cohort
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.transforms import Displacement
from tumorcast.errors import InputError, UsageError
from tumorcast.records import (
    Contrast,
    ErrorModel,
    FitStatus,
    GrowthFit,
    LawName,
    PatientOutcome,
    RadiotherapyCourse,
    SessionVolume,
    SizeSeries,
    Status,
    Treatment,
)

GOLDEN = Path(__file__).parents[1] / "golden"
Maker = Callable[..., Any]
SHAPES = {  # of the files made here, as docs/formats.md calls them
    "maps": {
        "(4, 40, 40)": "(C, H, W)",
        "(3, 4, 40, 40)": "(M, C, H, W)",
        "(40, 40)": "(H, W)",
        "(3,)": "(M,)",
        "(5,)": "(D,)",
        "(2,)": "(T,)",
        "(6,)": "(H,)",
        "(1, 18, 19, 20)": "(C, Z, Y, X)",
        "(6, 18, 19, 20)": "(H, Z, Y, X)",
        "(18, 19, 20)": "(Z, Y, X)",
        "(6, 8)": "(H, M)",
    },
    "cohort": {
        "(3, 4, 64, 64)": "(S, C, H, W)",
        "(3, 64, 64)": "(S, H, W)",
        "(3,)": "(S,)",
        "(0|1,)": "(courses,)",
        "(4, 5, 6, 3)": "(Z, Y, X, 3)",
        "(1, 18, 19, 20)": "(C, Z, Y, X)",
        "(18, 19, 20)": "(Z, Y, X)",
    },
    "growth": {"(70000, 2)": "(B, P)", "(70000,)": "(B,)", "(3,)": "(T,)", "(2,)": "(P,)", "(0, 2)": "(K, 2)"},
}


def fit(patient_id: str, replicates: int) -> GrowthFit:
    sizes = np.array([9.0, 10.0, 12.5])
    return GrowthFit(
        series=SizeSeries(patient_id, "area_mm2", np.array([0.0, 50.0, 100.0]), sizes),
        law=LawName.EXPONENTIAL,
        parameter_names=("rate_per_day", "initial_size"),
        parameters=np.ones(2),
        replicates=np.ones((replicates, 2)),
        replicate_status=np.zeros(replicates, np.uint8),
        loss=0.1,
        loss_name="log_squares",
        status=FitStatus.CONVERGED,
        origin_day=0.0,
        deviations=np.zeros(replicates),
    )


def small_volume() -> SessionVolume:
    labels = np.zeros((18, 19, 20), np.uint8)
    labels[4:7, 4:7, 4:7] = 3
    return SessionVolume(labels[None], labels, labels >= 0, np.diag([-2.0, -2.0, 2.0, 1.0]), 2.0)


@pytest.fixture
def growth(tmp_path: Path) -> Path:
    """One patient as bare as it can be, and one with all that may be told, and more replicates than a chunk."""
    errors = ErrorModel(measurement_sd=0.1, departure_sd=0.5, departure_days=30.0)
    full = fit("P2", 70_000)
    full = replace(full, errors=errors, series=replace(full.series, companion=np.ones(3)))
    write_growth(tmp_path / "growth.h5", [fit("P1", 70_000), full], {"version": "0"}, forecaster="pooled", prior="{}")
    return tmp_path / "growth.h5"


@pytest.fixture
def cohort(blob: Maker, tmp_path: Path) -> Path:
    """Two patients, one irradiated; one scan of three was bent onto the first, and one has a volume."""
    treatments = {"B": Treatment((RadiotherapyCourse(10.0, 52.0),))}
    lattice = Grid((6, 5, 4), (32.0, 32.0, 20.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    still = [replace(blob("A", "000", 0.0, 4.0), volume=small_volume()), blob("B", "000", 0.0, 5.0)]
    moved = deformed(blob("B", "001", 60.0, 6.0), Displacement(np.ones((4, 5, 6, 3), np.float32), lattice))
    path = tmp_path / "cohort.h5"
    write_cohort(path, [*still, moved], treatments, image_size=64, contrasts=tuple(Contrast), config={})
    return path


@pytest.fixture
def archived(make_slice: Maker, make_images: Maker, tmp_path: Path) -> Path:
    """One patient with a curve, a volume, kept members, and a growth map in one of two slices; one is bare."""
    curve = {name: np.arange(5.0) for name in ("days", "q05", "q50", "q95")}
    curve |= {name: np.arange(2.0) for name in ("observed_days", "observed_sizes")}
    full = PatientForecast("P1", "000", 5.0, 35.0, "area_mm2", curve, {"size": [8, 8, 9]})
    bare = PatientForecast("P2", "000", 5.0, None, None, None, {"size": [8, 8, 9]})
    patients = []
    for patient, numbers, keep in ((full, (7, 11), True), (bare, (7,), False)):
        slices = {f"{number:04d}": make_slice(make_images(number, 3, 40), number, keep=keep) for number in numbers}
        shard, key = tmp_path / f"{patient.patient_id}.shard", ShardKey("run", patient.patient_id)
        write_shard(shard, key, patient, slices)
        whole = tmp_path / f"{patient.patient_id}.volume", key
        write_shard(*whole, patient, {}, volume_of(small_volume(), tuple(30.0 * k for k in range(1, 7))))
        stands = {name: [(shard, key)] for name in slices}
        patients.append(PatientShards(patient.patient_id, stands, whole if keep else None))
    outcomes = [PatientOutcome(name, Status.OK) for name in ("P1", "P2")]
    merge(tmp_path / "maps.h5", patients, {"contrasts": ["t1n", "t1c", "t2w", "t2f"]}, outcomes)
    return tmp_path / "maps.h5"


@pytest.mark.parametrize(
    ("name", "version", "made"),
    [
        ("maps", maps.FORMAT_VERSION, "archived"),
        ("cohort", cohort_file.FORMAT_VERSION, "cohort"),
        ("growth", growth_file.FORMAT_VERSION, "growth"),
    ],
)
def test_the_layout_is_the_golden_one(name: str, version: int, made: str, request: pytest.FixtureRequest) -> None:
    found = []
    for line in layout_of(request.getfixturevalue(made)):
        place, _, rest = line.partition(" ")
        for shape, pattern in SHAPES[name].items():
            rest = rest.replace(f" {shape}", f" {pattern}")
        found.append(f"{place} {rest}".strip())
    golden = GOLDEN / f"{name}-{version}.txt"
    if os.environ.get("TUMORCAST_GOLDEN") == "write":
        golden.write_text("\n".join(found) + "\n", encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["maps", "cohort", "growth"])
def test_every_place_is_in_the_documentation(name: str) -> None:
    """docs/formats.md names every data set and attribute of the golden listings."""
    text = (GOLDEN.parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    (golden,) = GOLDEN.glob(f"{name}-*.txt")
    for line in golden.read_text(encoding="utf-8").splitlines():
        last = line.split()[0].replace("@", "/").rpartition("/")[2]
        assert not last or last in {"ID", "SESSION", "NNNN"} or last in text, f"{last} is not in docs/formats.md"


READ_ALL = """
import sys
sys.modules["hdf5plugin"] = None  # as if it were not installed
import h5py
def read(name, item):
    if isinstance(item, h5py.Dataset):
        item[()]
with h5py.File(sys.argv[1]) as file:
    file.visititems(read)
"""


def opens_without_a_plugin(path: Path) -> bool:
    environment = os.environ | {"HDF5_PLUGIN_PATH": str(path.parent)}  # where there are none
    command = [sys.executable, "-c", READ_ALL, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "find plugin" in done.stderr
    return done.returncode == 0


@pytest.mark.slow
def test_a_repacked_archive_says_the_same_and_needs_no_plugin(archived: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    repack(archived, copy)
    assert (digest(copy), verify(copy)) == (digest(archived), [])
    assert (opens_without_a_plugin(archived), opens_without_a_plugin(copy)) == (False, True)
    with maps.MapArchive.open(copy) as new, maps.MapArchive.open(archived) as old:
        assert (new.provenance, new.record, new.packing) == (old.provenance, old.record, Packing.PORTABLE)
    again = tmp_path / "again.h5"
    repack(copy, again, packing=Packing.BLOSC2)
    assert digest(again) == digest(archived) and not opens_without_a_plugin(again)


def test_a_repacked_cohort_says_the_same_and_needs_no_plugin(cohort: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    repack(cohort, copy)
    assert (opens_without_a_plugin(cohort), opens_without_a_plugin(copy)) == (False, True)
    listed = [line.replace("blosc2", "shuffle+gzip+fletcher32") for line in layout_of(cohort)]
    assert layout_of(copy) == listed
    with Cohort.open(copy) as new, Cohort.open(cohort) as old:
        assert new.patient_ids() == old.patient_ids()
        assert (new.contrasts, new.config, new.treatment("B")) == (old.contrasts, old.config, old.treatment("B"))
        found, wanted = new.session("B", "001"), old.session("B", "001")
        field, true_field = (one.displacement("B", "001") for one in (new, old))
    for name in ("images", "labels", "brain", "area_mm2", "brain_mm2", "source_slice", "affine"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert field is not None and true_field is not None and field.grid == true_field.grid
    np.testing.assert_array_equal(field.vectors, true_field.vectors)


def test_growth_files_need_no_plugin(growth: Path) -> None:
    assert opens_without_a_plugin(growth)


def test_what_cannot_be_repacked_is_refused(blob_cohort: Path, archived: Path, growth: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the file itself"):
        repack(archived, archived)
    with pytest.raises(UsageError, match="leave --blosc2 out"):
        repack(blob_cohort, tmp_path / "copy.h5", packing=Packing.BLOSC2)
    with pytest.raises(InputError, match=r"tumorcast-growth, .*tumorcast-maps"):
        repack(growth, tmp_path / "copy.h5")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(InputError, match="is no HDF5 file"):
        layout_of(tmp_path / "text.h5")
    assert not (tmp_path / "copy.h5").exists()


def test_a_damaged_cohort_is_not_repacked(blob_cohort: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(blob_cohort.read_bytes())
    with h5py.File(damaged, "r+") as file:
        images = file["patients/A/000/images"]
        images.id.write_direct_chunk((0, 0, 0, 0), b"\1" * 100)
    with pytest.raises(InputError, match="A cannot be read"):
        repack(damaged, tmp_path / "copy.h5")
    assert not (tmp_path / "copy.h5").exists()


def test_the_commands_layout_and_repack(archived: Path, tmp_path: Path) -> None:
    listed = CliRunner().invoke(archive, ["layout", str(archived)])
    assert listed.stdout.splitlines() == layout_of(archived)
    ended = CliRunner().invoke(archive, ["repack", str(archived), "--out", str(tmp_path / "copy.h5"), "--json"])
    assert json.loads(ended.stdout.splitlines()[-1])["packing"] == "portable"
