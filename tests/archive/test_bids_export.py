"""Maps as BIDS derivatives: every value and every affine comes back, as nibabel reads them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import typer
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from tumorcast.archive.bids_export import export_bids
from tumorcast.archive.bids_layout import CONTRASTS, labels_of
from tumorcast.archive.maps import MapArchive, PatientForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.nifti import Space
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.cli.export_maps import export_maps
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.transforms import Affine
from tumorcast.data.native import NativeImage, native_record
from tumorcast.data.prepare import PrepareSettings, SliceChoice, prepare_cohort
from tumorcast.durable import sha256_of
from tumorcast.errors import InputError, UsageError
from tumorcast.records import Contrast, PatientOutcome, Status
from tumorcast.simulation.cohort import simulate_cohort

Volume = np.ndarray[Any, Any]
Maker = Callable[..., Any]
FLOAT32 = {"rtol": 2**-24, "atol": 1e-6}  # NIfTI keeps an affine, in mm, in float32


def oblique_scans(folder: Path) -> np.ndarray[Any, Any]:
    """A scan of 1 mm pixels and 4 mm slices in an oblique head, written by nibabel in BraTS layout; its affine."""
    size = (30, 34, 7)
    x, y, z = (np.arange(n) - (n - 1) / 2 for n in size)
    radius = np.hypot(x[:, None, None] / 13, y[None, :, None] / 15) + 0 * z
    tumour = (np.hypot(x[:, None, None] - 3, y[None, :, None] + 2) < 6) & (np.abs(z) < 2)
    image = np.where(radius < 1, 300 + 7 * x[:, None, None] + 5 * y[None, :, None] + 11 * z + 200 * tumour, 0)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [7, -11, 21], degrees=True).as_matrix() * [-1.0, 1.0, 4.0]
    affine[:3, 3] = 31.5, -47.25, 12.125
    (folder / "OBL").mkdir(parents=True)
    for name, values in (("t1c", image.astype(np.int16)), ("seg", (2 * tumour).astype(np.uint8))):
        nib.save(nib.Nifti1Image(values, affine), folder / "OBL" / f"OBL-{name}.nii.gz")
    return np.asarray(nib.load(folder / "OBL" / "OBL-t1c.nii.gz").affine)


def pictures(root: Path, space: str) -> dict[str, Volume]:
    """What nibabel reads of a space's images of the only patient, by what follows the space in their names."""
    found = {}
    for path in root.glob(f"sub-*/ses-*/anat/*_space-{space}_*.nii.gz"):
        agent = "ce-gadolinium_" if "ce-gadolinium" in path.name else ""
        name = agent + path.name.split(f"_space-{space}_")[1].removesuffix(".nii.gz")
        found[name] = np.asarray(nib.load(path).dataobj)
    return found


def expected(archive: MapArchive, patient_id: str) -> dict[str, list[Volume]]:
    """The slices that each image holds, (H, W) each, by the names of `pictures`."""
    slices = archive.slices(patient_id)
    maps = {
        "label-tumor_probseg": "growth",
        "label-tumor_desc-segmenter_probseg": "tumour",
        "label-tumor_desc-present_probseg": "tumour_now",
        "label-change_probseg": "changed",
        "desc-present_dseg": "labels",
        "desc-brain_mask": "brain",
    }
    found = {name: [getattr(one, field) for one in slices] for name, field in maps.items()}
    found["desc-covered_mask"] = [np.ones_like(one.labels) for one in slices]
    for channel, contrast in enumerate(archive.provenance["contrasts"]):
        agent, suffix = CONTRASTS[Contrast(contrast)]
        for field, desc in (("image", "present"), ("mean", "forecast"), ("std", "spread")):
            name = f"{agent}_desc-{desc}_{suffix}".lstrip("_")
            found[name] = [getattr(one, field)[channel] for one in slices]
    return found


def affines(root: Path, space: str) -> list[Volume]:
    return [np.asarray(nib.load(path).affine) for path in root.glob(f"sub-*/ses-*/anat/*_space-{space}_*.nii.gz")]


