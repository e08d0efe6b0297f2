"""What openai/guided-diffusion computes, written anew and plainly: its two networks as functions of named weights, its
diffusion, and the loop of arXiv 2509.09610 over them. Nothing of tumorcast is used.

A weight that is asked for the first time is drawn, so calling a network once makes its state dict.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Network = Callable[[Tensor, Tensor], Tensor]


class Weights(dict[str, Tensor]):
    """Parameters by published name."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def take(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            self[name] = self.draw(name, shape)
        assert self[name].shape == shape, name
        return self[name]

    def draw(self, name: str, shape: tuple[int, ...]) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator)
        if len(shape) > 1:
            return drawn / np.sqrt(np.prod(shape[1:]))
        return 0.1 * drawn + float(".0.weight" in name or "norm.weight" in name)

    def double(self) -> "Weights":
        twin = Weights(0)
        twin.update({name: value.double() for name, value in self.items()})
        return twin


class Outline(Weights):
    """Shapes without numbers, for networks too large to make."""

    def __init__(self) -> None:
        super().__init__(0)

    def draw(self, name: str, shape: tuple[int, ...]) -> Tensor:
        del name
        return torch.empty(shape, device="meta")


@dataclass(frozen=True)
class Form:
    """The arguments of UNetModel and EncoderUNetModel. attention: rates of downsampling. pool_silu: False in the
    authors' regressor."""

    image_size: int = 32
    in_channels: int = 4
    out_channels: int = 4
    channels: int = 32
    mult: tuple[int, ...] = (1, 2, 2)
    res_blocks: int = 2
    attention: tuple[int, ...] = (4,)
    head_channels: int | None = None
    classes: int | None = None
    scale_shift: bool = False
    updown: bool = False
    pool_silu: bool = True


