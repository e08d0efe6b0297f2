"""The progression network in three dimensions: it corrects the front's order of arrival, and says how sure it is.

It reads the present scan round the tumour and answers with two numbers a voxel, a steepness b > 0 and a delay c. A
voxel is tumour with probability expit(b (ln r - front) - c) once the tumour has r times its present volume, where
`front` is the logarithm of the volume that the Fisher-Kolmogorov front has when it arrives there (front.py). So one
pass serves all sizes, and the tumours of different sizes lie in each other by construction. The delay stands by itself,
not times b: else the gradient of a shift would be as large as b is steep, and training would not settle.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tumorcast.settings import VolumeArchitecture

GROUPS = 8
FIRST_STEEPNESS = 8.0  # of an untrained network, whose delay is 0: it answers with the front itself


class ArrivalNetwork(nn.Module):
    """A U-Net on volumes, which halves three times, the first time at once."""

    def __init__(self, architecture: VolumeArchitecture) -> None:
        super().__init__()
        self.arch = architecture
        planes, (full, *widths) = architecture.in_channels, architecture.widths
        self.stem = nn.Conv3d(planes, widths[0], 3, stride=2, padding=1)
        self.down = nn.ModuleList(
            nn.Conv3d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.encoder = nn.ModuleList(_Residual(width) for width in widths)
        self.middle = _Residual(widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose3d(after, before, 2, stride=2) for before, after in pairwise(widths))
        self.decoder = nn.ModuleList(_Joined(2 * width, width) for width in widths[:-1])
        self.to_full = nn.ConvTranspose3d(widths[0], full, 2, stride=2)
        self.last = nn.Conv3d(full + planes, full, 3, padding=1)
        self.answer = nn.Conv3d(full, 2, 1)
        nn.init.zeros_(self.answer.weight)
        assert self.answer.bias is not None
        with torch.no_grad():
            self.answer.bias.copy_(torch.tensor([float(np.log(np.expm1(FIRST_STEEPNESS))), 0.0]))

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 2, Z, Y, X) steepness and delay of planes (N, P, Z, Y, X); sides are multiples of 8."""
        features = self.stem(planes)
        kept = []
        for level, block in enumerate(self.encoder):
            features = block(features if level == 0 else self.down[level - 1](features))
            kept.append(features)
        features = self.middle(features)
        for level in reversed(range(len(self.decoder))):
            features = self.decoder[level](torch.cat([self.up[level](features), kept[level]], dim=1))
        features = functional.silu(self.last(torch.cat([self.to_full(features), planes], dim=1)))
        steepness, delay = self.answer(features).unbind(dim=1)
        return torch.stack([functional.softplus(steepness), delay], dim=1)


class _Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """(N, width, Z, Y, X) of the same."""
        inner = features
        for norm, conv in zip(self.norms, self.convs, strict=True):
            inner = conv(functional.silu(norm(inner)))
        return features + inner


class _Joined(nn.Module):
    """A convolution of what comes from below beside what was kept, then a residual block."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.join = nn.Conv3d(width, out, 1)
        self.block = _Residual(out)

    def forward(self, features: Tensor) -> Tensor:
        """(N, out, Z, Y, X) of (N, width, Z, Y, X)."""
        joined: Tensor = self.block(self.join(features))
        return joined


def logits_of(answer: Tensor, front: Tensor, log_ratio: Tensor) -> Tensor:
    """(N, Z, Y, X) of tumour at ln volume ratios (N,), from the network's answer and the front (N, Z, Y, X)."""
    steepness, delay = answer.unbind(dim=1)
    return steepness * (log_ratio[:, None, None, None] - front) - delay
