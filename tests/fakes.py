"""Engines and growth models whose answers are known, for tests without networks; and a growth file of fits."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.archive.growth_file import growth_writer
from tumorcast.diffusion.host_loops import HostLoops
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.protocol import ModelInfo
from tumorcast.errors import EngineError
from tumorcast.growth.model import GrowthModel
from tumorcast.records import Contrast, GrowthFit, SizeSeries
from tumorcast.settings import NetworkKind, Provider

CONTRASTS = tuple(str(contrast) for contrast in Contrast)


def model_info(
    contrasts: tuple[str, ...] = CONTRASTS, image_size: int = 64, sha256: str = "f00", *, progression: bool = False
) -> ModelInfo:
    """What an engine is for that takes 350 noise levels and has a segmenter. progression: whether one on slices."""
    kind = NetworkKind.SLICE_PROGRESSION if progression else None
    return ModelInfo(contrasts, image_size, 350, NetworkKind.SEGMENTER, sha256, kind)


@dataclass
class FakeEngine(HostLoops):
    """Changes no image; tumour is what is brighter than 0.7 in the first contrast; sees no size."""

    info: ModelInfo = field(default_factory=model_info)
    provider: Provider = Provider.TORCH
    device: str = "cpu"

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """The image as it is."""
        return x, x

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """The image as `guided` makes it."""
        return np.asarray(self.guided(x, step, guidance), np.float32), x

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """The image as it is."""
        return x

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """Nothing."""
        return np.zeros(len(x), np.float32)

    def segment(self, images: Array) -> Array:
        """What is bright."""
        return np.asarray(images[:, 0] > 0.7, np.float32)

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """None: the model has no progression network, and must not be asked."""
        raise AssertionError("the model has no progression network")


@dataclass
class WindowEngine(FakeEngine):
    """Guides by 0.5 a step where the window is open.

    windows: the largest of every guided call's.
    """

    windows: list[float] = field(default_factory=list)

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """Brighter in the window."""
        self.windows.append(float(guidance.window.max()))
        brighter: Array = x + 0.5 * (guidance.window[:, None] > 0.9) * guidance.brain[:, None]
        return brighter

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """Right on clean slices, off by one part in a hundred of the brain on noisy ones."""
        seen = ((x.mean(axis=1) > 0.7) * brain).sum(axis=(1, 2)) / brain.sum(axis=(1, 2))
        return np.asarray(seen + 0.01 * (t > 0), np.float32)

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """The outline, and everywhere the ratio wanted over ten."""
        return np.asarray(np.maximum(outline, np.exp(log_ratio)[:, None, None] / 10), np.float32)


@dataclass
class GainEngine(WindowEngine):
    """Brightens by half the gain where the window is open, wider for more gain, and all by the level encoded to."""

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """A little brighter for every noise level."""
        return np.asarray(x + 1e-4 * step.t, np.float32), x

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """Brighter in the window."""
        brighter: Array = x + 0.5 * guidance.gain * (guidance.window[:, None] > 0.9 - 0.2 * guidance.gain)
        return brighter


@dataclass
class StrengthEngine(WindowEngine):
    """Brightens what is near the tumour by the strength of the guidance, and above t = 150 all else.

    images: how many were guided.
    """

    images: int = 0

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """Brighter near the tumour, and early all over."""
        self.images += len(x)
        near = guidance.window[:, None] > 0.8
        brighter: Array = x + near * min(max(guidance.gain, guidance.scale), 1.0) + ~near * 0.1 * (step.t > 150)
        return brighter


@dataclass
class ThresholdEngine(FakeEngine):
    """Grows the tumour by a pixel of 4 mm if the gain is a half or more; above t = 150 it brightens all else.

    batches: how many images were guided together.
    """

    batches: list[int] = field(default_factory=list)

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """Brighter near the tumour, and early all over."""
        self.batches.append(len(x))
        near = guidance.window[:, None] > 0.9
        brighter: Array = x + near * (max(guidance.gain, guidance.scale) >= 0.5) + ~near * 0.1 * (step.t > 150)
        return brighter


@dataclass
class EndingEngine(FakeEngine):
    """Ends every decode with an image plus 1 where the window is above a half."""

    image: Array = field(default_factory=lambda: np.zeros((1, 1, 1), np.float32))
    info: ModelInfo = field(default_factory=lambda: model_info(("t1n",), sha256=""))

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """The image, brighter in the window."""
        return np.where(guidance.window[:, None] > 0.5, np.float32(1.0), self.image)


@dataclass
class TargetEngine(EndingEngine):
    """Ends every decode with an image that is the target of its member everywhere."""

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """The target."""
        return np.broadcast_to(guidance.target[:, None, None, None], x.shape)


@dataclass
class AddingEngine(EndingEngine):
    """Ends every decode with what it began from, plus the target."""

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """The image plus the target."""
        moved: Array = x + guidance.target[:, None, None, None]
        return moved


@dataclass
class SlowEngine(FakeEngine):
    """An engine whose follow-ups depend on all that a real one's do, as slow as wanted."""

    sleep_seconds: float = 0.0
    info: ModelInfo = field(default_factory=lambda: model_info(sha256="cheap"))
    provider: Provider = Provider.CPU

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """A little darker."""
        return np.asarray(0.9 * x, np.float32), x

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """As bright again, and by the target in the window."""
        time.sleep(self.sleep_seconds)
        moved: Array = x / 0.9 + guidance.target[:, None, None, None] * guidance.window[:, None]
        return moved

    def segment(self, images: Array) -> Array:
        """More where it is brighter."""
        return np.asarray(1 / (1 + np.exp(-images[:, 0])), np.float32)


