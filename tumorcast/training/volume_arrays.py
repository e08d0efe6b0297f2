"""A cohort's volumes round the tumour as plain arrays in a folder, mapped into memory, with the pairs of their scans.

Made once from a cohort file, beside it, as the slices' are (arrays.py); the fronts are computed here, not at each step.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tumorcast.arrival.crop import LEAST_SIDES, Crop, signed_distance_mm
from tumorcast.arrival.front import front_log_volume, t1_of
from tumorcast.arrival.pairs import LARGEST_RATIO, LEAST_RATIO, volume_pairs
from tumorcast.errors import InputError
from tumorcast.processes import in_processes
from tumorcast.training.arrays import (
    INDEX_FILE,
    folder_written_whole,
    mapped_arrays,
    reading_unpacked,
    unpacked_folder,
)

if TYPE_CHECKING:
    from tumorcast.records import SessionVolume

FORMAT, FORMAT_VERSION = "tumorcast-volumes", 2
SPARE = 8  # voxels a side beyond what the network sees, for crops that are moved
BOX = (LEAST_SIDES[0] + 2 * SPARE, LEAST_SIDES[1] + 2 * SPARE, LEAST_SIDES[2] + 2 * SPARE)
FARTHEST = 60.0  # of a distance or a front that is kept
ITEMS = ("images", "outline", "brain", "distance", "front", "uniform_front")


@dataclass(frozen=True)
class VolumeArrays:
    """Boxes round the tumours of N scans that a later one follows, and Q pairs of such a scan and a later one.

    images: (N, C, Z, Y, X) uint8 grey levels; outline, brain: (N, Z, Y, X) bool; distance: (N, Z, Y, X) float16, mm,
    signed; front, uniform_front: (N, Z, Y, X) float16, as front_log_volume, with the tissue of T1 and without. patient:
    (N,) place in `patient_ids`. earlier: (Q,) the scan's number; later: (Q, Z, Y, X) bool, the later tumour in its box.
    """

    origin: Path
    cohort_sha256: str
    contrasts: tuple[str, ...]
    voxel_mm: float
    patient_ids: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    outline: npt.NDArray[np.bool_]
    brain: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.float16]
    front: npt.NDArray[np.float16]
    uniform_front: npt.NDArray[np.float16]
    patient: npt.NDArray[np.int32]
    earlier: npt.NDArray[np.int32]
    later: npt.NDArray[np.bool_]

    def log_ratio(self, pair: int) -> float:
        """ln(later volume / earlier volume) of a pair, within the box."""
        before, after = int(self.outline[self.earlier[pair]].sum()), int(self.later[pair].sum())
        return math.log(max(after, 1) / max(before, 1))


def open_volume_arrays(source: Path, cache: Path | None = None, jobs: int = 1) -> VolumeArrays:
    """The volumes of a cohort file, unpacked on first use; or of a folder that was unpacked before.

    cache: where the folder stands, by default beside the cohort. jobs: processes that compute fronts. Raises InputError
    if the cohort cannot be used or keeps no volumes, StorageError if the folder cannot be written.
    """
    return _map(unpacked_folder(source, cache, "volumes", partial(_unpack, jobs=jobs)))


def _map(folder: Path) -> VolumeArrays:
    with reading_unpacked(folder, "volumes"):
        index, arrays = mapped_arrays(folder, FORMAT, FORMAT_VERSION)
        return VolumeArrays(
            folder,
            index["cohort_sha256"],
            tuple(index["contrasts"]),
            float(index["voxel_mm"]),
            tuple(index["patient_ids"]),
            **arrays,
        )


def _unpack(source: Path, folder: Path, sha256: str, jobs: int) -> None:
    from tumorcast.data.cohort import Cohort  # noqa: PLC0415 - its readers are not on every machine that trains

    with Cohort.open(source) as cohort:
        check_keeps_volumes(cohort)
        contrasts, patient_ids = [str(contrast) for contrast in cohort.contrasts], cohort.patient_ids()
        voxel_mm = round(cohort.voxel_mm or 0.0, 6)
    with folder_written_whole(folder) as temporary:
        files = {name: (temporary / f"{name}.raw").open("wb") for name in (*ITEMS, "later")}
        patient: list[int] = []
        earlier: list[int] = []
        pieces = in_processes(partial(_patient_boxes, source), patient_ids, jobs)
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {}
        for number, boxes in enumerate(pieces):
            for box in boxes:
                for name in ITEMS:
                    kinds[name] = (box.arrays[name].dtype, box.arrays[name].shape)
                    files[name].write(box.arrays[name].tobytes())
                for later in box.later:
                    kinds["later"] = (later.dtype, later.shape)
                    files["later"].write(later.tobytes())
                earlier += [len(patient)] * len(box.later)
                patient.append(number)
        for file in files.values():
            file.close()
        if not earlier:
            raise InputError(
                f"{source}: no patient has two scans with a tumour of {LEAST_RATIO} to {LARGEST_RATIO:g} times its "
                "earlier volume; give a cohort with more scans a patient"
            )
        for name, (dtype, shape) in kinds.items():
            count = len(earlier) if name == "later" else len(patient)
            _to_npy(temporary, name, dtype, (count, *shape))
        np.save(temporary / "patient.npy", np.array(patient, np.int32))
        np.save(temporary / "earlier.npy", np.array(earlier, np.int32))
        index = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "cohort_sha256": sha256,
            "contrasts": contrasts,
            "voxel_mm": voxel_mm,
            "patient_ids": patient_ids,
            "arrays": [*kinds, "patient", "earlier"],
        }
        (temporary / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def _to_npy(folder: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Put the bytes of NAME.raw behind a header of numpy's, whose length was not known before."""
    raw = folder / f"{name}.raw"
    target = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
    target[...] = np.memmap(raw, dtype, "r", shape=shape)
    target.flush()
    raw.unlink()


