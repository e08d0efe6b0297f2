"""The commands of `tumorcast archive`, as a user runs them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tumorcast.archive.maps import PatientForecast, SliceForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.archive.verify import digest, verify
from tumorcast.cli.archive import archive
from tumorcast.errors import InputError
from tumorcast.records import PatientOutcome, Status

Run = Callable[..., Result]


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    image, ones = np.ones((4, 8, 8), np.float32), np.ones((8, 8), np.float32)
    sizes = np.arange(2.0)
    forecast = SliceForecast(
        image, ones.astype(np.uint8), ones > 0, np.eye(4), image, image, ones, ones, ones, sizes, sizes, 1.0, 2.0, 7
    )
    shards = []
    for patient_id in ("P1", "P2"):
        path, key = tmp_path / "parts" / f"{patient_id}.h5", ShardKey("run", f"{patient_id}/0007.000")
        write_shard(path, key, PatientForecast(patient_id, "000", 0.0, None, None, None, {}), {"0007": forecast})
        shards.append(PatientShards(patient_id, {"0007": [(path, key)]}))
    outcomes = [PatientOutcome("P1", Status.OK), PatientOutcome("P2", Status.OK)]
    merge(tmp_path / "maps.h5", shards, {"settings": {"members": 2}}, outcomes)
    return tmp_path / "maps.h5"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(archive, [str(argument) for argument in arguments])


def last_json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_info_tells_counts_and_settings(maps: Path) -> None:
    found = last_json(run("info", maps, "--json"))
    assert (found["patients"], found["slices"], found["members"]) == (2, 2, 2)
    assert found["provenance"] == {"settings": {"members": 2}}
    assert "packing: blosc2" in run("info", maps).stdout


def test_verify_of_a_whole_archive(maps: Path) -> None:
    assert last_json(run("verify", maps, "--json")) == {"archive": str(maps), "whole": True, "faults": []}
    assert "whole: True" in run("verify", maps).stdout


def test_verify_ends_with_3_and_a_line_a_fault(maps: Path) -> None:
    content = bytearray(maps.read_bytes())
    content[-1] ^= 1
    maps.write_bytes(content)
    result = run("verify", maps, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout.splitlines()[-1])["faults"] == result.stderr.splitlines()
    assert "the sum of its bytes is not right" in result.stderr


def test_digest_prints_the_sum_alone(maps: Path) -> None:
    assert run("digest", maps).stdout.split() == [digest(maps)]
    assert last_json(run("digest", maps, "--json"))["digest"] == digest(maps)


def test_digest_of_a_damaged_archive_is_refused(maps: Path) -> None:
    maps.write_bytes(maps.read_bytes()[:-1])
    assert isinstance(run("digest", maps).exception, InputError)


@pytest.mark.parametrize(("option", "packing"), [("--portable", "portable"), ("--blosc2", "blosc2")])
def test_unpack_writes_an_archive_a_patient(maps: Path, option: str, packing: str, tmp_path: Path) -> None:
    assert (
        last_json(run("unpack", maps, "--out", tmp_path / "out", option, "--patient", "P2", "--json"))["archives"] == 1
    )
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "P2.h5"
    assert verify(path) == []
    assert last_json(run("info", path, "--json"))["packing"] == packing
    assert last_json(run("unpack", maps, "--out", tmp_path / "out", "--json"))["archives"] == 2


def test_merge_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert isinstance(run("merge", tmp_path / "maps.h5").exception, InputError)
