"""Every layer against torch's own and its pullback against autograd; the update against its formulae."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tumorcast.kernels import guided_step as kernel
from tumorcast.kernels.guided_step import LARGEST_SHIFT, Level, Strength, move, noise_of, predict, steer

TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}
levels = st.floats(0.01, 0.999)

Forward = Callable[[Tensor], Tensor]
WithPullback = Callable[[Tensor], tuple[Tensor, kernel.Pullback]]


def randoms(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agrees_with_autograd(ours: WithPullback, theirs: Forward, x: Tensor) -> None:
    """Outputs and pullbacks, relative to their largest element."""
    tolerance = TOLERANCES[x.dtype]
    y, pullback = ours(x)
    leaf = x.clone().requires_grad_(True)
    expected = theirs(leaf)
    g = randoms(*expected.shape, seed=1).to(x.dtype)
    (gradient,) = torch.autograd.grad(expected, leaf, g)
    for found, wanted in ((y, expected.detach()), (pullback(g), gradient)):
        assert found.dtype == x.dtype
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def weight_and_bias(dtype: torch.dtype, *shape: int) -> tuple[Tensor, Tensor]:
    return randoms(*shape, seed=2).to(dtype), randoms(shape[0], seed=3).to(dtype)


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.fixture(params=[1, 3, 8])
def x(request: pytest.FixtureRequest, dtype: torch.dtype) -> Tensor:
    return randoms(request.param, 6, 8, 4).to(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3])
def test_convolution(x: Tensor, width: int) -> None:
    weight, bias = weight_and_bias(x.dtype, 5, 6, width, width)
    agrees_with_autograd(
        lambda part: kernel.convolve(part, weight, bias),
        lambda part: functional.conv2d(part, weight, bias, padding=width // 2),
        x,
    )


def test_convolution_of_stride_two(x: Tensor) -> None:
    weight, bias = weight_and_bias(x.dtype, 5, 6, 3, 3)
    agrees_with_autograd(
        lambda part: kernel.halve_by_convolution(part, weight, bias),
        lambda part: functional.conv2d(part, weight, bias, stride=2, padding=1),
        x,
    )


def test_resampling(x: Tensor) -> None:
    agrees_with_autograd(kernel.halve_by_mean, lambda part: functional.avg_pool2d(part, 2), x)
    agrees_with_autograd(kernel.double_by_nearest, lambda part: functional.interpolate(part, scale_factor=2.0), x)


def test_pointwise(x: Tensor) -> None:
    weight, bias = weight_and_bias(x.dtype, 5, 6)
    flat = x.flatten(2)
    agrees_with_autograd(
        lambda part: kernel.pointwise(part, weight, bias),
        lambda part: functional.conv1d(part, weight[:, :, None], bias),
        flat,
    )
    torch.testing.assert_close(kernel.pointwise(flat, weight, None)[0], functional.conv1d(flat, weight[:, :, None]))


@pytest.mark.parametrize("flat", [False, True])
def test_group_norm(x: Tensor, flat: bool) -> None:
    weight, bias = weight_and_bias(x.dtype, 6)
    agrees_with_autograd(
        lambda part: kernel.group_norm(part, weight, bias, 2),
        lambda part: functional.group_norm(part, 2, weight, bias),
        x.flatten(2) if flat else x,
    )


def test_group_norm_scaled_and_shifted_row_by_row(x: Tensor) -> None:
    weight, bias = (randoms(len(x), 6, seed=seed).to(x.dtype) for seed in (4, 5))
    agrees_with_autograd(
        lambda part: kernel.group_norm(part, weight, bias, 3),
        lambda part: functional.group_norm(part, 3) * weight[:, :, None, None] + bias[:, :, None, None],
        x,
    )


def test_group_norm_by_channels(x: Tensor) -> None:
    weight, bias = weight_and_bias(x.dtype, 6)
    agrees_with_autograd(
        lambda part: kernel.group_norm_by_channels(part, weight, bias, 2),
        lambda part: functional.group_norm(part, 2, weight, bias),
        x,
    )


def test_group_norm_by_channels_keeps_the_digits_of_a_map_with_channels_last() -> None:
    x = (30 + randoms(1, 8, 64, 64)).float().contiguous(memory_format=torch.channels_last)
    y, _ = kernel.group_norm_by_channels(x, torch.ones(8), torch.zeros(8), 4)
    torch.testing.assert_close(y, functional.group_norm(x.double(), 4).float(), atol=1e-4, rtol=0)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_logistic_is_right_far_out() -> None:
    x = torch.linspace(-80, 80, 33)
    for found, wanted in zip(kernel.logistic(x), (torch.sigmoid(x.double()), torch.sigmoid(-x.double())), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


def test_silu(x: Tensor) -> None:
    agrees_with_autograd(kernel.silu, functional.silu, x)


@pytest.mark.parametrize("queries", [1, 7])
def test_attention(dtype: torch.dtype, queries: int) -> None:
    q, k, v = (randoms(3, 5, length, seed=length).to(dtype) for length in (queries, 7, 7))
    parts = [part.clone().requires_grad_(True) for part in (q, k, v)]
    weights = torch.softmax(torch.einsum("bcq,bcl->bql", parts[0], parts[1]) / math.sqrt(5), dim=-1)
    expected = torch.einsum("bql,bcl->bcq", weights, parts[2])
    g = randoms(*expected.shape, seed=1).to(dtype)
    y, pullback = kernel.attend(q, k, v)
    torch.testing.assert_close(y, expected.detach())
    for found, wanted in zip(pullback(g), torch.autograd.grad(expected, parts, g), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCES[dtype] * float(wanted.abs().max()))


def test_chain_goes_back_through_the_layers() -> None:
    assert kernel.chain(lambda g: g + 1, lambda g: 2 * g)(torch.tensor(3.0)) == 7
    assert kernel.chain()(torch.tensor(3.0)) == 3


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_norms_and_softmax_in_float32(half: torch.dtype) -> None:
    """A map with a large mean: in half precision its variance would be lost."""
    x = (100 + randoms(1, 4, 8, 8)).to(half)
    weight, bias = torch.ones(4), torch.zeros(4)
    y, _ = kernel.group_norm(x, weight, bias, 2)
    assert y.dtype == half
    torch.testing.assert_close(y.float(), functional.group_norm(x.float(), 2), atol=0.02, rtol=0.01)
    attended, _ = kernel.attend(x[:, :, 0], x[:, :, 0], x[:, :, 1])
    assert attended.dtype == half and bool(torch.isfinite(attended).all())


def level(abar: float) -> Level:
    return Level(math.sqrt(abar), math.sqrt(1 - abar))


def images(seed: int, count: int) -> Tensor:
    return randoms(count, 2, 3, 4, 4, seed=seed)


EVERYWHERE = torch.ones(2, 1, 4, 4, dtype=torch.float64)


def steered(
    x0: Tensor,
    eps: Tensor,
    *,
    missing: tuple[float, float],
    gradient: Tensor,
    window: Tensor = EVERYWHERE,
    abar: float = 0.5,
    gain: float = 0.0,
    scale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    return steer(
        x0,
        eps,
        missing=torch.tensor(missing, dtype=torch.float64),
        gradient=gradient,
        window=window,
        level=level(abar),
        strength=Strength(gain, scale),
    )


@given(levels, st.integers(0, 99))
def test_predict_and_noise_of_are_inverse(abar: float, seed: int) -> None:
    x, eps = images(seed, 2)
    torch.testing.assert_close(noise_of(x, predict(x, eps, level(abar)), level(abar)), eps)


@given(levels, st.integers(0, 99))
def test_moving_to_the_same_level_changes_nothing(abar: float, seed: int) -> None:
    x, eps = images(seed, 2)
    torch.testing.assert_close(move(predict(x, eps, level(abar)), eps, level(abar)), x)


@given(levels, st.floats(0.1, 1.0), st.integers(0, 99))
def test_normalised_guidance_moves_a_linear_size_by_gain_times_what_is_missing(
    abar: float, gain: float, seed: int
) -> None:
    x, eps, g = images(seed, 3)
    window = torch.rand(2, 1, 4, 4, dtype=torch.float64) + 0.1
    x0 = predict(x, eps, level(abar))
    moved, same = steered(x0, eps, missing=(0.3, -0.2), gradient=g, window=window, abar=abar, gain=gain)
    shift = move(moved, same, level(abar)) - x
    torch.testing.assert_close((g * shift).sum(dim=(1, 2, 3)), gain * torch.tensor([0.3, -0.2], dtype=torch.float64))


def test_normalised_guidance_stays_inside_its_window() -> None:
    x0, eps, g = images(1, 3)
    window = torch.zeros_like(EVERYWHERE)
    window[:, :, :2] = 1.0
    moved, _ = steered(x0, eps, missing=(1.0, 1.0), gradient=g, window=window, gain=1.0)
    assert torch.equal(moved[:, :, 2:], x0[:, :, 2:])
    assert not torch.equal(moved[:, :, :2], x0[:, :, :2])


def test_a_flat_regressor_leaves_the_image_as_it_is() -> None:
    x0, eps, _ = images(2, 3)
    moved, same = steered(x0, eps, missing=(1.0, 1.0), gradient=torch.zeros_like(x0), gain=1.0)
    torch.testing.assert_close(moved, x0)
    torch.testing.assert_close(same, eps)


def test_a_nearly_flat_regressor_moves_no_pixel_by_more_than_half_of_the_range() -> None:
    x0, eps, g = images(4, 3)
    moved, _ = steered(x0, eps, missing=(1.0, 1.0), gradient=1e-6 * g, gain=1.0)
    shift = (moved - x0).abs().amax(dim=(1, 2, 3))
    torch.testing.assert_close(shift, torch.full((2,), LARGEST_SHIFT, dtype=torch.float64))


def test_paper_guidance_is_the_classifier_guidance_of_dhariwal_and_nichol() -> None:
    """Algorithm 2 of Dhariwal & Nichol 2021, with s_R·(target - R)·∇R as the gradient of the log-likelihood."""
    x, eps, g = images(3, 3)
    abar, scale, missing = 0.7, 50.0, (0.1, -0.4)
    x0, moved = steered(predict(x, eps, level(abar)), eps, missing=missing, gradient=g, abar=abar, scale=scale)
    pull = scale * torch.tensor(missing, dtype=torch.float64)[:, None, None, None] * g
    torch.testing.assert_close(moved, eps - math.sqrt(1 - abar) * pull)
    torch.testing.assert_close(x0, (x - math.sqrt(1 - abar) * moved) / math.sqrt(abar))