def check_cohort_space(maps: Path, root: Path) -> None:
    """Every array of the archive is on the cohort's grid, at its own slice, with the archive's affine."""
    with MapArchive.open(maps) as archive:
        (patient_id,) = archive.patient_ids()
        slices = archive.slices(patient_id)
        wanted = expected(archive, patient_id)
    found = pictures(root, "cohort")
    assert found.keys() == wanted.keys()
    numbers = [one.source_slice for one in slices]
    for name, planes in wanted.items():
        for number, plane in zip(numbers, planes, strict=True):
            np.testing.assert_array_equal(found[name][:, :, number].T, plane)  # NIfTI's x is the column
        rest = np.delete(found[name], numbers, axis=2)
        outside = -1 if name.split("_")[-2] in ("desc-present", "desc-forecast") and "seg" not in name else 0
        assert (rest == outside).all()
    for affine in affines(root, "cohort"):
        np.testing.assert_allclose(affine, slices[0].affine, **FLOAT32)


def check_at_home(root: Path, source: Path) -> None:
    """The mask is that of its own file, voxel for voxel, in the slices that were forecast, and so is the affine."""
    found = pictures(root, "orig")
    mask = nib.load(next(source.glob("*-seg.nii.gz")))
    covered = found["desc-covered_mask"] > 0
    labels = np.asarray(mask.dataobj)
    labels = np.where(labels == 4, 3, labels)  # BraTS before 2023
    assert found["desc-present_dseg"].shape == labels.shape
    np.testing.assert_array_equal(found["desc-present_dseg"][covered], labels[covered])
    assert (labels[covered] > 0).any() and not (found["desc-present_dseg"][~covered]).any()
    for affine in affines(root, "orig"):
        np.testing.assert_allclose(affine, mask.affine, **FLOAT32)


def check_intensities(root: Path, source: Path, contrast: str, name: str) -> None:
    """The present scan on its own voxels is the file's, brought to its window."""
    (sidecar,) = root.glob(f"sub-*/ses-*/anat/*space-orig_{name}.json")
    low, high = json.loads(sidecar.read_text())["IntensityWindows"][contrast]
    found = pictures(root, "orig")
    inside = found["desc-brain_mask"] > 0
    read = nib.load(next(source.glob(f"*-{contrast}.nii.gz"))).get_fdata()[inside]
    key = next(key for key in found if key.endswith(name))
    np.testing.assert_allclose(found[key][inside], np.clip(2 * (read - low) / (high - low) - 1, -1, 1), atol=1e-6)
    assert inside.any() and (found[key][~inside] == -1).all()


def test_an_oblique_scan_goes_in_and_out_with_its_affine(archive_of: Maker, tmp_path: Path) -> None:
    affine = oblique_scans(tmp_path / "scans")
    prepare_cohort(tmp_path / "scans", tmp_path / "cohort.h5", PrepareSettings(image_size=256))
    maps = archive_of(tmp_path / "cohort.h5", tmp_path / "maps.h5")
    outcomes = export_bids(maps, tmp_path / "bids", cohort=tmp_path / "cohort.h5")
    assert [outcome.status for outcome in outcomes] == [Status.OK]
    check_cohort_space(maps, tmp_path / "bids")
    check_at_home(tmp_path / "bids", tmp_path / "scans" / "OBL")
    check_intensities(tmp_path / "bids", tmp_path / "scans" / "OBL", "t1c", "desc-present_T1w")
    assert np.abs(affine[:3, :3]).min() > 0.05  # no axis of it is an axis of the world


