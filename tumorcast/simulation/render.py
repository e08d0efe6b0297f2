"""What a scanner would show of a simulated head: four contrasts from tissue fractions, tumour labels and cell density.

Levels, gain, gamma, bias, blur and noise are drawn per patient; gain, bias and noise are jittered per session. The
tissues are ordered as in the contrasts of BraTS; the numbers were set by eye and by histogram against TCGA-LGG.
"""

from dataclasses import astuple, dataclass, replace
from typing import assert_never

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorcast.records import Contrast
from tumorcast.simulation.anatomy import Anatomy
from tumorcast.simulation.fields import Mask, SimulationGrid, Volume, smooth_field
from tumorcast.simulation.tumour import ENHANCING, NECROSIS, OEDEMA

MAX_INT16 = 32767


@dataclass(frozen=True)
class Levels:
    """Mean signal of each tissue in one contrast, arbitrary unit; detail and vessel are added on top.

    oedema, necrosis, enhancing: the level of the full lesion; oedema_cover: how much of the tissue it hides.
    """

    csf: float
    grey: float
    white: float
    detail: float
    vessel: float
    oedema: float
    oedema_cover: float
    necrosis: float
    enhancing: float


@dataclass(frozen=True)
class Scanner:
    """How one patient is scanned in one contrast: gain in stored units a level; noise in levels; blur (z, y, x)."""

    levels: Levels
    gain: float
    gamma: float
    noise: float
    blur_mm: tuple[float, float, float]
    bias_strength: float
    bias: Volume


@dataclass(frozen=True)
class Lesion:
    """What there is of a tumour to see, (Z, Y, X) each: BraTS labels; cells in [0, 1]; the oedema they show."""

    labels: npt.NDArray[np.uint8]
    density: Volume
    infiltration: Volume


def _typical(contrast: Contrast) -> Levels:
    """Levels of an average scan."""
    match contrast:
        case Contrast.T1N:
            return Levels(0.28, 0.64, 0.88, 0.22, 0.10, 0.56, 0.7, 0.45, 0.60)
        case Contrast.T1C:
            return Levels(0.28, 0.62, 0.78, 0.18, 0.90, 0.56, 0.7, 0.42, 1.12)
        case Contrast.T2W:
            return Levels(1.30, 0.74, 0.64, -0.10, -0.25, 1.02, 0.8, 1.18, 0.95)
        case Contrast.T2F:
            return Levels(0.16, 0.62, 0.54, -0.06, 0.0, 1.02, 0.85, 0.82, 0.92)
        case _:
            assert_never(contrast)


def _vary(rng: np.random.Generator, levels: Levels, spread: float) -> Levels:
    """Each level times its own factor."""
    # CSF and lesions differ more between patients than healthy tissue does.
    factors = np.exp(spread * np.array([3, 1, 1, 3, 6, 1.5, 1.5, 3, 2.5]) * rng.standard_normal(9))
    varied = [float(value * factor) for value, factor in zip(astuple(levels), factors, strict=True)]
    drawn = Levels(*varied)
    return replace(drawn, oedema_cover=min(drawn.oedema_cover, 0.97))


def _draw_scanner(rng: np.random.Generator, grid: SimulationGrid, contrast: Contrast) -> Scanner:
    levels = _vary(rng, _typical(contrast), 0.06)
    in_plane, through = rng.uniform(0.0, 0.7), rng.uniform(0.0, 1.2)
    return Scanner(
        levels=levels,
        gain=float(np.exp(rng.normal(np.log(450.0), 0.45))),
        gamma=float(np.exp(rng.normal(0.0, 0.2))),
        noise=float(np.exp(rng.uniform(np.log(0.006), np.log(0.03)))),
        blur_mm=(through, in_plane, in_plane),
        bias_strength=float(np.exp(rng.uniform(np.log(0.03), np.log(0.22)))),
        bias=smooth_field(rng, grid, 90.0),
    )


