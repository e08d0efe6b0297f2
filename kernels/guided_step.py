"""The guided DDIM step as plain forward operations: layers with an explicit reverse pass, and the update.

Autograd cannot be exported, so a layer that guides answers with its output and its *pullback*: the function that takes
the gradient with respect to the output to the one with respect to the input. What is built of these layers has its
gradient inside one ordinary graph. Weights are constants here; nothing returns a gradient of theirs.

Feature maps are (N, C, H, W), sequences (B, W, L). Forward, norms and softmax of half precision are in float32; the
reverse pass is for float32 and float64.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Pullback = Callable[[Tensor], Tensor]
Normalise = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Pullback]]  # as group_norm

NORM_EPSILON = 1e-5
TINY = 1e-20
LARGEST_SHIFT = 1.0  # half of the range of intensities: where R is flat, its linearisation means nothing further out


def widened(x: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Pullback]:
    """A stride-1 convolution that keeps the size; weight (C', C, k, k), k odd. Its transpose is a convolution too."""
    padding = weight.shape[-1] // 2
    flipped = weight.flip(2, 3).transpose(0, 1)
    return functional.conv2d(x, weight, bias, padding=padding), lambda g: functional.conv2d(g, flipped, padding=padding)


def halve_by_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Pullback]:
    """A 3×3 convolution of stride 2 (even H and W)."""

    def pullback(g: Tensor) -> Tensor:
        return functional.conv_transpose2d(g, weight, stride=2, padding=1, output_padding=1)

    return functional.conv2d(x, weight, bias, stride=2, padding=1), pullback


def halve_by_mean(x: Tensor) -> tuple[Tensor, Pullback]:
    """The mean of each 2×2 block."""
    return functional.avg_pool2d(x, 2), lambda g: 0.25 * functional.interpolate(g, scale_factor=2.0, mode="nearest")


def double_by_nearest(x: Tensor) -> tuple[Tensor, Pullback]:
    """Each pixel four times."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest"), lambda g: 4.0 * functional.avg_pool2d(g, 2)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Pullback]:
    """A matrix (C', C) on the channels of (N, C, L): a 1×1 convolution as a product, which TensorRT builds."""
    product = torch.matmul(weight, x)
    return product if bias is None else product + bias[:, None], lambda g: torch.matmul(weight.t(), g)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Pullback]:
    """Group normalisation (Wu & He 2018) of (N, C, …) as a layer norm of the groups, the fastest form in ONNX.

    weight, bias: (C,), or (N, C) where an embedding scales and shifts the normalised map.
    """
    shape, spread = x.shape, (-1, weight.shape[-1], *[1] * (x.ndim - 2))
    weight, bias = (widened(part).reshape(spread) for part in (weight, bias))
    rows = widened(x).reshape(shape[0], groups, -1)
    hat = functional.layer_norm(rows, rows.shape[-1:], None, None, NORM_EPSILON)

    def pullback(g: Tensor) -> Tensor:
        centred = rows - rows.mean(dim=-1, keepdim=True)  # again: TensorRT's LayerNormalization answers with hat alone
        scale = (centred.square().mean(dim=-1, keepdim=True) + NORM_EPSILON).rsqrt()
        into = (g * weight).reshape(rows.shape)
        along = (into * hat).mean(dim=-1, keepdim=True)
        return (scale * (into - (hat * along + into.mean(dim=-1, keepdim=True)))).reshape(shape)

    return (hat.reshape(shape) * weight + bias).to(x.dtype), pullback


