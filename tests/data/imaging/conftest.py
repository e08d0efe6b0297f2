"""Scans that do not lie on each other, by known rigid transforms: of the simulator, and of a textured phantom."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tumorcast.data.imaging.geometry import Grid, Interpolation
from tumorcast.data.imaging.registration import RegistrationImage
from tumorcast.data.imaging.transforms import Matrix, carried
from tumorcast.simulation.cohort import simulate_cohort

KINDS = ("t1n", "t1c", "t2w", "t2f")
MM = 4.0
PHANTOM_GRID = Grid((44, 52, 40), (MM,) * 3, (-90.0, -105.0, -70.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
OTHER_GRID = Grid(
    (46, 58, 32), (4.4, 4.0, 6.0), (-95.0, -120.0, -85.0), (1.0, 0.0, 0.0, 0.0, 0.96, -0.28, 0.0, 0.28, 0.96)
)


def rigid(degrees: float, mm: float, centre: np.ndarray, seed: int) -> Matrix:
    """(4, 4) RAS: a turn by so much about a random axis through `centre`, then a random shift by so much."""
    rng = np.random.default_rng(seed)
    axis, shift = rng.standard_normal(3), rng.standard_normal(3)
    turned = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turned
    matrix[:3, 3] = centre - turned @ centre + mm * shift / np.linalg.norm(shift)
    return matrix


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


def moved_image(image: sitk.Image, matrix: Matrix, grid: Grid, *, mask: bool = False) -> sitk.Image:
    """The image where `matrix` puts each of its points, on `grid`."""
    way = Interpolation.NEAREST if mask else Interpolation.LINEAR
    return carried(image, grid, np.linalg.inv(matrix), interpolation=way)


def moved_picture(picture: RegistrationImage, matrix: Matrix) -> RegistrationImage:
    masks = [
        sitk.GetArrayFromImage(moved_image(picture.grid.image(mask.astype("u1")), matrix, picture.grid, mask=True)) > 0
        for mask in (picture.brain, picture.tumour)
    ]
    return RegistrationImage(moved_image(picture.image, matrix, picture.grid), *masks)


@dataclass(frozen=True)
class MovedCohort:
    """A folder in BraTS layout. truth: by (session, contrast or seg), where points of the unmoved scan lie in it."""

    folder: Path
    still: Path
    truth: dict[tuple[str, str], Matrix]
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
            own = np.eye(4) if kind in {"t1c", "seg"} else rigid(6.0, 8.0, centre, 10 * number + place + 2)
            truth[scan.name[-3:], kind] = own @ whole
            grid = _around(image, own @ whole) if kind == "t2f" else Grid.of(image)
            placed = moved_image(image, own @ whole, grid, mask=kind == "seg")
            sitk.WriteImage(placed, str(moved / scan.name / f"{scan.name}-{kind}.nii.gz"))
    return MovedCohort(moved, still, truth, "SIM-00001")


def _around(image: sitk.Image, matrix: Matrix) -> Grid:
    """OTHER_GRID, moved so that its middle lies where the image's middle is put."""
    affine, target = OTHER_GRID.affine(), Grid.of(image).affine()
    middle = affine @ [*((side - 1) / 2 for side in OTHER_GRID.size), 1.0]
    wanted = matrix @ target @ [*((side - 1) / 2 for side in image.GetSize()), 1.0]
    shift = (wanted - middle)[:3] * [-1.0, -1.0, 1.0]
    origin = tuple(float(value) for value in np.array(OTHER_GRID.origin) + shift)
    return Grid(OTHER_GRID.size, OTHER_GRID.spacing, origin, OTHER_GRID.direction)


@pytest.fixture(scope="session")
def phantom() -> Callable[..., RegistrationImage]:
    return phantom_picture


@pytest.fixture(scope="session")
def turned() -> Callable[..., Matrix]:
    return rigid


@pytest.fixture(scope="session")
def put() -> Callable[..., RegistrationImage]:
    return moved_picture


def write_phantom(folder: Path, scan: str, kinds: tuple[str, ...] = ("t1c",), **given: object) -> Path:
    """A phantom's scan in BraTS layout; `given` as `phantom_picture` and, of matrix, as `moved_picture` take it."""
    matrix = given.pop("matrix", np.eye(4))
    (folder / scan).mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        picture = moved_picture(phantom_picture(kind, **given), matrix)
        sitk.WriteImage(picture.image, str(folder / scan / f"{scan}-{kind}.nii.gz"))
    mask = picture.grid.image(np.where(picture.tumour, 3, 0).astype(np.uint8))
    sitk.WriteImage(mask, str(folder / scan / f"{scan}-seg.nii.gz"))
    return folder / scan


@pytest.fixture(scope="session")
def phantom_scan() -> Callable[..., Path]:
    return write_phantom
