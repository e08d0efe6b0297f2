"""Are known rigid transforms found again, do masks follow, and does a bent scan keep its tumour? Prints JSON.

rigid: each contrast of each scan is moved by known transforms (up to 15 degrees about a random axis and 20 mm) and
registered to T1c of the patient's first scan. Off is the largest distance in the brain between where a point is put and
where it belongs, in voxels. Of simulated scans where they belong is known. Of real ones (tcga_lgg) it is known up to
how the contrasts lay on each other before, so there `off` counts from what is found for the scan that was not moved,
and `unmoved` tells that.
masks: Dice of the mask brought back through what was found with the mask that was never moved; its volume over the
true one.
deformable: the second simulated scan, its brain moved by up to 8 mm further than 24 mm from the tumour; the mean
distance to the truth where it moved by more than 2 mm, before and after, and the tumour's volume over the true one.

    OMP_NUM_THREADS=1 benchmarks/registration.py --real ../shared/data/tcga_lgg --out registration.json
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from machine import describe
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tumorcast.data.imaging.deformation import deformation_between
from tumorcast.data.imaging.registration import RegistrationImage, one_thread, rigid_between
from tumorcast.data.imaging.registration_qc import dice
from tumorcast.data.imaging.transforms import IDENTITY, Affine, Displacement, Transform, resample_mask
from tumorcast.simulation.cohort import simulate_cohort

DEGREES, SHIFT_MM = (5.0, 10.0, 15.0), (5.0, 12.0, 20.0)
KINDS = ("t1n", "t1c", "t2w", "t2f")
BENT_MM, FREE_MM = 8.0, 24.0


@dataclass(frozen=True)
class BenchmarkScan:
    """A scan of one patient in LPS order. volumes: by contrast, all with the mask's tumour."""

    name: str
    volumes: dict[str, RegistrationImage]


def read(folder: Path) -> BenchmarkScan:
    """A folder in BraTS layout."""
    images = {kind: _read_lps(folder / f"{folder.name}-{kind}.nii.gz") for kind in (*KINDS, "seg")}
    tumour = sitk.GetArrayFromImage(images.pop("seg")) > 0
    volumes = {
        kind: RegistrationImage(image, sitk.GetArrayFromImage(image) > 0, tumour) for kind, image in images.items()
    }
    return BenchmarkScan(folder.name, volumes)


