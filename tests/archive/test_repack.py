"""Archives of one patient each are archives, and say what the whole one says."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumorcast.archive.info import describe
from tumorcast.archive.maps import MapArchive, SliceForecast
from tumorcast.archive.packing import Packing
from tumorcast.archive.repack import unpack
from tumorcast.archive.verify import digest, verify
from tumorcast.errors import InputError, StorageError

Maker = Callable[..., Any]
PLAN = {"P1": {7: [3], 9: [2, 2]}, "P2": {7: [3]}}


@pytest.fixture(params=Packing)
def maps(make_archive: Maker, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path: Path = make_archive(tmp_path / "maps.h5", PLAN, packing=request.param, pixels=40, keep=True)
    return path


@pytest.mark.parametrize("packing", Packing)
def test_each_patient_is_an_archive(maps: Path, packing: Packing, tmp_path: Path) -> None:
    paths = unpack(maps, tmp_path / "out", packing=packing)
    assert paths == [tmp_path / "out" / "P1.h5", tmp_path / "out" / "P2.h5"]
    for path in paths:
        assert verify(path) == []
        assert describe(path)["packing"] == packing
        _assert_same(path, maps, path.stem)


def _assert_same(path: Path, whole: Path, patient_id: str) -> None:
    with MapArchive.open(path) as one, MapArchive.open(whole) as every:
        assert one.patient_ids() == [patient_id]
        assert one.provenance == every.provenance
        assert one.outcomes() == [outcome for outcome in every.outcomes() if outcome.patient_id == patient_id]
        for found, expected in zip(one.slices(patient_id), every.slices(patient_id), strict=True):
            for field in fields(SliceForecast):
                np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_a_patient_has_the_same_digest_in_either_packing(maps: Path, tmp_path: Path) -> None:
    (one,) = unpack(maps, tmp_path / "one", ["P1", "P1"], packing=Packing.BLOSC2)
    (other,) = unpack(maps, tmp_path / "other", ["P1"], packing=Packing.PORTABLE)
    assert digest(one) == digest(other) != digest(maps)


@pytest.mark.parametrize(("patient_id", "why"), [("P9", "failed: no fit"), ("P7", "no patient of this run")])
def test_a_patient_without_forecast_is_refused(maps: Path, patient_id: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"--patient {patient_id} \({why}\)"):
        unpack(maps, tmp_path / "out", ["P1", patient_id])
    assert not (tmp_path / "out").exists()


def test_damage_is_not_passed_on(maps: Path, tmp_path: Path) -> None:
    content = bytearray(maps.read_bytes())
    content[2 * len(content) // 3] ^= 1
    maps.write_bytes(content)
    with pytest.raises(InputError, match=r"archive verify"):
        unpack(maps, tmp_path / "out")
    assert all(verify(path) == [] for path in (tmp_path / "out").glob("*.h5"))


def test_it_does_not_replace_the_archive_it_reads(make_archive: Maker, tmp_path: Path) -> None:
    path = make_archive(tmp_path / "P1.h5", PLAN)
    with pytest.raises(InputError, match="would be replaced"):
        unpack(path, tmp_path)
    assert verify(path) == []


def test_an_output_that_is_a_file_is_told(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        unpack(maps, tmp_path / "out")


def test_figures_of_an_archive(maps: Path) -> None:
    record = describe(maps)
    assert (record["patients"], record["slices"], record["members"]) == (2, 3, 4)
    assert record["statuses"] == {"ok": 2, "failed": 1, "skipped": 0}
    assert record["bytes"] == maps.stat().st_size
    pixels, arrays, maps_of_one = 40 * 40, 2 * 1 + (3 + 0) * 4 * 4 + 3 * 4, 3
    sizes = maps_of_one * (pixels * arrays + 16 * 8) + 10 * 2 * 8
    assert record["raw_bytes"] == sizes + 10 * 4 * pixels * 4
