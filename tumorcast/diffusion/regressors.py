"""Regressors of the tumour's size in a noisy slice: R(x_t, t), as a fraction of the brain's pixels.

Two kinds: the paper's, an encoder with attention pooling that answers with one number, and the dense one, a small
segmenter of noisy slices whose summed probabilities are the size. The gradient of the dense one is local, which is
what makes it the better guide (it achieves .83 of the target change against .71, see docs/method.md).
"""

import torch
from torch import Tensor

from tumorcast.diffusion.unet import EncoderRegressor, UNet


class DenseRegressor(UNet):
    """A U-Net with one output channel; its logit is the tumour's at each pixel."""

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        """(N, H, W) logits of tumour for noisy slices x (N, C, H, W) at diffusion times t (N,)."""
        return super().forward(x, t)[:, 0]

    def forward(self, x: Tensor, t: Tensor, brain: Tensor) -> Tensor:  # type: ignore[override]  # a size, not a map
        """(N,) tumour over brain pixels; brain is (N, H, W), 1 inside."""
        return summed_fraction(torch.sigmoid(self.logits(x, t)), brain)


class AttentionPoolRegressor(EncoderRegressor):
    """The paper's regressor: an ADM encoder with attention pooling. It finds the brain by itself."""

    def forward(self, x: Tensor, t: Tensor, brain: Tensor) -> Tensor:  # type: ignore[override]  # as the dense one
        """(N,) tumour over brain pixels; `brain` is not used."""
        del brain
        return super().forward(x, t)[:, 0]


SizeRegressor = DenseRegressor | AttentionPoolRegressor


def summed_fraction(probability: Tensor, brain: Tensor) -> Tensor:
    """(N,) summed probability over brain pixels, for (N, H, W) maps.

    >>> summed_fraction(torch.full((1, 2, 2), 0.5), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))
    tensor([0.5000])
    """
    inside = brain.to(probability.dtype)
    return (probability * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1.0)
