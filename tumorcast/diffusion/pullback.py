"""Forward passes of the networks with their pullbacks: walks over the layers of kernels.guided_step.

The walks follow the modules' own `forward`, which autograd and training use; tests hold the two together. This is the
form that is exported: nothing in it needs autograd.
"""

from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from tumorcast.diffusion.blocks import AttentionBlock, AttentionPool, Downsample, ResBlock, TimestepSequential, Upsample
from tumorcast.diffusion.regressors import AttentionPoolRegressor, DenseRegressor, SizeRegressor
from tumorcast.diffusion.unet import EncoderRegressor, UNet
from tumorcast.kernels.guided_step import (
    Normalise,
    Pullback,
    attend,
    chain,
    convolve,
    double_by_nearest,
    group_norm,
    group_norm_in_box,
    halve_by_convolution,
    halve_by_mean,
    logistic,
    moments,
    pointwise,
    silu,
)


def through_layer(  # noqa: PLR0911 - a table
    layer: nn.Module, x: Tensor, normalise: Normalise = group_norm
) -> tuple[Tensor, Pullback]:
    """A layer that takes no time embedding. Raises TypeError for one that has no reverse pass here.

    normalise: what a group norm is computed by, here and in all walks below.
    """
    match layer:
        case nn.Conv2d(stride=(2, 2)):
            return halve_by_convolution(x, layer.weight, layer.bias)
        case nn.Conv2d():
            return convolve(x, layer.weight, layer.bias)
        case nn.GroupNorm():
            return normalise(x, layer.weight, layer.bias, layer.num_groups)
        case nn.SiLU():
            return silu(x)
        case nn.Dropout() | nn.Identity():
            return x, chain()
        case Downsample():
            return halve_by_mean(x) if isinstance(layer.op, nn.AvgPool2d) else through_layer(layer.op, x)
        case Upsample():
            doubled, back = double_by_nearest(x)
            y, last = through_layer(layer.conv, doubled)
            return y, chain(back, last)
        case AttentionBlock():
            return through_attention(layer, x, normalise)
        case _:
            raise TypeError(f"{type(layer).__name__} has no reverse pass")


def through_layers(layers: list[nn.Module], x: Tensor, normalise: Normalise = group_norm) -> tuple[Tensor, Pullback]:
    """Layers one after the other."""
    backs = []
    for layer in layers:
        x, back = through_layer(layer, x, normalise)
        backs.append(back)
    return x, chain(*backs)


def through_res_block(
    block: ResBlock, x: Tensor, embedding: Tensor, normalise: Normalise = group_norm
) -> tuple[Tensor, Pullback]:
    """A residual block at a time embedding (N, E)."""
    side, side_back = through_layers([block.resample, block.skip_connection], x)
    norm_in, act_in, conv_in = block.in_layers
    h, into = through_layers([norm_in, act_in, block.resample, conv_in], x, normalise)
    shift = block.emb_layers(embedding)
    norm_out, *rest = block.out_layers
    assert isinstance(norm_out, nn.GroupNorm)
    if block.scale_shift:
        scale, shift = shift.chunk(2, dim=1)
        weight, bias = norm_out.weight * (1 + scale), norm_out.bias * (1 + scale) + shift
    else:
        weight, bias, h = norm_out.weight, norm_out.bias, h + shift[:, :, None, None].to(h.dtype)
    h, normed = normalise(h, weight, bias, norm_out.num_groups)
    h, out = through_layers(rest, h)
    return side + h, lambda g: side_back(g) + into(normed(out(g)))


