"""Mass effect: how far a tumour pushes the tissue round it, and head and tumour as they then lie.

Tissue yields to the gradient of a pressure, here the cell density smoothed over SPREAD_MM (as in Clatz et al. 2005,
reduced to its outcome): away from the tumour, most at its edge, and hardly at the skull. It widens the tumour itself.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from tumorcast.simulation.anatomy import Anatomy
from tumorcast.simulation.fields import Volume, box_of
from tumorcast.simulation.tumour import Medium, TumourState

SPREAD_MM = 9.0
SKULL_MM = 8.0  # from the brain's surface inwards, over which the tissue is held by it
FULL_EFFECT_MM3 = 60e3  # the volume of cells that pushes by the whole of `mass_mm`
LEAST_SHIFT = 2e-8  # voxels; less is lost when it is taken from a coordinate in float32
LARGEST_STRAIN = 0.6  # below 1, so that no tissue is turned inside out


def tissue_shift(density: Volume, anatomy: Anatomy, mass_mm: float) -> Volume:
    """(3, Z, Y, X) displacement in voxels, where the tissue ends up.

    density: (Z, Y, X) cells in [0, 1]. mass_mm: how far a tumour of FULL_EFFECT_MM3 pushes at most; a smaller one
    pushes less, as the third root of its volume.
    """
    voxel_mm = anatomy.grid.voxel_mm
    cells_mm3 = float(density.sum(dtype=np.float64)) * voxel_mm**3
    reach_mm = mass_mm * min(1.0, (cells_mm3 / FULL_EFFECT_MM3) ** (1 / 3))
    if reach_mm <= 0:
        return np.zeros((3, *density.shape), np.float32)
    pressure = ndimage.gaussian_filter(density, SPREAD_MM / voxel_mm, truncate=3.0)
    held = (1 - np.exp(-anatomy.depth_mm / SKULL_MM)).astype(np.float32)
    shift = -held * np.array(np.gradient(pressure))
    longest = float(np.sqrt((shift**2).sum(axis=0)).max())
    shift *= np.float32(reach_mm / voxel_mm / max(longest, 1e-12))
    strain = max(float(np.abs(np.diff(shift[axis], axis=axis)).max()) for axis in range(3))
    return np.asarray(shift * np.float32(min(1.0, LARGEST_STRAIN / max(strain, 1e-12))), np.float32)


def displaced(anatomy: Anatomy, shift: Volume) -> Anatomy:
    """The head whose tissue has moved by `shift`, (3, Z, Y, X) in voxels where it ends up; the skull stays."""
    names = ("csf", "grey", "white", "detail", "vessels")
    moved: dict[str, Any] = pulled_back({name: getattr(anatomy, name) for name in names}, shift)
    total = np.maximum(moved["csf"] + moved["grey"] + moved["white"], np.float32(1e-6))
    for name in ("csf", "grey", "white"):
        moved[name] = np.asarray(moved[name] / total * anatomy.brain, np.float32)
    moved["detail"] *= anatomy.brain
    moved["vessels"] *= anatomy.brain
    return replace(anatomy, **moved)


def pulled_back(volumes: dict[str, Volume], shift: Volume) -> dict[str, Volume]:
    """Of each (Z, Y, X) volume what stood at x - shift(x), at x; linear between voxels."""
    box = box_of(np.any(np.abs(shift) > LEAST_SHIFT, axis=0))
    at = np.mgrid[box].astype(np.float32) - shift[:, *box]
    moved = {name: volume.copy() for name, volume in volumes.items()}
    for name, volume in volumes.items():
        moved[name][box] = ndimage.map_coordinates(volume, at, order=1, mode="nearest")
    return moved


def displaced_tumour(state: TumourState, medium: Medium, shift: Volume) -> tuple[TumourState, Medium]:
    """What there is to see of a tumour after its tissue has moved by `shift` (see `displaced`)."""
    still = {"seen": state.visible, "peak": state.peak, "outline": medium.outline, "patches": medium.patches}
    moved = pulled_back(still, shift)
    seen = TumourState(living=moved["seen"], dying=np.zeros_like(moved["seen"]), peak=moved["peak"])
    return seen, replace(medium, outline=moved["outline"], patches=moved["patches"])
