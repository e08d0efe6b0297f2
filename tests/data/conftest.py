"""Scans to be read: a small phantom, an ellipsoid brain of 1 mm voxels with a tumour, written as NIfTI.

And scans that do not lie on each other, by known rigid transforms: of the simulator, and of a textured phantom.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tumorcast.data.imaging.geometry import Grid, Interpolation
from tumorcast.data.imaging.registration import RegistrationImage
from tumorcast.data.imaging.transforms import Affine, resample
from tumorcast.simulation.cohort import simulate_cohort

SHAPE = (6, 36, 40)  # z, y, x
KINDS = ("t1n", "t1c", "t2w", "t2f")
MM = 4.0
PHANTOM_GRID = Grid((44, 52, 40), (MM,) * 3, (-90.0, -105.0, -70.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
OTHER_GRID = Grid(
    (46, 58, 32), (4.4, 4.0, 6.0), (-95.0, -120.0, -85.0), (1.0, 0.0, 0.0, 0.0, 0.96, -0.28, 0.0, 0.28, 0.96)
)


def phantom_array(kind: str, tumour_radius: float = 7.0, shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
    """Intensities of one contrast, or labels for `seg`; air is exactly 0."""
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    brain = (x / 17) ** 2 + (y / 15) ** 2 + (z / 4) ** 2 < 1
    tumour = brain & ((x - 4) ** 2 + (y + 3) ** 2 + (3 * z) ** 2 < tumour_radius**2)
    if kind == "seg":
        core = tumour & ((x - 4) ** 2 + (y + 3) ** 2 < (tumour_radius / 2) ** 2)
        return (2 * tumour + core).astype(np.uint8)
    texture = 400 + 100 * KINDS.index(kind) + 3 * x + 5 * y + 7 * z + 150 * tumour
    return np.where(brain, texture, 0).astype(np.int16)


def save(path: Path, array: np.ndarray[Any, Any], like: sitk.Image | None = None) -> Path:
    """Write an array (Z, Y, X) as NIfTI, with the geometry of `like`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    if like is not None:
        image.CopyInformation(like)
    sitk.WriteImage(image, str(path))
    return path


def write_scan(folder: Path, scan: str, *, skip: str = "", tumour_radius: float = 7.0, **replaced: Any) -> Path:
    """A scan in BraTS layout; `skip` leaves one file out, `t1c=array` replaces its voxels."""
    for kind in (*KINDS, "seg"):
        if kind != skip:
            save(folder / scan / f"{scan}-{kind}.nii.gz", replaced.get(kind, phantom_array(kind, tumour_radius)))
    return folder / scan


@pytest.fixture
def scan() -> Callable[..., Path]:
    return write_scan


@pytest.fixture
def make_phantom() -> Callable[..., np.ndarray[Any, Any]]:
    return phantom_array


@pytest.fixture
def save_nifti() -> Callable[..., Path]:
    return save


def rigid(degrees: float, mm: float, centre: np.ndarray, seed: int) -> Affine:
    """A turn by so much about a random axis through `centre`, then a random shift by so much."""
    rng = np.random.default_rng(seed)
    axis, shift = rng.standard_normal(3), rng.standard_normal(3)
    turned = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turned
    matrix[:3, 3] = centre - turned @ centre + mm * shift / np.linalg.norm(shift)
    return Affine(matrix)


def phantom_picture(kind: str = "t1c", *, tumour_mm: float = 14.0, seed: int = 0) -> RegistrationImage:
    """A brain of 4 mm voxels with a texture that each contrast shows in its own way, and a round bright tumour."""
    grid, rng = PHANTOM_GRID, np.random.default_rng(seed)
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * MM for n in grid.size[::-1]), indexing="ij")
    brain = (x / 66) ** 2 + (y / 82) ** 2 + (z / 60) ** 2 < 1
    texture = sum(ndimage.gaussian_filter(rng.standard_normal(brain.shape), side) * side**1.5 for side in (2.0, 4.0))
    tumour = (x - 25) ** 2 + (y + 20) ** 2 + (z - 10) ** 2 < tumour_mm**2
    shown = {"t1c": texture, "t2f": -texture, "t1n": np.abs(texture), "t2w": texture**2}[kind]
    noise = np.random.default_rng([seed, KINDS.index(kind)]).normal(0.0, 0.03, brain.shape)
    values = np.where(brain, np.maximum(400 + 150 * (shown + noise) + 300 * tumour, 1.0), 0.0)
    return RegistrationImage(grid.image(values.astype(np.float32)), brain, tumour & brain)


