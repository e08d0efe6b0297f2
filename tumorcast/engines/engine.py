"""What an engine is: it does the sampler's steps for batches, and segments what came of them.

Torch is the reference; ONNX Runtime runs the same mathematics from a bundle on CPU, CUDA or TensorRT. All agree to the
parity that the bundle's manifest records.
"""

from dataclasses import dataclass
from typing import Protocol

from tumorcast.config import NetworkKind, Provider
from tumorcast.diffusion.sampler import Array, StepEngine


@dataclass(frozen=True)
class ModelInfo:
    """What an engine's networks are for.

    noise_levels: diffusion times that denoiser and regressor both know. judge: which network reads the sizes off the
    generated slices. sha256: one sum over the weights and what describes them.
    """

    contrasts: tuple[str, ...]
    image_size: int
    noise_levels: int
    judge: NetworkKind
    sha256: str


class Engine(StepEngine, Protocol):
    """A step engine that can also segment the images it made. provider, device: what computes, for the record."""

    info: ModelInfo
    provider: Provider
    device: str

    def segment(self, images: Array) -> Array:
        """(N, H, W) probability of tumour in clean images (N, C, H, W)."""
