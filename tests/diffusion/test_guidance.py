"""The DDIM update and both guidance laws against their formulae."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from tumorcast.diffusion.guidance import LARGEST_SHIFT, move, noise_of, predict, steer
from tumorcast.diffusion.plan import Normalised, Paper

levels = st.floats(0.01, 0.999)


def images(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(levels, st.integers(0, 99))
def test_predict_and_noise_of_are_inverse(abar: float, seed: int) -> None:
    x, eps = images(seed, 2)
    torch.testing.assert_close(noise_of(x, predict(x, eps, abar), abar), eps)


@given(levels, st.integers(0, 99))
def test_moving_to_the_same_level_changes_nothing(abar: float, seed: int) -> None:
    x, eps = images(seed, 2)
    torch.testing.assert_close(move(predict(x, eps, abar), eps, abar), x)


@given(levels, st.floats(0.1, 1.0), st.integers(0, 99))
def test_normalised_guidance_moves_a_linear_size_by_gain_times_what_is_missing(
    abar: float, gain: float, seed: int
) -> None:
    x, eps, g = images(seed, 3)
    w = torch.rand(2, 1, 4, 4, dtype=torch.float64) + 0.1
    missing = torch.tensor([0.3, -0.2], dtype=torch.float64)
    x0 = predict(x, eps, abar)
    steered, same_eps = steer(Normalised(gain), x, x0, eps, missing=missing, g=g, w=w, abar=abar)
    shift = move(steered, same_eps, abar) - x
    torch.testing.assert_close((g * shift).sum(dim=(1, 2, 3)), gain * missing)


def test_normalised_guidance_stays_inside_its_window() -> None:
    x, eps, g = images(1, 3)
    w = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    w[:, :, :2] = 1.0
    x0 = predict(x, eps, 0.5)
    steered, _ = steer(Normalised(1.0), x, x0, eps, missing=torch.ones(2, dtype=torch.float64), g=g, w=w, abar=0.5)
    assert torch.equal(steered[:, :, 2:], x0[:, :, 2:])
    assert not torch.equal(steered[:, :, :2], x0[:, :, :2])


def test_a_flat_regressor_leaves_the_image_finite() -> None:
    x, eps, _ = images(2, 3)
    g, w = torch.zeros_like(x), torch.ones(2, 1, 4, 4, dtype=torch.float64)
    steered, _ = steer(Normalised(1.0), x, x, eps, missing=torch.ones(2, dtype=torch.float64), g=g, w=w, abar=0.5)
    torch.testing.assert_close(steered, x)


def test_a_nearly_flat_regressor_moves_no_pixel_by_more_than_half_of_the_range() -> None:
    x, eps, g = images(4, 3)
    steered, _ = steer(
        Normalised(1.0), x, x, eps, missing=torch.ones(2), g=1e-6 * g, w=torch.ones(2, 1, 4, 4), abar=0.5
    )
    shift = (steered - x).abs().amax(dim=(1, 2, 3))
    torch.testing.assert_close(shift, torch.full((2,), LARGEST_SHIFT, dtype=torch.float64))


def test_paper_guidance_is_the_classifier_guidance_of_dhariwal_and_nichol() -> None:
    """Algorithm 2 of Dhariwal & Nichol 2021, with s_R·(target - R)·∇R as the gradient of the log-likelihood."""
    x, eps, g = images(3, 3)
    abar, scale, missing = 0.7, 50.0, torch.tensor([0.1, -0.4], dtype=torch.float64)
    x0, moved = steer(
        Paper(scale), x, predict(x, eps, abar), eps, missing=missing, g=g, w=torch.ones(2, 1, 4, 4), abar=abar
    )
    expected = eps - math.sqrt(1 - abar) * scale * missing[:, None, None, None] * g
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(x0, (x - math.sqrt(1 - abar) * expected) / math.sqrt(abar))
