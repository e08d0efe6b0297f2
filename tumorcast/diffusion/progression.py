"""The progression network: where a tumour is once it has grown to a given size.

It reads the present scan, the present outline and the target size, and answers with the later outline's probability.
It is trained on pairs of scans of the same slice (of simulated patients, say), and knows by them how tissue leads a
tumour. It is no diffusion model: it weights where the guidance acts, and is mapped beside the generated images.
"""

import torch
from torch import Tensor

from tumorcast.diffusion.unet import UNet

EXTRA_PLANES = 2  # beside the contrasts: the outline, and the target size as a constant plane
LARGEST_LOG_RATIO = 1.6  # of areas, later over present: a factor of 5


class ProgressionNetwork(UNet):
    """A U-Net on the contrasts, the outline and a plane that holds ln(later area / present area)."""

    def forward(self, images: Tensor, outline: Tensor, log_ratio: Tensor) -> Tensor:  # type: ignore[override]  # logits
        """(N, H, W) logits of tumour at the later time.

        images: (N, C, H, W) clean, in [-1, 1]; outline: (N, H, W) the present tumour in [0, 1]; log_ratio: (N,),
        clamped to ±LARGEST_LOG_RATIO.
        """
        no_noise = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return super().forward(planes_of(images, outline, log_ratio), no_noise)[:, 0]


def planes_of(images: Tensor, outline: Tensor, log_ratio: Tensor) -> Tensor:
    """(N, C + EXTRA_PLANES, H, W) what the network reads, from what `ProgressionNetwork.forward` takes."""
    size = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)[:, None, None].expand_as(outline)
    return torch.cat([images, torch.stack([2 * outline - 1, size.to(outline.dtype)], dim=1)], dim=1)