def moments(x: Tensor, groups: int, places: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (N, G) of each group of (N, C, …) over some places; 0 where there are none.

    places: (N, 1, …), 1 in them. count: (N, 1), how many they are.
    """
    wide, axes = widened(x), tuple(range(2, x.ndim))
    count = count.clamp(min=1.0)

    def mean(of: Tensor) -> Tensor:
        return of_groups((of * places).sum(dim=axes) / count, groups)

    centre = mean(wide)
    return centre, mean((wide - to_channels(centre, x)).square())


def of_groups(channels: Tensor, groups: int) -> Tensor:
    """(N, G) means of (N, C)."""
    return channels if channels.shape[1] == groups else channels.reshape(channels.shape[0], groups, -1).mean(dim=-1)


def to_channels(groups: Tensor, x: Tensor) -> Tensor:
    """(N, C, 1, …) of (N, G): each group's number for each of its channels in x."""
    width = x.shape[1] // groups.shape[1]
    each = groups if width == 1 else groups[:, :, None].expand(-1, -1, width).reshape(-1, x.shape[1])
    return each.reshape(-1, x.shape[1], *[1] * (x.ndim - 2))


def group_norm_in_box(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, *, outside: Tensor, share: Tensor | float
) -> tuple[Tensor, Pullback]:
    """`group_norm` of a whole map of which x is the part in a box.

    outside: (N, G, 2) mean and variance of each group's other part, which is held fixed. share: of the map's places,
    those in the box. Means are of channels first, and then of groups: no shape depends on the side of the box.
    """
    axes, spread = tuple(range(2, x.ndim)), (-1, weight.shape[-1], *[1] * (x.ndim - 2))
    weight, bias = (widened(part).reshape(spread) for part in (weight, bias))
    wide, other, other_variance = widened(x), outside[:, :, 0], outside[:, :, 1]

    def mean_of(values: Tensor) -> Tensor:
        return share * of_groups(values.mean(dim=axes), groups)

    mean = mean_of(wide) + (1 - share) * other
    centred = wide - to_channels(mean, x)
    variance = mean_of(centred.square()) + (1 - share) * (other_variance + (other - mean).square())
    scale = to_channels((variance + NORM_EPSILON).rsqrt(), x)
    hat = centred * scale

    def pullback(g: Tensor) -> Tensor:
        into = g * weight
        return scale * (into - hat * to_channels(mean_of(into * hat), x) - to_channels(mean_of(into), x))

    return (hat * weight + bias).to(x.dtype), pullback


def group_norm_by_channels(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Pullback]:
    """`group_norm` by means over each channel, which leaves a map with its channels last as it lies.

    Torch's own kernel for such maps on a CPU loses digits where means are large beside deviations
    (findings/group_norm_with_channels_last.sh).
    """
    nothing = x.new_zeros(x.shape[0], groups, 2, dtype=torch.float32)
    return group_norm_in_box(x, weight, bias, groups, outside=nothing, share=1.0)


def silu(x: Tensor) -> tuple[Tensor, Pullback]:
    """x·σ(x)."""
    gate = torch.sigmoid(x)
    y = x * gate
    return y, lambda g: g * (gate + y * (1 - gate))


def logistic(x: Tensor) -> tuple[Tensor, Tensor]:
    """σ(x) and 1 - σ(x), each to some units of its own last place.

    ONNX Runtime's Sigmoid on a CPU is right to 1e-7 of one, so it is off by a fifth at -15, and 0 from -18 down: a
    gradient through it dies where a network is sure (findings/sigmoid_far_below_zero.sh).
    """
    return 1 / (1 + torch.exp(-x)), 1 / (1 + torch.exp(x))


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """Softmax attention of queries (B, W, Q) to keys and values (B, W, L), written out; returns (B, W, Q)."""
    scale = 1 / math.sqrt(q.shape[1])
    weights = torch.softmax(widened(torch.matmul(q.transpose(1, 2), k)) * scale, dim=-1)  # (B, Q, L)
    y = torch.matmul(v, weights.transpose(1, 2).to(v.dtype))

    def pullback(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        along = (g * y).sum(dim=1)[:, :, None]  # of each row of weights with its gradient, without forming the product
        scores = weights * (torch.matmul(g.transpose(1, 2), v) - along)
        into_q = torch.matmul(scale * k, scores.transpose(1, 2))
        return into_q, torch.matmul(scale * q, scores), torch.matmul(g, weights)

    return y, pullback


def chain(*pullbacks: Pullback) -> Pullback:
    """The pullback of layers applied one after the other, given in the order of the layers."""

    def pullback(g: Tensor) -> Tensor:
        for back in reversed(pullbacks):
            g = back(g)
        return g

    return pullback


class Level(NamedTuple):
    """A noise level: √ᾱ and √(1 - ᾱ), computed in float64 by whoever calls (float32 loses digits near t = 0)."""

    signal: Tensor | float
    noise: Tensor | float


class Strength(NamedTuple):
    """How strongly each guidance law acts: the normalised one's gain and the paper's s_R. Zero leaves a law out."""

    gain: Tensor | float
    scale: Tensor | float


def predict(x: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x0 of x and its noise (Song et al. 2021, eq. 12)."""
    return (x - level.noise * eps) / level.signal


def noise_of(x: Tensor, x0: Tensor, level: Level) -> Tensor:
    """The noise that takes x0 to x; the inverse of `predict`."""
    return (x - level.signal * x0) / level.noise


def move(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x at another noise level, with σ = 0 (Song et al. 2021, eq. 12)."""
    return level.signal * x0 + level.noise * eps


def extrapolate(x: Tensor, eps: Tensor, previous: Tensor, blend: Tensor | float, level: Level) -> tuple[Tensor, Tensor]:
    """(x0, eps) of a two-step rule: ε goes on as it changed since the step before, and x0 is what fits it."""
    eps = eps + blend * (eps - previous)
    return predict(x, eps, level), eps


def steer(
    x0: Tensor, eps: Tensor, *, missing: Tensor, gradient: Tensor, window: Tensor, level: Level, strength: Strength
) -> tuple[Tensor, Tensor]:
    """(x0, eps) under both guidance laws; missing (N,) is target - R, gradient ∇_x R, window (N, 1, H, W) in [0, 1].

    The paper's law (arXiv 2509.09610) takes √(1 - ᾱ)·s_R·missing·∇R off ε and derives x0 from it, so x0 gains
    (1 - ᾱ)/√ᾱ of the same: the two changes nearly cancel in a short step. The normalised law (Gauss–Newton) moves x0
    alone, by the least change of x (weighted by the window) that moves R by gain·missing to first order, and no pixel
    by more than LARGEST_SHIFT.
    """
    shift = normalised_shift(missing=missing, gradient=gradient, window=window, level=level, gain=strength.gain)
    pull = level.noise * (strength.scale * missing[:, None, None, None] * gradient)
    return x0 + level.noise / level.signal * pull + shift, eps - pull


def normalised_shift(
    *, missing: Tensor, gradient: Tensor, window: Tensor, level: Level, gain: Tensor | float
) -> Tensor:
    """What the normalised law adds to x0, see `steer`."""
    missing = missing[:, None, None, None]
    shift = window * gradient
    steepness = (shift * gradient).sum(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
    shift = shift * (gain * missing / steepness / level.signal)
    largest = shift.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
    return shift * (LARGEST_SHIFT / largest).clamp(max=1.0)
