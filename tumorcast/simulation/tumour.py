"""A simulated tumour: where it starts, how it grows and answers radiotherapy, and the BraTS labels one would draw.

Growth is Fisher-Kolmogorov on the patient's tissue. It is set by what one sees, the speed of the front
v = 2 sqrt(D rho) and its width sqrt(D / rho), hence D = v width / 2 and rho = v / (2 width). No way leads into CSF.
Two thirds of the tumours are anisotropic: slower in grey matter than in white, and slower across the surface of the
white matter than along it. The others spread alike in both tissues and in all directions, so that neither dilation
nor a model of tissue has it right for all. A mild smooth variation of diffusivity, rate and threshold, which no image
tells, makes outlines irregular.
So spread the tumours of SpreadLaw.FIBRES. Those of SpreadLaw.SURFACES, made to test methods trained on the others, know
neither tissue: they run along the brain's surface, the ventricles' walls and the border of grey and white matter.
Radiotherapy moves cells from living to dying over its 42 days; the dying fade after a delay, all but a scar.
Growth happens in the tissue at rest; what it pushes is moved for the picture (mass_effect).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tumorcast.kernels.reaction_diffusion import face_conductance, largest_outflow, step, support
from tumorcast.records import RadiotherapyCourse
from tumorcast.simulation.anatomy import Anatomy, load_template, template_index
from tumorcast.simulation.fields import Mask, SimulationGrid, Volume, box_of, smooth_field

NECROSIS, OEDEMA, ENHANCING = 1, 2, 3
ANISOTROPIC_SHARE = 2 / 3
FASTEST = 4.0  # times the average diffusivity; a longer tail would shorten every step for a few voxels
MAX_BRAIN_FRACTION = 0.15
PONS_MNI_MM = (0.0, -27.0, -32.0)
THALAMUS_MNI_MM = (12.0, -18.0, 8.0)
NO_DENSITY = 1e-6
STEPS_A_CROP = 8
# Scherer 1938 names the structures and no numbers; these are by eye.
SURFACE_MM = 3.0  # from a surface, where half of what it hurries is left
DEEP_SLOWNESS = 6.0  # speed at a surface over that far from all of them
DIRECTION_SPREAD = 0.5  # standard deviation of the log diffusivity of one axis against the others
DIRECTION_MM = 30.0


class SpreadLaw(StrEnum):
    """What leads a tumour: white matter and its direction, or Scherer's secondary structures (1938)."""

    FIBRES = "fibres"
    SURFACES = "surfaces"


class TumourKind(StrEnum):
    """What grows: it decides the place and what takes up contrast."""

    GLIOBLASTOMA = "glioblastoma"
    LOW_GRADE = "low_grade"
    MIDLINE = "midline"


# Untreated glioblastomas double in 50 days (Stensjoen et al. 2015), which at a radius of 18 mm is .09 mm/day; low-grade
# gliomas grow by some 4 mm of diameter a year (Mandonnet et al. 2003), before they turn. In between, by eye.
MEDIAN_SPEED_MM_PER_DAY = {TumourKind.GLIOBLASTOMA: 0.06, TumourKind.LOW_GRADE: 0.015, TumourKind.MIDLINE: 0.045}
LARGEST_PUSH_MM = {TumourKind.GLIOBLASTOMA: 7.0, TumourKind.LOW_GRADE: 4.0, TumourKind.MIDLINE: 3.0}
LARGEST_FIRST_MM3 = {TumourKind.GLIOBLASTOMA: 70e3, TumourKind.LOW_GRADE: 90e3, TumourKind.MIDLINE: 25e3}


