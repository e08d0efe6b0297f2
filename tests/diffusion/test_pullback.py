"""The networks' explicit reverse pass against autograd, module by module and as a whole."""

import pytest
import torch
from torch import Tensor, nn

from tumorcast.diffusion.blocks import AttentionBlock, AttentionPool, Downsample, ResBlock, Upsample
from tumorcast.diffusion.pullback import (
    size_and_gradient,
    through_attention,
    through_layer,
    through_pool,
    through_res_block,
    through_unet,
)
from tumorcast.diffusion.regressors import AttentionPoolRegressor, DenseRegressor, SizeRegressor
from tumorcast.diffusion.unet import UNet
from tumorcast.settings import Architecture

TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}
SMALL = Architecture(image_size=16, channel_mult=(1, 2), res_blocks=1, attention_resolutions=(8,), out_channels=1)
DENSE = SMALL.model_copy(update={"scale_shift_norm": True, "resblock_updown": True})
POOLED = DENSE.model_copy(update={"head_channels": 32, "attention_resolutions": (16, 8)})


def shaken(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Random weights everywhere: fresh networks have layers of zeros, which would hide what is compared."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return module.to(dtype).eval().requires_grad_(False)


def maps(count: int, channels: int, side: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64).to(dtype)


def close(found: Tensor, wanted: Tensor) -> None:
    atol = TOLERANCES[wanted.dtype] * float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def gradient(y: Tensor, x: Tensor, g: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(y, x, g)
    return found


@pytest.mark.parametrize(
    "layer",
    [
        Downsample(32, learned=True),
        Downsample(32, learned=False),
        Upsample(32, learned=True),
        Upsample(32, learned=False),
        AttentionBlock(32, None),
        AttentionBlock(64, 32),
    ],
    ids=["down learned", "down mean", "up learned", "up nearest", "attention", "attention of two heads"],
)
def test_layers(layer: nn.Module) -> None:
    layer = shaken(layer)
    x = maps(2, 64 if isinstance(layer, AttentionBlock) and layer.heads == 2 else 32).requires_grad_(True)
    y, pullback = through_layer(layer, x.detach())
    expected = layer(x)
    g = maps(3, y.shape[1], y.shape[2])[:2]
    close(y, expected.detach())
    close(pullback(g), gradient(expected, x, g))


def test_attention_is_a_layer() -> None:
    block = shaken(AttentionBlock(32, None))
    assert isinstance(block, AttentionBlock)
    x = maps(1, 32)
    close(through_attention(block, x)[0], block(x))


@pytest.mark.parametrize("resample", [None, Downsample(32, learned=False), Upsample(32, learned=False)])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("out", [32, 64])
def test_residual_blocks(resample: nn.Module | None, scale_shift: bool, out: int) -> None:
    block = shaken(ResBlock(32, 8, out, scale_shift=scale_shift, resample=resample))
    assert isinstance(block, ResBlock)
    x, embedding = maps(2, 32).requires_grad_(True), torch.randn(2, 8, dtype=torch.float64)
    y, pullback = through_res_block(block, x.detach(), embedding)
    expected = block(x, embedding)
    g = maps(3, out, y.shape[2])[:2]
    close(y, expected.detach())
    close(pullback(g), gradient(expected, x, g))


@pytest.mark.parametrize("head_channels", [None, 32])
def test_attention_pool(head_channels: int | None) -> None:
    pool = shaken(AttentionPool(4, 64, head_channels, 3))
    assert isinstance(pool, AttentionPool)
    x = maps(2, 64, 4).requires_grad_(True)
    y, pullback = through_pool(pool, x.detach())
    expected = pool(x)
    g = torch.randn(2, 3, dtype=torch.float64)
    close(y, expected.detach())
    close(pullback(g), gradient(expected, x, g))


def test_a_layer_without_reverse_pass_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear has no reverse pass"):
        through_layer(nn.Linear(2, 2), torch.ones(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("arch", [SMALL, DENSE, DENSE.model_copy(update={"classes": 2})])
def test_the_unet_with_and_without_classes(arch: Architecture) -> None:
    network = shaken(UNet(arch))
    assert isinstance(network, UNet)
    x, t = maps(3, 4, 16).requires_grad_(True), torch.tensor([0, 7, 199])
    classes = None if arch.classes is None else torch.tensor([1, 0, 1])
    y, pullback = through_unet(network, x.detach(), t, classes)
    expected = network(x, t, classes)
    g = maps(4, 1, 16)[:3]
    close(y, expected.detach())
    close(pullback(g), gradient(expected, x, g))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("kind", [DenseRegressor, AttentionPoolRegressor])
def test_size_and_gradient(kind: type[SizeRegressor], count: int, dtype: torch.dtype) -> None:
    regressor = shaken(kind(DENSE if kind is DenseRegressor else POOLED), dtype)
    assert isinstance(regressor, DenseRegressor | AttentionPoolRegressor)
    x, t = maps(count, 4, 16, dtype).requires_grad_(True), torch.full((count,), 30)
    brain = (maps(count, 1, 16, dtype)[:, 0] > -0.5).to(dtype)
    brain[0] = 0.0  # a slice without brain has no size, and its gradient is zero
    size, slope = size_and_gradient(regressor, x.detach(), t, brain)
    expected = regressor(x, t, brain)
    close(size, expected.detach())
    close(slope, gradient(expected, x, torch.ones_like(expected)))
    if kind is DenseRegressor:
        assert not slope[0].any()


@pytest.mark.slow
def test_a_regressor_with_learned_resampling_has_its_gradient_too() -> None:
    regressor = shaken(DenseRegressor(SMALL))
    assert isinstance(regressor, DenseRegressor)
    x, t, brain = maps(2, 4, 16).requires_grad_(True), torch.tensor([3, 50]), torch.ones(2, 16, 16).double()
    size, slope = size_and_gradient(regressor, x.detach(), t, brain)
    close(slope, gradient(regressor(x, t, brain), x, torch.ones_like(size)))
