"""Growth maps in three dimensions as BIDS derivatives: on the scan's own voxels, by an independent interpolation."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from tests.archive.conftest import archive_of_cohort, archive_of_volumes
from tumorcast.archive.bids_export import export_bids
from tumorcast.archive.bids_layout import volume_descriptions
from tumorcast.archive.maps import MapArchive, VolumeForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.nifti import Space
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.data.cohort import Cohort, deformed, write_cohort
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.transforms import Affine, Displacement
from tumorcast.data.native import NativeImage, native_record
from tumorcast.data.prepare import PrepareSettings, prepare_cohort
from tumorcast.records import Contrast, PatientOutcome, Status

Array = np.ndarray[Any, Any]
SETTINGS = PrepareSettings(image_size=64)


def affine_of(spacing: tuple[float, float, float], turned: tuple[float, float, float]) -> Array:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turned, degrees=True).as_matrix() * np.array(spacing)
    affine[:3, 3] = 31.5, -47.25, 12.125
    return affine


@dataclass(frozen=True)
class ScanGrid:
    """How a scan is stored: its size, its affine."""

    size: tuple[int, int, int]
    affine: Array


GRIDS = {
    "oblique": ScanGrid((62, 70, 58), affine_of((-1.0, 1.0, 1.0), (7, -11, 21))),
    "thick": ScanGrid((62, 70, 15), affine_of((-1.0, -1.0, 4.0), (0, 0, 0))),
    "pir": ScanGrid((70, 58, 62), np.array([[0, 0, 1.0, -30], [-1.0, 0, 0, 35], [0, -1.0, 0, 29], [0, 0, 0, 1]])),
}


def write_scan(folder: Path, grid: ScanGrid) -> Path:
    """A round head with a round tumour off its middle, in BraTS layout; returns the mask's file."""
    voxels = np.moveaxis(np.indices(grid.size), 0, -1)
    places = nib.affines.apply_affine(grid.affine, voxels)
    middle = nib.affines.apply_affine(grid.affine, (np.array(grid.size) - 1) / 2)
    brain = np.linalg.norm((places - middle) / [29.0, 33.0, 27.0], axis=-1) < 1
    tumour = np.linalg.norm(places - middle - [3.0, 4.0, -2.0], axis=-1) < 13
    image = np.where(brain, 300 + 3 * (places - middle).sum(axis=-1) + 200 * tumour, 0)
    (folder / "S").mkdir(parents=True)
    for name, values in (("t1c", image.astype(np.int16)), ("seg", (2 * tumour).astype(np.uint8))):
        nib.save(nib.Nifti1Image(values, grid.affine), folder / "S" / f"S-{name}.nii.gz")
    return folder / "S" / "S-seg.nii.gz"


def read(root: Path, rest: str) -> nib.Nifti1Image:
    """The one image whose name ends so."""
    (path,) = root.glob(f"sub-*/ses-*/anat/*_{rest}.nii.gz")
    return nib.load(path)


def sampled(volume: VolumeForecast, values: Array, image: nib.Nifti1Image, order: int) -> Array:
    """Values (Z, Y, X) of the volume at the voxels of an image, by scipy."""
    there = np.linalg.inv(volume.affine) @ image.affine
    voxels = nib.affines.apply_affine(there, np.moveaxis(np.indices(image.shape), 0, -1))
    return map_coordinates(values.T.astype(np.float64), np.moveaxis(voxels, -1, 0), order=order, mode="nearest")