@dataclass(frozen=True)
class TumourTraits:
    """Everything drawn for one tumour, before it grows.

    speed_mm_per_day: of the front in white matter, or at the surfaces where these lead; width_mm: sqrt(D / rho);
    first_volume_mm3: visible at first, before its push; visible, core: thresholds of the cell density for T2/FLAIR and
    for the core; rim_mm: thickness of living core round necrosis; enhancement: share of the core that enhances, 0 to 1;
    survival: of one radiotherapy course; fading_days: time constant of the dying after the delay; scar: the share of
    them that stays visible; grey_slowness: diffusivity of white matter over that of grey; anisotropy: share of the
    diffusivity lost across the white matter's surface, 0 to 1 (surfaces that lead know neither of the two); roughness:
    standard deviation of the log diffusivity; mass_mm: how far it pushes at most; infiltration: how much of the
    oedema's signal cells show at the edge of what one would outline, falling with their density beyond it.
    """

    kind: TumourKind
    speed_mm_per_day: float
    width_mm: float
    first_volume_mm3: float
    visible: float
    core: float
    rim_mm: float
    enhancement: float
    survival: float
    delay_days: float
    fading_days: float
    scar: float
    grey_slowness: float
    anisotropy: float
    roughness: float
    mass_mm: float
    infiltration: float


@dataclass(frozen=True)
class Medium:
    """What a tumour grows in: (3, Z, Y, X) conductance and (Z, Y, X) rate, per day; the longest stable step.

    resistance: (Z, Y, X) factor on the log survival of radiotherapy; outline: factor on the visible threshold;
    patches: noise of the enhancement.
    """

    conductance: Volume
    rate: Volume
    step_days: float
    resistance: Volume
    outline: Volume
    patches: Volume


@dataclass(frozen=True)
class TumourState:
    """One tumour on one day: living and dying cells, (Z, Y, X) each, 1 = as dense as tissue can be.

    peak: the most that was ever visible, which marks the core also after radiotherapy has thinned it.
    """

    living: Volume
    dying: Volume
    peak: Volume

    @property
    def visible(self) -> Volume:
        """(Z, Y, X) what imaging sees of either, at most 1."""
        return np.asarray(np.minimum(self.living + self.dying, 1), np.float32)


def draw_traits(rng: np.random.Generator) -> TumourTraits:
    """The kind and the numbers of one tumour."""
    kind = list(TumourKind)[int(rng.choice(3, p=[0.5, 0.32, 0.18]))]
    median_speed, largest_mm3 = MEDIAN_SPEED_MM_PER_DAY[kind], LARGEST_FIRST_MM3[kind]
    visible, survival = rng.uniform(0.14, 0.3), _log_uniform(rng, 0.03, 0.6)
    anisotropic = rng.random() < ANISOTROPIC_SHARE
    return TumourTraits(
        kind=kind,
        speed_mm_per_day=float(np.clip(median_speed * np.exp(0.7 * rng.standard_normal()), 0.003, 0.16)),
        width_mm=_log_uniform(rng, 1.0, 2.8),
        first_volume_mm3=_log_uniform(rng, 2500.0, largest_mm3),
        visible=visible,
        core=rng.uniform(0.7, 0.93),
        rim_mm=rng.uniform(2.5, 8.0),
        enhancement=_draw_enhancement(rng, kind),
        survival=survival,
        delay_days=rng.uniform(0.0, 50.0),
        fading_days=rng.uniform(15.0, 90.0),
        # Enough stays visible for the dense core to outlast radiotherapy; only rims and small tumours vanish.
        scar=max(rng.uniform(0.0, 0.25), 1.3 * visible - survival),
        grey_slowness=_log_uniform(rng, 3.0, 10.0) if anisotropic else 1.0,
        anisotropy=rng.uniform(0.3, 0.9) if anisotropic else 0.0,
        roughness=rng.uniform(0.0, 0.25),
        mass_mm=rng.uniform(0.2, 1.0) * LARGEST_PUSH_MM[kind],
        infiltration=rng.uniform(0.1, 0.5),
    )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_enhancement(rng: np.random.Generator, kind: TumourKind) -> float:
    """Glioblastomas enhance nearly always; of the others a minority does, in patches."""
    match kind:
        case TumourKind.GLIOBLASTOMA:
            return rng.uniform(0.75, 1.0)
        case TumourKind.LOW_GRADE:
            return 0.25 if rng.random() < 0.25 else 0.0
        case TumourKind.MIDLINE:
            return 0.35 if rng.random() < 0.4 else 0.0
        case _:
            assert_never(kind)


