"""The Engine protocol: what networks compute for the rest of the package, and what a model tells of itself.

Torch is the reference; ONNX Runtime runs the same mathematics from a bundle on CPU, CUDA or TensorRT. All agree to the
parity that the bundle's manifest records.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tumorcast.diffusion.box import BoxEngine, BoxGuidance, EncodedPath
from tumorcast.diffusion.host_loops import HostLoops
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step
from tumorcast.errors import InputError
from tumorcast.settings import NetworkKind, Provider

if TYPE_CHECKING:
    from tumorcast.data.cohort import Cohort


@dataclass(frozen=True)
class ModelImages:
    """Slices as a model takes them, or as a cohort has them: pixels a side, and contrasts in the order of channels."""

    image_size: int
    contrasts: tuple[str, ...]

    def __str__(self) -> str:
        """In words.

        >>> str(ModelImages(64, ("t1c", "t2f")))
        't1c, t2f at 64 px'
        """
        return f"{', '.join(self.contrasts)} at {self.image_size} px"


@dataclass(frozen=True)
class ModelInfo:
    """What an engine's networks are for.

    noise_levels: diffusion times that denoiser and regressor both know. size_reader: which network reads the sizes off
    the generated slices. sha256: one sum over the weights and what describes them. progression: which network foretells
    where the tumour goes, if one does; an engine asks that on slices alone, see open_progression for that on volumes.
    box_multiple: pixels that the edges of boxes are multiples of; None where the engine cannot compute in boxes.
    """

    contrasts: tuple[str, ...]
    image_size: int
    noise_levels: int
    size_reader: NetworkKind
    sha256: str
    progression: NetworkKind | None = None
    box_multiple: int | None = None

    @property
    def images(self) -> ModelImages:
        """The slices that the networks take."""
        return ModelImages(self.image_size, self.contrasts)


class Engine(BoxEngine, Protocol):
    """A step engine that also segments clean images. provider, device: what computes, for the record."""

    info: ModelInfo
    provider: Provider
    device: str

    def segment(self, images: Array) -> Array:
        """(N, H, W) probability of tumour in clean images (N, C, H, W)."""

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """(N, H, W) probability of tumour at the later time, by the progression network.

        images: (N, C, H, W) clean, in [-1, 1]; outline: (N, H, W) the present tumour in [0, 1]; log_ratio: (N,)
        ln(later area / present area). Raises InputError where `info.progression` is not the network on slices.
        """


class VolumeEngine(Protocol):
    """A tumorcast.arrival.field.VolumeNetwork that says what computes it.

    contrasts: those that it looks at, in the order of its planes. voxel_mm: of the volumes that it is for. sha256: of
    the network alone, the same in whatever it is opened from.
    """

    sha256: str
    contrasts: tuple[str, ...]
    voxel_mm: float
    provider: Provider
    device: str

    def answer(self, planes: Array) -> Array:
        """(2, Z, Y, X) steepness and delay of planes (P, Z, Y, X), whose sides are multiples of 8."""


class EngineWrapper(HostLoops):
    """An engine that passes every question on to another one; subclasses answer some of them otherwise.

    Its loops are made of its own steps, so that these may be answered otherwise too.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.info: ModelInfo = engine.info
        self.provider: Provider = engine.provider
        self.device: str = engine.device

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """That of the engine."""
        return self.engine.encode_step(x, step, previous_eps)

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """That of the engine."""
        return self.engine.guided_step(x, step, previous_eps, guidance)

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """That of the engine."""
        return self.engine.sizes(x, t, brain)

    def survey(self, x: Array, step: Step, previous_eps: Array, outside: Array) -> tuple[Array, Array, Array]:
        """That of the engine."""
        return self.engine.survey(x, step, previous_eps, outside)

    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]:
        """That of the engine."""
        return self.engine.box_step(departure, step, previous, path, guidance)

    def segment(self, images: Array) -> Array:
        """That of the engine."""
        return self.engine.segment(images)

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """That of the engine."""
        return self.engine.predict_progression(images, outline, log_ratio)


def segment_in_batches(engine: Engine, images: Array, batch: int) -> Array:
    """(N, H, W) probability of tumour in clean images (N, C, H, W), in equal parts of at most `batch` images."""
    parts = np.array_split(images, -(-len(images) // batch))
    return np.concatenate([engine.segment(part) for part in parts])


def check_same_images(cohort: "Cohort", model_images: ModelImages) -> None:
    """Raises InputError if the slices of a cohort are not those that the model takes."""
    cohort_images = ModelImages(cohort.image_size, tuple(str(contrast) for contrast in cohort.contrasts))
    if cohort_images != model_images:
        raise InputError(
            f"{cohort.path}: its slices are {cohort_images}, but the model takes {model_images}; prepare the scans "
            "again with `tumorcast prepare --model`, or take another model"
        )


def check_progression(info: ModelInfo) -> None:
    """Raises InputError if the model has no progression network on slices."""
    if info.progression is not NetworkKind.SLICE_PROGRESSION:
        raise InputError(
            "the model has no progression network on slices, which foretells the outline; train one (`tumorcast train "
            "slice-progression`) and give its RUN folder to --model or `tumorcast export` with the others"
        )
