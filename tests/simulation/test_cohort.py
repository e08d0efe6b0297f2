"""The simulated cohort: the same for any size of the cohort, in the layout it claims, with tumours that behave."""

import csv
import json
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise, product

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from typer.testing import CliRunner

from tumorcast.cli.main import app
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.kernels.reaction_diffusion import face_conductance, largest_outflow
from tumorcast.records import Contrast, RadiotherapyCourse
from tumorcast.simulation import anatomy as anatomy_module
from tumorcast.simulation import cohort as simulate
from tumorcast.simulation import mass_effect
from tumorcast.simulation.anatomy import Anatomy, make_anatomy
from tumorcast.simulation.cohort import MAX_GAP_DAYS, MIN_GAP_DAYS, draw_schedule, simulate_cohort
from tumorcast.simulation.fields import SimulationGrid, smooth_field
from tumorcast.simulation.mass_effect import (
    FULL_EFFECT_MM3,
    LARGEST_STRAIN,
    displaced,
    displaced_tumour,
    pulled_back,
    tissue_shift,
)
from tumorcast.simulation.render import Lesion, draw_scanners, render_session
from tumorcast.simulation.tumour import (
    DEEP_SLOWNESS,
    FASTEST,
    MAX_BRAIN_FRACTION,
    SpreadLaw,
    TumourKind,
    TumourState,
    _across,
    _near_surfaces,
    draw_labels,
    draw_traits,
    first_state,
    infiltration,
    make_medium,
    state_after,
)

pytestmark = pytest.mark.slow

COARSE_MM = 6.0
BALL_MM = 3.0
SUFFIXES = [*Contrast, "seg"]
TISSUES = ("csf", "grey", "white")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "cohort"
    simulate_cohort(out, patients=2, seed=5, sessions=(2, 3), voxel_mm=COARSE_MM)
    return out


@pytest.fixture(scope="module")
def head():
    return make_anatomy(np.random.default_rng(3), SimulationGrid(COARSE_MM))


def grown(head, seed=1, **traits):
    """A tumour at its first scan with what it grows in."""
    rng = np.random.default_rng(seed)
    drawn = replace(draw_traits(rng), **{"first_volume_mm3": 30_000.0, "speed_mm_per_day": 0.03, **traits})
    medium = make_medium(rng, head, drawn)
    return first_state(rng, head, drawn, medium), drawn, medium


def distance_mm(grid, axes=(0, 1, 2)):
    """(Z, Y, X) distance from the middle of the work box, or from a plane or an axis through it."""
    offsets = np.meshgrid(*(grid.centres_mm(axis) - grid.centres_mm(axis).mean() for axis in range(3)), indexing="ij")
    return np.sqrt(sum(offsets[axis] ** 2 for axis in axes))


def ball_head(white_share=1.0):
    """A ball of 70 mm radius that is a brain of white and grey matter; white_share: everywhere, or (Z, Y, X)."""
    grid = SimulationGrid(BALL_MM)
    brain = distance_mm(grid) < 70
    nothing = np.zeros(grid.shape, np.float32)
    white = np.asarray(white_share * brain, np.float32)
    index = np.indices(grid.shape, np.float32)
    return Anatomy(grid, nothing, np.asarray(brain - white, np.float32), white, nothing, nothing, brain, index)


def ball_tumour(head, radius_mm, at_mm=(0.0, 0.0, 0.0)):
    """(Z, Y, X) cells that fill a ball at a place counted from the middle."""
    places = [head.grid.centres_mm(axis) for axis in range(3)]
    away = np.meshgrid(*(one - one.mean() - middle for one, middle in zip(places, at_mm, strict=True)), indexing="ij")
    return np.asarray((sum(offset**2 for offset in away) < radius_mm**2) & head.brain, np.float32)


def volumes(folder):
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob("*/*.nii.gz"))}


def session_names(folder):
    return {path.name for path in folder.iterdir() if path.is_dir() and path.name != "truth"}


