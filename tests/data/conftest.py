"""A small phantom: an ellipsoid brain of 1 mm voxels with a tumour, written as NIfTI in any orientation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

SHAPE = (6, 36, 40)  # z, y, x
KINDS = ("t1n", "t1c", "t2w", "t2f")


def phantom(kind: str, tumour_radius: float = 7.0, shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
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
            save(folder / scan / f"{scan}-{kind}.nii.gz", replaced.get(kind, phantom(kind, tumour_radius)))
    return folder / scan


@pytest.fixture
def scan() -> Callable[..., Path]:
    return write_scan


@pytest.fixture
def make_phantom() -> Callable[..., np.ndarray[Any, Any]]:
    return phantom


@pytest.fixture
def save_nifti() -> Callable[..., Path]:
    return save
