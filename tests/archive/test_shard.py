"""Shards: one that is damaged, cut short, of another run or unit never passes for whole."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumorcast.archive.integrity import USER_BLOCK
from tumorcast.archive.shard import ShardKey, header, is_whole, open_shard, write_shard
from tumorcast.errors import InputError, StorageError

Maker = Callable[..., Any]
KEY = ShardKey("f" * 64, "P1/0007.000")


@pytest.fixture
def shard(make_slice: Maker, make_images: Maker, make_patient: Maker, tmp_path: Path) -> Path:
    slices = {f"{number:04d}": make_slice(make_images(number, 2, 8), number) for number in (7, 8)}
    write_shard(tmp_path / "shard.h5", KEY, make_patient(), slices)
    return tmp_path / "shard.h5"


def test_a_shard_tells_what_it_is_and_holds(shard: Path) -> None:
    own = header(shard)
    assert own is not None
    assert (own.run, own.unit, own.size) == (KEY.run, KEY.unit, shard.stat().st_size)
    assert is_whole(shard, KEY)
    with open_shard(shard, KEY) as file:
        assert list(file["slices"]) == ["0007", "0008"]


def test_the_same_content_makes_the_same_shard_to_the_last_byte(
    shard: Path, make_slice: Maker, make_images: Maker, make_patient: Maker, tmp_path: Path
) -> None:
    slices = {f"{number:04d}": make_slice(make_images(number, 2, 8), number) for number in (7, 8)}
    write_shard(tmp_path / "again.h5", KEY, make_patient(), slices)
    assert (tmp_path / "again.h5").read_bytes() == shard.read_bytes()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (ShardKey("e" * 64, KEY.unit), "of run ffff"),
        (ShardKey(KEY.run, "P1/0008.000"), "a shard of unit P1/0007.000"),
    ],
)
def test_a_shard_of_another_run_or_unit_is_not_whole(shard: Path, key: ShardKey, reason: str) -> None:
    assert not is_whole(shard, key)
    with pytest.raises(InputError, match=rf"shard.h5: .*{reason}"), open_shard(shard, key):
        pass


@pytest.mark.parametrize("size", [0, 1, 100, USER_BLOCK, USER_BLOCK + 1, -1])
def test_a_shard_that_is_cut_short_is_not_whole(shard: Path, size: int) -> None:
    shard.write_bytes(shard.read_bytes()[:size])
    assert header(shard) is None
    assert not is_whole(shard, KEY)
    with pytest.raises(InputError, match=r"cut short|damaged"), open_shard(shard, KEY):
        pass


def test_a_flipped_bit_anywhere_is_found(shard: Path) -> None:
    content = shard.read_bytes()
    places = np.random.default_rng(0).integers(0, len(content), 200).tolist()
    for place in [*range(0, 400, 3), USER_BLOCK - 1, len(content) - 1, *places]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        shard.write_bytes(damaged)
        assert not is_whole(shard, KEY), place
        with pytest.raises(InputError, match=r"shard\.h5"), open_shard(shard, KEY):
            pass


@pytest.mark.parametrize("content", [b"", b"no", b"{" * 5000, b"[1]".ljust(1023) + b"\n", b"\xff" * 2000])
def test_what_is_no_shard_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    path.write_bytes(content)
    assert header(path) is None
    assert not is_whole(path, KEY)


def test_a_folder_and_nothing_are_no_shards(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.h5"):
        assert header(path) is None
        assert not is_whole(path, KEY)
        with pytest.raises(InputError, match="cannot be read"), open_shard(path, KEY):
            pass


def test_a_patient_of_the_longest_name_has_room(make_slice: Maker, make_images: Maker, tmp_path: Path) -> None:
    key = ShardKey(KEY.run, "ä" * 127 + "/0007.000")  # 254 bytes, and a file name may have 255
    write_shard(tmp_path / "shard.h5", key, _patient(), {"0007": make_slice(make_images(7, 2, 8))})
    assert is_whole(tmp_path / "shard.h5", key)


def _patient() -> Any:
    from tumorcast.archive.maps import PatientForecast

    return PatientForecast("ä" * 127, "000", 0.0, None, None, None, {})


def test_a_full_disk_leaves_the_old_shard(
    shard: Path, make_slice: Maker, make_images: Maker, make_patient: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = shard.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_shard(shard, KEY, make_patient(), {"0007": make_slice(make_images(9, 2, 8), 9)})
    assert shard.read_bytes() == before
    assert [path.name for path in shard.parent.iterdir()] == ["shard.h5"]