def moved_picture(picture: RegistrationImage, transform: Affine) -> RegistrationImage:
    """All of it where the transform puts each of its points."""
    return picture.resampled(picture.grid, ~transform)


@dataclass(frozen=True)
class MovedCohort:
    """A folder in BraTS layout. truth: by (session, contrast or seg), where points of the unmoved scan lie in it."""

    folder: Path
    still: Path
    truth: dict[tuple[str, str], Affine]
    patient_id: str


@pytest.fixture(scope="session")
def moved_cohort(tmp_path_factory: pytest.TempPathFactory) -> MovedCohort:
    """One simulated patient with two scans of 4 mm, moved by 15 degrees and 20 mm, each contrast by 6 and 8 more.

    t2f lies on an oblique grid of other voxels.
    """
    folder = tmp_path_factory.mktemp("moved")
    still, moved = folder / "still", folder / "moved"
    simulate_cohort(still, patients=1, seed=3, sessions=2, voxel_mm=MM)
    truth = {}
    for number, scan in enumerate(sorted(path for path in still.iterdir() if path.name.startswith("SIM-"))):
        centre = np.array(
            Grid.of(sitk.ReadImage(str(scan / f"{scan.name}-t1c.nii.gz"))).affine()[:3, :3] @ [22, 27, 18]
        )
        whole = rigid(15.0, 20.0, centre, number)
        (moved / scan.name).mkdir(parents=True)
        for place, kind in enumerate((*KINDS, "seg")):
            image = sitk.ReadImage(str(scan / f"{scan.name}-{kind}.nii.gz"))
            own = Affine.identity() if kind in {"t1c", "seg"} else rigid(6.0, 8.0, centre, 10 * number + place + 2)
            truth[scan.name[-3:], kind] = own @ whole
            grid = _around(image, own @ whole) if kind == "t2f" else Grid.of(image)
            interpolation = Interpolation.NEAREST if kind == "seg" else Interpolation.LINEAR
            placed = resample(image, grid, ~(own @ whole), interpolation=interpolation)
            sitk.WriteImage(placed, str(moved / scan.name / f"{scan.name}-{kind}.nii.gz"))
    return MovedCohort(moved, still, truth, "SIM-00001")


def _around(image: sitk.Image, transform: Affine) -> Grid:
    """OTHER_GRID, moved so that its middle lies where the image's middle is put."""
    affine, target = OTHER_GRID.affine(), Grid.of(image).affine()
    middle = affine @ [*((side - 1) / 2 for side in OTHER_GRID.size), 1.0]
    wanted = transform.matrix @ target @ [*((side - 1) / 2 for side in image.GetSize()), 1.0]
    shift = (wanted - middle)[:3] * [-1.0, -1.0, 1.0]
    origin = tuple(float(value) for value in np.array(OTHER_GRID.origin) + shift)
    return Grid(OTHER_GRID.size, OTHER_GRID.spacing, origin, OTHER_GRID.direction)


@pytest.fixture(scope="session")
def phantom() -> Callable[..., RegistrationImage]:
    return phantom_picture


@pytest.fixture(scope="session")
def turned() -> Callable[..., Affine]:
    return rigid


@pytest.fixture(scope="session")
def put() -> Callable[..., RegistrationImage]:
    return moved_picture


def write_phantom(folder: Path, scan: str, kinds: tuple[str, ...] = ("t1c",), **given: object) -> Path:
    """A phantom's scan in BraTS layout; `given` as `phantom_picture` and, of transform, as `moved_picture` take it."""
    transform = given.pop("transform", Affine.identity())
    (folder / scan).mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        picture = moved_picture(phantom_picture(kind, **given), transform)
        sitk.WriteImage(picture.image, str(folder / scan / f"{scan}-{kind}.nii.gz"))
    mask = picture.grid.image(np.where(picture.tumour, 3, 0).astype(np.uint8))
    sitk.WriteImage(mask, str(folder / scan / f"{scan}-seg.nii.gz"))
    return folder / scan


@pytest.fixture(scope="session")
def phantom_scan() -> Callable[..., Path]:
    return write_phantom
