"""Archives: what is merged comes back, and what is not ours is refused."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast, archive_provenance
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.packing import Packing
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.errors import InputError
from tumorcast.records import PatientOutcome, Status

Maker = Callable[..., Any]


@pytest.mark.parametrize("packing", Packing)
@pytest.mark.parametrize("pixels", [8, 40])  # below and above what lies in the object header
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("curve", [False, True])
def test_what_is_merged_comes_back(
    make_slice: Maker,
    make_images: Maker,
    make_patient: Maker,
    tmp_path: Path,
    *,
    packing: Packing,
    pixels: int,
    keep: bool,
    curve: bool,
) -> None:
    written = [make_slice(make_images(number, 3, pixels), number, keep=keep) for number in (12, 7)]
    shards = {}
    for forecast in written:
        name = f"{forecast.source_slice:04d}"
        key = ShardKey("run", f"P1/{name}.000")
        write_shard(tmp_path / f"{name}.h5", key, make_patient(curve=curve), {name: forecast})
        shards[name] = [(tmp_path / f"{name}.h5", key)]
    outcome = PatientOutcome("P1", Status.OK, "ä\n")
    merge(tmp_path / "maps.h5", [PatientShards("P1", shards)], {"seed": 1}, [outcome], packing=packing)
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        assert archive.provenance == {"seed": 1}
        assert (archive.outcomes(), archive.count_slices(), archive.packing) == ([outcome], 2, packing)
        (read,) = archive.patients()
        slices = archive.slices("P1")
    _assert_same_patient(read, make_patient(curve=curve))
    for expected, found in zip(reversed(written), slices, strict=True):
        _assert_same_slice(found, expected)


def _assert_same_patient(found: PatientForecast, expected: PatientForecast) -> None:
    for field in fields(PatientForecast):
        if field.name != "curve" or expected.curve is None:
            assert getattr(found, field.name) == getattr(expected, field.name)
    if expected.curve is not None:
        assert found.curve is not None
        assert found.curve.keys() == expected.curve.keys()
        for name, values in expected.curve.items():
            np.testing.assert_array_equal(found.curve[name], values)


def _assert_same_slice(found: SliceForecast, expected: SliceForecast) -> None:
    for field in fields(SliceForecast):
        value, wanted = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(value, wanted)
        assert wanted is None or np.asarray(value).dtype == np.asarray(wanted).dtype


def test_patients_keep_the_order_they_are_merged_in(make_archive: Maker, tmp_path: Path) -> None:
    with MapArchive.open(make_archive(tmp_path / "maps.h5", {"P2": {7: [2]}, "P1": {7: [2]}})) as archive:
        assert archive.patient_ids() == ["P2", "P1"]
        assert [patient.patient_id for patient in archive.patients()] == ["P2", "P1"]


def test_an_archive_without_patients_is_one(tmp_path: Path) -> None:
    merge(tmp_path / "maps.h5", [], {"seed": 1}, [])
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        assert (archive.patients(), archive.outcomes(), archive.count_slices()) == ([], [], 0)


def test_provenance_of_what_is_not_there_or_not_whole_is_none(make_archive: Maker, tmp_path: Path) -> None:
    path = make_archive(tmp_path / "maps.h5", {"P1": {7: [2]}})
    assert archive_provenance(path) is not None
    assert archive_provenance(tmp_path / "none.h5") is None
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:-300])
    assert archive_provenance(tmp_path / "cut.h5") is None


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    for name, why in (("text.h5", "is no HDF5 file"), ("none.h5", "no such file"), ("", "is a folder")):
        with pytest.raises(InputError, match=f"{why}.*; give a maps.h5") as refused, MapArchive.open(tmp_path / name):
            pass
        assert "descriptor" not in str(refused.value) and "errno" not in str(refused.value)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = "tumorcast-cohort"
    with pytest.raises(InputError, match="tumorcast-cohort, "), MapArchive.open(tmp_path / "other.h5"):
        pass


def test_an_archive_of_version_1_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs.update({"format": "tumorcast-maps", "format_version": 1})
    with (
        pytest.raises(InputError, match=r"format_version 1,.* 2;"),
        MapArchive.open(tmp_path / "old.h5"),
    ):
        pass


def test_an_archive_that_was_changed_is_refused(make_archive: Maker, tmp_path: Path) -> None:
    path = make_archive(tmp_path / "maps.h5", {"P1": {7: [2]}})
    with h5py.File(path, "r+") as file:
        file.create_group("patients/P2/slices")
    with pytest.raises(InputError, match="`tumorcast archive verify"), MapArchive.open(path):
        pass