def through_attention(block: AttentionBlock, x: Tensor, normalise: Normalise = group_norm) -> tuple[Tensor, Pullback]:
    """Self-attention over all pixels, and the identity beside it."""
    n, c, *_ = x.shape
    flat = x.reshape(n, c, -1)
    normed, norm_back = through_layer(block.norm, flat, normalise)
    qkv, qkv_back = pointwise(normed, block.qkv.weight[:, :, 0], block.qkv.bias)
    heads = qkv.reshape(n * block.heads, 3 * c // block.heads, -1)
    mixed, attend_back = attend(*heads.chunk(3, dim=1))
    assert isinstance(block.proj_out, nn.Conv1d)
    out, out_back = pointwise(mixed.reshape(n, c, -1), block.proj_out.weight[:, :, 0], block.proj_out.bias)

    def pullback(g: Tensor) -> Tensor:
        along = g.reshape(n, c, -1)
        into = torch.cat(attend_back(out_back(along).reshape(mixed.shape)), dim=1)
        return (along + norm_back(qkv_back(into.reshape(qkv.shape)))).reshape(x.shape)

    return (flat + out).reshape(x.shape), pullback


def through_pool(pool: AttentionPool, x: Tensor) -> tuple[Tensor, Pullback]:
    """Attention pooling to (N, out); only the query of the mean is asked."""
    n, c, *_ = x.shape
    flat = x.reshape(n, c, -1)
    length = flat.shape[-1]
    tokens = torch.cat([flat.mean(dim=-1, keepdim=True), flat], dim=-1) + pool.positional_embedding
    weight, bias = pool.qkv_proj.weight[:, :, 0], pool.qkv_proj.bias
    assert bias is not None
    query, query_back = pointwise(tokens[:, :, :1], weight[:c], bias[:c])
    keys, keys_back = pointwise(tokens, weight[c : 2 * c], bias[c : 2 * c])
    values, values_back = pointwise(tokens, weight[2 * c :], bias[2 * c :])
    split = (part.reshape(n * pool.heads, c // pool.heads, -1) for part in (query, keys, values))
    mixed, attend_back = attend(*split)
    out, out_back = pointwise(mixed.reshape(n, c, 1), pool.c_proj.weight[:, :, 0], pool.c_proj.bias)

    def pullback(g: Tensor) -> Tensor:
        into = attend_back(out_back(g[:, :, None]).reshape(mixed.shape))
        q, k, v = (part.reshape(n, c, -1) for part in into)
        along = keys_back(k) + values_back(v)
        mean = along[:, :, :1] + query_back(q)
        return (along[:, :, 1:] + mean / length).reshape(x.shape)

    return out[:, :, 0], pullback


def through_stage(
    stage: TimestepSequential, x: Tensor, embedding: Tensor, normalise: Normalise = group_norm
) -> tuple[Tensor, Pullback]:
    """One stage of a network: residual blocks with the embedding, other layers without."""
    backs = []
    for layer in stage:
        x, back = (
            through_res_block(layer, x, embedding, normalise)
            if isinstance(layer, ResBlock)
            else through_layer(layer, x, normalise)
        )
        backs.append(back)
    return x, chain(*backs)


def through_unet(
    network: UNet, x: Tensor, t: Tensor, classes: Tensor | None = None, normalise: Normalise = group_norm
) -> tuple[Tensor, Pullback]:
    """`UNet.forward` with its pullback."""
    embedding = network.embed(t, classes)
    h, skips, downs = x, [], []
    for stage in network.input_blocks:
        h, back = _stage(stage, h, embedding, normalise)
        skips.append(h)
        downs.append(back)
    h, middle = through_stage(network.middle_block, h, embedding, normalise)
    ups = []
    for stage, skip in zip(network.output_blocks, reversed(skips), strict=True):
        width = h.shape[1]
        h, back = _stage(stage, torch.cat([h, skip], dim=1), embedding, normalise)
        ups.append((width, back))
    y, out = through_layers(list(network.out), h, normalise)

    def pullback(g: Tensor) -> Tensor:
        g, into_skips = out(g), []
        for width, back in reversed(ups):
            both = back(g)
            g = both[:, :width]
            into_skips.append(both[:, width:])
        g = middle(g)
        for back, into in zip(reversed(downs), reversed(into_skips), strict=True):
            g = back(g + into)
        return g

    return y, pullback


def _stage(
    stage: nn.Module, x: Tensor, embedding: Tensor, normalise: Normalise = group_norm
) -> tuple[Tensor, Pullback]:
    assert isinstance(stage, TimestepSequential)
    return through_stage(stage, x, embedding, normalise)


def through_encoder(network: EncoderRegressor, x: Tensor, t: Tensor) -> tuple[Tensor, Pullback]:
    """`EncoderRegressor.forward` with its pullback."""
    embedding = network.embed(t, None)
    backs = []
    for stage in (*network.input_blocks, network.middle_block):
        x, back = _stage(stage, x, embedding)
        backs.append(back)
    *before, pool = network.out
    assert isinstance(pool, AttentionPool)
    x, out = through_layers(before, x)
    y, pooled = through_pool(pool, x)
    return y, chain(*backs, out, pooled)


def size_and_gradient(
    regressor: SizeRegressor, x: Tensor, t: Tensor, brain: Tensor, normalise: Normalise = group_norm
) -> tuple[Tensor, Tensor]:
    """R(x, t) (N,), tumour over brain pixels, and ∇_x R (N, C, H, W). brain is (N, H, W), 1 inside."""
    size, gradient = size_before_gradient(regressor, x, t, brain, normalise)
    return size, gradient()


def size_before_gradient(
    regressor: SizeRegressor, x: Tensor, t: Tensor, brain: Tensor, normalise: Normalise = group_norm
) -> tuple[Tensor, Callable[[], Tensor]]:
    """R(x, t), and what gives ∇_x R when it is asked."""
    match regressor:
        case DenseRegressor():
            logits, back = through_unet(regressor, x, t, None, normalise)
            probability, rest = logistic(logits)
            share = (brain / brain.sum(dim=(1, 2), keepdim=True).clamp(min=1.0))[:, None]
            return (probability * share).sum(dim=(1, 2, 3)), lambda: back(share * probability * rest)
        case AttentionPoolRegressor():
            y, back = through_encoder(regressor, x, t)
            return y[:, 0], lambda: back(torch.ones_like(y))
        case _:
            assert_never(regressor)


class OutsideOfBox:
    """A `Normalise` that also keeps what lies outside of a box, for `InBox` to go on with.

    outside: (N, H, W), 1 outside of the box; its edges lie between the pixels of every map of the network.
    """

    def __init__(self, outside: Tensor) -> None:
        self.kept: list[Tensor] = []
        self._pixels = outside[0].numel()
        self._places = {1: outside[:, None]}

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Pullback]:
        """group_norm."""
        size = round((self._pixels / x[0, 0].numel()) ** 0.5)
        if size not in self._places:
            self._places[size] = functional.avg_pool2d(self._places[1], size)
        places = self._places[size]
        count = places.sum(dim=(2, 3))
        self.kept.append(torch.stack(moments(x, groups, places.reshape(-1, 1, *x.shape[2:]), count), dim=-1))
        return group_norm(x, weight, bias, groups)


class InBox:
    """A `Normalise` of maps that are the part in the box; asked in the same order as `OutsideOfBox` was.

    outside: (N, G, 2), what that kept of all norms, one after the other. share: of the pixels, those in the
    box.
    """

    def __init__(self, outside: Tensor, share: Tensor | float) -> None:
        self.outside, self.share, self.used = outside, share, 0

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Pullback]:
        """group_norm_in_box."""
        outside = self.outside[:, self.used : self.used + groups]
        self.used += groups
        return group_norm_in_box(x, weight, bias, groups, outside=outside, share=self.share)
