"""The reaction-diffusion kernel against mathematics: mass, the logistic, the speed of the front, symmetry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tumorcast.kernels.reaction_diffusion import face_conductance, largest_outflow, step, support

SHAPE = (5, 6, 7)


def run(density, conductance, gain, dt_days, steps):
    """The density after some steps; the caller's array is left alone."""
    density = density.copy()
    scratch = np.empty_like(density)
    for _ in range(steps):
        step(density, scratch, conductance, gain, dt_days)
    return density


def conductance_of(diffusivity, voxel_mm=1.0):
    out = np.empty((3, *diffusivity.shape), diffusivity.dtype)
    face_conductance(np.stack([diffusivity] * 3), voxel_mm, out)
    return out


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.1, 1.0))
def test_diffusion_alone_keeps_the_mass_and_the_bounds(seed, share):
    rng = np.random.default_rng(seed)
    conductance = conductance_of(rng.uniform(0, 2, SHAPE) * (rng.random(SHAPE) > 0.3))
    dt_days = share / max(largest_outflow(conductance), 1e-9)
    before = rng.random(SHAPE)
    after = run(before, conductance, np.ones(SHAPE), dt_days, 20)
    assert after.sum() == pytest.approx(before.sum(), rel=1e-12)
    assert after.min() >= before.min() - 1e-12
    assert after.max() <= before.max() + 1e-12


@pytest.mark.slow
def test_nothing_enters_where_the_diffusivity_is_zero():
    diffusivity = np.ones(SHAPE)
    diffusivity[:, :, 3] = 0.0
    before = np.zeros(SHAPE)
    before[2, 2, 0] = 1.0
    after = run(before, conductance_of(diffusivity), np.ones(SHAPE), 0.1, 200)
    assert after[:, :, 3:].max() == 0.0
    assert after[:, :, 2].min() > 0.0


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(0.0, 0.5), start=st.floats(0.001, 0.999), dt_days=st.floats(0.05, 10.0))
def test_a_homogeneous_density_follows_the_logistic(rate, start, dt_days):
    steps = 30
    gain = np.full(SHAPE, np.exp(rate * dt_days))
    after = run(np.full(SHAPE, start), np.zeros((3, *SHAPE)), gain, dt_days, steps)
    expected = 1 / (1 + (1 / start - 1) * np.exp(-rate * dt_days * steps))
    np.testing.assert_allclose(after, expected, rtol=1e-9)


def lattice_front(diffusivity, rate, dt_days, voxel_mm=1.0):
    """Speed and decay of the front that this scheme should have on its grid (van Saarloos 2003).

    Ahead of the front u ~ exp(-k (x - v t)); one step multiplies that by exp(r dt) (1 + dt 2 D (cosh(k h) - 1) / h^2),
    and of all k the slowest v(k) is chosen. In the limit h, dt -> 0 that is v = 2 sqrt(D r), k = sqrt(r / D).
    """

    def speed(k):
        spread = 1 + dt_days * 2 * diffusivity * (np.cosh(k * voxel_mm) - 1) / voxel_mm**2
        return (rate * dt_days + np.log(spread)) / (k * dt_days)

    slowest = minimize_scalar(speed, bounds=(1e-3, 3.0), method="bounded", options={"xatol": 1e-9})
    return slowest.fun, slowest.x


def place(profile):
    """Where a falling profile crosses one half, in voxels."""
    after = int(np.argmax(profile < 0.5))
    return after - 1 + (profile[after - 1] - 0.5) / (profile[after - 1] - profile[after])


@pytest.mark.parametrize(("diffusivity", "rate"), [(0.1, 0.02), (0.4, 0.01), (0.04, 0.02)])
def test_the_front_on_a_strip_moves_at_its_analytic_speed(diffusivity, rate):
    length, dt_days = 600, 0.5
    conductance = conductance_of(np.full((1, 1, length), diffusivity))
    gain = np.full((1, 1, length), np.exp(rate * dt_days))
    density = np.zeros((1, 1, length))
    density[..., :10] = 1.0
    early = run(density, conductance, gain, dt_days, 4000)
    late = run(early, conductance, gain, dt_days, 2000)
    measured = (place(late[0, 0]) - place(early[0, 0])) / 1000
    speed, decay = lattice_front(diffusivity, rate, dt_days)
    # From a step the speed is reached slowly: v(t) = v - 3 / (2 k t) (Bramson 1983), here over t = 2000 to 3000.
    assert measured == pytest.approx(speed - 1.5 / decay * np.log(3 / 2) / 1000, rel=0.003)
    assert measured == pytest.approx(2 * np.sqrt(diffusivity * rate), rel=0.1)


