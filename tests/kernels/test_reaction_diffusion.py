"""The reaction-diffusion kernel against mathematics: mass, the logistic, the speed of the front, symmetry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize(("diffusivity", "rate"), [(0.1, 0.02), (0.4, 0.01)])
def test_the_front_on_a_strip_moves_at_twice_the_root_of_diffusivity_times_rate(diffusivity, rate):
    length, dt_days = 600, 0.5
    conductance = conductance_of(np.full((1, 1, length), diffusivity))
    gain = np.full((1, 1, length), np.exp(rate * dt_days))
    density = np.zeros((1, 1, length))
    density[..., :10] = 1.0
    early = run(density, conductance, gain, dt_days, 4000)
    late = run(early, conductance, gain, dt_days, 2000)
    moved = (late > 0.5).sum() - (early > 0.5).sum()
    assert moved / 1000.0 == pytest.approx(2 * np.sqrt(diffusivity * rate), rel=0.1)


def test_a_face_conducts_by_the_harmonic_mean():
    conductance = conductance_of(np.array([[[1.0, 3.0, 0.0]]]), voxel_mm=2.0)
    np.testing.assert_allclose(conductance[2, 0, 0], [2 * 3 / 4 / 4, 0.0, 0.0])
    assert conductance[:2].max() == 0.0


def test_largest_outflow_sums_the_six_faces_of_a_voxel():
    assert largest_outflow(conductance_of(np.ones((3, 3, 3)))) == pytest.approx(6.0)
    assert largest_outflow(conductance_of(np.ones((1, 1, 3)))) == pytest.approx(2.0)


def test_support_is_the_box_of_what_exceeds_the_floor():
    density = np.zeros(SHAPE)
    density[1, 2, 3] = density[3, 4, 3] = 1.0
    density[0, 0, 0] = 0.5
    box = np.empty((3, 2), np.int64)
    support(density, 0.5, box)
    assert box.tolist() == [[1, 4], [2, 5], [3, 4]]
    support(density, 2.0, box)
    assert box.tolist() == [[0, 0], [0, 0], [0, 0]]
