"""Rates of merging and reading archives against plain gzip h5py, and the memory of a merge; writes JSON.

    OMP_NUM_THREADS=1 benchmarks/archive.py [--slices 100] [--repeats 5] [--out FILE]

MB are of raw content: what the arrays of a slice take unpacked. The content is made up: smooth random fields, noise of
2 % within a brain that fills a third of the image and of a tenth of that outside. Everything lies in the page cache.
Ours: `merge` reads shards, checks their sums, writes and syncs the archive and its sum; `read` makes a SliceForecast of
every slice. gzip: the same arrays with chunks of a map and gzip 4, merged by reading and writing every array, or
(`copied`) by h5py's copy of compressed chunks; nothing is checked and nothing is synced.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt
from machine import describe, installed
from scipy.ndimage import gaussian_filter

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.packing import Packing
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.archive.verify import digest, verify
from tumorcast.records import PatientOutcome, Status

Map = npt.NDArray[np.float32]
DISTINCT = 8  # slices are made up, the others are written from these
PER_PATIENT = 10
MEMBERS = 16
GZIP = {"compression": "gzip", "compression_opts": 4}


class Content:
    """Made-up slices of an image size."""

    def __init__(self, pixels: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pixels = pixels
        rows, columns = np.mgrid[:pixels, :pixels] / pixels - 0.5
        self._brain = np.hypot(rows / 0.36, columns / 0.28) < 1

    def _smooth(self, *shape: int) -> Map:
        field = self._rng.standard_normal((*shape, self._pixels, self._pixels), dtype=np.float32)
        blurred: Map = gaussian_filter(field, (0,) * len(shape) + (self._pixels / 20,) * 2)
        scaled: Map = (blurred / blurred.std()).astype(np.float32)
        return scaled

    def _noise(self, *shape: int) -> Map:
        noise = self._rng.standard_normal((*shape, self._pixels, self._pixels), dtype=np.float32)
        noise *= np.where(self._brain, 0.02, 0.002)
        return noise

    def slice(self, number: int) -> SliceForecast:
        """A slice's forecast; the scan is -1 outside the brain, as a prepared one is."""
        brain = self._brain
        image = np.where(brain, np.tanh(self._smooth(4)) + self._noise(4), -1).astype(np.float32)
        tumour = np.tanh(np.maximum(self._smooth(), 0)) * brain
        sizes = self._rng.random(MEMBERS)
        return SliceForecast(
            image=image,
            labels=(tumour > 0.7).astype(np.uint8),
            brain=brain,
            affine=np.eye(4),
            mean=(image + self._noise(4)).astype(np.float32),
            std=np.abs(0.1 * self._smooth(4) * brain + self._noise(4)).astype(np.float32),
            changed=(np.rint(MEMBERS * tumour) / MEMBERS).astype(np.float32),
            tumour=tumour.astype(np.float32),
            tumour_now=(tumour**2).astype(np.float32),
            aimed_mm2=sizes,
            reached_mm2=sizes,
            present_mm2=1.0,
            present_segmented_mm2=1.0,
            source_slice=number,
        )


def arrays_of(forecast: SliceForecast) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a slice by name."""
    values = {field.name: getattr(forecast, field.name) for field in fields(forecast)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def raw_mb(forecast: SliceForecast) -> float:
    """Bytes of a slice's arrays, in 10⁶."""
    return sum(value.nbytes for value in arrays_of(forecast).values()) / 1e6


def our_shards(folder: Path, slices: list[SliceForecast], count: int) -> list[PatientShards]:
    """Shards of `count` slices, by patient."""
    patients: dict[str, dict[str, list[tuple[Path, ShardKey]]]] = {}
    for number in range(count):
        patient_id, name = f"P{number // PER_PATIENT:04d}", f"{number:04d}"
        path, key = folder / f"{name}.h5", ShardKey("run", f"{patient_id}/{name}.000")
        patient = PatientForecast(patient_id, "000", 0.0, None, None, None, {})
        write_shard(path, key, patient, {name: slices[number % len(slices)]})
        patients.setdefault(patient_id, {})[name] = [(path, key)]
    return [PatientShards(patient_id, shards) for patient_id, shards in patients.items()]


