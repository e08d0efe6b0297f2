"""A cohort's slices as plain arrays in a folder, mapped into memory: nothing is decompressed twice, a cohort may be
larger than memory, and processes share its pages.

The folder stands beside the cohort file, named after it and its SHA-256, and is written once and whole. It is all that
training reads, so it can be taken where the cohort's own readers (h5py, hdf5plugin, SimpleITK) are not.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tumorcast.durable import sha256_of, sync
from tumorcast.errors import InputError, StorageError

if TYPE_CHECKING:
    from tumorcast.data.cohort import Cohort

FORMAT, FORMAT_VERSION = "tumorcast-slices", 1
INDEX_FILE = "index.json"
SHA_DIGITS = 12


@dataclass(frozen=True)
class SliceArrays:
    """All slices of a cohort, patient by patient and scan by scan.

    images: (M, C, H, W) float16 in [-1, 1]; tumour, brain: (M, H, W) bool; tumour_pixels: (M,); patient: (M,) place in
    `patient_ids`; session: (M,) place among the patient's scans in the order of days; source_slice: (M,).
    """

    origin: Path
    cohort_sha256: str
    contrasts: tuple[str, ...]
    patient_ids: tuple[str, ...]
    images: npt.NDArray[np.float16]
    tumour: npt.NDArray[np.bool_]
    brain: npt.NDArray[np.bool_]
    tumour_pixels: npt.NDArray[np.int32]
    patient: npt.NDArray[np.int32]
    session: npt.NDArray[np.int32]
    source_slice: npt.NDArray[np.int32]

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return int(self.images.shape[-1])


def open_arrays(source: Path, cache: Path | None = None) -> SliceArrays:
    """The slices of a cohort file, unpacked on first use; or of a folder that was unpacked before.

    cache: where the folder stands, by default beside the cohort. Raises InputError if the cohort cannot be used,
    StorageError if the folder cannot be written.
    """
    return _map(unpacked_folder(source, cache, "slices", _unpack))


def unpacked_folder(source: Path, cache: Path | None, what: str, unpack: Callable[[Path, Path, str], None]) -> Path:
    """The folder of a cohort file's `what`, made by `unpack` (cohort, folder, its SHA-256) on first use.

    source: the file, or the folder itself. Raises InputError if there is no such file.
    """
    if source.is_dir():
        return source
    if not source.exists():
        raise InputError(f"{source}: no such file; make it with `tumorcast prepare`")
    sha256 = sha256_of(source)
    folder = (cache or source.parent) / f"{source.stem}-{sha256[:SHA_DIGITS]}.{what}"
    if not folder.exists():
        unpack(source, folder, sha256)
    return folder


@contextmanager
def reading_unpacked(folder: Path, what: str) -> Iterator[None]:
    """Whatever is wrong with a folder of unpacked `what` becomes an InputError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise InputError(
            f"{folder}: not unpacked {what} of this version ({fault}); give the cohort file, which is unpacked anew "
            "where no such folder stands"
        ) from None


def mapped_arrays(folder: Path, form: str, version: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index of an unpacked folder, and its arrays by name. Raises ValueError for another format or version."""
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    if (index["format"], index["format_version"]) != (form, version):
        raise ValueError(f"format {index['format']} {index['format_version']}")
    return index, {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in index["arrays"]}


def _map(folder: Path) -> SliceArrays:
    if not (folder / INDEX_FILE).exists():
        raise InputError(
            f"{folder}: a folder without unpacked slices; give a cohort file. Of scans one is made by "
            f"`tumorcast prepare {folder} --out cohort.h5`"
        )
    with reading_unpacked(folder, "slices"):
        index, arrays = mapped_arrays(folder, FORMAT, FORMAT_VERSION)
        patient_ids, contrasts = tuple(index["patient_ids"]), tuple(index["contrasts"])
        return SliceArrays(folder, index["cohort_sha256"], contrasts, patient_ids, **arrays)


def _unpack(source: Path, folder: Path, sha256: str) -> None:
    from tumorcast.data.cohort import Cohort  # noqa: PLC0415 - its readers are not on every machine that trains

    with Cohort.open(source) as cohort, folder_written_whole(folder) as temporary:
        arrays = _create(cohort, temporary)
        _fill(cohort, arrays)
        index = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "cohort_sha256": sha256,
            "contrasts": [str(contrast) for contrast in cohort.contrasts],
            "patient_ids": cohort.patient_ids(),
            "arrays": list(arrays),
        }
        for array in arrays.values():
            array.flush()
        (temporary / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def _create(cohort: "Cohort", folder: Path) -> "dict[str, np.memmap[Any, Any]]":
    """The files in their full size, still empty."""
    count = sum(info.n_slices for pid in cohort.patient_ids() for info in cohort.sessions(pid))
    if not count:
        raise InputError(f"{cohort.path}: no slices; prepare it again, from scans with tumour or with --slices all")
    side = cohort.image_size
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "images": (np.float16, (count, len(cohort.contrasts), side, side)),
        "tumour": (np.bool_, (count, side, side)),
        "brain": (np.bool_, (count, side, side)),
        **dict.fromkeys(("tumour_pixels", "patient", "session", "source_slice"), (np.int32, (count,))),
    }
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), shape)
        for name, (dtype, shape) in shapes.items()
    }


def _fill(cohort: "Cohort", arrays: "dict[str, np.memmap[Any, Any]]") -> None:
    start = 0
    for patient, pid in enumerate(cohort.patient_ids()):
        for number, info in enumerate(cohort.sessions(pid)):
            session = cohort.session(pid, info.id)
            rows = slice(start, start + len(session.images))
            tumour = session.labels > 0
            values = {"images": session.images, "tumour": tumour, "brain": session.brain, "patient": patient}
            values |= {"tumour_pixels": tumour.sum(axis=(1, 2)), "session": number, "source_slice": info.source_slice}
            for name, value in values.items():
                arrays[name][rows] = value
            start = rows.stop


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """A temporary sibling to fill; it takes the name of `folder` when the block ends without an error."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.iterdir():
            sync(path)
        temporary.rename(folder)
        sync(folder.parent)
    except OSError as fault:
        if not folder.exists():  # where it does, another process was quicker, with the same content
            raise StorageError(
                f"{folder}: slices cannot be unpacked there ({fault.strerror}); give --cache a folder with room"
            ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