def clinical(folder):
    with (folder / "clinical.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_session_has_its_five_files_on_the_brats_field(cohort):
    sessions = [f"{row['patient_id']}-{row['session_id']}" for row in clinical(cohort)]
    assert session_names(cohort) == set(sessions)
    assert len(sessions) >= 4
    assert {path.name for path in (cohort / "truth").iterdir()} == {f"{name}-density.nii.gz" for name in sessions}
    for name in sessions:
        for suffix in SUFFIXES:
            image = sitk.ReadImage(str(cohort / name / f"{name}-{suffix}.nii.gz"))
            assert image.GetSize() == (40, 40, 26)
            assert image.GetSpacing() == (COARSE_MM,) * 3
            assert image.GetOrigin() == pytest.approx((2.5, -236.5, 2.5))
            assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.mark.slow
def test_images_are_skull_stripped_int16_and_labels_are_of_brats_2023(cohort):
    every = volumes(cohort)
    for name in session_names(cohort):
        found = {suffix: every[f"{name}-{suffix}.nii.gz"] for suffix in SUFFIXES}
        brain = found[Contrast.T1N] > 0
        assert 0.8e6 < brain.sum() * COARSE_MM**3 < 2.2e6
        assert set(np.unique(found["seg"])) <= {0, 1, 2, 3}
        assert found["seg"].any()
        assert not found["seg"][~brain].any()
        for contrast in Contrast:
            assert found[contrast].dtype == np.int16
            assert np.array_equal(found[contrast] > 0, brain)


@pytest.mark.slow
def test_a_patient_is_the_same_in_any_cohort_and_with_any_number_of_processes(cohort, tmp_path):
    simulate_cohort(tmp_path / "one", patients=1, seed=5, sessions=(2, 3), voxel_mm=COARSE_MM)
    simulate_cohort(tmp_path / "jobs", patients=2, seed=5, sessions=(2, 3), voxel_mm=COARSE_MM, jobs=2)
    reference, one, jobs = volumes(cohort), volumes(tmp_path / "one"), volumes(tmp_path / "jobs")
    assert set(reference) == set(jobs)
    assert 0 < len(one) < len(reference)
    for other in (one, jobs):
        assert all(np.array_equal(array, reference[name]) for name, array in other.items())
    assert (cohort / "clinical.csv").read_bytes() == (tmp_path / "jobs" / "clinical.csv").read_bytes()
    assert (cohort / "simulation.json").read_bytes() == (tmp_path / "jobs" / "simulation.json").read_bytes()


def test_another_seed_gives_another_head(cohort, tmp_path):
    simulate_cohort(tmp_path / "other", patients=1, seed=6, sessions=2, voxel_mm=COARSE_MM)
    name = "SIM-00001-000-t1n.nii.gz"
    assert not np.array_equal(volumes(tmp_path / "other")[name] > 0, volumes(cohort)[name] > 0)


@pytest.mark.slow
def test_the_truth_names_the_seed_and_the_volumes_of_the_masks(cohort):
    truth, every = json.loads((cohort / "simulation.json").read_text()), volumes(cohort)
    assert (truth["seed"], truth["voxel_mm"], len(truth["patients"])) == (5, COARSE_MM, 2)
    for patient in truth["patients"]:
        for number, volume_mm3 in enumerate(patient["volume_mm3"]):
            seg = every[f"{patient['patient_id']}-{number:03d}-seg.nii.gz"]
            assert volume_mm3 == (seg > 0).sum() * COARSE_MM**3


def test_the_density_kept_is_that_of_which_the_mask_was_drawn(cohort):
    every, dense = volumes(cohort), 0
    for name in session_names(cohort):
        stored, seg = every[f"{name}-density.nii.gz"], every[f"{name}-seg.nii.gz"]
        assert stored.dtype == np.int16
        assert 0 <= stored.min() < stored.max() <= 10_000
        # The threshold of the outline differs from place to place, and is .6 at most.
        brain = every[f"{name}-t1n.nii.gz"] > 0
        assert seg[brain & (stored > 6000)].all()
        dense += (stored > 6000).sum()
        assert stored[seg > 0].min() > stored[brain & (seg == 0)].mean()
        image, mask = (
            sitk.ReadImage(str(path))
            for path in (cohort / "truth" / f"{name}-density.nii.gz", cohort / name / f"{name}-seg.nii.gz")
        )
        assert image.GetOrigin() == mask.GetOrigin()
        assert image.GetSpacing() == mask.GetSpacing()
    assert dense > 20


def test_schedules_are_irregular_and_radiotherapy_follows_the_first_scan():
    schedules = [draw_schedule(np.random.default_rng(seed), (3, 5)) for seed in range(200)]
    assert {len(schedule.scan_days) for schedule in schedules} == {3, 4, 5}
    treated = [schedule for schedule in schedules if schedule.course is not None]
    assert 0.6 < len(treated) / len(schedules) < 0.95
    for schedule in treated:
        assert 14 <= schedule.course.start_days - schedule.scan_days[0] <= 42
        assert schedule.course.end_days - schedule.course.start_days == 42


def test_gaps_between_scans_are_those_of_real_patients(shared_data):
    with (shared_data / "mu_glioma_post" / "volumes.csv").open(newline="") as file:
        rows = [(row["patient_id"], float(row["day"])) for row in csv.DictReader(file)]
    real = np.array([day - before for (one, before), (other, day) in pairwise(rows) if one == other])
    assert real.size == 132
    drawn = np.diff(draw_schedule(np.random.default_rng(0), (4000, 4000)).scan_days)
    assert (drawn.min(), drawn.max()) == (MIN_GAP_DAYS, MAX_GAP_DAYS)
    assert np.log(drawn).mean() == pytest.approx(np.log(real).mean(), abs=0.05)
    within = np.log(np.clip(real, MIN_GAP_DAYS, MAX_GAP_DAYS))
    assert np.log(drawn).std() == pytest.approx(within.std(), abs=0.1)


def test_two_thirds_of_the_tumours_are_anisotropic_and_the_others_know_no_tissue():
    tumours = [draw_traits(np.random.default_rng(seed)) for seed in range(3000)]
    isotropic = [one for one in tumours if one.grey_slowness == 1.0]
    assert len(isotropic) / len(tumours) == pytest.approx(1 / 3, abs=0.03)
    assert all((one.anisotropy == 0.0) == (one.grey_slowness == 1.0) for one in tumours)
    others = [one for one in tumours if one.grey_slowness != 1.0]
    assert all(3 <= one.grey_slowness <= 10 and 0.3 <= one.anisotropy <= 0.9 for one in others)
    kinds = Counter(one.kind for one in tumours)
    shares = {TumourKind.GLIOBLASTOMA: 0.5, TumourKind.LOW_GRADE: 0.32, TumourKind.MIDLINE: 0.18}
    assert {kind: kinds[kind] / len(tumours) for kind in TumourKind} == pytest.approx(shares, abs=0.03)


def test_about_half_of_the_heads_are_mirrored():
    grid = SimulationGrid(8.0)
    to_left = [np.diff(anatomy_module._coordinates(np.random.default_rng(seed), grid)[2]).mean() for seed in range(60)]
    assert all(0.8 * 8 < abs(step) < 1.4 * 8 for step in to_left)
    assert 18 <= sum(step < 0 for step in to_left) <= 42


def test_tissues_fill_the_brain_and_nothing_else(head):
    total = head.csf + head.grey + head.white
    np.testing.assert_allclose(total[head.brain], 1.0, rtol=1e-5)
    assert not total[~head.brain].any()
    assert min(head.csf.min(), head.grey.min(), head.white.min()) >= 0


def test_what_moves_is_found_where_it_went():
    shift = np.zeros((3, 8, 9, 10), np.float32)
    shift[1], shift[2] = 1.0, -2.0
    volume = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    moved = pulled_back({"volume": volume}, shift)["volume"]
    np.testing.assert_array_equal(moved[:, 1:, :-2], volume[:, :-1, 2:])
    assert moved.dtype == volume.dtype


def test_where_nothing_moves_volumes_are_as_they_were():
    volume = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    shift = np.zeros((3, 8, 9, 10), np.float32)
    np.testing.assert_array_equal(pulled_back({"volume": volume}, shift)["volume"], volume)
    shift[:, 2:4, 3:5, 6:9] = 0.7
    moved = pulled_back({"volume": volume}, shift)["volume"]
    assert (moved != volume).sum() == 2 * 2 * 3
    at = np.indices(volume.shape, np.float32) - shift
    np.testing.assert_array_equal(moved, ndimage.map_coordinates(volume, at, order=1, mode="nearest"))


def test_a_tumour_that_does_not_push_leaves_the_head_as_it_is(head):
    state, _, _ = grown(head)
    shift = tissue_shift(state.visible, head, 0.0)
    assert not shift.any()
    assert not tissue_shift(np.zeros_like(state.visible), head, 5.0).any()
    for tissue in TISSUES:
        np.testing.assert_allclose(getattr(displaced(head, shift), tissue), getattr(head, tissue), atol=1e-6)


@pytest.mark.parametrize("radius_mm", [12.0, 20.0, 30.0])
def test_tissue_moves_away_from_the_tumour_by_mass_mm_at_most(radius_mm):
    head, mass_mm = ball_head(), 3.0
    density = ball_tumour(head, radius_mm)
    shift_mm = BALL_MM * tissue_shift(density, head, mass_mm)
    away = np.array([grid - grid.mean() for grid in np.meshgrid(*map(np.arange, head.grid.shape), indexing="ij")])
    outwards = (shift_mm * away).sum(axis=0) / np.maximum(distance_mm(head.grid) / BALL_MM, 1e-9)
    length = np.sqrt((shift_mm**2).sum(axis=0))
    reach_mm = mass_mm * min(1.0, (density.sum() * BALL_MM**3 / FULL_EFFECT_MM3) ** (1 / 3))
    assert length.max() == pytest.approx(reach_mm, rel=1e-5)
    np.testing.assert_allclose(outwards, length, atol=0.02 * reach_mm)
    farthest = distance_mm(head.grid).ravel()[length.argmax()]
    assert abs(farthest - radius_mm) < 6


def test_the_skull_holds_the_tissue():
    head = ball_head()
    shift = tissue_shift(ball_tumour(head, 15.0, at_mm=(0.0, 0.0, 45.0)), head, 6.0)
    length = np.sqrt((shift**2).sum(axis=0))
    assert not length[~head.brain].any()
    outermost = head.brain & (distance_mm(head.grid) > 70 - BALL_MM)
    assert length[outermost].max() < 0.35 * length.max()


def smallest_determinant(shift):
    """The least of the determinants of the map's Jacobian, with differences to either side along each axis."""
    steps = [np.diff(shift, axis=axis, prepend=0, append=0) for axis in (1, 2, 3)]
    least = np.inf
    for sides in product((0, 1), repeat=3):
        columns = [
            np.take(one, range(side, one.shape[axis] - 1 + side), axis)
            for axis, (one, side) in enumerate(zip(steps, sides, strict=True), start=1)
        ]
        jacobian = np.eye(3) - np.moveaxis(np.stack(columns, axis=1), (0, 1), (-2, -1))
        least = min(least, float(np.linalg.det(jacobian).min()))
    return least


def test_no_tissue_is_folded_however_hard_a_tumour_pushes(monkeypatch):
    head = ball_head()
    density = ball_tumour(head, 14.0, at_mm=(10.0, 0.0, 40.0)) + 0.5 * ball_tumour(head, 9.0, at_mm=(-12.0, 8.0, 20.0))
    held_back = tissue_shift(density, head, 60.0)
    assert max(np.abs(np.diff(held_back[axis], axis=axis)).max() for axis in range(3)) <= LARGEST_STRAIN + 1e-5
    assert smallest_determinant(held_back) > 0
    monkeypatch.setattr(mass_effect, "LARGEST_STRAIN", 1e9)
    assert smallest_determinant(tissue_shift(density, head, 60.0)) < 0


def test_pushed_tissues_still_fill_the_brain_and_nothing_else(head):
    state, traits, _ = grown(head, kind=TumourKind.GLIOBLASTOMA, mass_mm=7.0)
    shift = tissue_shift(state.visible, head, traits.mass_mm)
    assert smallest_determinant(shift) > 0
    moved = displaced(head, shift)
    assert np.abs(moved.white - head.white).max() > 0.1
    total = moved.csf + moved.grey + moved.white
    np.testing.assert_allclose(total[head.brain], 1.0, rtol=1e-5)
    assert not total[~head.brain].any()
    assert min(getattr(moved, tissue).min() for tissue in TISSUES) >= 0


def test_labels_and_density_move_with_the_tissue():
    head = ball_head()
    state, traits, medium = grown(head, mass_mm=6.0, first_volume_mm3=60e3)
    at_rest = draw_labels(state, head, traits, medium) > 0
    shift = tissue_shift(state.visible, head, traits.mass_mm)
    seen, around = displaced_tumour(state, medium, shift)
    _, lesion = simulate._as_it_lies(state, head, traits, medium)
    mask = lesion.labels > 0
    np.testing.assert_array_equal(
        mask, (lesion.density > np.minimum(traits.visible * around.outline, 0.6)) & head.brain
    )
    np.testing.assert_array_equal(lesion.density, seen.visible)
    # Each voxel of the pushed mask stands for det(1 - grad u) voxels at rest.
    gradient = np.stack([np.stack(np.gradient(component)) for component in shift])
    share = np.linalg.det(np.eye(3) - np.moveaxis(gradient, (0, 1), (-2, -1)))
    assert mask.sum() > 1.1 * at_rest.sum()
    assert share[mask].sum() == pytest.approx(at_rest.sum(), rel=0.04)


def grown_from_ball(head, spread=SpreadLaw.FIBRES, at_mm=(0.0, 0.0, 0.0), **traits):
    """The cells 200 and 600 days after they filled a ball of 9 mm."""
    rng = np.random.default_rng(0)
    drawn = replace(draw_traits(rng), speed_mm_per_day=0.06, width_mm=2.8, roughness=0.0, **traits)
    medium = make_medium(rng, head, drawn, spread)
    ball = ball_tumour(head, 9.0, at_mm)
    state = TumourState(ball, np.zeros_like(ball), ball)
    early = state_after(state, head, drawn, medium, from_day=0.0, to_day=200.0, course=None)
    late = state_after(early, head, drawn, medium, from_day=200.0, to_day=600.0, course=None)
    return early.living, late.living


def front_mm_per_day(early, late):
    """Speed of the half-density surface, taken for a sphere."""
    radii = [(3 / 4 / np.pi * BALL_MM**3 * (density > 0.5).sum()) ** (1 / 3) for density in (early, late)]
    return (radii[1] - radii[0]) / 400


def test_an_isotropic_tumour_ignores_tissue_and_an_anisotropic_one_is_slower_in_grey():
    white, grey = ball_head(1.0), ball_head(0.0)
    alike = {"grey_slowness": 1.0, "anisotropy": 0.0}
    np.testing.assert_array_equal(grown_from_ball(white, **alike)[1], grown_from_ball(grey, **alike)[1])
    slower = {"grey_slowness": 4.0, "anisotropy": 0.6}
    in_white, in_grey = (front_mm_per_day(*grown_from_ball(head, **slower)) for head in (white, grey))
    # A ball comes to its speed v slowly: r(t) = v t - 5/2 w ln(t) (Gärtner 1982).
    assert in_white == pytest.approx(0.06 - 2.5 * 2.8 * np.log(3) / 400, rel=0.15)
    assert in_grey / in_white == pytest.approx(1 / 2, abs=0.08)


def test_an_anisotropic_tumour_is_slower_across_the_surface_of_white_matter_than_along_it():
    sheet = ball_head(distance_mm(SimulationGrid(BALL_MM), axes=(0,)) < 6)
    alike, _ = grown_from_ball(sheet, grey_slowness=1.0, anisotropy=0.0)
    held, _ = grown_from_ball(sheet, grey_slowness=1.0, anisotropy=0.9)

    def ratio(density):
        extents = [(density > 0.5).any(axis=others).sum() for others in ((1, 2), (0, 2), (0, 1))]
        return 2 * extents[0] / (extents[1] + extents[2])

    assert ratio(alike) == pytest.approx(1, abs=0.1)
    assert ratio(held) < 0.75 * ratio(alike)


def test_the_direction_across_is_a_share_of_each_axis(head):
    across = _across(head)
    assert across.min() >= 0
    assert across.sum(axis=0).max() <= 1
    sheet = _across(ball_head(distance_mm(SimulationGrid(BALL_MM), axes=(0,)) < 6))
    middle = tuple(n // 2 for n in sheet.shape[1:])
    assert sheet[0, middle[0] - 2 : middle[0] + 3, middle[1], middle[2]].max() > 0.9
    assert sheet[1:, :, middle[1], middle[2]].max() < 0.05


def medium_before_there_were_two(rng, anatomy, traits):
    """The conductance, the rate, the step and the three fields, as written and drawn when fibres were all there was."""
    grid = anatomy.grid
    diffusivity = traits.speed_mm_per_day * traits.width_mm / 2
    noise = np.float32(0.8) * smooth_field(rng, grid, 18.0) + np.float32(0.6) * smooth_field(rng, grid, 9.0)
    speed = diffusivity * np.exp(traits.roughness * noise - traits.roughness**2 / 2)
    tissue = (anatomy.white + anatomy.grey / traits.grey_slowness) * (anatomy.csf < 0.5) * anatomy.brain
    by_axis = speed * tissue * (1 - traits.anisotropy * _across(anatomy))
    by_axis = np.minimum(by_axis, FASTEST * diffusivity).astype(np.float32)
    conductance = np.empty_like(by_axis)
    face_conductance(by_axis, grid.voxel_mm, conductance)
    rate = traits.speed_mm_per_day / (2 * traits.width_mm) * np.exp(0.15 * smooth_field(rng, grid, 20.0))
    return (
        conductance,
        np.asarray(rate * (tissue > 0), np.float32),
        min(0.9 / largest_outflow(conductance), 0.3 / float(rate.max())),
        np.exp(0.2 * smooth_field(rng, grid, 18.0)),
        np.exp(0.15 * smooth_field(rng, grid, 9.0) + 0.1 * smooth_field(rng, grid, 5.0)),
        smooth_field(rng, grid, 7.0),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_a_word_on_spread_every_bit_is_as_it_was(head, seed):
    then, now = np.random.default_rng(seed), np.random.default_rng(seed)
    before = medium_before_there_were_two(then, head, draw_traits(then))
    after = make_medium(now, head, draw_traits(now))
    for field, wanted in zip(fields(after), before, strict=True):
        found = getattr(after, field.name)
        assert np.asarray(found).dtype == np.asarray(wanted).dtype
        np.testing.assert_array_equal(found, wanted)
    assert now.bit_generator.state == then.bit_generator.state


def test_either_spread_leaves_the_same_draws_to_what_follows(head):
    states, media = [], []
    for spread in SpreadLaw:
        rng = np.random.default_rng(4)
        media.append(make_medium(rng, head, draw_traits(rng), spread))
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]
    for same in ("resistance", "outline", "patches"):
        np.testing.assert_array_equal(getattr(media[0], same), getattr(media[1], same))
    assert not np.array_equal(media[0].conductance, media[1].conductance)


def test_surfaces_are_those_of_csf_brain_and_white_matter():
    grid = SimulationGrid(BALL_MM)
    away_mm = distance_mm(grid)
    whole = ball_head(away_mm < 45)
    hollow = replace(whole, csf=np.asarray(away_mm < 15, np.float32), white=whole.white * (away_mm >= 15))
    near = _near_surfaces(hollow)
    for surface_mm in (15, 45, 70):
        assert near[hollow.brain & (away_mm > 15) & (np.abs(away_mm - surface_mm) < 1.5)].min() > 0.8
    for deep in ((away_mm > 24) & (away_mm < 36), (away_mm > 54) & (away_mm < 61)):
        assert near[deep].max() < 0.15


def test_surfaces_lead_a_tumour_that_is_slow_in_deep_white_matter():
    white = ball_head()
    deep, at_surface = (
        grown_from_ball(white, SpreadLaw.SURFACES, (0.0, 0.0, from_middle))[1] for from_middle in (0.0, 66.0)
    )
    # Half of the ball at the surface lies outside, and so does half of where it could go.
    assert (at_surface > 0.5).sum() > 2 * (deep > 0.5).sum()
    along_fibres = grown_from_ball(white, grey_slowness=1.0, anisotropy=0.0)[1]
    assert (along_fibres > 0.5).sum() > 4 * (deep > 0.5).sum()
    depth_mm = 70 - distance_mm(white.grid)
    reached = at_surface > 0.5
    assert np.median(depth_mm[reached]) < 8
    assert 2 < DEEP_SLOWNESS < 10


def test_no_cell_leads_into_csf_with_either_spread(head):
    for spread in SpreadLaw:
        rng = np.random.default_rng(2)
        traits = replace(draw_traits(rng), first_volume_mm3=60_000.0)
        medium = make_medium(rng, head, traits, spread)
        state = first_state(rng, head, traits, medium)
        assert state.living.max() > 0.5
        assert not state.living[(head.csf >= 0.5) | ~head.brain].any()


def test_surfaces_change_the_tumour_and_nothing_else_that_is_drawn(cohort, tmp_path):
    simulate_cohort(
        tmp_path / "out", patients=1, seed=5, sessions=(2, 3), voxel_mm=COARSE_MM, spread=SpreadLaw.SURFACES
    )
    told, before = (json.loads((one / "simulation.json").read_text()) for one in (tmp_path / "out", cohort))
    assert (told["spread"], before["spread"]) == ("surfaces", "fibres")
    for same in ("schedule", "tumour", "brain_mm3"):
        assert told["patients"][0][same] == before["patients"][0][same]
    assert told["patients"][0]["volume_mm3"] != before["patients"][0]["volume_mm3"]


def test_a_spread_of_another_name_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "out"), "--spread", "vessels"])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "--spread vessels: allowed are fibres, surfaces"
    assert not (tmp_path / "out").exists()


