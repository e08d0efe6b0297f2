"""The ADM U-Net and encoder, with the parameter names of openai/guided-diffusion (Dhariwal & Nichol 2021)."""

import torch
from torch import Tensor, nn

from tumorcast.diffusion.blocks import (
    AttentionBlock,
    AttentionPool,
    Downsample,
    ResBlock,
    TimestepSequential,
    Upsample,
    norm,
    timestep_embedding,
    zeroed,
)
from tumorcast.settings import Architecture


class _EncoderBase(nn.Module):
    """What the U-Net and the encoder share: the embedding of time and class, the way down and the middle."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.embedding = 4 * arch.channels
        self.time_embed = nn.Sequential(
            nn.Linear(arch.channels, self.embedding), nn.SiLU(), nn.Linear(self.embedding, self.embedding)
        )
        if arch.classes is not None:
            self.label_emb = nn.Embedding(arch.classes, self.embedding)
        self.input_blocks = nn.ModuleList()
        self.skips: list[int] = []
        self.width, self.side = arch.channels * arch.channel_mult[0], arch.image_size
        self._push(nn.Conv2d(arch.in_channels, self.width, 3, padding=1))
        for level, mult in enumerate(arch.channel_mult):
            for _ in range(arch.res_blocks):
                self._push(*self._stage(self.width, mult * arch.channels))
            if level < len(arch.channel_mult) - 1:
                self._push(self._down())
        self.middle_block = TimestepSequential(
            self._res(self.width, self.width),
            AttentionBlock(self.width, arch.head_channels),
            self._res(self.width, self.width),
        )

    def _push(self, *layers: nn.Module) -> None:
        self.input_blocks.append(TimestepSequential(*layers))
        self.skips.append(self.width)

    def _res(self, channels: int, out_channels: int, resample: nn.Module | None = None) -> ResBlock:
        scale_shift = self.arch.scale_shift_norm
        return ResBlock(channels, self.embedding, out_channels, scale_shift=scale_shift, resample=resample)

    def _stage(self, channels: int, out_channels: int) -> list[nn.Module]:
        self.width = out_channels
        layers: list[nn.Module] = [self._res(channels, out_channels)]
        if self.side in self.arch.attention_resolutions:
            layers.append(AttentionBlock(out_channels, self.arch.head_channels))
        return layers

    def _down(self) -> nn.Module:
        self.side //= 2
        if self.arch.resblock_updown:
            return self._res(self.width, self.width, Downsample(self.width, learned=False))
        return Downsample(self.width, learned=True)

    def _up(self) -> nn.Module:
        self.side *= 2
        if self.arch.resblock_updown:
            return self._res(self.width, self.width, Upsample(self.width, learned=False))
        return Upsample(self.width, learned=True)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the convolutions, and so of the maps between them."""
        dtype: torch.dtype = next(self.input_blocks.parameters()).dtype
        return dtype

    def embed(self, t: Tensor, classes: Tensor | None) -> Tensor:
        """(N, E) embedding of diffusion times (N,) and, where the network is conditioned, classes (N,)."""
        dtype = next(self.time_embed.parameters()).dtype
        embedding: Tensor = self.time_embed(timestep_embedding(t, self.arch.channels).to(dtype))
        if self.arch.classes is None:
            return embedding
        labels: Tensor = self.label_emb(classes)
        return embedding + labels

    def descend(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """Every map on the way down, and last the one of the middle block."""
        maps = []
        for block in self.input_blocks:
            x = block(x, embedding)
            maps.append(x)
        maps.append(self.middle_block(x, embedding))
        return maps


class UNet(_EncoderBase):
    """(N, in, H, W) at diffusion times (N,) to (N, out, H, W). ADM's `UNetModel`."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        skips = list(self.skips)
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(arch.channel_mult))):
            for i in range(arch.res_blocks + 1):
                layers = self._stage(self.width + skips.pop(), arch.channel_mult[level] * arch.channels)
                if level and i == arch.res_blocks:
                    layers.append(self._up())
                self.output_blocks.append(TimestepSequential(*layers))
        last = zeroed(nn.Conv2d(self.width, arch.out_channels, 3, padding=1))
        self.out = nn.Sequential(norm(self.width), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        """Predicted noise (or logits); classes (N,) is needed where the network is conditioned."""
        embedding = self.embed(t, classes)
        *maps, h = self.descend(x, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, maps.pop()], dim=1), embedding)
        result: Tensor = self.out(h)
        return result


class EncoderRegressor(_EncoderBase):
    """(N, in, H, W) at diffusion times (N,) to (N, out). ADM's `EncoderUNetModel` with attention pooling."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        pool = AttentionPool(self.side, self.width, arch.head_channels, arch.out_channels)
        activation = [nn.SiLU()] if arch.pool_activation else []
        self.out = nn.Sequential(norm(self.width), *activation, pool)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """One row of outputs an image."""
        result: Tensor = self.out(self.descend(x, self.embed(t, None))[-1])
        return result
