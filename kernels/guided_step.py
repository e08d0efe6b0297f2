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


def silu(x: Tensor) -> tuple[Tensor, Pullback]:
    """x·σ(x)."""
    gate = torch.sigmoid(x)
    y = x * gate
    return y, lambda g: g * (gate + y * (1 - gate))


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
    missing = missing[:, None, None, None]
    pull = level.noise * (strength.scale * missing * gradient)
    shift = window * gradient
    steepness = (shift * gradient).sum(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
    shift = shift * (strength.gain * missing / steepness / level.signal)
    largest = shift.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
    shift = shift * (LARGEST_SHIFT / largest).clamp(max=1.0)
    return x0 + level.noise / level.signal * pull + shift, eps - pull
