"""A BIDS data set that nibabel wrote, through prepare and export-maps and back to nibabel, from the archive alone.

The small form of benchmarks/bids_round_trip.py. The head is a formula of places in it, so that a scan on any grid, of a
head that has moved, is exact, and so is the truth at any voxel of what comes out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tumorcast.archive.bids_export import export_bids
from tumorcast.archive.nifti import Space
from tumorcast.data.cohort import Cohort, deformed, write_cohort
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.transforms import Displacement
from tumorcast.data.prepare import PrepareSettings, Register, prepare_cohort
from tumorcast.records import Contrast, Status

Array = np.ndarray[Any, Any]
MM, THICK_MM = 4.0, 6.0
IMAGES = {"t1c": "ce-gd_T1w"}


def head(places: Array) -> dict[str, Array]:
    """Intensities of T1c, and labels as `seg`, at places (…, 3) in mm from the head's middle."""
    x, y, z = np.moveaxis(places, -1, 0)
    brain = (x / 62) ** 2 + (y / 78) ** 2 + (z / 56) ** 2 < 1
    folds = np.sin(x / 9 + np.sin(y / 11)) + np.sin(y / 8 - np.cos(z / 13)) + np.sin(z / 10 + np.sin(x / 12))
    tumour = np.linalg.norm(places - [22.0, -18.0, 9.0], axis=-1) < 15
    t1c = np.where(brain, 400 + 60 * folds + 250 * tumour, 0)
    return {"t1c": t1c.astype(np.int16), "seg": 2 * (brain & tumour).astype(np.uint8)}


def rigid(degrees: tuple[float, ...], shift_mm: tuple[float, ...]) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def places_of(shape: tuple[int, ...], affine: Array) -> Array:
    """(…, 3) where the voxels of a grid lie, RAS mm."""
    return np.asarray(nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)))


@dataclass(frozen=True)
class Scan:
    """A scan as acquired. pose: (4, 4) from the head to the world; axes: in which order its voxels are stored."""

    subject: str
    session: str
    pose: Array
    shape: tuple[int, ...]
    affine: Array

    @classmethod
    def lying(cls, subject: str, session: str, axes: str, pose: Array, scanner: Array) -> "Scan":
        """Slices of 6 mm over the whole head, on a grid that the scanner turns."""
        shape, steps = (42, 46, 26), np.array([MM, MM, THICK_MM])
        grid = np.diag([*steps, 1.0])
        grid[:3, 3] = -steps * (np.array(shape) - 1) / 2
        upright = nib.Nifti1Image(np.zeros(shape, np.uint8), scanner @ grid)
        way = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt(axes))
        stored = upright.as_reoriented(way)
        return cls(subject, session, pose, stored.shape, stored.affine)

    def values(self) -> dict[str, Array]:
        """What it shows."""
        return head(nib.affines.apply_affine(np.linalg.inv(self.pose), places_of(self.shape, self.affine)))

    def save(self, root: Path) -> None:
        """Write it into a raw data set, and its mask among the derivatives."""
        stem, place = (
            f"sub-{self.subject}_ses-{self.session}",
            Path(f"sub-{self.subject}", f"ses-{self.session}", "anat"),
        )
        files = {kind: root / place / f"{stem}_{name}.nii.gz" for kind, name in IMAGES.items()}
        files["seg"] = root / "derivatives" / "reader" / place / f"{stem}_label-tumor_dseg.nii.gz"
        for kind, values in self.values().items():
            files[kind].parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, self.affine), files[kind])


STILL = rigid((3.0, -5.0, 8.0), (12.0, -7.0, 21.0))
MOVED = rigid((6.0, -1.0, 4.0), (4.0, -2.0, 27.0))
TILTED = rigid((-4.0, 6.0, -9.0), (9.0, 1.0, 24.0))
SCANS = {
    ("lps", "a"): Scan.lying("lps", "a", "LPS", STILL, STILL),
    ("lps", "b"): Scan.lying("lps", "b", "LPS", MOVED, TILTED),
    ("sagittal", "a"): Scan.lying("sagittal", "a", "PIR", MOVED, MOVED),
    ("sagittal", "b"): Scan.lying("sagittal", "b", "PIR", STILL, TILTED),
}