def test_a_later_mask_contains_the_earlier_one_without_treatment(head):
    state, traits, medium = grown(head)
    masks = []
    for day in (0.0, 100.0, 200.0):
        state = state_after(state, head, traits, medium, from_day=day, to_day=day + 100.0, course=None)
        masks.append(draw_labels(state, head, traits, medium) > 0)
    assert 0 < masks[0].sum() < masks[1].sum() < masks[2].sum()
    assert not (masks[0] & ~masks[1]).any()
    assert not (masks[1] & ~masks[2]).any()


def test_radiotherapy_leaves_less_tumour_than_no_radiotherapy(head):
    state, traits, medium = grown(head, survival=0.2, scar=0.1, delay_days=0.0, fading_days=20.0)
    course = RadiotherapyCourse(14.0, 56.0)
    treated = state_after(state, head, traits, medium, from_day=0.0, to_day=100.0, course=course)
    untreated = state_after(state, head, traits, medium, from_day=0.0, to_day=100.0, course=None)
    assert treated.visible.sum() < state.visible.sum() < untreated.visible.sum()
    sizes = [(draw_labels(one, head, traits, medium) > 0).sum() for one in (treated, untreated)]
    assert sizes[0] < sizes[1]


def test_the_dying_fade_by_the_same_amount_in_one_or_many_intervals(head):
    state, traits, medium = grown(head, survival=0.3)
    course = RadiotherapyCourse(0.0, 42.0)
    at_once = state_after(state, head, traits, medium, from_day=0.0, to_day=140.0, course=course)
    half = state_after(state, head, traits, medium, from_day=0.0, to_day=70.0, course=course)
    in_two = state_after(half, head, traits, medium, from_day=70.0, to_day=140.0, course=course)
    np.testing.assert_allclose(at_once.visible, in_two.visible, rtol=1e-4, atol=1e-5)


