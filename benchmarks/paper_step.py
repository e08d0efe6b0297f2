"""The paper's loop as its code does it, in our words: eager torch, autograd, einsum attention, one image at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tumorcast.diffusion import blocks


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as two einsums, queries and keys scaled before their product (guided-diffusion's legacy order)."""
    scale = q.shape[1] ** -0.25
    weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale).float(), dim=-1).type(q.dtype)
    return torch.einsum("bts,bcs->bct", weights, v)


def pointwise(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of width one, called as such."""
    result: Tensor = layer(x)
    return result


@contextmanager
def as_the_paper() -> Iterator[None]:
    """Within the block a TorchEngine computes attention as the paper's code does."""
    with patch.object(blocks, "attend", attend), patch.object(blocks, "pointwise", pointwise):
        yield