def check_keeps_volumes(cohort: Any) -> None:
    """Raises InputError if a cohort file has slices alone."""
    if not cohort.keeps_volumes:
        raise InputError(
            f"{cohort.path}: keeps no volumes (of an earlier version, of single slices, or made with --voxel-mm 0), "
            "which growth in three dimensions is learned from; prepare the scans again, or train slice-progression"
        )


@dataclass(frozen=True)
class _Box:
    """What is kept of one scan: its `ITEMS`, and the later tumours in its box."""

    arrays: dict[str, npt.NDArray[Any]]
    later: list[npt.NDArray[np.bool_]]


def _patient_boxes(source: Path, patient_id: str) -> list[_Box]:
    """Of every scan that pairs begin with."""
    from tumorcast.data.cohort import Cohort  # noqa: PLC0415 - as above

    with Cohort.open(source) as cohort:
        contrasts = [str(contrast) for contrast in cohort.contrasts]
        pairs = volume_pairs(cohort, patient_id)
    boxes = []
    for _, group in groupby(pairs, key=lambda pair: id(pair.present)):
        own = list(group)
        boxes.append(_box(own[0].present, [pair.later for pair in own], contrasts))
    return boxes


def _box(volume: "SessionVolume", partners: "list[SessionVolume]", contrasts: list[str]) -> _Box:
    crop = Crop.of_sides(volume.tumour, BOX)
    outline, brain, images = (crop.cut(part) for part in (volume.tumour, volume.brain, volume.images))
    channel = t1_of(contrasts)
    uniform = front_log_volume(brain, outline, None, volume.voxel_mm)
    front = uniform if channel is None else front_log_volume(brain, outline, images[channel], volume.voxel_mm)
    arrays = {
        "images": images,
        "outline": outline,
        "brain": brain,
        "distance": _kept(signed_distance_mm(outline, volume.voxel_mm)),
        "front": _kept(front),
        "uniform_front": _kept(uniform),
    }
    return _Box(arrays, [crop.cut(later.tumour) for later in partners])


def _kept(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    return np.clip(values, -FARTHEST, FARTHEST).astype(np.float16)


def pairs_of(arrays: VolumeArrays, patients: npt.NDArray[np.bool_]) -> Iterator[npt.NDArray[np.int64]]:
    """Of each patient (P,) that is True the numbers of its pairs; those without any are left out."""
    owner = arrays.patient[arrays.earlier]
    for patient in np.flatnonzero(patients):
        numbers = np.flatnonzero(owner == patient)
        if numbers.size:
            yield numbers
