"""An engine for tests of `select`, whose answers are known."""

from dataclasses import dataclass, field

import numpy as np

from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.protocol import ModelInfo
from tumorcast.settings import NetworkKind, Provider


@dataclass
class GrowingEngine:
    """Grows the tumour by a pixel of 4 mm if the gain is a half or more; above t = 150 it brightens all else."""

    seen: list[int] = field(default_factory=list)

    info = ModelInfo(("t1n", "t1c", "t2w", "t2f"), 64, 350, NetworkKind.SEGMENTER, "f00")
    provider = Provider.TORCH
    device = "cpu"

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        return x, x

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        self.seen.append(len(x))
        near = guidance.window[:, None] > 0.9
        return np.asarray(
            x + near * (max(guidance.gain, guidance.scale) >= 0.5) + ~near * 0.1 * (step.t > 150), np.float32
        ), x

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        return np.zeros(len(x), np.float32)

    def segment(self, images: Array) -> Array:
        return np.asarray(images[:, 0] > 0.7, np.float32)

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        raise AssertionError("the model has no progression network")
