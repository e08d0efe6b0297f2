"""What export-maps writes, before the validator of the BIDS specification itself (bids-validator-deno, from PyPI)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tumorcast.archive.bids_export import export_bids
from tumorcast.archive.maps import PatientForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.records import PatientOutcome, Status

Maker = Callable[..., Any]
GRID = {"size": [9, 8, 12], "spacing": [1.0, 1.0, 3.0], "origin": [1.0, 2.0, 3.0]}
GRID["direction"] = [0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def validator() -> str:
    """The validator beside this Python; without it a test is skipped, and in CI it fails."""
    found = Path(sys.executable).with_name("bids-validator-deno")
    if found.exists():
        return str(found)
    if os.environ.get("CI") == "true":
        pytest.fail("bids-validator-deno is missing, and CI must validate what is exported: bin/setup full installs it")
    pytest.skip("bids-validator-deno is missing on this machine; tumorcast[test] has it")


@pytest.fixture
def data_set(make_slice: Maker, make_images: Maker, tmp_path: Path) -> Path:
    """The data set of two patients, of whom one was forecast for a day; and one that failed."""
    patients = []
    for patient_id, day in (("PID-1", None), ("PID_2", 95.0)):
        patient = PatientForecast(patient_id, "base-line", 5.0, day, None, None, GRID)
        slices = {f"{number:04d}": make_slice(make_images(number, 2, 8), number) for number in (7, 11)}
        shard, key = tmp_path / f"{patient_id}.shard", ShardKey("run", patient_id)
        write_shard(shard, key, patient, slices)
        patients.append(PatientShards(patient_id, {name: [(shard, key)] for name in slices}))
    outcomes = [PatientOutcome(patient.patient_id, Status.OK) for patient in patients]
    provenance = {"contrasts": ["t1n", "t1c", "t2w", "t2f"], "settings": {"seed": 1}, "model_sha256": "5a"}
    merge(tmp_path / "maps.h5", patients, provenance, [*outcomes, PatientOutcome("PID3", Status.FAILED, "no fit")])
    export_bids(tmp_path / "maps.h5", tmp_path / "bids")
    return tmp_path / "bids"


def errors(validator: str, data_set: Path, cache: Path) -> list[str]:
    """The errors that the validator finds, as CODE file; deno keeps its cache where it is told to."""
    done = subprocess.run(
        [validator, str(data_set), "--json"],
        env=os.environ | {"DENO_DIR": str(cache), "DENO_NO_UPDATE_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert sorted(report["summary"]["subjects"]) == ["PID1", "PID2"]
    assert report["summary"]["totalFiles"] == sum(path.is_file() for path in data_set.rglob("*"))
    return [f"{one['code']} {one['location']}" for one in report["issues"]["issues"] if one["severity"] == "error"]


@pytest.mark.slow
def test_the_validator_finds_no_error_and_finds_one_that_is_planted(
    validator: str, data_set: Path, tmp_path: Path
) -> None:
    assert errors(validator, data_set, tmp_path / "deno") == []
    image = next(data_set.rglob("*sub-PID1*space-orig_label-tumor_probseg.nii.gz"))
    image.rename(image.with_name(image.name.replace("probseg", "probability")))
    found = {one.split()[0] for one in errors(validator, data_set, tmp_path / "deno")}
    assert found == {"NOT_INCLUDED", "SIDECAR_WITHOUT_DATAFILE"}