def draw_scanners(rng: np.random.Generator, grid: SimulationGrid) -> dict[Contrast, Scanner]:
    """How one patient is scanned, a scanner a contrast."""
    return {contrast: _draw_scanner(rng, grid, contrast) for contrast in Contrast}


def _soft(mask: Mask, grid: SimulationGrid, sigma_mm: float) -> Volume:
    """The partial volume of a mask."""
    return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), sigma_mm / grid.voxel_mm))


def render_session(
    rng: np.random.Generator, anatomy: Anatomy, lesion: Lesion, scanners: dict[Contrast, Scanner]
) -> dict[Contrast, npt.NDArray[np.int16]]:
    """All contrasts of one session: (Z, Y, X) int16 each, 0 outside the brain, at least 1 inside."""
    labels, grid = lesion.labels, anatomy.grid
    shares = {
        OEDEMA: np.maximum(_soft(labels > 0, grid, 1.2), lesion.infiltration),
        NECROSIS: _soft(labels == NECROSIS, grid, 0.9),
        ENHANCING: _soft(labels == ENHANCING, grid, 0.9),
    }
    texture = smooth_field(rng, anatomy.grid, 4.0)
    edge = _edge(anatomy)
    images = {}
    for contrast in Contrast:
        signal = edge * _signal(anatomy, shares, lesion.density, texture, scanners[contrast].levels)
        images[contrast] = _expose(rng, anatomy, signal, scanners[contrast])
    return images


def _edge(anatomy: Anatomy) -> Volume:
    """The dark fringe at the surface: dura, partial volume with air and the rim that skull stripping leaves."""
    inside = ndimage.gaussian_filter(anatomy.brain.astype(np.float32), 1.0 / anatomy.grid.voxel_mm)
    return np.asarray(np.clip((inside - 0.2) / 0.6, 0.15, 1), np.float32)


def _signal(anatomy: Anatomy, shares: dict[int, Volume], density: Volume, texture: Volume, levels: Levels) -> Volume:
    """(Z, Y, X) the noiseless signal: tissue, then oedema, then the core over it."""
    signal = levels.csf * anatomy.csf + levels.grey * anatomy.grey + levels.white * anatomy.white
    signal += levels.detail * anatomy.detail * (1 - anatomy.csf) + levels.vessel * anatomy.vessels
    cover = levels.oedema_cover * (0.6 + 0.4 * density) * (1 - 0.35 * anatomy.grey) * (1 - 0.7 * anatomy.csf)
    signal = _blend(signal, levels.oedema * (1 + 0.05 * texture), shares[OEDEMA] * cover)
    signal = _blend(signal, levels.necrosis * (1 + 0.08 * texture), 0.9 * shares[NECROSIS])
    return _blend(signal, levels.enhancing * (1 + 0.12 * texture), 0.9 * shares[ENHANCING])


def _blend(below: Volume, above: Volume | float, weight: Volume) -> Volume:
    return np.asarray(below + weight * (above - below), np.float32)


def _expose(rng: np.random.Generator, anatomy: Anatomy, signal: Volume, scanner: Scanner) -> npt.NDArray[np.int16]:
    """Resolution, bias, gamma and noise of one scan."""
    grid = anatomy.grid
    sigma = [mm / grid.voxel_mm for mm in scanner.blur_mm]
    image = ndimage.gaussian_filter(signal, sigma) if max(sigma) > 0.25 else signal
    session_bias = scanner.bias + 0.3 * smooth_field(rng, grid, 90.0)
    image = np.clip(image, 0, None) ** np.float32(scanner.gamma)
    image *= np.exp(np.float32(scanner.bias_strength) * session_bias)
    image *= np.float32(np.exp(0.04 * rng.standard_normal()))
    scale = np.float32(scanner.noise * np.exp(0.15 * rng.standard_normal()))
    real, imaginary = (scale * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    image = np.hypot(image + real, imaginary)
    return np.where(anatomy.brain, np.clip(np.rint(scanner.gain * image), 1, MAX_INT16), 0).astype(np.int16)
