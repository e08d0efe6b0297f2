"""An engine whose answers are known, and a comparison that runs with it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tumorcast.data.cohort import Cohort
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.protocol import ModelInfo
from tumorcast.evaluation.comparison import Comparison, ComparisonSettings
from tumorcast.evaluation.pairs import Pair, pairs_of
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, GrowthFit, SizeSeries
from tumorcast.settings import ForecastSettings, NetworkKind, Provider, SamplerSettings

SETTINGS = ForecastSettings(
    relative_change=0, members=3, batch=2, sampler=SamplerSettings(steps=2, noise_level=10, encodings=2)
)


@dataclass
class Still:
    """Encodes nothing and guides by 0.5 a step where the window is open; tumour is what is brighter than 0.7.

    windows: the largest of every guided call's.
    """

    windows: list[float] = field(default_factory=list)
    info: ModelInfo = ModelInfo(("t1n", "t1c", "t2w", "t2f"), 64, 350, NetworkKind.SEGMENTER, "f00")
    provider = Provider.TORCH
    device = "cpu"

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        return x, x

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        self.windows.append(float(guidance.window.max()))
        return np.asarray(x + 0.5 * (guidance.window[:, None] > 0.9) * guidance.brain[:, None], np.float32), x

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """Right on clean slices, off by one part in a hundred of the brain on noisy ones."""
        seen = ((x.mean(axis=1) > 0.7) * brain).sum(axis=(1, 2)) / brain.sum(axis=(1, 2))
        return np.asarray(seen + 0.01 * (t > 0), np.float32)

    def segment(self, images: Array) -> Array:
        return np.asarray(images[:, 0] > 0.7, np.float32)

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """The outline, and everywhere the ratio wanted over ten."""
        return np.asarray(np.maximum(outline, np.exp(log_ratio)[:, None, None] / 10), np.float32)


@dataclass(frozen=True)
class Noting(GrowthModel):
    """A growth model that notes which scans it was given."""

    seen: list[SizeSeries] = field(default_factory=list)

    def fit(self, series: SizeSeries) -> GrowthFit:
        self.seen.append(series)
        return super().fit(series)


@pytest.fixture
def engine() -> Still:
    return Still()


@pytest.fixture
def comparison(engine: Still, blob_cohort: Path) -> Iterator[Comparison]:
    growth = Noting(FitSettings(replicates=4), Forecaster.MECHANISTIC, fixed_prior(None))
    with Cohort.open(blob_cohort) as cohort:
        yield Comparison(cohort, engine, growth, ComparisonSettings(SETTINGS, regressor_slices=4))


@pytest.fixture
def pair(comparison: Comparison) -> Pair:
    """Of patient A, whose blob grows from a radius of 5 to one of 6 pixels; its brain gets some texture."""
    (found,) = pairs_of(comparison.cohort, "A", 1)
    texture = 0.2 * np.random.default_rng(0).standard_normal(found.now.image.shape).astype(np.float32)
    return replace(found, now=replace(found.now, image=found.now.image + texture * found.now.brain))