def put_back(image: nib.Nifti1Image, volume: VolumeForecast) -> Array:
    """(Z, Y, X) which voxels of the volume have a half and more, interpolated in an image."""
    there = np.linalg.inv(image.affine) @ volume.affine
    shape = volume.labels.shape[::-1]
    voxels = np.moveaxis(nib.affines.apply_affine(there, np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    return map_coordinates(np.asarray(image.dataobj, np.float64), voxels, order=1).T >= 0.5


def dice(one: Array, other: Array) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def forecast_in(maps: Path) -> VolumeForecast:
    with MapArchive.open(maps) as archive:
        volume = archive.volume(archive.patient_ids()[0])
    assert volume is not None
    return volume


@pytest.mark.parametrize("name", GRIDS)
def test_a_growth_map_lies_on_the_scans_own_voxels_without_stripes(name: str, tmp_path: Path) -> None:
    mask = write_scan(tmp_path / "scans", GRIDS[name])
    prepare_cohort(tmp_path / "scans", tmp_path / "cohort.h5", SETTINGS)
    maps = archive_of_volumes(tmp_path / "cohort.h5", tmp_path / "maps.h5")
    (outcome,) = export_bids(maps, tmp_path / "bids", spaces=[Space.NATIVE])
    assert outcome.status is Status.OK
    volume = forecast_in(maps)
    brain = np.asarray(read(tmp_path / "bids", "desc-volumebrain_mask").dataobj) > 0
    voxel_mm3 = abs(np.linalg.det(GRIDS[name].affine))
    for horizon, days in enumerate((30, 90)):
        likely = read(tmp_path / "bids", f"space-orig_label-tumor_desc-volume{days}d_probseg")
        outline = read(tmp_path / "bids", f"space-orig_label-tumor_desc-volume{days}d_mask")
        for image in (likely, outline):
            assert image.shape == nib.load(mask).shape
            np.testing.assert_allclose(image.affine, nib.load(mask).affine, rtol=2**-23, atol=2e-5)
        growth = np.asarray(likely.dataobj)
        np.testing.assert_allclose(growth[brain], sampled(volume, volume.growth[horizon], likely, 1)[brain], atol=1e-3)
        assert not growth[~brain].any()
        assert growth.sum() * voxel_mm3 == pytest.approx(volume.expected_mm3[horizon], rel=0.02)
        drawn = np.asarray(outline.dataobj) > 0
        assert drawn.sum() * voxel_mm3 == pytest.approx(volume.expected_mm3[horizon], rel=0.02)
        share = sampled(volume, volume.outline(horizon), outline, 1)
        assert share[drawn].min() >= share[brain & ~drawn].max() - 1e-3 and share[drawn].min() > 0.3
        assert dice(put_back(likely, volume), volume.growth[horizon] >= 0.5) > 0.98
        assert not drawn[~brain].any()


def test_a_map_of_the_cohorts_voxels_is_the_archives_own(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans", GRIDS["oblique"])
    prepare_cohort(tmp_path / "scans", tmp_path / "cohort.h5", SETTINGS)
    maps = archive_of_volumes(tmp_path / "cohort.h5", tmp_path / "maps.h5", ())
    export_bids(maps, tmp_path / "bids", cohort=tmp_path / "cohort.h5")
    volume = forecast_in(maps)
    likely = read(tmp_path / "bids", "space-cohort_label-tumor_desc-volume_probseg")
    np.testing.assert_array_equal(np.asarray(likely.dataobj).T, volume.growth[0].astype(np.float32))
    np.testing.assert_allclose(likely.affine, volume.affine, rtol=2**-23, atol=2e-5)
    scan = np.asarray(read(tmp_path / "bids", "space-cohort_desc-volumepresent_T1w").dataobj)
    np.testing.assert_allclose(255 * (scan.T + 1) / 2, volume.image[0], atol=1e-3)

    folder = tmp_path / "bids" / "sub-S" / "ses-000" / "anat"
    told = json.loads((folder / "sub-S_ses-000_space-orig_label-tumor_desc-volume_mask.json").read_text())
    assert (told["RelativeChange"], told["Place"], told["PlaceSha256"]) == (0.25, "made-up", "5b")
    assert told["PresentVolumeMm3"] == volume.present_mm3 and told["ExpectedVolumeMm3"] == volume.expected_mm3[0]
    assert told["AimedVolumeRangeMm3"][0] < told["AimedVolumeMm3"] < told["AimedVolumeRangeMm3"][1]
    assert not {"HorizonDays", "TargetDay", "Slices"} & set(told)
    assert set(told["IntensityWindows"]) == {"t1c"}
    (source,) = told["Sources"]
    assert (tmp_path / "bids" / source.removeprefix("bids::")).is_file()
    cubes = json.loads((folder / "sub-S_ses-000_space-cohort_label-tumor_desc-volume_mask.json").read_text())
    assert (tmp_path / "bids" / cubes["SpatialReference"].removeprefix("bids::")).is_file()


def test_sidecars_tell_the_day_of_each_horizon_and_every_description_is_explained(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans", GRIDS["thick"])
    prepare_cohort(tmp_path / "scans", tmp_path / "cohort.h5", SETTINGS)
    root = tmp_path / "bids"
    export_bids(archive_of_volumes(tmp_path / "cohort.h5", tmp_path / "maps.h5"), root, spaces=[Space.NATIVE])
    for days in (30, 90):
        (sidecar,) = root.glob(f"sub-S/ses-000/anat/*_desc-volume{days}d_probseg.json")
        told = json.loads(sidecar.read_text())
        assert (told["HorizonDays"], told["TargetDay"], told["Members"]) == (days, days, 8)
    explained = {line.split("\t")[0] for line in (root / "descriptions.tsv").read_text().splitlines()}
    used = {part for path in root.rglob("*.nii.gz") for part in path.name.split("_") if part.startswith("desc-")}
    assert used <= explained and "desc-volume30d" in used
    assert "volume" in volume_descriptions([]) and "volume" not in volume_descriptions([30.0])


def test_slices_and_a_volume_of_one_patient_stand_beside_each_other(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans", GRIDS["thick"])
    prepare_cohort(tmp_path / "scans", tmp_path / "cohort.h5", SETTINGS)
    alone = archive_of_cohort(tmp_path / "cohort.h5", tmp_path / "slices.h5", 2)
    whole = archive_of_volumes(tmp_path / "cohort.h5", tmp_path / "volumes.h5")
    with MapArchive.open(alone) as archive, MapArchive.open(whole) as other:
        patient, slices, volume = archive.patient("S"), archive.slices("S"), other.volume("S")
        names, provenance = archive.slice_names("S"), other.provenance
    key = ShardKey("run", "S")
    write_shard(tmp_path / "slices.shard", key, patient, dict(zip(names, slices, strict=True)))
    write_shard(tmp_path / "volume.shard", key, patient, {}, volume)
    stands = {name: [(tmp_path / "slices.shard", key)] for name in names}
    shards = [PatientShards("S", stands, (tmp_path / "volume.shard", key))]
    merge(tmp_path / "both.h5", shards, provenance, [PatientOutcome("S", Status.OK)])
    written = {}
    for name in ("slices", "volumes", "both"):
        export_bids(tmp_path / f"{name}.h5", tmp_path / name)
        written[name] = {path.name for path in (tmp_path / name).rglob("*.nii.gz")}
    assert not written["slices"] & written["volumes"]
    assert written["both"] == written["slices"] | written["volumes"]


def test_a_registered_scan_finds_home_and_a_bent_one_is_refused(tmp_path: Path) -> None:
    """It was acquired two voxels to the left and one higher, on a larger grid: its map is shifted by as much."""
    write_scan(tmp_path / "scans", GRIDS["oblique"])
    prepare_cohort(tmp_path / "scans", tmp_path / "first.h5", SETTINGS)
    with Cohort.open(tmp_path / "first.h5") as cohort:
        session, volume = cohort.session("S", "000"), cohort.volume("S", "000")
    shared = Grid.from_dict(session.source["grid"])
    width, height, depth = shared.size
    native = replace(shared, size=(width + 4, height, depth + 3))
    moved = native.affine() @ np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1.0]])
    way = NativeImage(native, Affine(moved @ np.linalg.inv(shared.affine())))
    source = session.source | {"native": native_record({Contrast.T1C: way}, Contrast.T1C)}
    lattice = Grid((7, 7, 7), (50.0,) * 3, (-150.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    rigid = replace(session, source=source, volume=volume)
    bent = deformed(rigid, Displacement(np.zeros((7, 7, 7, 3), np.float32), lattice))
    for name, scan in (("rigid", rigid), ("bent", bent)):
        write_cohort(tmp_path / f"{name}.h5", [scan], {}, image_size=64, contrasts=(Contrast.T1C,), config={})
        archive_of_volumes(tmp_path / f"{name}.h5", tmp_path / f"{name}_maps.h5")
    archive_of_volumes(tmp_path / "first.h5", tmp_path / "first_maps.h5")
    export_bids(tmp_path / "rigid_maps.h5", tmp_path / "rigid", spaces=[Space.NATIVE])
    export_bids(tmp_path / "first_maps.h5", tmp_path / "first", spaces=[Space.NATIVE])
    (refused,) = export_bids(tmp_path / "bent_maps.h5", tmp_path / "alone", spaces=[Space.NATIVE])
    assert refused.status is Status.FAILED and "give --cohort, or --space cohort" in refused.reason
    export_bids(tmp_path / "bent_maps.h5", tmp_path / "bent", spaces=[Space.NATIVE], cohort=tmp_path / "bent.h5")
    rest = "label-tumor_desc-volume90d_probseg"
    at_home, there, straightened = (
        np.asarray(read(tmp_path / name, rest).dataobj) for name in ("rigid", "first", "bent")
    )
    np.testing.assert_allclose(at_home[2 : width + 2, :, 1 : depth + 1], there, atol=2e-3)
    np.testing.assert_allclose(straightened, at_home, atol=2e-3)
    np.testing.assert_allclose(read(tmp_path / "rigid", rest).affine, native.affine(), rtol=2**-23, atol=2e-5)