def write_bids(root: Path, *subjects: str) -> Path:
    """A raw data set of patients who have moved, and are scanned on another grid, the second time."""
    for subject in subjects:
        for session in ("a", "b"):
            SCANS[subject, session].save(root)
        rows = "session_id\tacq_time\nses-a\t2020-01-01T12:00:00\nses-b\t2020-03-01T08:00:00\n"
        (root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv").write_text(rows)
    return root


def image(root: Path, subject: str, rest: str) -> nib.Nifti1Image:
    """One of the images of the patient's second scan."""
    return nib.load(root / f"sub-{subject}" / "ses-b" / "anat" / f"sub-{subject}_ses-b_{rest}.nii.gz")


def voxels(root: Path, subject: str, rest: str) -> Array:
    return np.asarray(image(root, subject, rest).dataobj)


def dice(one: Array, other: Array) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def check_home(root: Path, subject: str) -> dict[str, Array]:
    """Every image in the scan's own voxels has its file's shape and affine; returns what the scan truly shows."""
    scan = SCANS[subject, "b"]
    found = sorted((root / f"sub-{subject}").rglob("*_space-orig_*.nii.gz"))
    assert len(found) == 10
    for path in found:
        assert nib.load(path).shape == scan.shape
        np.testing.assert_allclose(nib.load(path).affine, scan.affine, rtol=2**-23, atol=2e-5)
    return scan.values()


def test_scans_come_back_voxel_for_voxel(archive_of: Callable[..., Path], tmp_path: Path) -> None:
    bids = write_bids(tmp_path / "bids", "lps", "sagittal")
    prepare_cohort(bids, tmp_path / "c.h5", PrepareSettings(image_size=64))
    with Cohort.open(tmp_path / "c.h5") as cohort:
        assert [info.day for info in cohort.sessions("sub-lps")] == [0.0, 60.0]
    root = tmp_path / "out"
    export_bids(archive_of(tmp_path / "c.h5", tmp_path / "maps.h5", 2), root, spaces=[Space.NATIVE])
    rows = "participant_id\tcohort_id\nsub-lps\tsub-lps\nsub-sagittal\tsub-sagittal\n"
    assert (root / "participants.tsv").read_text() == rows
    true = check_home(root, "lps")
    covered = voxels(root, "lps", "space-orig_desc-covered_mask") > 0
    assert (true["seg"][covered] > 0).sum() > 50
    np.testing.assert_array_equal(voxels(root, "lps", "space-orig_desc-present_dseg")[covered], true["seg"][covered])
    check_home(root, "sagittal")


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort file of one of the patients, registered."""
    folder = tmp_path_factory.mktemp("registered")
    bids = write_bids(folder / "bids", "sagittal")
    prepare_cohort(bids, folder / "c.h5", PrepareSettings(image_size=64, register=Register.RIGID))
    return folder / "c.h5"


def test_a_registered_scan_finds_home_by_the_archive_alone(
    registered: Path, archive_of: Callable[..., Path], tmp_path: Path
) -> None:
    root = tmp_path / "out"
    export_bids(archive_of(registered, tmp_path / "maps.h5", 2), root)
    true = check_home(root, "sagittal")
    covered = voxels(root, "sagittal", "space-orig_desc-covered_mask") > 0
    present = voxels(root, "sagittal", "space-orig_desc-present_dseg") > 0
    assert dice(present, (true["seg"] > 0) & covered) > 0.9

    inside = voxels(root, "sagittal", "space-orig_desc-brain_mask") > 0
    shown = voxels(root, "sagittal", "ce-gadolinium_space-orig_desc-present_T1w")
    unclipped = inside & (np.abs(shown) < 0.99)
    assert np.corrcoef(shown[unclipped], true["t1c"][unclipped])[0, 1] > 0.85  # folds are fine, voxels coarse

    labels = image(root, "sagittal", "space-cohort_desc-present_dseg")
    places = places_of(labels.shape, labels.affine)
    there = head(nib.affines.apply_affine(np.linalg.inv(SCANS["sagittal", "a"].pose), places))["seg"] > 0
    forecast = voxels(root, "sagittal", "space-cohort_desc-covered_mask") > 0
    assert dice(np.asarray(labels.dataobj) > 0, there & forecast) > 0.9

    # Covered voxels lie up to half a slice off the outer slices; what lies beyond must not thin their values.
    home = voxels(root, "sagittal", "space-orig_label-tumor_probseg")
    slices = voxels(root, "sagittal", "space-cohort_label-tumor_probseg")[forecast]
    assert home[covered].mean() == pytest.approx(slices.mean(), abs=0.02)
    assert (home[~covered] == 0).all()


def test_a_bent_scan_needs_its_cohort_file(registered: Path, archive_of: Callable[..., Path], tmp_path: Path) -> None:
    lattice = Grid((7, 7, 7), (100.0,) * 3, (-300.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    centres = []
    for moved_mm in (0.0, 8.0):
        root = tmp_path / f"{moved_mm:g}"
        field = Displacement(np.full((7, 7, 7, 3), np.array([0.0, moved_mm, 0.0]), np.float32), lattice)
        with Cohort.open(registered) as cohort:
            last = deformed(cohort.session("sub-sagittal", "ses-b"), field)
        write_cohort(root / "c.h5", [last], {}, image_size=64, contrasts=(Contrast.T1C,), config={})
        maps = archive_of(root / "c.h5", root / "maps.h5", 1)
        (refused,) = export_bids(maps, root / "alone", spaces=[Space.NATIVE])
        assert refused.status is Status.FAILED and "give --cohort, or --space cohort" in refused.reason
        (known,) = export_bids(maps, root / "home", spaces=[Space.NATIVE], cohort=root / "c.h5")
        assert known.status is Status.OK
        check_home(root / "home", "sagittal")
        present = image(root / "home", "sagittal", "space-orig_desc-present_dseg")
        places = places_of(present.shape, present.affine)
        centres.append(places[np.asarray(present.dataobj) > 0].mean(axis=0))
    assert np.linalg.norm(centres[1] - centres[0]) == pytest.approx(8.0, abs=2.0)
