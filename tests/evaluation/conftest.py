"""An engine whose answers are known, and a comparison that runs with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import RecordingGrowth, WindowEngine
from tumorcast.data.cohort import Cohort
from tumorcast.evaluation.comparison import Comparison, ComparisonSettings
from tumorcast.evaluation.pairs import Pair, pairs_of
from tumorcast.growth.model import fixed_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster
from tumorcast.settings import ForecastSettings, SamplerSettings

SETTINGS = ForecastSettings(
    relative_change=0, members=3, batch=2, sampler=SamplerSettings(steps=2, noise_level=10, encodings=2)
)


@pytest.fixture
def engine() -> WindowEngine:
    return WindowEngine()


@pytest.fixture
def comparison(engine: WindowEngine, blob_cohort: Path) -> Iterator[Comparison]:
    growth = RecordingGrowth(FitSettings(replicates=4), Forecaster.MECHANISTIC, fixed_prior(None))
    with Cohort.open(blob_cohort) as cohort:
        yield Comparison(cohort, engine, growth, ComparisonSettings(SETTINGS, regressor_slices=4))


@pytest.fixture
def pair(comparison: Comparison) -> Pair:
    """Of patient A, whose blob grows from a radius of 5 to one of 6 pixels; its brain gets some texture."""
    (found,) = pairs_of(comparison.cohort, "A", 1)
    texture = 0.2 * np.random.default_rng(0).standard_normal(found.now.image.shape).astype(np.float32)
    return replace(found, now=replace(found.now, image=found.now.image + texture * found.now.brain))