@dataclass
class FailingEngine(SlowEngine):
    """A SlowEngine whose device fails at its guided step number `fails_at`, counted from 1, or at every one of some.

    once: it computes again afterwards; else it is lost, as after a CUDA error, and fails at whatever it is asked.
    sick_of: the target at which it fails, each time anew.
    """

    fails_at: int | None = None
    once: bool = False
    sick_of: float | None = None
    guided_steps: int = 0
    is_lost: bool = False

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """That of the SlowEngine, or a fault."""
        self.guided_steps += 1
        if self.guided_steps == self.fails_at:
            self.is_lost = not self.once
            raise EngineError("guided.onnx: failed on cuda:0: CUDA failure 719: unspecified launch failure; mend it")
        if self.sick_of is not None and np.isclose(guidance.target.max(), self.sick_of, rtol=1e-4):
            raise EngineError("guided.onnx: failed on cuda:0: an odd slice; give another")
        self._check_there()
        return super().guided(x, step, guidance)

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """That of the SlowEngine, or a fault."""
        self._check_there()
        return super().encode_step(x, step, previous_eps)

    def segment(self, images: Array) -> Array:
        """That of the SlowEngine, or a fault."""
        self._check_there()
        return super().segment(images)

    def _check_there(self) -> None:
        if self.is_lost:
            raise EngineError("segment.onnx: failed on cuda:0: CUDA failure 719: the device is lost; mend it")


@dataclass(frozen=True)
class RecordingGrowth(GrowthModel):
    """A growth model that records which scans it was given."""

    seen: list[SizeSeries] = field(default_factory=list)

    def fit(self, series: SizeSeries) -> GrowthFit:
        """That of the model."""
        self.seen.append(series)
        return super().fit(series)


def write_growth(
    path: Path,
    fits: Iterable[GrowthFit],
    provenance: Mapping[str, Any],
    *,
    forecaster: str = "mechanistic",
    prior: str | None = None,
) -> None:
    """A growth file of these fits; of a generator, one is held at a time."""
    with growth_writer(path, provenance, forecaster=forecaster, prior=prior) as add:
        for fit in fits:
            add(fit)
            del fit  # else it would be held while the next one is made
