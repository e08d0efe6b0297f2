"""One simulated head: the MNI152 2009a tissue maps that nilearn ships, deformed for one patient.

The template is an average of many brains, so its sulci are blurred; class noise and a sharpening of the tissue
probabilities give back an individual's irregular cortex. Half of the heads are mirrored, though the template is
symmetric but for noise.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from tumorcast.errors import EngineError
from tumorcast.extra import how_to_install
from tumorcast.simulation.fields import Mask, SimulationGrid, Volume, smooth_field

FIELD_CENTRE_MM = np.array([77.0, 120.0, 120.0])
TEMPLATE_CENTRE = np.array([82.0, 116.0, 98.0])
VENTRICLES = np.array([92.0, 112.0, 98.0])
# Levels of the template's own T1 image in pure tissue (uint8 of the file), CSF, grey, white.
T1_LEVELS = (70.0, 165.0, 223.0)


@dataclass(frozen=True)
class Template:
    """The MNI152 maps as (Z, Y, X) float32 in LPS order at 1 mm: grey and white in [0, 1], T1 in [0, 255]."""

    grey: Volume
    white: Volume
    t1: Volume


@dataclass(frozen=True)
class Anatomy:
    """One patient's head on the work box of a grid.

    csf, grey, white: (Z, Y, X) tissue fractions, their sum 1 inside the brain and 0 outside; detail: what the
    template's T1 shows beyond its tissues, in units of the grey-white contrast; brain: the skull-stripping mask;
    vessels: fraction in [0, 1]; template_index: (3, Z, Y, X) position in the template.
    """

    grid: SimulationGrid
    csf: Volume
    grey: Volume
    white: Volume
    detail: Volume
    vessels: Volume
    brain: Mask
    template_index: Volume

    @cached_property
    def depth_mm(self) -> npt.NDArray[np.float64]:
        """(Z, Y, X) distance from what is not brain; kept, since each of a patient's sessions needs it."""
        return np.asarray(self.grid.voxel_mm * ndimage.distance_transform_edt(self.brain))


