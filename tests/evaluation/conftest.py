"""An engine whose answers are known, and a follow-up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import WindowEngine
from tumorcast.data.cohort import Cohort
from tumorcast.evaluation.followup import FollowUp, grown_followups
from tumorcast.settings import ForecastSettings, SamplerSettings

SETTINGS = ForecastSettings(
    relative_change=0, members=3, batch=2, sampler=SamplerSettings(steps=2, noise_level=10, encodings=2)
)


@pytest.fixture
def engine() -> WindowEngine:
    return WindowEngine()


@pytest.fixture
def followup(blob_cohort: Path) -> FollowUp:
    """Of patient A, whose blob grows from a radius of 5 to one of 6 pixels; its brain gets some texture."""
    with Cohort.open(blob_cohort) as cohort:
        (found,) = grown_followups(cohort, "A", 1)
    texture = 0.2 * np.random.default_rng(0).standard_normal(found.now.image.shape).astype(np.float32)
    return replace(found, now=replace(found.now, image=found.now.image + texture * found.now.brain))
