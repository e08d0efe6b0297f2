"""The layers of the ADM networks, with the parameter names of openai/guided-diffusion (Dhariwal & Nichol 2021).

Shapes: feature maps are (N, C, H, W), time embeddings (N, E).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32


def timestep_embedding(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """(N, width) sinusoidal embedding of diffusion times t (N,); cosines first."""
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with the 32 groups that published checkpoints were trained with."""
    return nn.GroupNorm(GROUPS, channels)


def zeroed(module: nn.Module) -> nn.Module:
    """`module` with all its parameters set to zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Downsample(nn.Module):
    """Halve the map: a strided convolution named `op`, or average pooling."""

    def __init__(self, channels: int, *, learned: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H/2, W/2)."""
        result: Tensor = self.op(x)
        return result


class Upsample(nn.Module):
    """Double the map by nearest neighbour, then a convolution named `conv` where it is learned."""

    def __init__(self, channels: int, *, learned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2H, 2W)."""
        result: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class ResBlock(nn.Module):
    """A residual block that takes the time embedding, optionally resampling on the way."""

    def __init__(
        self, channels: int, embedding: int, out_channels: int, *, scale_shift: bool, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample if resample is not None else nn.Identity()
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(
            norm(out_channels),
            nn.SiLU(),
            nn.Dropout(0.0),  # keeps the published numbering: the convolution is out_layers.3
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(N, C, H, W) and (N, E) to (N, C', H', W')."""
        h = self.in_layers[2](self.resample(self.in_layers[1](self.in_layers[0](x))))
        shift = self.emb_layers(embedding)[:, :, None, None].to(h.dtype)
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shift)
        result: Tensor = self.skip_connection(self.resample(x)) + h
        return result


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of (B, width, L) queries, keys and values; returns (B, width, L)."""
    q, k, v = (part.transpose(1, 2).contiguous() for part in (q, k, v))  # strided input falls onto a slow path
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def pointwise(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A 1×1 convolution of (N, C, L) as a matrix product, which is faster and which TensorRT builds."""
    bias = layer.bias
    product = torch.matmul(layer.weight[:, :, 0], x)
    return product if bias is None else product + bias[:, None]


class AttentionBlock(nn.Module):
    """Self-attention over all pixels; queries, keys and values lie interleaved by head, as in the published weights."""

    def __init__(self, channels: int, head_channels: int | None) -> None:
        super().__init__()
        self.heads = channels // (head_channels or channels)
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, channels * 3, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        n, c, *size = x.shape
        flat = x.reshape(n, c, -1)
        qkv = pointwise(self.qkv, self.norm(flat)).reshape(n * self.heads, 3 * c // self.heads, -1)
        mixed = attend(*qkv.chunk(3, dim=1)).reshape(n, c, -1)
        assert isinstance(self.proj_out, nn.Conv1d)
        return (flat + pointwise(self.proj_out, mixed)).reshape(n, c, *size)


class AttentionPool(nn.Module):
    """Pool a map to one vector with an attention query from its mean (CLIP's, as in ADM's classifier)."""

    def __init__(self, side: int, channels: int, head_channels: int | None, out_channels: int) -> None:
        super().__init__()
        self.heads = channels // (head_channels or channels)
        self.positional_embedding = nn.Parameter(torch.randn(channels, side**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels)."""
        n, c, *_ = x.shape
        flat = x.reshape(n, c, -1)
        flat = torch.cat([flat.mean(dim=-1, keepdim=True), flat], dim=-1) + self.positional_embedding
        parts = pointwise(self.qkv_proj, flat).chunk(3, dim=1)
        q, k, v = (part.reshape(n * self.heads, c // self.heads, -1) for part in parts)
        return pointwise(self.c_proj, attend(q, k, v).reshape(n, c, -1))[:, :, 0]


class TimestepSequential(nn.Sequential):
    """A sequence whose residual blocks also receive the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]  # ADM's own signature
        """(N, C, H, W) and (N, E) to (N, C', H', W')."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x