def test_growth_ends_at_the_largest_share_of_the_brain(head):
    state, traits, medium = grown(head)
    fast = replace(traits, first_volume_mm3=1e9)
    largest = first_state(np.random.default_rng(0), head, fast, medium)
    later = state_after(largest, head, fast, medium, from_day=0.0, to_day=2000.0, course=None)
    mask = draw_labels(later, head, fast, medium) > 0
    assert MAX_BRAIN_FRACTION <= mask.sum() / head.brain.sum() < MAX_BRAIN_FRACTION + 0.05
    assert (state.living <= 1.0001).all()


def test_nothing_enhances_without_enhancement_and_midline_tumours_start_in_the_midline(head):
    state, traits, medium = grown(head, kind=TumourKind.MIDLINE, enhancement=0.0)
    labels = draw_labels(state, head, traits, medium)
    assert not (labels == 3).any()
    centre = head.template_index[:, labels > 0].mean(axis=1)
    assert abs(centre[2] - 98.0) < 25.0


@pytest.mark.parametrize(
    ("contrast", "brighter", "darker"),
    [
        (Contrast.T1N, "white", "csf"),
        (Contrast.T1C, "enhancing", "necrosis"),
        (Contrast.T2W, "csf", "white"),
        (Contrast.T2F, "oedema", "csf"),
    ],
)
def test_tissues_are_ordered_as_in_each_contrast(head, contrast, brighter, darker):
    labels = np.zeros(head.grid.shape, np.uint8)
    labels[8:18, 14:24, 10:20] = 2
    labels[10:14, 16:22, 12:18] = 1
    labels[14:17, 16:22, 12:18] = 3
    labels *= head.brain
    density = (labels > 0).astype(np.float32)
    scanners = draw_scanners(np.random.default_rng(1), head.grid)
    lesion = Lesion(labels, density, np.zeros_like(density))
    image = render_session(np.random.default_rng(2), head, lesion, scanners)[contrast].astype(float)
    healthy = labels == 0
    where = {
        "white": healthy & (head.white > 0.9),
        "csf": healthy & (head.csf > 0.85),
        "necrosis": labels == 1,
        "oedema": (labels == 2) & (head.white > 0.5),
        "enhancing": labels == 3,
    }
    assert np.median(image[where[brighter]]) > np.median(image[where[darker]])