@pytest.mark.slow
def test_a_simulated_scan_of_2_mm_goes_in_and_out(archive_of: Maker, tmp_path: Path) -> None:
    simulate_cohort(tmp_path / "scans", patients=1, seed=3, sessions=(1, 1), voxel_mm=2.0)
    settings = PrepareSettings(128, slices=SliceChoice.LARGEST)
    prepare_cohort(tmp_path / "scans", tmp_path / "cohort.h5", settings)
    maps = archive_of(tmp_path / "cohort.h5", tmp_path / "maps.h5")
    export_bids(maps, tmp_path / "bids", cohort=tmp_path / "cohort.h5")
    (scan,) = (path for path in (tmp_path / "scans").iterdir() if path.is_dir() and any(path.glob("*-seg.nii.gz")))
    check_cohort_space(maps, tmp_path / "bids")
    check_at_home(tmp_path / "bids", scan)
    check_intensities(tmp_path / "bids", scan, "t2f", "desc-present_FLAIR")


@pytest.mark.slow
def test_a_real_scan_goes_in_and_out(archive_of: Maker, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "tcga_lgg" / "TCGA-FG-6692"
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / source.name).symlink_to(source)
    settings = PrepareSettings(256, (Contrast.T2F,), SliceChoice.LARGEST)
    prepare_cohort(tmp_path / "scans", tmp_path / "cohort.h5", settings)
    maps = archive_of(tmp_path / "cohort.h5", tmp_path / "maps.h5")
    export_bids(maps, tmp_path / "bids", cohort=tmp_path / "cohort.h5", spaces=[Space.NATIVE])
    check_at_home(tmp_path / "bids", source)
    check_intensities(tmp_path / "bids", source, "t2f", "desc-present_FLAIR")


def test_maps_of_other_pixels_are_interpolated_in_the_plane_alone(archive_of: Maker, tmp_path: Path) -> None:
    oblique_scans(tmp_path / "scans")
    prepare_cohort(tmp_path / "scans", tmp_path / "cohort.h5", PrepareSettings(image_size=64))
    maps = archive_of(tmp_path / "cohort.h5", tmp_path / "maps.h5")
    export_bids(maps, tmp_path / "bids")
    check_cohort_space(maps, tmp_path / "bids")
    found = pictures(tmp_path / "bids", "orig")
    growth, covered = found["label-tumor_probseg"], found["desc-covered_mask"] > 0
    with MapArchive.open(maps) as archive:
        values = [one.growth for one in archive.slices("OBL")]
    assert growth[covered].min() >= np.min(values) and growth[covered].max() <= np.max(values)
    assert not growth[~covered].any()
    assert len(np.unique(covered.reshape(-1, covered.shape[2]).any(axis=0).nonzero())) == len(values)
    assert set(np.unique(found["desc-present_dseg"])) <= {0, 2}


@pytest.mark.slow
def test_a_registered_scan_goes_home_to_the_scanners_voxels(archive_of: Maker, tmp_path: Path) -> None:
    """It was acquired two pixels to the left and one slice higher, on a larger grid: its map is shifted by as much.

    The archive alone tells the way; the cohort file says the same.
    """
    oblique_scans(tmp_path / "scans")
    prepare_cohort(tmp_path / "scans", tmp_path / "first.h5", PrepareSettings(image_size=256))
    with Cohort.open(tmp_path / "first.h5") as cohort:
        session = cohort.session("OBL", "000")
    shared = Grid.from_dict(session.source["grid"])
    width, height, depth = shared.size
    native = replace(shared, size=(width + 4, height + 4, depth + 3))
    moved = native.affine() @ np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1.0]])
    way = NativeImage(native, Affine(moved @ np.linalg.inv(shared.affine())))
    source = session.source | {"native": native_record({Contrast.T1C: way}, Contrast.T1C)}
    write_cohort(
        tmp_path / "cohort.h5",
        [replace(session, source=source)],
        {},
        image_size=256,
        contrasts=(Contrast.T1C,),
        config={},
    )
    maps = archive_of(tmp_path / "cohort.h5", tmp_path / "maps.h5")
    export_bids(maps, tmp_path / "home")
    export_bids(maps, tmp_path / "known", cohort=tmp_path / "cohort.h5")
    export_bids(archive_of(tmp_path / "first.h5", tmp_path / "shared.h5"), tmp_path / "shared")
    home, known, there = (pictures(tmp_path / name, "orig") for name in ("home", "known", "shared"))
    for name, volume in there.items():
        expected = np.full((width + 4, height + 4, depth + 3), volume[0, 0, 0], volume.dtype)  # a corner: outside
        expected[2 : width + 2, :height, 1 : depth + 1] = volume
        np.testing.assert_allclose(home[name], expected, atol=1e-4)  # positions are rounded
        np.testing.assert_array_equal(home[name], known[name])
    for affine in affines(tmp_path / "home", "orig"):
        np.testing.assert_allclose(affine, native.affine(), **FLOAT32)


