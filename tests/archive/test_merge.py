"""Merging: blocks become the ensemble, the packing never matters, and what does not belong is refused by name."""

import resource
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import tumorcast.archive.merge as module
from tumorcast.archive.maps import MapArchive, SliceForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.packing import Packing
from tumorcast.archive.shard import ShardKey, header, open_shard, write_shard
from tumorcast.archive.verify import digest, verify
from tumorcast.errors import InputError, StorageError
from tumorcast.records import PatientOutcome, Status

Maker = Callable[..., Any]
PLAN = {"P1": {7: [5, 5, 3], 9: [4]}, "P2": {7: [1, 2]}}


@pytest.mark.parametrize("packing", Packing)
@pytest.mark.parametrize("pixels", [8, 40])
@pytest.mark.parametrize("keep", [False, True])
def test_blocks_become_the_statistics_of_all_members(
    make_archive: Maker,
    make_slice: Maker,
    make_images: Maker,
    tmp_path: Path,
    *,
    packing: Packing,
    pixels: int,
    keep: bool,
) -> None:
    path = make_archive(tmp_path / "maps.h5", PLAN, packing=packing, pixels=pixels, keep=keep)
    assert verify(path) == []
    with MapArchive.open(path) as archive:
        for patient_id, slices in PLAN.items():
            for found, (number, blocks) in zip(archive.slices(patient_id), slices.items(), strict=True):
                _assert_pooled(found, make_slice(make_images(number, sum(blocks), pixels), number, keep=keep))


def test_a_growth_map_is_pooled_too(make_archive: Maker, make_slice: Maker, make_images: Maker, tmp_path: Path) -> None:
    path = make_archive(tmp_path / "maps.h5", {"P1": {11: [5, 5, 3]}})
    assert verify(path) == []
    with MapArchive.open(path) as archive:
        (found,) = archive.slices("P1")
    assert found.growth is not None
    _assert_pooled(found, make_slice(make_images(11, 13, 8), 11))


def _assert_pooled(found: SliceForecast, expected: SliceForecast) -> None:
    """`expected` was reduced from all members at once."""
    for field in fields(SliceForecast):
        value, wanted = getattr(found, field.name), getattr(expected, field.name)
        if wanted is not None and field.name in ("mean", "std", "tumour", "growth"):
            np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-6)
            assert value.dtype == np.float32
        else:
            np.testing.assert_array_equal(value, wanted)


