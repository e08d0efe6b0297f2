"""Fisher-Kolmogorov growth of a cell density: explicit finite volumes, inner loops in numba.

du/dt = div(D grad u) + r u (1 - u), no flux through the outer faces nor through a face of zero conductance.
Diffusion is one explicit conservative step; the reaction that follows it is exact (Lie splitting).
Arrays of this module: density u (Z, Y, X), 1 = the carrying capacity; conductance (3, Z, Y, X), 1/day: entry [a, i] is
the diffusivity of the face between voxel i and the next one along axis a over the squared voxel size, 0 on the last
voxel of an axis; box (3, 2) int64, first and one-past-last index an axis.
The caller keeps dt_days below 1 / largest_outflow, or the scheme is unstable.
"""

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled, compiled_inner

Density = npt.NDArray[np.float32]
Box = npt.NDArray[np.int64]

NO_CELLS = 1e-5  # a density below which no cells are looked for
SUPPORT_EVERY = 8  # steps after which the box of the cells is looked for again


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
    """The box of the voxels with density > floor, empty (first = past = 0) if there is none. Fills out (3, 2)."""
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


@compiled_inner
def grown(density: Density, conductance: Density, gain: Density, dt_days: float, at: tuple[int, int, int]) -> float:
    """The density of one voxel a step of dt_days later; see `step`."""
    z, y, x = at
    depth, height, width = density.shape
    # A neighbour beyond the edge is the voxel itself: no difference, no flux, no branch in the inner loop.
    below, above = max(z - 1, 0), min(z + 1, depth - 1)
    front, back = max(y - 1, 0), min(y + 1, height - 1)
    right, left = max(x - 1, 0), min(x + 1, width - 1)
    here = density[z, y, x]
    inflow = (
        conductance[0, below, y, x] * (density[below, y, x] - here)
        + conductance[0, z, y, x] * (density[above, y, x] - here)
        + conductance[1, z, front, x] * (density[z, front, x] - here)
        + conductance[1, z, y, x] * (density[z, back, x] - here)
        + conductance[2, z, y, right] * (density[z, y, right] - here)
        + conductance[2, z, y, x] * (density[z, y, left] - here)
    )
    u = here + dt_days * inflow
    later: float = u * gain[z, y, x] / (1.0 + u * (gain[z, y, x] - 1.0))
    return later


@compiled
def step(density: Density, scratch: Density, conductance: Density, gain: Density, dt_days: float) -> None:
    """Grow the density by one step of dt_days, in place.

    gain: (Z, Y, X) exp(r dt_days), what a sparse density is multiplied by. scratch: (Z, Y, X), its content is lost.
    """
    depth, height, width = density.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                scratch[z, y, x] = grown(density, conductance, gain, dt_days, (z, y, x))
    density[:] = scratch


@compiled
def largest_outflow(conductance: Density) -> float:
    """The largest sum of a voxel's six conductances, 1/day: a step below its inverse is stable."""
    _, depth, height, width = conductance.shape
    largest = 0.0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                total = conductance[0, z, y, x] + conductance[1, z, y, x] + conductance[2, z, y, x]
                if z > 0:
                    total += conductance[0, z - 1, y, x]
                if y > 0:
                    total += conductance[1, z, y - 1, x]
                if x > 0:
                    total += conductance[2, z, y, x - 1]
                largest = max(largest, total)
    return largest


@compiled
def arrival(
    density: Density,
    conductance: Density,
    gain: Density,
    dt_days: float,
    threshold: float,
    most_voxels: int,
    most_steps: int,
    days: npt.NDArray[np.float32],
) -> int:
    """When the density first reaches a threshold in each voxel, linear in time within a step. Returns the steps done.

    Grows until `most_voxels` are reached, or for `most_steps`. Fills days (Z, Y, X): 0 where it is
    reached from the beginning, infinite where it never was. Steps are those of `step`, in the box that cells have got
    to: each step may take them one voxel further.
    """
    depth, height, width = density.shape
    scratch = density.copy()
    reached = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                days[z, y, x] = 0.0 if density[z, y, x] >= threshold else np.inf
                reached += int(density[z, y, x] >= threshold)
    box = np.empty((3, 2), np.int64)
    support(density, NO_CELLS, box)
    steps = 0
    while reached < most_voxels and steps < most_steps:
        for axis in range(3):
            box[axis, 0] = max(box[axis, 0] - 1, 0)
            box[axis, 1] = min(box[axis, 1] + 1, density.shape[axis])
        for z in range(box[0, 0], box[0, 1]):
            for y in range(box[1, 0], box[1, 1]):
                for x in range(box[2, 0], box[2, 1]):
                    here, u = density[z, y, x], grown(density, conductance, gain, dt_days, (z, y, x))
                    scratch[z, y, x] = u
                    if here < threshold <= u and days[z, y, x] == np.inf:
                        days[z, y, x] = (steps + (threshold - here) / (u - here)) * dt_days
                        reached += 1
        density, scratch = scratch, density
        steps += 1
        if steps % SUPPORT_EVERY == 0:
            support(density, NO_CELLS, box)
    return steps