@pytest.fixture(scope="module")
def maps(archive_of: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of an oblique scan at 64 pixels."""
    folder = tmp_path_factory.mktemp("maps")
    oblique_scans(folder / "scans")
    prepare_cohort(folder / "scans", folder / "cohort.h5", PrepareSettings(image_size=64))
    return archive_of(folder / "cohort.h5", folder / "maps.h5")


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_sidecars_tell_what_a_map_is_and_of_what_it_was_made(maps: Path, tmp_path: Path) -> None:
    export_bids(maps, tmp_path / "bids", cohort=maps.with_name("cohort.h5"))
    folder = tmp_path / "bids" / "sub-OBL" / "ses-000" / "anat"
    sidecar = json.loads((folder / "sub-OBL_ses-000_space-orig_label-tumor_probseg.json").read_text())
    assert (sidecar["Units"], sidecar["ModelSha256"]) == ("1", "5a")
    assert (sidecar["HorizonDays"], sidecar["TargetDay"]) == (90.0, 90.0)
    assert "RelativeChange" not in sidecar
    assert sidecar["Slices"][0]["AimedAreaMm2"] == sidecar["Slices"][0]["PresentAreaMm2"] + 100
    scan = maps.parent / "scans" / "OBL"
    assert sorted(sidecar["SourceSha256"].values()) == sorted(sha256_of(path) for path in scan.iterdir())
    assert set(sidecar["IntensityWindows"]) == {"t1c"}
    (source,) = sidecar["Sources"]
    assert (tmp_path / "bids" / source.removeprefix("bids::")).is_file()
    sidecars = {path.name.removesuffix(".json") for path in folder.glob("*.json")}
    assert sidecars == {path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz")}


def test_without_a_progression_network_the_segmenter_tells_the_growth(
    make_archive: Maker, maps: Path, tmp_path: Path
) -> None:
    """Slice 7 of these archives has no growth map."""
    path = make_archive(tmp_path / "maps.h5", {"P1": {7: [2]}})
    with MapArchive.open(maps) as other:
        grid = other.patient("OBL").source_grid | {"size": [8, 8, 9]}
    root = tmp_path / "bids"
    with_grid = tmp_path / "with_grid.h5"
    with MapArchive.open(path) as archive:
        patient, forecast = archive.patient("P1"), archive.slice("P1", "0007")
        provenance = archive.provenance
    key = ShardKey("run", "P1.000")
    patient = PatientForecast("P1", "000", patient.day, None, None, None, grid)
    write_shard(tmp_path / "shard.h5", key, patient, {"0007": forecast})
    shards = [PatientShards("P1", {"0007": [(tmp_path / "shard.h5", key)]})]
    merge(
        with_grid, shards, provenance, [PatientOutcome("P1", Status.OK), PatientOutcome("P9", Status.FAILED, "no fit")]
    )
    outcomes = export_bids(with_grid, root, spaces=[Space.COHORT])
    assert outcomes[1] == PatientOutcome("P9", Status.SKIPPED, "has no maps (failed: no fit)")
    found = pictures(root, "cohort")
    np.testing.assert_array_equal(found["label-tumor_probseg"][:, :, 7].T, forecast.tumour)
    (sidecar,) = root.glob("sub-P1/ses-000/anat/*_label-tumor_probseg.json")
    assert "no progression network" in json.loads(sidecar.read_text())["Description"]
    assert not list(root.rglob("*space-orig*"))


def test_the_same_export_again_writes_the_same_and_leaves_what_is_not_its_own(maps: Path, tmp_path: Path) -> None:
    root = tmp_path / "bids"
    export_bids(maps, root)
    first = content(root)
    (root / ".bidsignore").write_text("notes.txt\n")
    (root / "sub-OBL" / "ses-000" / "anat" / "sub-OBL_ses-000_space-orig_desc-brain_mask.nii.gz").unlink()
    export_bids(maps, root)
    assert content(root) == first | {".bidsignore": b"notes.txt\n"}


def test_a_folder_of_something_else_is_refused_and_untouched(maps: Path, tmp_path: Path) -> None:
    root = tmp_path / "bids"
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "mine"}')
    before = content(root)
    with pytest.raises(UsageError, match=r"--bids .*not empty"):
        export_bids(maps, root)
    assert content(root) == before
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        export_bids(maps, tmp_path / "file")


def test_another_export_into_the_same_folder_is_refused_by_what_differs(maps: Path, tmp_path: Path) -> None:
    export_bids(maps, tmp_path / "bids", spaces=[Space.COHORT])
    with pytest.raises(UsageError, match="Spaces = "):
        export_bids(maps, tmp_path / "bids")


def test_another_cohort_file_is_refused(maps: Path, blob_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--cohort"):
        export_bids(maps, tmp_path / "bids", cohort=blob_cohort)
    assert not (tmp_path / "bids").exists()


def test_a_damaged_archive_is_refused(maps: Path, tmp_path: Path) -> None:
    damaged = bytearray(maps.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "maps.h5").write_bytes(damaged)
    with pytest.raises(InputError, match="sum of its bytes"):
        export_bids(tmp_path / "maps.h5", tmp_path / "bids")


def command(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(export_maps)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_patient_without_a_grid_fails_and_the_others_are_written(
    make_archive: Maker, maps: Path, tmp_path: Path
) -> None:
    """The made-up patients of conftest.py tell neither origin nor direction."""
    both = tmp_path / "both.h5"
    make_archive(tmp_path / "maps.h5", {"P1": {7: [2]}})
    parts = []
    for path, patient_id in ((tmp_path / "maps.h5", "P1"), (maps, "OBL")):
        with MapArchive.open(path) as archive:
            slices = {name: archive.slice(patient_id, name) for name in archive.slice_names(patient_id)}
            shard, key = tmp_path / f"{patient_id}.shard", ShardKey("run", patient_id)
            write_shard(shard, key, archive.patient(patient_id), slices)
            parts.append(PatientShards(patient_id, {name: [(shard, key)] for name in slices}))
    with MapArchive.open(maps) as archive:
        provenance = archive.provenance
    merge(both, parts, provenance, [PatientOutcome("P1", Status.OK), PatientOutcome("OBL", Status.OK)])
    result = command(both, "--bids", tmp_path / "bids", "--space", "native", "--jobs", 2, "--json")
    assert result.exit_code == 1, result.output
    assert "P1: failed: P1: the archive does not tell the origin" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["patients"] == {"ok": 1, "failed": 1, "skipped": 0}
    assert (tmp_path / "bids" / "participants.tsv").read_text() == "participant_id\tcohort_id\nsub-OBL\tOBL\n"
    assert not (tmp_path / "bids" / "sub-P1").exists()


def test_a_wrong_space_is_refused(maps: Path, tmp_path: Path) -> None:
    result = command(maps, "--bids", tmp_path / "bids", "--space", "mni")
    assert isinstance(result.exception, UsageError)
    assert "--space mni: allowed are native, cohort" in str(result.exception)


def test_labels_stay_apart(tmp_path: Path) -> None:
    labels = labels_of(["A-1", "A1", "a_1", "–", "B", "sub-C", "sub-D", "D"], "sub")
    assert len({label.lower() for label in labels.values()}) == 8
    assert all(label.isascii() and label.isalnum() for label in labels.values())
    assert (labels["B"], labels["sub-C"]) == ("B", "C")