def test_a_fine_grid_and_short_steps_have_the_continuous_speed():
    speed, decay = lattice_front(0.1, 0.02, dt_days=0.01, voxel_mm=0.05)
    assert speed == pytest.approx(2 * np.sqrt(0.1 * 0.02), rel=1e-3)
    assert decay == pytest.approx(np.sqrt(0.02 / 0.1), rel=1e-2)


@pytest.mark.parametrize(("widths_a_voxel", "hurry"), [(1.0, 1.04), (2.0, 1.12), (np.sqrt(40), 1.53)])
def test_the_grid_hurries_narrow_fronts_as_the_page_says(widths_a_voxel, hurry):
    speed, _ = lattice_front(1.0, 1.0, dt_days=1e-4, voxel_mm=widths_a_voxel)
    assert speed / 2 == pytest.approx(hurry, abs=0.006)


def test_the_front_moves_along_each_axis_by_the_root_of_its_diffusivity():
    shape, rate, dt_days = (33, 53, 105), 0.08, 0.5
    diffusivity = np.stack([np.full(shape, along_axis) for along_axis in (0.04, 0.16, 0.64)])
    conductance = np.empty_like(diffusivity)
    face_conductance(diffusivity, 1.0, conductance)
    density = np.zeros(shape)
    density[16, 26, 52] = 1.0
    after = run(density, conductance, np.full(shape, np.exp(rate * dt_days)), dt_days, 300)
    z, y, x = place(after[16:, 26, 52]), place(after[16, 26:, 52]), place(after[16, 26, 52:])
    assert z > 5
    assert (y / z, x / y) == pytest.approx((2, 2), rel=0.02)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_a_tumour_gains_is_what_reacted(seed):
    rng = np.random.default_rng(seed)
    conductance = conductance_of(rng.uniform(0, 2, SHAPE) * (rng.random(SHAPE) > 0.3))
    rate, dt_days, steps = rng.uniform(0.01, 0.1, SHAPE), 0.05, 400
    gain = np.exp(rate * dt_days)
    density = rng.random(SHAPE) * 0.2
    before, reacted = density.sum(), 0.0
    for _ in range(steps):
        earlier = density
        density = run(earlier, conductance, gain, dt_days, 1)
        reacted += dt_days * sum((rate * u * (1 - u)).sum() for u in (earlier, density)) / 2
    assert density.sum() > 1.2 * before
    assert density.sum() - before == pytest.approx(reacted, rel=0.005)


def test_a_face_conducts_by_the_harmonic_mean():
    conductance = conductance_of(np.array([[[1.0, 3.0, 0.0]]]), voxel_mm=2.0)
    np.testing.assert_allclose(conductance[2, 0, 0], [2 * 3 / 4 / 4, 0.0, 0.0])
    assert conductance[:2].max() == 0.0


def test_largest_outflow_sums_the_six_faces_of_a_voxel():
    assert largest_outflow(conductance_of(np.ones((3, 3, 3)))) == pytest.approx(6.0)
    assert largest_outflow(conductance_of(np.ones((1, 1, 3)))) == pytest.approx(2.0)


@pytest.mark.slow
def test_support_is_the_box_of_what_exceeds_the_floor():
    density = np.zeros(SHAPE)
    density[1, 2, 3] = density[3, 4, 3] = 1.0
    density[0, 0, 0] = 0.5
    box = np.empty((3, 2), np.int64)
    support(density, 0.5, box)
    assert box.tolist() == [[1, 4], [2, 5], [3, 4]]
    support(density, 2.0, box)
    assert box.tolist() == [[0, 0], [0, 0], [0, 0]]