def test_infiltration_brightens_flair_beyond_the_outline_in_proportion_to_the_density():
    head = ball_head()
    density = np.asarray(head.brain * np.exp(-np.clip(distance_mm(head.grid) - 9, 0, None) / 12), np.float32)
    state, (_, traits, medium) = TumourState(density, 0 * density, density), grown(head, infiltration=0.4)
    even = replace(medium, outline=np.ones_like(medium.outline))
    shown = infiltration(state, traits, even)
    outside = head.brain & (density < traits.visible)
    np.testing.assert_allclose(shown[outside], 0.4 * density[outside] / traits.visible, rtol=1e-5)
    assert shown.max() == pytest.approx(0.4)
    labels = draw_labels(state, head, replace(traits, enhancement=0.0), even)
    ideal = draw_scanners(np.random.default_rng(1), head.grid)[Contrast.T2F]
    ideal = replace(ideal, noise=0.0, gamma=1.0, blur_mm=(0.0, 0.0, 0.0), gain=10_000.0, bias_strength=0.0)
    with_it, without = (
        render_session(np.random.default_rng(2), head, Lesion(labels, density, one), dict.fromkeys(Contrast, ideal))
        for one in (shown, np.zeros_like(shown))
    )
    brighter = (with_it[Contrast.T2F] / np.maximum(without[Contrast.T2F], 1.0) - 1)[outside & (shown > 0.01)]
    beyond = distance_mm(head.grid)[outside & (shown > 0.01)]
    deep = (beyond > beyond.min() + 8) & (beyond < 60)  # not the partial volume of the outline, nor the surface
    assert brighter[deep].min() > 0
    assert brighter[deep].max() > 0.1
    assert np.corrcoef(brighter[deep], density[outside & (shown > 0.01)][deep])[0, 1] > 0.97


