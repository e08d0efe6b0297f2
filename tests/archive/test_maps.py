"""Archives: what is written comes back, and what is not ours is refused."""

from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest

from tumorcast.archive.maps import (
    MapArchive,
    PatientForecast,
    SliceForecast,
    archive_provenance,
    merge,
    shard_provenance,
    write_shard,
)
from tumorcast.errors import InputError


def slice_forecast(source_slice: int = 7, members: int | None = None) -> SliceForecast:
    rng = np.random.default_rng(source_slice)

    def image(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.random(shape, dtype=np.float32)

    return SliceForecast(
        image=image(4, 8, 8),
        labels=rng.integers(0, 4, (8, 8), dtype=np.uint8),
        brain=rng.random((8, 8)) > 0.5,
        affine=np.diag([1.0, 2.0, 3.0, 1.0]),
        mean=image(4, 8, 8),
        std=image(4, 8, 8),
        changed=image(8, 8),
        tumour=image(8, 8),
        tumour_now=image(8, 8),
        aimed_mm2=rng.random(3),
        reached_mm2=rng.random(3),
        present_mm2=12.5,
        present_segmented_mm2=13.5,
        source_slice=source_slice,
        members=None if members is None else image(members, 4, 8, 8),
    )


def patient(curve: bool) -> PatientForecast:
    values = {"days": np.arange(3.0), "q50": np.ones(3)} if curve else None
    return PatientForecast(
        "P1", "000", 5.0, 35.0 if curve else None, "area_mm2" if curve else None, values, {"size": [8, 8, 9]}
    )


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("curve", [False, True])
def test_what_is_merged_comes_back(members: int | None, curve: bool, tmp_path: Path) -> None:
    written = [slice_forecast(number, members) for number in (12, 7)]
    shards = {}
    for forecast in written:
        name = f"{forecast.source_slice:04d}"
        shards[name] = tmp_path / f"{name}.h5"
        write_shard(shards[name], forecast, {"seed": 1})
    merge(tmp_path / "maps.h5", [(patient(curve), shards)], {"seed": 1})
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        assert archive.provenance == {"seed": 1}
        (read,) = archive.patients()
        slices = archive.slices("P1")
    assert (read.patient_id, read.session_id, read.day, read.target_day) == ("P1", "000", 5.0, 35.0 if curve else None)
    assert (read.curve is not None) is curve
    assert read.source_grid == {"size": [8, 8, 9]}
    for expected, found in zip(reversed(written), slices, strict=True):
        for field in fields(SliceForecast):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_provenance_of_what_is_not_there_or_not_whole_is_none(tmp_path: Path) -> None:
    assert shard_provenance(tmp_path / "none.h5") is None
    write_shard(tmp_path / "shard.h5", slice_forecast(), {"seed": 1})
    assert shard_provenance(tmp_path / "shard.h5") == {"seed": 1}
    (tmp_path / "cut.h5").write_bytes((tmp_path / "shard.h5").read_bytes()[:300])
    assert shard_provenance(tmp_path / "cut.h5") is None
    assert archive_provenance(tmp_path / "shard.h5") is None


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(InputError, match="cannot be read as HDF5"), MapArchive.open(tmp_path / "text.h5"):
        pass
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = "tumorcast-cohort"
    with (
        pytest.raises(InputError, match=r"format \('tumorcast-cohort', None\)"),
        MapArchive.open(tmp_path / "other.h5"),
    ):
        pass


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard.h5", slice_forecast(), {"seed": 1})
    with pytest.raises(TypeError):
        write_shard(tmp_path / "shard.h5", slice_forecast(), {"seed": object()})
    assert shard_provenance(tmp_path / "shard.h5") == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["shard.h5"]
