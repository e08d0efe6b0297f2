"""Fisher-Kolmogorov growth of a cell density: explicit finite volumes, inner loops in numba.

du/dt = div(D grad u) + r u (1 - u), no flux through the outer faces nor through a face of zero conductance.
Diffusion is one explicit conservative step; the reaction that follows it is exact (Lie splitting).
Arrays of this module: density u (Z, Y, X), 1 = the carrying capacity; conductance (3, Z, Y, X), 1/day: entry [a, i] is
the diffusivity of the face between voxel i and the next one along axis a over the squared voxel size, 0 on the last
voxel of an axis; rate (Z, Y, X), 1/day; box (3, 2) int64, first and one-past-last index an axis.
The caller keeps dt_days below 1 / (sum of a voxel's six conductances), or the scheme is unstable.
"""

import math

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled

Density = npt.NDArray[np.float32]
Box = npt.NDArray[np.int64]


@compiled
def face_conductance(diffusivity: Density, voxel_mm: float, out: Density) -> None:
    """Conductance of every face from the harmonic mean of its two voxels.

    diffusivity: (3, Z, Y, X) mm²/day, one component an axis. Fills out (3, Z, Y, X), 1/day.
    """
    _, depth, height, width = diffusivity.shape
    out[:] = 0.0
    for axis in range(3):
        dz, dy, dx = int(axis == 0), int(axis == 1), int(axis == 2)
        for z in range(depth - dz):
            for y in range(height - dy):
                for x in range(width - dx):
                    a = diffusivity[axis, z, y, x]
                    b = diffusivity[axis, z + dz, y + dy, x + dx]
                    if a > 0.0 and b > 0.0:
                        out[axis, z, y, x] = 2.0 * a * b / ((a + b) * voxel_mm * voxel_mm)


@compiled
def support(density: Density, floor: float, out: Box) -> None:
    """The box of the voxels with density > floor; an empty box (first = past = 0) if there is none. Fills out (3, 2)."""
    depth, height, width = density.shape
    out[:, 0] = np.array([depth, height, width])
    out[:, 1] = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if density[z, y, x] > floor:
                    out[0, 0], out[0, 1] = min(out[0, 0], z), max(out[0, 1], z + 1)
                    out[1, 0], out[1, 1] = min(out[1, 0], y), max(out[1, 1], y + 1)
                    out[2, 0], out[2, 1] = min(out[2, 0], x), max(out[2, 1], x + 1)
    if out[0, 1] == 0:
        out[:] = 0


@compiled
def _inflow(density: Density, conductance: Density, z: int, y: int, x: int) -> float:
    """Net diffusive flow into one voxel, 1/day."""
    here = density[z, y, x]
    flow = 0.0
    if z > 0:
        flow += conductance[0, z - 1, y, x] * (density[z - 1, y, x] - here)
    if z + 1 < density.shape[0]:
        flow += conductance[0, z, y, x] * (density[z + 1, y, x] - here)
    if y > 0:
        flow += conductance[1, z, y - 1, x] * (density[z, y - 1, x] - here)
    if y + 1 < density.shape[1]:
        flow += conductance[1, z, y, x] * (density[z, y + 1, x] - here)
    if x > 0:
        flow += conductance[2, z, y, x - 1] * (density[z, y, x - 1] - here)
    if x + 1 < density.shape[2]:
        flow += conductance[2, z, y, x] * (density[z, y, x + 1] - here)
    return flow


@compiled
def advance(
    density: Density, scratch: Density, conductance: Density, rate: Density, dt_days: float, steps: int, box: Box
) -> None:
    """Grow the density inside a box by `steps` steps of dt_days, in place.

    Voxels outside the box are read and not changed. scratch: (Z, Y, X), its content is lost.
    """
    for _ in range(steps):
        for z in range(box[0, 0], box[0, 1]):
            for y in range(box[1, 0], box[1, 1]):
                for x in range(box[2, 0], box[2, 1]):
                    u = density[z, y, x] + dt_days * _inflow(density, conductance, z, y, x)
                    if u > 0.0:
                        gain = math.exp(rate[z, y, x] * dt_days)
                        u = u * gain / (1.0 + u * (gain - 1.0))
                    scratch[z, y, x] = u
        for z in range(box[0, 0], box[0, 1]):
            for y in range(box[1, 0], box[1, 1]):
                for x in range(box[2, 0], box[2, 1]):
                    density[z, y, x] = scratch[z, y, x]
