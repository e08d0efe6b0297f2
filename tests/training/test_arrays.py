"""Unpacked slices: they are the cohort's, written once and whole, and all that training needs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorcast.data.cohort import Cohort
from tumorcast.errors import InputError, StorageError
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.arrays import SliceArrays, open_arrays
from tumorcast.training.dataset import STACKS, SliceStore, _on_device
from tumorcast.training.train import train

TINY = {"channel_mult": (1,), "res_blocks": 1, "attention_resolutions": ()}


@pytest.fixture
def cohort(blob_cohort: Path, tmp_path: Path) -> Path:
    return shutil.copy(blob_cohort, tmp_path / "cohort.h5")


def test_they_are_the_slices_of_the_cohort_in_its_order(cohort: Path) -> None:
    arrays = open_arrays(cohort)
    with Cohort.open(cohort) as file:
        scans = [(pid, k, info) for pid in file.patient_ids() for k, info in enumerate(file.sessions(pid))]
        sessions = [file.session(pid, info.id) for pid, _, info in scans]
        assert arrays.cohort_sha256 == file.sha256
    assert np.array_equal(arrays.images, np.concatenate([s.images for s in sessions]).astype(np.float16))
    assert np.array_equal(arrays.tumour, np.concatenate([s.labels > 0 for s in sessions]))
    assert np.array_equal(arrays.brain, np.concatenate([s.brain for s in sessions]))
    assert np.array_equal(arrays.tumour_pixels, arrays.tumour.sum(axis=(1, 2)))
    names = [arrays.patient_ids[k] for k in arrays.patient]
    assert names == [s.patient_id for s in sessions for _ in s.images]
    assert arrays.session.tolist() == [k for _, k, info in scans for _ in range(info.n_slices)]
    assert arrays.source_slice.tolist() == [n for _, _, info in scans for n in info.source_slice]


def test_they_are_mapped_and_written_once(cohort: Path) -> None:
    first = open_arrays(cohort)
    assert isinstance(first.images, np.memmap)
    assert first.origin.parent == cohort.parent
    written = (first.origin / "images.npy").stat().st_mtime_ns
    again = open_arrays(cohort)
    assert (again.origin / "images.npy").stat().st_mtime_ns == written
    assert sorted(path.name for path in cohort.parent.iterdir()) == [first.origin.name, "cohort.h5"]


def test_another_cohort_of_the_same_name_has_a_folder_of_its_own(cohort: Path) -> None:
    first = open_arrays(cohort).origin
    with cohort.open("ab") as file:
        file.write(b"\0")
    assert open_arrays(cohort).origin != first


def test_the_cache_can_stand_elsewhere_and_a_place_that_cannot_be_written_is_told(cohort: Path) -> None:
    (cohort.parent / "file").touch()
    with pytest.raises(StorageError, match="--cache"):
        open_arrays(cohort, cohort.parent / "file" / "cache")
    assert open_arrays(cohort, cohort.parent / "cache").origin.parent == cohort.parent / "cache"


def test_what_was_cut_off_leaves_nothing(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Cohort, patient_id: str, session_id: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cohort, "session", broken)
    with pytest.raises(StorageError, match="No space left"):
        open_arrays(cohort)
    assert [path.name for path in cohort.parent.iterdir()] == ["cohort.h5"]


@pytest.mark.slow
def test_the_folder_alone_trains_the_same_run(cohort: Path, tmp_path: Path) -> None:
    settings = TrainSettings(steps=2, batch=1)
    train(NetworkKind.SEGMENTER, cohort, tmp_path / "run", settings, architecture=TINY, until=1)
    (folder,) = tmp_path.glob("*.slices")
    cohort.unlink()
    train(NetworkKind.SEGMENTER, folder, tmp_path / "run", settings, architecture=TINY)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_what_is_no_such_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"`tumorcast prepare {tmp_path} ") as told:
        open_arrays(tmp_path)
    assert "remove" not in str(told.value)  # it may be the user's scans
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(InputError, match="of this version"):
        open_arrays(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        open_arrays(tmp_path / "nowhere.h5")


def test_a_cohort_without_slices_is_refused(tmp_path: Path) -> None:
    from tumorcast.data.cohort import write_cohort
    from tumorcast.records import Contrast

    write_cohort(tmp_path / "empty.h5", [], {}, image_size=64, contrasts=tuple(Contrast), config={})
    with pytest.raises(InputError, match="no slices; prepare"):
        open_arrays(tmp_path / "empty.h5")


def test_small_slices_are_such_a_folder(small_slices: Path) -> None:
    arrays: SliceArrays = open_arrays(small_slices)
    assert len(arrays.images) == 12 * 3 * 2 + 2


def test_slices_kept_on_a_device_are_those_that_are_read(small_slices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for the device: the copy is made in pieces, and rows are taken from it."""
    monkeypatch.setattr("tumorcast.training.dataset.COPIED_AT_ONCE", 7)
    arrays, cpu = open_arrays(small_slices), torch.device("cpu")
    kept = SliceStore(arrays, cpu, {name: _on_device(getattr(arrays, name), cpu) for name in STACKS})
    read, picks = SliceStore.open(arrays, cpu), torch.tensor([73, 0, 12, 12])
    for of in (SliceStore.images, SliceStore.tumour, SliceStore.brain):
        assert torch.equal(of(kept, picks), of(read, picks))
    assert read.images(picks).dtype is torch.float32