def test_a_smooth_field_does_not_depend_on_the_voxel_size():
    coarse = smooth_field(np.random.default_rng(0), SimulationGrid(6.0), 40.0)
    fine = smooth_field(np.random.default_rng(0), SimulationGrid(2.0), 40.0)
    blocks = fine[: 3 * coarse.shape[0], : 3 * coarse.shape[1], : 3 * coarse.shape[2]][1::3, 1::3, 1::3]
    part = coarse[: blocks.shape[0], : blocks.shape[1], : blocks.shape[2]]
    assert np.corrcoef(blocks.ravel(), part.ravel())[0, 1] > 0.95
    assert fine.std() == pytest.approx(1.0, abs=0.35)


@pytest.mark.slow
def test_progress_counts_patients(tmp_path):
    seen = []
    simulate_cohort(
        tmp_path / "out", patients=2, seed=0, sessions=1, voxel_mm=8.0, progress=lambda *now: seen.append(now)
    )
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"patients": 0}, "--patients 0"),
        ({"seed": -1}, "--seed -1"),
        ({"sessions": (3, 2)}, "--sessions 3-2"),
        ({"voxel_mm": 0.1}, r"--voxel-mm 0\.1"),
        ({"voxel_mm": float("nan")}, "--voxel-mm nan"),
        ({"jobs": 0}, "--jobs 0"),
    ],
)
def test_numbers_out_of_range_are_usage_errors(tmp_path, wrong, named):
    with pytest.raises(UsageError, match=named):
        simulate_cohort(tmp_path / "out", **{"patients": 1, "seed": 0, **wrong})
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_a_folder_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "cohort"):
        with pytest.raises(InputError, match="cannot be made a folder"):
            simulate_cohort(out, patients=1, seed=0, voxel_mm=8.0)


def test_a_folder_in_use_is_not_written_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        simulate_cohort(tmp_path, patients=1, seed=0, voxel_mm=8.0)


@pytest.mark.slow
def test_a_full_disk_is_an_input_error(tmp_path, monkeypatch):
    def fail(*_args, **_settings):
        raise RuntimeError("ITK: no space left")

    monkeypatch.setattr(simulate.sitk, "WriteImage", fail)
    with pytest.raises(InputError, match="cannot be written"):
        simulate_cohort(tmp_path / "out", patients=1, seed=0, sessions=1, voxel_mm=8.0)


def test_without_nilearn_the_message_names_the_package(monkeypatch):
    monkeypatch.setattr(anatomy_module, "find_spec", lambda _name: None)
    with pytest.raises(EngineError, match="nilearn is not installed"):
        anatomy_module._template_folder()