def test_several_slices_of_a_shard_and_several_blocks(
    make_slice: Maker, make_images: Maker, make_patient: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ensembles that are small share a unit; each shard is opened once."""
    members = {number: make_images(number, 4, 8) for number in (7, 8)}
    shards = [(tmp_path / f"{block}.h5", ShardKey("run", f"P1/0007.{block:03d}")) for block in (0, 1)]
    for block, (path, key) in enumerate(shards):
        part = slice(2 * block, 2 * block + 2)
        slices = {f"{n:04d}": make_slice(images[part], n, first=2 * block) for n, images in members.items()}
        write_shard(path, key, make_patient(), slices)
    opened: list[Path] = []

    def counted(path: Path, key: ShardKey) -> Any:
        opened.append(path)
        return open_shard(path, key)

    monkeypatch.setattr(module, "open_shard", counted)
    patient = PatientShards("P1", {"0007": shards, "0008": shards})
    merge(tmp_path / "maps.h5", [patient], {}, [PatientOutcome("P1", Status.OK)])
    assert opened == [path for path, _ in shards]
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        for found, (number, images) in zip(archive.slices("P1"), members.items(), strict=True):
            _assert_pooled(found, make_slice(images, number))


def test_the_same_shards_make_the_same_archive_to_the_last_byte(make_archive: Maker, tmp_path: Path) -> None:
    one, other = (make_archive(tmp_path / name / "maps.h5", PLAN) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    with h5py.File(one) as file:
        file.visititems(_assert_timeless)


def _assert_timeless(name: str, item: h5py.Group | h5py.Dataset) -> None:
    """Else the bytes would be the same within a second alone."""
    assert h5py.h5o.get_info(item.id).mtime == 0, name


def test_it_tells_how_far_it_is(make_run: Maker, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    outcomes = [PatientOutcome(patient_id, Status.OK) for patient_id in PLAN] + [PatientOutcome("P3", Status.SKIPPED)]
    merge(tmp_path / "maps.h5", make_run(tmp_path, PLAN), {}, outcomes, report=lambda *now: reports.append(now))
    assert reports == [(1, 2), (2, 2)]


def _refused(patients: Sequence[PatientShards], folder: Path, reason: str) -> None:
    """The merge is refused with the reason, and what stood there before stands."""
    out = folder / "maps.h5"
    out.write_text("before")
    with pytest.raises(InputError, match=reason):
        merge(out, patients, {}, [])
    assert out.read_text() == "before"
    assert not list(folder.glob(".*.partial"))


def test_a_missing_shard_is_named(make_run: Maker, tmp_path: Path) -> None:
    patients = make_run(tmp_path, PLAN)
    (tmp_path / "P2" / "0007.001.h5").unlink()
    _refused(patients, tmp_path, r"P2/0007\.001\.h5: cannot be read \(No such file.*start the forecast again")


def test_a_damaged_shard_is_named(make_run: Maker, tmp_path: Path) -> None:
    patients = make_run(tmp_path, PLAN)
    path = tmp_path / "P1" / "0009.000.h5"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    _refused(patients, tmp_path, r"P1/0009\.000\.h5: damaged: its sum is not right; start the forecast again")


def test_a_shard_in_the_place_of_another_is_named(make_run: Maker, tmp_path: Path) -> None:
    patients = make_run(tmp_path, PLAN)
    (tmp_path / "P2" / "0007.000.h5").replace(tmp_path / "P2" / "0007.001.h5")
    _refused(patients, tmp_path, "P2/0007.00[01].h5: ")


def test_a_shard_without_its_slice_is_named(make_run: Maker, tmp_path: Path) -> None:
    (patient,) = make_run(tmp_path, {"P1": {7: [2]}})
    _refused([PatientShards("P1", {"0008": patient.slices["0007"]})], tmp_path, r"0007\.000\.h5: does not hold")


def test_a_patient_that_comes_again_is_refused(make_run: Maker, tmp_path: Path) -> None:
    (patient,) = make_run(tmp_path, {"P1": {7: [2]}})
    _refused([patient, patient], tmp_path, "0007")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"image": np.zeros((4, 8, 8), np.float32)}, "image"),
        ({"tumour_now": np.full((8, 8), 9, np.float32)}, "tumour_now"),
        ({"present_mm2": 99.0}, "present_mm2"),
        ({"members": None}, "fields"),
        ({"brain": np.zeros((9, 9), np.bool_)}, "brain"),
    ],
)
def test_blocks_that_are_of_two_slices_are_refused(
    changed: dict[str, Any],
    reason: str,
    make_run: Maker,
    make_slice: Maker,
    make_images: Maker,
    *,
    tmp_path: Path,
) -> None:
    (patient,) = make_run(tmp_path, {"P1": {7: [2, 3]}}, keep=True)
    path, key = patient.slices["0007"][1]
    other = replace(make_slice(make_images(7, 3, 8), 7, keep=True), **changed)
    write_shard(path, key, _patient_of(patient), {"0007": other})
    _refused([patient], tmp_path, f"0007: {reason} differ between its blocks")


def _patient_of(patient: PatientShards) -> Any:
    """The patient in the first of its shards."""
    from tumorcast.archive.maps import read_patient

    with open_shard(*patient.slices["0007"][0]) as shard:
        return read_patient(shard["patient"])


def test_what_a_network_judged_may_differ_by_its_rounding(
    make_run: Maker, make_slice: Maker, make_images: Maker, tmp_path: Path
) -> None:
    """Blocks may come from processors of two kinds. The first block's value is kept."""
    (patient,) = make_run(tmp_path, {"P1": {7: [2, 3]}})
    other = make_slice(make_images(7, 5, 8)[2:], 7, first=2)
    other = replace(other, tumour_now=other.tumour_now + np.float32(1e-5), present_segmented_mm2=13.5001)
    path, key = patient.slices["0007"][1]
    write_shard(path, key, _patient_of(patient), {"0007": other})
    merge(tmp_path / "maps.h5", [patient], {}, [])
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        (found,) = archive.slices("P1")
    _assert_pooled(found, make_slice(make_images(7, 5, 8), 7))


def test_shards_of_two_scans_of_a_patient_are_refused(
    make_run: Maker, make_slice: Maker, make_images: Maker, tmp_path: Path
) -> None:
    (patient,) = make_run(tmp_path, {"P1": {7: [2], 8: [2]}})
    path, key = patient.slices["0008"][0]
    later = replace(_patient_of(patient), session_id="001")
    write_shard(path, key, later, {"0008": make_slice(make_images(8, 2, 8), 8)})
    _refused([patient], tmp_path, r"0008\.000\.h5: its patient's scan or growth curve is not that")


def test_the_digest_is_that_of_any_packing_and_order(make_run: Maker, tmp_path: Path) -> None:
    patients = make_run(tmp_path, PLAN, pixels=40, keep=True)
    outcomes = [PatientOutcome(patient_id, Status.OK) for patient_id in PLAN]
    merge(tmp_path / "maps.h5", patients, {"device": "a"}, outcomes)
    merge(tmp_path / "other.h5", patients[::-1], {"device": "b"}, [], packing=Packing.PORTABLE)
    assert digest(tmp_path / "maps.h5") == digest(tmp_path / "other.h5")
    merge(tmp_path / "less.h5", patients[:1], {}, [])
    assert digest(tmp_path / "less.h5") != digest(tmp_path / "maps.h5")


@pytest.mark.parametrize("room", [0, 1000, 8000])
def test_a_full_disk_is_told_and_the_old_archive_stands(make_archive: Maker, room: int, tmp_path: Path) -> None:
    """A limit on the size of a file stands for it; HDF5 would end the process with a segmentation fault."""
    path = make_archive(tmp_path / "maps.h5", {"P1": {7: [2]}})
    before, patients = path.read_bytes(), _patients_of(path.with_suffix(".parts"))
    allowed, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    try:
        with pytest.raises(StorageError, match=r"maps\.h5: .*free some space"):
            merge(path, patients, {}, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, most))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.partial"))


def _patients_of(folder: Path) -> list[PatientShards]:
    (path,) = folder.glob("P1/*.h5")
    own = header(path)
    assert own is not None
    return [PatientShards("P1", {"0007": [(path, ShardKey(own.run, own.unit))]})]
