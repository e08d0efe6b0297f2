"""A cohort's volumes round the tumour as plain arrays in a folder, mapped into memory, with the pairs of their scans.

Made once from a cohort file, beside it, as the slices' are (arrays.py); the fronts are computed here, not at each step.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tumorcast.arrival.crop import LEAST_SIDES, Crop, signed_distance_mm
from tumorcast.arrival.front import front_log_volume, t1_of
from tumorcast.arrival.pairs import LARGEST_RATIO, LEAST_RATIO, is_pair
from tumorcast.durable import sha256_of
from tumorcast.errors import InputError
from tumorcast.processes import in_processes
from tumorcast.training.arrays import INDEX_FILE, SHA_DIGITS, folder_written_whole

if TYPE_CHECKING:
    from tumorcast.records import SessionVolume

FORMAT, FORMAT_VERSION = "tumorcast-volumes", 2
SPARE = 8  # voxels a side beyond what the network sees, for crops that are moved
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
    if source.is_dir():
        return _map(source)
    if not source.exists():
        raise InputError(f"{source}: no such file; make it with `tumorcast prepare`")
    sha256 = sha256_of(source)
    folder = (cache or source.parent) / f"{source.stem}-{sha256[:SHA_DIGITS]}.volumes"
    if not folder.exists():
        _unpack(source, folder, sha256, jobs)
    return _map(folder)


def _map(folder: Path) -> VolumeArrays:
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        if (index["format"], index["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"format {index['format']} {index['format_version']}")
        arrays: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in index["arrays"]}
        return VolumeArrays(
            folder,
            index["cohort_sha256"],
            tuple(index["contrasts"]),
            float(index["voxel_mm"]),
            tuple(index["patient_ids"]),
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise InputError(
            f"{folder}: not unpacked volumes of this version ({fault}); give the cohort file, which is unpacked anew "
            "where no such folder stands"
        ) from None


def _unpack(source: Path, folder: Path, sha256: str, jobs: int) -> None:
    from tumorcast.data.cohort import Cohort  # noqa: PLC0415 - its readers are not on every machine that trains

    with Cohort.open(source) as cohort:
        check_keeps_volumes(cohort)
        contrasts, patient_ids = [str(contrast) for contrast in cohort.contrasts], cohort.patient_ids()
        voxel_mm = _voxel_mm(cohort)
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


def _voxel_mm(cohort: Any) -> float:
    for patient_id in cohort.patient_ids():
        for info in cohort.sessions(patient_id):
            volume = cohort.volume(patient_id, info.id)
            if volume is not None:
                return float(round(volume.voxel_mm, 6))
    raise InputError(f"{cohort.path}: keeps no volumes")


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
        volumes = [cohort.volume(patient_id, info.id) for info in cohort.sessions(patient_id)]
    known = [volume for volume in volumes if volume is not None]
    return [box for number in range(len(known)) if (box := _box(known, number, contrasts)) is not None]


def _box(volumes: "list[SessionVolume]", number: int, contrasts: list[str]) -> _Box | None:
    volume = volumes[number]
    partners = [later for before, later in combinations(volumes, 2) if before is volume and is_pair(volume, later)]
    if not partners:
        return None
    crop = _spacious(volume.tumour)
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


def _spacious(tumour: npt.NDArray[np.bool_]) -> Crop:
    """A box of one size for all, round the middle of the tumour."""
    sides = tuple(side + 2 * SPARE for side in LEAST_SIDES)
    starts = []
    for axis, side in enumerate(sides):
        found = np.flatnonzero(tumour.any(axis=tuple(other for other in range(3) if other != axis)))
        starts.append((int(found[0]) + int(found[-1]) + 1 - side) // 2)
    depth, height, width = tumour.shape
    return Crop((starts[0], starts[1], starts[2]), (sides[0], sides[1], sides[2]), (depth, height, width))


def pairs_of(arrays: VolumeArrays, patients: npt.NDArray[np.bool_]) -> Iterator[npt.NDArray[np.int64]]:
    """Of each patient (P,) that is True the numbers of its pairs; those without any are left out."""
    owner = arrays.patient[arrays.earlier]
    for patient in np.flatnonzero(patients):
        numbers = np.flatnonzero(owner == patient)
        if numbers.size:
            yield numbers
