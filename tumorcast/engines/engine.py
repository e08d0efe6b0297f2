"""What an engine is: it does the sampler's steps for batches, segments what came of them, and foretells the outline.

Torch is the reference; ONNX Runtime runs the same mathematics from a bundle on CPU, CUDA or TensorRT. All agree to the
parity that the bundle's manifest records.
"""

from dataclasses import dataclass
from typing import Protocol

from tumorcast.config import NetworkKind, Provider
from tumorcast.diffusion.sampler import Array, StepEngine
from tumorcast.errors import InputError


@dataclass(frozen=True)
class ModelInfo:
    """What an engine's networks are for.

    noise_levels: diffusion times that denoiser and regressor both know. judge: which network reads the sizes off the
    generated slices. sha256: one sum over the weights and what describes them. progression: whether there is a network
    that foretells the outline.
    """

    contrasts: tuple[str, ...]
    image_size: int
    noise_levels: int
    judge: NetworkKind
    sha256: str
    progression: bool = False


class Engine(StepEngine, Protocol):
    """A step engine that can also segment the images it made. provider, device: what computes, for the record."""

    info: ModelInfo
    provider: Provider
    device: str

    def segment(self, images: Array) -> Array:
        """(N, H, W) probability of tumour in clean images (N, C, H, W)."""

    def progress(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """(N, H, W) probability of tumour at the later time, by the progression network.

        images: (N, C, H, W) clean, in [-1, 1]; outline: (N, H, W) the present tumour in [0, 1]; log_ratio: (N,)
        ln(later area / present area). Raises InputError where `info.progression` is false.
        """


def check_progression(info: ModelInfo) -> None:
    """Raises InputError if the model cannot foretell the outline."""
    if not info.progression:
        raise InputError(
            "the model has no progression network, which foretells the outline; train one (`tumorcast train "
            "progression`) and give its RUN folder to --model or `tumorcast-export` with the others"
        )