def gzip_shards(folder: Path, slices: list[SliceForecast], count: int) -> list[Path]:
    """The same slices as most would write them, a file each."""
    folder.mkdir()
    paths = [folder / f"{number:04d}.h5" for number in range(count)]
    for number, path in enumerate(paths):
        with h5py.File(path, "w") as file:
            write_gzip(file.create_group("slice"), arrays_of(slices[number % len(slices)]))
    return paths


def write_gzip(group: h5py.Group, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Maps in one chunk with gzip 4, the rest as it is."""
    for name, values in arrays.items():
        packed = {"chunks": values.shape, **GZIP} if values.ndim > 1 else {}
        group.create_dataset(name, data=values, **packed)


def merge_ours(out: Path, patients: list[PatientShards], packing: Packing = Packing.BLOSC2) -> None:
    """`merge`, as the command does it."""
    outcomes = [PatientOutcome(patient.patient_id, Status.OK) for patient in patients]
    merge(out, patients, {"seed": 1}, outcomes, packing=packing)


def merge_gzip(out: Path, shards: list[Path]) -> None:
    """Read every array and write it again."""
    with h5py.File(out, "w") as file:
        for number, path in enumerate(shards):
            with h5py.File(path, "r") as source:
                write_gzip(file.create_group(str(number)), {name: item[()] for name, item in source["slice"].items()})


def merge_copied(out: Path, shards: list[Path]) -> None:
    """Copy compressed chunks by h5py."""
    with h5py.File(out, "w") as file:
        for number, path in enumerate(shards):
            with h5py.File(path, "r") as source:
                source.copy("slice", file, str(number))


def read_ours(path: Path) -> None:
    """Every slice of the archive, one at a time."""
    with MapArchive.open(path) as archive:
        for patient_id in archive.patient_ids():
            for name in archive.slice_names(patient_id):
                archive.slice(patient_id, name)


def read_gzip(path: Path) -> None:
    """Every array of the file, a slice at a time."""
    with h5py.File(path, "r") as file:
        for group in file.values():
            assert len({name: item[()] for name, item in group.items()}) > 10


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rates(pixels: int, count: int, repeats: int, folder: Path) -> dict[str, Any]:
    """MB/s of each way, the median of several rounds in which all take turns; and the size of each file."""
    content = Content(pixels, seed=pixels)
    slices = [content.slice(number) for number in range(DISTINCT)]
    patients, shards = our_shards(folder / "ours", slices, count), gzip_shards(folder / "gzip", slices, count)
    ours, portable, plain, copied = (folder / f"{name}.h5" for name in ("ours", "portable", "gzip", "copied"))
    ways: dict[str, Callable[[], object]] = {
        "merge": lambda: merge_ours(ours, patients),
        "merge_portable": lambda: merge_ours(portable, patients, Packing.PORTABLE),
        "merge_gzip": lambda: merge_gzip(plain, shards),
        "merge_copied": lambda: merge_copied(copied, shards),
        "read": lambda: read_ours(ours),
        "read_portable": lambda: read_ours(portable),
        "read_gzip": lambda: read_gzip(plain),
        "digest": lambda: digest(ours),
        "verify": lambda: verify(ours),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            taken[name].append(seconds(work))
    mb = count * raw_mb(slices[0])
    assert verify(ours) == [] and digest(ours) == digest(portable)
    speeds = {name: round(mb / statistics.median(times), 1) for name, times in taken.items()}
    return {
        "slices": count,
        "raw_mb_a_slice": round(raw_mb(slices[0]), 3),
        "mb_per_second": speeds,
        "merge_over_gzip": round(speeds["merge"] / speeds["merge_gzip"], 1),
        "read_over_gzip": round(speeds["read"] / speeds["read_gzip"], 1),
        "share_of_raw": {path.stem: round(path.stat().st_size / mb / 1e6, 3) for path in (ours, portable, plain)},
    }


def codecs(pixels: int, repeats: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Write and read rates of maps with each codec and filter, by h5py, and the packed size."""
    maps = arrays_of(Content(pixels, seed=pixels).slice(0))
    large = {name: values for name, values in maps.items() if values.nbytes >= pixels * pixels * 4}
    choices: dict[str, Any] = {"gzip4": GZIP, "gzip4 shuffle": {**GZIP, "shuffle": True}}
    for codec in ("lz4", "zstd", "blosclz"):
        for level in (1, 5):
            for name in ("SHUFFLE", "BITSHUFFLE"):
                filters = getattr(hdf5plugin.Blosc2, name)
                packed = hdf5plugin.Blosc2(cname=codec, clevel=level, filters=filters)
                choices[f"{codec} {level} {name.lower()}"] = {"compression": packed}
    for choice, options in choices.items():
        yield {"codec": choice, **_codec(large, options, repeats, folder / "codec.h5")}


def _codec(maps: dict[str, npt.NDArray[Any]], options: dict[str, Any], repeats: int, path: Path) -> dict[str, Any]:
    writing, reading = [], []
    for _ in range(repeats):
        with h5py.File(path, "w") as file:
            begun = time.perf_counter()
            for name, values in maps.items():
                file.create_dataset(name, data=values, chunks=values.shape, **options)
            file.flush()
            writing.append(time.perf_counter() - begun)
        with h5py.File(path, "r") as file:
            reading.append(seconds(lambda: [file[name][()] for name in maps]))
    mb = sum(values.nbytes for values in maps.values()) / 1e6
    return {
        "write": round(mb / statistics.median(writing)),
        "read": round(mb / statistics.median(reading)),
        "share_of_raw": round(path.stat().st_size / mb / 1e6, 3),
    }


def peak_of_merge(pixels: int, count: int) -> None:
    """Merge `count` slices in this process and print its peak memory in MB; shards are few, and come again."""
    with tempfile.TemporaryDirectory() as place:
        content = Content(pixels, seed=0)
        few = our_shards(Path(place) / "shards", [content.slice(number) for number in range(DISTINCT)], DISTINCT)
        shards = [shard for patient in few for shard in patient.slices.items()]
        patients = [PatientShards(f"P{number:05d}", dict(shards[:PER_PATIENT])) for number in range(count // DISTINCT)]
        merge_ours(Path(place) / "maps.h5", patients)
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage would tell the parent's, if larger
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def peaks(pixels: int, counts: tuple[int, ...]) -> dict[str, float]:
    """Peak memory in MB of a process that merges so many slices, by their number."""
    command = [sys.executable, __file__, "--peak", str(pixels)]
    runs = {count: subprocess.run([*command, str(count)], stdout=subprocess.PIPE, check=True) for count in counts}
    return {str(count): round(float(done.stdout), 1) for count, done in runs.items()}


def main() -> None:
    """Parse, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pixels", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--peak", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.peak:
        peak_of_merge(*options.peak)
        return
    packages = {name: installed(name) for name in ("h5py", "hdf5plugin")}
    result: dict[str, Any] = {"machine": describe(threads=1) | packages | {"hdf5": h5py.version.hdf5_version}}
    for pixels in options.pixels:
        folder = Path(tempfile.mkdtemp())
        try:
            result[f"{pixels} px"] = rates(pixels, options.slices, options.repeats, folder)
            result[f"{pixels} px"]["codecs"] = list(codecs(pixels, options.repeats, folder))
        finally:
            shutil.rmtree(folder)
        result[f"{pixels} px"]["peak_mb_by_slices"] = peaks(pixels, (100, 1000))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
