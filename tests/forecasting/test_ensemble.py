"""One unit, with an engine whose answers are known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tumorcast.config import ForecastSettings, NetworkKind, Provider, SamplerSettings
from tumorcast.data.cohort import Cohort
from tumorcast.diffusion.plan import GuidanceLaw, Step
from tumorcast.diffusion.sampler import Array
from tumorcast.engines.engine import ModelInfo
from tumorcast.forecasting.ensemble import encodings_of, forecast_units, guidance_window, units_together
from tumorcast.forecasting.plan import plan_units
from tumorcast.forecasting.targets import PatientTargets

SETTINGS = ForecastSettings(relative_change=0.5, members=5, batch=2, sampler=SamplerSettings(steps=2, noise_level=10))


@dataclass
class Brightening:
    """Ends every decode with the image plus 1 where the window is above a half; tumour is what is brighter than 0.7."""

    image: Array

    info = ModelInfo(("t1n",), 64, 350, NetworkKind.SEGMENTER, "")
    provider = Provider.TORCH
    device = "cpu"

    def encode_step(self, x: Array, step: Step, *, clamp: bool, last: Array | None = None) -> tuple[Array, Array]:
        return x, x

    def guided_step(
        self,
        x: Array,
        step: Step,
        law: GuidanceLaw,
        target: Array,
        *,
        brain: Array,
        window: Array,
        last: Array | None = None,
    ) -> tuple[Array, Array]:
        return np.asarray(np.where(window[:, None] > 0.5, 1.0, self.image), np.float32), x

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        return np.zeros(len(x), np.float32)

    def segment(self, images: Array) -> Array:
        return np.asarray(images[:, 0] > 0.7, np.float32)


def test_maps_and_sizes_are_those_of_the_members(blob_cohort: Path) -> None:
    with Cohort.open(blob_cohort) as cohort:
        unit = plan_units(cohort, "A", SETTINGS)[0]
        present = cohort.slice(unit.patient_id, unit.session_id, unit.index)
        (forecast,) = forecast_units(
            [unit], cohort, PatientTargets.fixed(SETTINGS), Brightening(present.image), SETTINGS
        )
    grown = guidance_window(present.labels > 0, SETTINGS.sampler.window_mm, 4.0) > 0.5
    np.testing.assert_array_equal(forecast.tumour > 0, (grown | (present.labels > 0)) & present.brain)
    assert forecast.reached_mm2.shape == (5,)
    np.testing.assert_allclose(forecast.reached_mm2, forecast.tumour.sum() * 16.0)
    np.testing.assert_allclose(forecast.aimed_mm2, 1.5 * present.area_mm2)
    assert forecast.present_segmented_mm2 == pytest.approx(present.area_mm2)
    np.testing.assert_array_equal(forecast.changed > 0, np.abs(forecast.mean - present.image).sum(axis=0) > 0.3)
    assert forecast.members is None


def test_members_are_kept_when_asked_for(blob_cohort: Path) -> None:
    settings = SETTINGS.model_copy(update={"keep_members": True})
    with Cohort.open(blob_cohort) as cohort:
        unit = plan_units(cohort, "A", settings)[0]
        image = cohort.slice(unit.patient_id, unit.session_id, unit.index).image
        (forecast,) = forecast_units([unit], cohort, PatientTargets.fixed(settings), Brightening(image), settings)
    assert forecast.members is not None
    assert forecast.members.shape == (5, 4, 64, 64)


@dataclass
class Echo(Brightening):
    """Ends every decode with an image that is the target of its member everywhere."""

    def guided_step(
        self,
        x: Array,
        step: Step,
        law: GuidanceLaw,
        target: Array,
        *,
        brain: Array,
        window: Array,
        last: Array | None = None,
    ) -> tuple[Array, Array]:
        return np.asarray(np.broadcast_to(target[:, None, None, None], x.shape), np.float32), x


def test_every_member_aims_at_its_own_target(blob_cohort: Path) -> None:
    settings = SETTINGS.model_copy(update={"keep_members": True})
    ratios = np.array([1.0, 1.2, 1.4, 1.6, 1.8])
    with Cohort.open(blob_cohort) as cohort:
        unit = plan_units(cohort, "A", settings)[0]
        present = cohort.slice(unit.patient_id, unit.session_id, unit.index)
        targets = PatientTargets(ratios, None, None)
        (forecast,) = forecast_units([unit], cohort, targets, Echo(present.image), settings)
    assert forecast.members is not None
    wanted = (ratios - 1) * present.area_mm2 / present.brain_mm2
    np.testing.assert_allclose(forecast.members[:, 0, 0, 0], wanted, rtol=1e-5)
    np.testing.assert_allclose(forecast.aimed_mm2, ratios * present.area_mm2)


def test_slices_together_are_those_alone(blob_cohort: Path) -> None:
    settings = SETTINGS.model_copy(update={"keep_members": True, "batch": 10})
    ratios = np.array([1.0, 1.2, 1.4, 1.6, 1.8])
    with Cohort.open(blob_cohort) as cohort:
        units = plan_units(cohort, "A", settings)
        engine, targets = Echo(np.zeros((4, 64, 64), np.float32)), PatientTargets(ratios, None, None)
        assert [len(part) for part in units_together(units, settings)] == [2, 1]
        together = forecast_units(units[:2], cohort, targets, engine, settings)
        alone = [forecast_units([unit], cohort, targets, engine, settings)[0] for unit in units[:2]]
    for one, other in zip(together, alone, strict=True):
        assert one.members is not None and other.members is not None
        np.testing.assert_allclose(one.members, other.members)
        assert one.source_slice == other.source_slice


def test_members_share_encodings_unless_their_noise_is_all_they_have() -> None:
    settings = ForecastSettings(relative_change=0.5, members=6)
    assert encodings_of(np.linspace(0, 1, 6), settings) == 4
    assert encodings_of(np.full(6, 0.5), settings) == 6
    paper = settings.model_copy(update={"sampler": SamplerSettings.paper()})
    assert encodings_of(np.linspace(0, 1, 6), paper) == 6