def template_index(mni_mm: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """(3,) template voxel (z, y, x) of a point in MNI space, mm RAS.

    >>> template_index((0.0, -18.0, 10.0))
    array([ 82., 116.,  98.])
    """
    x, y, z = mni_mm
    return np.array([z + 72.0, 98.0 - y, 98.0 - x])


def _template_folder() -> Path:
    """Where nilearn keeps its data, without importing nilearn (seconds)."""
    found = find_spec("nilearn")
    if found is None or not found.submodule_search_locations:
        raise EngineError(f"nilearn is not installed, and with it the MNI152 maps; {how_to_install('simulate')}")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"


@lru_cache(maxsize=4)
def load_template(blur_mm: float = 0.0) -> Template:
    """The MNI152 2009a maps, blurred against aliasing. Raises EngineError where nilearn or a file of it is missing."""

    def load(name: str) -> Volume:
        path = _template_folder() / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise EngineError(f"{path}: not found; install nilearn 0.10 or later, whose wheel holds the MNI152 maps")
        image = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")).astype(np.float32)
        return ndimage.gaussian_filter(image, blur_mm) if blur_mm > 0 else image

    return Template(grey=load("gm") / np.float32(255), white=load("wm") / np.float32(255), t1=load("t1"))


def _rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A small rotation about the three axes, a few degrees."""
    a, b, c = np.deg2rad(rng.normal(0.0, [3.0, 2.0, 4.0]))
    about_z = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, -math.sin(b)], [0, 1, 0], [math.sin(b), 0, math.cos(b)]])
    about_x = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _coordinates(rng: np.random.Generator, grid: SimulationGrid) -> Volume:
    """(3, Z, Y, X) template voxel of every voxel: affine, ventricle size, and smooth displacements at three scales."""
    scale = rng.normal(0.925, 0.03) * rng.normal(1.0, 0.025, 3)
    matrix = (_rotation(rng) / scale).astype(np.float32)
    matrix[2] *= rng.choice([-1.0, 1.0])
    offsets = [(grid.centres_mm(axis) - FIELD_CENTRE_MM[axis]).astype(np.float32) for axis in range(3)]
    z, y, x = np.meshgrid(*offsets, indexing="ij", sparse=True)
    rows = zip(matrix, TEMPLATE_CENTRE.astype(np.float32), strict=True)
    moved = np.stack([m[0] * z + m[1] * y + m[2] * x + centre for m, centre in rows])
    for spacing_mm, amplitude_mm in ((60.0, 4.2), (28.0, 2.1), (12.0, 1.0)):
        for axis in range(3):
            moved[axis] += np.float32(amplitude_mm) * smooth_field(rng, grid, spacing_mm)
    return _scale_ventricles(moved, strength=float(np.clip(rng.normal(0.1, 0.14), -0.2, 0.4)))


def _scale_ventricles(index: Volume, strength: float) -> Volume:
    """Pull the map towards the ventricles, so that they are sampled larger (atrophy; smaller where strength < 0)."""
    away = index - VENTRICLES.astype(np.float32).reshape(3, 1, 1, 1)
    reach = np.array([22.0, 34.0, 20.0], np.float32).reshape(3, 1, 1, 1)
    pull = np.float32(strength) * np.exp(np.float32(-0.5) * ((away / reach) ** 2).sum(0))
    return np.asarray(index - pull * away, np.float32)


def _tissues(
    rng: np.random.Generator, grid: SimulationGrid, grey: Volume, white: Volume, t1: Volume
) -> tuple[Volume, Volume, Volume]:
    """CSF, grey and white fractions: template probabilities with class noise, sharpened."""
    # Averaging over brains fills a sulcus to half the way between grey matter and CSF.
    full = np.float32(rng.uniform(95.0, 130.0))
    dark = np.clip((T1_LEVELS[1] - 8 - t1) / (T1_LEVELS[1] - 8 - full), 0, 1)
    csf = np.maximum(np.clip(1 - grey - white, 0, 1), dark)
    grey = grey * (1 - dark)
    widening = np.exp(np.float32(rng.normal(0.2, 0.35)) + np.float32(0.7) * smooth_field(rng, grid, 7.0))
    wobble = np.float32(rng.uniform(0.5, 0.9)) * smooth_field(rng, grid, 5.0)
    wobble += np.float32(0.4) * smooth_field(rng, grid, 9.0)
    sharpness = np.float32(rng.uniform(1.6, 2.4))
    weights = [
        widening * (csf + np.float32(0.01)) ** sharpness,
        (grey + np.float32(0.01)) ** sharpness,
        (white + np.float32(0.01)) ** sharpness * np.exp(wobble),
    ]
    total = weights[0] + weights[1] + weights[2]
    return weights[0] / total, weights[1] / total, weights[2] / total


def _detail(grey: Volume, white: Volume, t1: Volume) -> Volume:
    """What the template's T1 has that its tissue maps do not explain, over the grey-white contrast."""
    csf = np.clip(1 - grey - white, 0, 1)
    expected = T1_LEVELS[0] * csf + T1_LEVELS[1] * grey + T1_LEVELS[2] * white
    return np.asarray(np.clip((t1 - expected) / (T1_LEVELS[2] - T1_LEVELS[1]), -1, 1), np.float32)


def _strip_skull(rng: np.random.Generator, grid: SimulationGrid, head: Mask, csf: Volume) -> Mask:
    """The mask of a skull-stripping tool: the whole head, or tight along the gyri for about half of the patients."""
    depth_mm = grid.voxel_mm * ndimage.distance_transform_edt(head)
    trim_mm = rng.uniform(0.0, 1.5) + 0.8 * smooth_field(rng, grid, 16.0)
    kept = depth_mm > np.clip(trim_mm, 0, 3)
    if rng.random() < 0.5:
        limit = rng.uniform(0.45, 0.9)
        kept &= (csf < limit) | (depth_mm > rng.uniform(4.0, 12.0))
    return _largest(kept)


def _largest(mask: Mask) -> Mask:
    """The largest connected part."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def _vessels(rng: np.random.Generator, grid: SimulationGrid, csf: Volume) -> Volume:
    """Thin curves where two random fields vanish together, kept in and near CSF: vessels that take up contrast."""
    paths = smooth_field(rng, grid, 14.0) ** 2 + smooth_field(rng, grid, 14.0) ** 2
    lines = np.exp(-paths / np.float32(rng.uniform(0.03, 0.08) * grid.voxel_mm))
    near = np.clip(ndimage.gaussian_filter(csf, 2.0 / grid.voxel_mm) * 4, 0, 1)
    return np.asarray(lines * near, np.float32)


def make_anatomy(rng: np.random.Generator, grid: SimulationGrid) -> Anatomy:
    """A random head on the work box of the grid."""
    template = load_template(blur_mm=0.35 * (grid.voxel_mm - 1.0))
    index = _coordinates(rng, grid)
    grey, white, t1 = (
        ndimage.map_coordinates(source, index, order=1, mode="constant")
        for source in (template.grey, template.white, template.t1)
    )
    csf_part, grey_part, white_part = _tissues(rng, grid, grey, white, t1)
    brain = _strip_skull(rng, grid, _largest(t1 > 30), csf_part)
    return Anatomy(
        grid=grid,
        csf=csf_part * brain,
        grey=grey_part * brain,
        white=white_part * brain,
        detail=_detail(grey, white, t1) * brain,
        vessels=_vessels(rng, grid, csf_part) * brain,
        brain=brain,
        template_index=index,
    )