def embed(w: Weights, form: Form, t: Tensor, y: Tensor | None, like: Tensor) -> Tensor:
    half = form.channels // 2
    rates = torch.exp(-np.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * rates
    waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(like.dtype)
    hidden = functional.silu(linear(w, "time_embed.0", waves, 4 * form.channels))
    embedding = linear(w, "time_embed.2", hidden, 4 * form.channels)
    if form.classes is None:
        return embedding
    return embedding + w.take("label_emb.weight", form.classes, 4 * form.channels)[y]


def linear(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    return x @ w.take(f"{name}.weight", out, x.shape[1]).T + w.take(f"{name}.bias", out)


def conv(w: Weights, name: str, x: Tensor, out: int, *, kernel: int = 3, stride: int = 1) -> Tensor:
    weight = w.take(f"{name}.weight", out, x.shape[1], kernel, kernel)
    return functional.conv2d(x, weight, w.take(f"{name}.bias", out), stride=stride, padding=kernel // 2)


def project(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    return functional.conv1d(x, w.take(f"{name}.weight", out, x.shape[1], 1), w.take(f"{name}.bias", out))


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    c = x.shape[1]
    return functional.group_norm(x, 32, w.take(f"{name}.weight", c), w.take(f"{name}.bias", c))


def halve(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def residual(
    w: Weights,
    name: str,
    form: Form,
    x: Tensor,
    e: Tensor,
    *,
    out: int,
    resample: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    h = functional.silu(norm(w, f"{name}.in_layers.0", x))
    if resample is not None:
        h, x = resample(h), resample(x)
    h = conv(w, f"{name}.in_layers.2", h, out)
    shift = linear(w, f"{name}.emb_layers.1", functional.silu(e), out * (2 if form.scale_shift else 1))[..., None, None]
    if form.scale_shift:
        h = norm(w, f"{name}.out_layers.0", h) * (1 + shift[:, :out]) + shift[:, out:]
    else:
        h = norm(w, f"{name}.out_layers.0", h + shift)
    h = conv(w, f"{name}.out_layers.3", functional.silu(h), out)
    if x.shape[1] != out:
        x = conv(w, f"{name}.skip_connection", x, out, kernel=1)
    return x + h


def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of (B, width, L), q and k scaled before their product."""
    scale = q.shape[1] ** -0.25
    weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
    return torch.einsum("bts,bcs->bct", weights, v)


def attention(w: Weights, name: str, form: Form, x: Tensor) -> Tensor:
    """The legacy order: each head's q, k and v lie together."""
    c, flat = x.shape[1], x.flatten(2)
    width = form.head_channels or c
    qkv = project(w, f"{name}.qkv", norm(w, f"{name}.norm", flat), 3 * c)
    heads = [mixed(*part.split(width, dim=1)) for part in qkv.split(3 * width, dim=1)]
    return (flat + project(w, f"{name}.proj_out", torch.cat(heads, dim=1), c)).reshape(x.shape)


def pooled(w: Weights, name: str, form: Form, x: Tensor) -> Tensor:
    """The new order: all of q, then k, then v, each by heads."""
    flat = x.flatten(2)
    c = flat.shape[1]
    flat = torch.cat([flat.mean(dim=2, keepdim=True), flat], dim=2)
    flat = flat + w.take(f"{name}.positional_embedding", c, flat.shape[2])
    parts = [
        part.split(form.head_channels or c, dim=1) for part in project(w, f"{name}.qkv_proj", flat, 3 * c).chunk(3, 1)
    ]
    heads = torch.cat([mixed(*head) for head in zip(*parts, strict=True)], dim=1)
    return project(w, f"{name}.c_proj", heads, form.out_channels)[:, :, 0]


def descend(w: Weights, form: Form, x: Tensor, e: Tensor) -> list[Tensor]:
    """All maps of the way down, last that of the middle."""
    maps = [conv(w, "input_blocks.0.0", x, form.mult[0] * form.channels)]
    for level, mult in enumerate(form.mult):
        for _ in range(form.res_blocks):
            name = f"input_blocks.{len(maps)}"
            h = residual(w, f"{name}.0", form, maps[-1], e, out=mult * form.channels)
            maps.append(attention(w, f"{name}.1", form, h) if 2**level in form.attention else h)
        if level + 1 < len(form.mult):
            name, c = f"input_blocks.{len(maps)}.0", maps[-1].shape[1]
            down = residual(w, name, form, maps[-1], e, out=c, resample=halve) if form.updown else None
            maps.append(conv(w, f"{name}.op", maps[-1], c, stride=2) if down is None else down)
    c = maps[-1].shape[1]
    h = attention(w, "middle_block.1", form, residual(w, "middle_block.0", form, maps[-1], e, out=c))
    return [*maps, residual(w, "middle_block.2", form, h, e, out=c)]


def unet(w: Weights, form: Form, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    e = embed(w, form, t, y, x)
    *maps, h = descend(w, form, x, e)
    place = 0
    for level in reversed(range(len(form.mult))):
        for i in range(form.res_blocks + 1):
            name, c = f"output_blocks.{place}", form.mult[level] * form.channels
            h = residual(w, f"{name}.0", form, torch.cat([h, maps.pop()], dim=1), e, out=c)
            attends = 2**level in form.attention
            if attends:
                h = attention(w, f"{name}.1", form, h)
            if level and i == form.res_blocks:
                up = f"{name}.{1 + attends}"
                h = (
                    residual(w, up, form, h, e, out=c, resample=double)
                    if form.updown
                    else conv(w, f"{up}.conv", double(h), c)
                )
            place += 1
    return conv(w, "out.2", functional.silu(norm(w, "out.0", h)), form.out_channels)


def encoder(w: Weights, form: Form, x: Tensor, t: Tensor) -> Tensor:
    h = norm(w, "out.0", descend(w, form, x, embed(w, form, t, None, x))[-1])
    return pooled(w, "out.2", form, functional.silu(h)) if form.pool_silu else pooled(w, "out.1", form, h)


class Diffusion:
    """Tables in float64, used in `dtype`: what is subtracted from them is rounded first, as in the original."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        betas = np.linspace(0.0001, 0.02, 1000, dtype=np.float64)
        self.abar = np.cumprod(1.0 - betas)
        self.abar_prev, self.abar_next = np.append(1.0, self.abar[:-1]), np.append(self.abar[1:], 0.0)
        self.dtype = dtype

    def at(self, table: np.ndarray, t: int) -> Tensor:
        return torch.tensor(table[t], dtype=self.dtype)

    def noised(self, image: Tensor, noise: Tensor, t: int) -> Tensor:
        return self.at(np.sqrt(self.abar), t) * image + self.at(np.sqrt(1.0 - self.abar), t) * noise

    def start(self, x: Tensor, eps: Tensor, t: int) -> Tensor:
        return self.at(np.sqrt(1 / self.abar), t) * x - self.at(np.sqrt(1 / self.abar - 1), t) * eps

    def eps(self, x: Tensor, start: Tensor, t: int) -> Tensor:
        return (self.at(np.sqrt(1 / self.abar), t) * x - start) / self.at(np.sqrt(1 / self.abar - 1), t)

    def denoised(self, model: Network, x: Tensor, t: int) -> Tensor:
        """The clipped x_0; of a learned sigma the mean is all that DDIM uses."""
        with torch.no_grad():
            return self.start(x, model(x, times(x, t))[:, : x.shape[1]], t).clamp(-1, 1)

    def moved(self, start: Tensor, eps: Tensor, abar: np.ndarray, t: int) -> Tensor:
        there = self.at(abar, t)
        return start * torch.sqrt(there) + torch.sqrt(1 - there) * eps

    def reverse_step(self, model: Network, x: Tensor, t: int) -> Tensor:
        start = self.denoised(model, x, t)
        return self.moved(start, self.eps(x, start, t), self.abar_next, t)

    def step(self, model: Network, x: Tensor, t: int, push: Callable[[Tensor, int], Tensor]) -> Tensor:
        eps = self.eps(x, self.denoised(model, x, t), t) - torch.sqrt(1 - self.at(self.abar, t)) * push(x, t)
        start = self.start(x, eps, t)
        return self.moved(start, self.eps(x, start, t), self.abar_prev, t)


def times(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t)


def paper_loop(
    model: Network,
    regressor: Network,
    image: Tensor,
    noise: Tensor,
    *,
    level: int,
    scale: float,
    target: Tensor,
) -> list[Tensor]:
    """x after the noise and after each step of the authors' loop; target (N,) is the size asked for."""
    diffusion = Diffusion(noise.dtype)

    def push(x: Tensor, t: int) -> Tensor:
        x = x.detach().requires_grad_(True)
        size = regressor(x, times(x, t))[:, 0]
        (slope,) = torch.autograd.grad(size.sum(), x)
        wanted = target + 0.15 * target if t > 20 else target
        return (wanted - size.detach())[:, None, None, None] * slope * scale

    trace = [diffusion.noised(image, noise, 0)]
    for t in range(1, level):
        trace.append(diffusion.reverse_step(model, trace[-1], t))
    for t in reversed(range(level - 1)):
        trace.append(diffusion.step(model, trace[-1], t, push))
    return trace