def _seed_template_voxel(rng: np.random.Generator, kind: TumourKind) -> npt.NDArray[np.float64]:
    """(3,) where the tumour starts, a voxel of the template."""
    if kind is TumourKind.MIDLINE:
        side = rng.choice([-1.0, 1.0])
        x, y, z = PONS_MNI_MM if rng.random() < 0.7 else (side * THALAMUS_MNI_MM[0], *THALAMUS_MNI_MM[1:])
        return template_index((x, y, z)) + rng.normal(0.0, 3.0, 3)
    inside = np.argwhere(load_template().white > 0.85)
    above_tentorium = inside[inside[:, 0] > template_index((0.0, 0.0, -15.0))[0]]
    return np.asarray(above_tentorium[rng.integers(len(above_tentorium))], np.float64)


def _seed_density(rng: np.random.Generator, anatomy: Anatomy, kind: TumourKind) -> Volume:
    """(Z, Y, X) a ball of cells of some 3 mm at the voxel of brain tissue nearest to the seed."""
    seed = _seed_template_voxel(rng, kind).astype(np.float32).reshape(3, 1, 1, 1)
    away = ((anatomy.template_index - seed) ** 2).sum(0)
    away[(anatomy.csf > 0.3) | ~anatomy.brain] = np.inf
    at = np.unravel_index(int(np.argmin(away)), away.shape)
    z, y, x = np.ogrid[tuple(slice(0, n) for n in away.shape)]
    mm2 = ((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2) * anatomy.grid.voxel_mm**2
    return np.asarray(np.exp(-mm2 / 9.0) * (mm2 < 36.0) * np.isfinite(away), np.float32)


def make_medium(
    rng: np.random.Generator, anatomy: Anatomy, traits: TumourTraits, spread: SpreadLaw = SpreadLaw.FIBRES
) -> Medium:
    """The tissue as the tumour meets it. Either way of spread draws as much from rng: the rest is the same."""
    grid = anatomy.grid
    noise = np.float32(0.8) * smooth_field(rng, grid, 18.0) + np.float32(0.6) * smooth_field(rng, grid, 9.0)
    uneven = np.exp(traits.roughness * noise - traits.roughness**2 / 2)
    match spread:
        case SpreadLaw.FIBRES:
            by_axis, rate = _along_fibres(anatomy, traits, uneven)
        case SpreadLaw.SURFACES:
            by_axis, rate = _along_surfaces(rng.spawn(1)[0], anatomy, traits, uneven)
        case _:
            assert_never(spread)
    conductance = np.empty_like(by_axis)
    face_conductance(by_axis, grid.voxel_mm, conductance)
    rate = rate * np.exp(0.15 * smooth_field(rng, grid, 20.0))
    fastest = float(rate.max())
    return Medium(
        conductance=conductance,
        rate=np.asarray(rate * (by_axis[0] > 0), np.float32),
        step_days=min(0.9 / largest_outflow(conductance), 0.3 / fastest),
        resistance=np.exp(0.2 * smooth_field(rng, grid, 18.0)),
        outline=np.exp(0.15 * smooth_field(rng, grid, 9.0) + 0.1 * smooth_field(rng, grid, 5.0)),
        patches=smooth_field(rng, grid, 7.0),
    )


def _along_fibres(anatomy: Anatomy, traits: TumourTraits, uneven: Volume) -> tuple[Volume, Volume]:
    """(3, Z, Y, X) diffusivity by axis, mm²/day, and (1, 1, 1) rate, 1/day: slow in grey matter and out of the white.

    uneven: (Z, Y, X) factor on the diffusivity.
    """
    diffusivity = traits.speed_mm_per_day * traits.width_mm / 2
    tissue = (anatomy.white + anatomy.grey / traits.grey_slowness) * (anatomy.csf < 0.5) * anatomy.brain
    by_axis = diffusivity * uneven * tissue * (1 - traits.anisotropy * _across(anatomy))
    rate = np.full((1, 1, 1), traits.speed_mm_per_day / (2 * traits.width_mm), np.float32)
    return np.minimum(by_axis, FASTEST * diffusivity).astype(np.float32), rate


def _along_surfaces(
    rng: np.random.Generator, anatomy: Anatomy, traits: TumourTraits, uneven: Volume
) -> tuple[Volume, Volume]:
    """(3, Z, Y, X) diffusivity by axis, mm²/day, and (Z, Y, X) rate, 1/day: both fast near surfaces, slow in the deep.

    So the front keeps its width, and only its speed depends on the place. uneven: (Z, Y, X) factor on the diffusivity.
    """
    near = _near_surfaces(anatomy)
    speed = traits.speed_mm_per_day * (near + (1 - near) / DEEP_SLOWNESS)
    tissue = (anatomy.csf < 0.5) & anatomy.brain
    by_axis = speed * (traits.width_mm / 2) * uneven * tissue * _leaning(rng, anatomy.grid)
    fastest = FASTEST * traits.speed_mm_per_day * traits.width_mm / 2
    return np.minimum(by_axis, fastest).astype(np.float32), np.asarray(speed / (2 * traits.width_mm), np.float32)


def _near_surfaces(anatomy: Anatomy) -> Volume:
    """(Z, Y, X) 1 at CSF, at the brain's surface and at the border of grey and white matter; half SURFACE_MM away."""
    tissue, whiter = (anatomy.csf < 0.5) & anatomy.brain, anatomy.white > anatomy.grey
    to_border = [ndimage.distance_transform_edt(side) for side in (whiter, ~whiter)]
    voxels = np.minimum(ndimage.distance_transform_edt(tissue), np.where(whiter, *to_border))
    away_mm = anatomy.grid.voxel_mm * np.maximum(voxels - 0.5, 0)
    return np.asarray(1 / (1 + (away_mm / SURFACE_MM) ** 4), np.float32)


def _leaning(rng: np.random.Generator, grid: SimulationGrid) -> Volume:
    """(3, Z, Y, X) factor on the diffusivity of each axis, their product 1: which way cells like to go."""
    fields = np.stack([smooth_field(rng, grid, DIRECTION_MM) for _ in range(3)])
    return np.asarray(np.exp(DIRECTION_SPREAD * (fields - fields.mean(axis=0))), np.float32)


def _across(anatomy: Anatomy) -> Volume:
    """(3, Z, Y, X) by axis, how much it points across the surface of the white matter: 0 to 1, their sum at most 1."""
    voxel_mm = anatomy.grid.voxel_mm
    slope = np.array(np.gradient(ndimage.gaussian_filter(anatomy.white, 2.5 / voxel_mm), voxel_mm))
    steepness = (slope**2).sum(axis=0)
    return np.asarray(slope**2 / (steepness + np.float32(0.03**2)), np.float32)


def _grow(living: Volume, medium: Medium, days: float) -> Volume:
    """The living cells some days later, in equal steps as long as is stable."""
    steps = max(1, int(np.ceil(days / medium.step_days)))
    grown = living.copy()
    for first in range(0, steps, STEPS_A_CROP):
        _grow_crop(grown, medium, days / steps, min(STEPS_A_CROP, steps - first))
    return grown


def _grow_crop(living: Volume, medium: Medium, step_days: float, steps: int) -> None:
    """Some steps, in place, in a crop round the tumour that cells do not leave within these steps."""
    box = np.empty((3, 2), np.int64)
    support(living, NO_DENSITY, box)
    crop = tuple(slice(max(first - steps, 0), past + steps) for first, past in box.tolist())
    density = np.ascontiguousarray(living[crop])
    conductance = np.ascontiguousarray(medium.conductance[(slice(None), *crop)])
    gain = np.exp(np.float32(step_days) * medium.rate[crop])
    scratch = np.empty_like(density)
    for _ in range(steps):
        step(density, scratch, conductance, gain, step_days)
    living[crop] = density


def _is_tumour(density: Volume, anatomy: Anatomy, traits: TumourTraits, medium: Medium) -> Mask:
    """Where one would outline the tumour; the noise is the patient's own, so that its sessions agree."""
    return np.asarray((density > np.minimum(traits.visible * medium.outline, 0.6)) & anatomy.brain)


def first_state(rng: np.random.Generator, anatomy: Anatomy, traits: TumourTraits, medium: Medium) -> TumourState:
    """Grow from the seed until the visible volume is that of the first scan (or nothing more grows)."""
    living = _seed_density(rng, anatomy, traits.kind)
    wanted = min(traits.first_volume_mm3 / anatomy.grid.voxel_mm**3, MAX_BRAIN_FRACTION * anatomy.brain.sum())
    for _ in range(600):
        if _is_tumour(living, anatomy, traits, medium).sum() >= wanted:
            break
        living = _grow(living, medium, 0.5 / traits.speed_mm_per_day)
    return TumourState(living, np.zeros_like(living), living)


def state_after(
    state: TumourState,
    anatomy: Anatomy,
    traits: TumourTraits,
    medium: Medium,
    *,
    from_day: float,
    to_day: float,
    course: RadiotherapyCourse | None,
) -> TumourState:
    """The tumour on to_day, in steps of a week at most. Cells killed by radiotherapy join the dying."""
    living, dying, peak, day = state.living, state.dying, state.peak, from_day
    while day < to_day:
        days = min(7.0, to_day - day)
        if _is_tumour(living, anatomy, traits, medium).sum() < MAX_BRAIN_FRACTION * anatomy.brain.sum():
            living = _grow(living, medium, days)
        if course is not None:
            share = _overlap_days(day, day + days, course) / (course.end_days - course.start_days)
            killed = living * (1 - np.float32(traits.survival) ** (np.float32(share) * medium.resistance))
            living, dying = living - killed, (dying + killed) * np.float32(_fading(traits, day, days, course))
        peak = np.maximum(peak, living + dying)
        day += days
    return TumourState(living, dying, peak)


def _overlap_days(start: float, end: float, course: RadiotherapyCourse) -> float:
    return max(0.0, min(end, course.end_days) - max(start, course.start_days))


def _visible_share(traits: TumourTraits, since_delay: float) -> float:
    return traits.scar + (1 - traits.scar) * float(np.exp(-max(since_delay, 0.0) / traits.fading_days))


def _fading(traits: TumourTraits, day: float, days: float, course: RadiotherapyCourse) -> float:
    """By what factor the dying fade from day to day + days; they are counted from the course's start plus the delay."""
    since = day - course.start_days - traits.delay_days
    return _visible_share(traits, since + days) / _visible_share(traits, since)


def infiltration(state: TumourState, traits: TumourTraits, medium: Medium) -> Volume:
    """(Z, Y, X) share of the oedema's signal that the cells show, in [0, 1), also where one would outline nothing."""
    threshold = np.minimum(traits.visible * medium.outline, 0.6)
    return np.asarray(traits.infiltration * np.minimum(state.visible / threshold, 1), np.float32)


def draw_labels(state: TumourState, anatomy: Anatomy, traits: TumourTraits, medium: Medium) -> npt.NDArray[np.uint8]:
    """(Z, Y, X) BraTS 2023 labels: 0 none, 1 necrotic or non-enhancing core, 2 oedema, 3 enhancing."""
    density = state.visible
    tumour = _is_tumour(density, anatomy, traits, medium)
    once = density + 0.6 * np.clip(state.peak - density, 0, 1)
    core = tumour & (once > np.clip(traits.core + 0.09 * np.log(medium.outline), 0.4, 0.98))
    labels = np.where(tumour, OEDEMA, 0).astype(np.uint8)
    if core.any():
        labels[core] = NECROSIS
        labels[_enhancing(core, state, anatomy, traits, medium)] = ENHANCING
    return labels


def _enhancing(core: Mask, state: TumourState, anatomy: Anatomy, traits: TumourTraits, medium: Medium) -> Mask:
    """The rim of the core, in patches, thicker where the noise says so."""
    if traits.enhancement == 0.0:
        return np.zeros_like(core)
    box = box_of(core, margin=3)  # beyond it the closing changes nothing
    closed = ndimage.binary_closing(core[box], iterations=2) | core[box]
    depth_mm = anatomy.grid.voxel_mm * ndimage.distance_transform_edt(closed)
    rim = np.zeros_like(core)
    rim[box] = depth_mm < np.clip(traits.rim_mm * medium.outline[box] ** 0.45, 0.9, None)
    alive = medium.patches < 3.0 * (traits.enhancement - 0.5)
    return np.asarray(core & rim & alive)