def _read_lps(path: Path) -> sitk.Image:
    image: sitk.Image = sitk.Cast(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS"), sitk.sitkFloat32)
    return image


def transforms(volume: RegistrationImage, count: int, rng: np.random.Generator) -> Iterator[Affine]:
    """Turns about random axes through the brain's centre, and random shifts, in growing size."""
    centre = volume.brain_points().mean(axis=0)
    for number in range(count):
        axis, shift = rng.standard_normal(3), rng.standard_normal(3)
        angle = np.radians(DEGREES[number % len(DEGREES)])
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
        matrix[:3, 3] = centre - matrix[:3, :3] @ centre
        matrix[:3, 3] += SHIFT_MM[number % len(SHIFT_MM)] * shift / np.linalg.norm(shift)
        yield Affine(matrix)


def moved_volume(volume: RegistrationImage, transform: Transform) -> RegistrationImage:
    """The volume on its own grid, read through a transform that leads back to it."""
    return volume.resampled(volume.grid, transform)


def _tumour(volume: RegistrationImage) -> np.ndarray[Any, Any]:
    assert volume.tumour is not None
    return volume.tumour


def _tumour_through(volume: RegistrationImage, transform: Transform) -> np.ndarray[Any, Any]:
    return resample_mask(_tumour(volume), volume.grid, volume.grid, transform) > 0


def off_voxels(found: Affine, true: Affine, volume: RegistrationImage) -> float:
    """The largest distance in the brain, in voxels."""
    return float((~true @ found).distances_mm(volume.brain_points()).max() / min(volume.grid.spacing))


def rigid_figures(
    scans: list[BenchmarkScan], count: int, rng: np.random.Generator, *, real: bool
) -> list[dict[str, Any]]:
    """A record a transform: every scan and contrast onto T1c of the first scan."""
    fixed, records = scans[0].volumes["t1c"], []
    for scan in scans:
        for kind, moving in scan.volumes.items():
            still = rigid_between(fixed, moving) if real else IDENTITY
            for true in transforms(moving, count, rng):
                began, moved = time.process_time(), moved_volume(moving, ~true)
                found = rigid_between(fixed, moved)
                moved_back = _tumour_through(moved, true)
                moved_through = _tumour_through(moved, found @ ~still)
                records.append(
                    {
                        "scan": scan.name,
                        "contrast": kind,
                        "degrees": true.rotation_degrees,
                        "off_voxels": off_voxels(found, true @ still, fixed),
                        "unmoved_voxels": off_voxels(still, IDENTITY, fixed),
                        "mask_dice": dice(moved_through, _tumour(moving)),
                        "mask_dice_true_way": dice(moved_back, _tumour(moving)),
                        "mask_volume_ratio": float(moved_through.sum() / _tumour(moving).sum()),
                        "cpu_seconds": time.process_time() - began,
                    }
                )
    return records


def deformation_figures(first: BenchmarkScan, second: BenchmarkScan, rng: np.random.Generator) -> dict[str, Any]:
    """One deformation of a simulated scan."""
    fixed, grown = first.volumes["t1c"], second.volumes["t1c"]
    grid = grown.grid
    reach = [24.0 / step for step in grid.spacing[::-1]]
    noise = [ndimage.gaussian_filter(rng.standard_normal(grid.size[::-1]), reach) for _ in range(3)]
    vectors = np.stack(noise, axis=-1)
    away = ndimage.distance_transform_edt(~(_tumour(grown) | _tumour(fixed)), grid.spacing[::-1])
    free = np.clip((away - FREE_MM) / 12.0, 0.0, 1.0)[..., None]
    vectors *= BENT_MM / np.linalg.norm(vectors, axis=-1).max() * free
    field = Displacement(vectors.astype(np.float32), grid)
    moving, began = moved_volume(grown, field), time.process_time()
    found = deformation_between(fixed, moving, IDENTITY)
    points = fixed.brain_points()
    wanted, got = (displacement.map(points) - points for displacement in (~field, found))
    moved = np.linalg.norm(wanted, axis=1) > 2.0
    after = _tumour_through(moving, found)
    return {
        "scan": second.name,
        "mean_mm_before": float(np.linalg.norm(wanted[moved], axis=1).mean()),
        "mean_mm_after": float(np.linalg.norm((got - wanted)[moved], axis=1).mean()),
        "least_jacobian": found.least_jacobian(),
        "tumour_growth": float(_tumour(moving).sum() / _tumour(fixed).sum()),
        "tumour_volume_ratio": float(after.sum() / _tumour(moving).sum()),
        "cpu_seconds": time.process_time() - began,
    }


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the records come to."""
    off = np.array([record["off_voxels"] for record in records])
    return {
        "transforms": len(records),
        "off_voxels_median": float(np.median(off)),
        "off_voxels_max": float(off.max()),
        "under_half_a_voxel": float((off < 0.5).mean()),
        "mask_dice_min": min(record["mask_dice"] for record in records),
        "mask_volume_ratio": [extreme(record["mask_volume_ratio"] for record in records) for extreme in (min, max)],
        "cpu_seconds_median": float(np.median([record["cpu_seconds"] for record in records])),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=2, help="simulated, of two scans each")
    parser.add_argument("--voxel-mm", type=float, default=2.0, help="of simulated scans")
    parser.add_argument("--transforms", type=int, default=3, help="of each contrast of each scan")
    parser.add_argument("--real", type=Path, default=None, help="folder in BraTS layout, a scan a patient")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    asked, machine = parser.parse_args(), describe(threads=1)
    rng, simulated, real, deformed = np.random.default_rng(asked.seed), [], [], []
    with tempfile.TemporaryDirectory() as temporary, one_thread():
        folder = Path(temporary) / "scans"
        simulate_cohort(folder, patients=asked.patients, seed=asked.seed, sessions=2, voxel_mm=asked.voxel_mm)
        for first in sorted(folder.glob("SIM-*-000")):
            scans = [read(first), read(first.with_name(first.name[:-3] + "001"))]
            simulated += rigid_figures(scans, asked.transforms, rng, real=False)
            deformed.append(deformation_figures(scans[0], scans[1], rng))
    with one_thread():
        for scan in sorted(asked.real.iterdir()) if asked.real else []:
            real += rigid_figures([read(scan)], asked.transforms, rng, real=True)
    result = {
        "machine": machine,
        "simulated": summary(simulated),
        "real": summary(real) if real else None,
        "deformable": deformed,
        "records": {"simulated": simulated, "real": real},
    }
    text = json.dumps(result, indent=1)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "records"}, indent=1))


if __name__ == "__main__":
    main()
