"""One unit, with an engine whose answers are known."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import AddingEngine, EndingEngine, TargetEngine
from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.forecasting.ensemble import encodings_of, forecast_unit
from tumorcast.forecasting.inputs import slices_of
from tumorcast.forecasting.plan import RunPlan, Unit, plan_patient
from tumorcast.forecasting.progression import guidance_window
from tumorcast.forecasting.targets import PatientTargets, SliceTargets
from tumorcast.settings import ForecastSettings, SamplerSettings

SETTINGS = ForecastSettings(relative_change=0.5, members=5, batch=2, sampler=SamplerSettings(steps=2, noise_level=10))


def units(cohort: Cohort, settings: ForecastSettings) -> list[tuple[Unit, list[CohortSlice]]]:
    """Patient A's, with their slices."""
    plan = RunPlan.of((plan_patient(cohort, "A", None),), settings)
    return [(unit, slices_of(unit, cohort)) for unit in plan.units_of(0)]


def only(found: dict[str, SliceForecast]) -> SliceForecast:
    (forecast,) = found.values()
    return forecast


def test_maps_and_sizes_are_those_of_the_members(blob_cohort: Path) -> None:
    with Cohort.open(blob_cohort) as cohort:
        unit, slices = units(cohort, SETTINGS)[0]
    present = slices[0]
    targets = PatientTargets.fixed(SETTINGS)
    forecast = only(forecast_unit(unit, slices, targets, EndingEngine(image=present.image), SETTINGS))
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
        unit, slices = units(cohort, settings)[0]
    engine = EndingEngine(image=slices[0].image)
    forecast = only(forecast_unit(unit, slices, PatientTargets.fixed(settings), engine, settings))
    assert forecast.members is not None
    assert forecast.members.shape == (5, 4, 64, 64)


def test_every_member_aims_at_its_own_target(blob_cohort: Path) -> None:
    settings = SETTINGS.model_copy(update={"keep_members": True})
    ratios = np.array([1.0, 1.2, 1.4, 1.6, 1.8])
    with Cohort.open(blob_cohort) as cohort:
        unit, slices = units(cohort, settings)[0]
    present = slices[0]
    forecast = only(forecast_unit(unit, slices, PatientTargets(ratios), TargetEngine(image=present.image), settings))
    assert forecast.members is not None
    wanted = (ratios - 1) * present.area_mm2 / present.brain_mm2
    np.testing.assert_allclose(forecast.members[:, 0, 0, 0], wanted, rtol=1e-5)
    np.testing.assert_allclose(forecast.aimed_mm2, ratios * present.area_mm2)


def test_slices_together_are_those_alone(blob_cohort: Path) -> None:
    settings = SETTINGS.model_copy(update={"keep_members": True, "batch": 10})
    engine, targets = TargetEngine(image=np.zeros((4, 64, 64), np.float32)), PatientTargets(np.linspace(1, 1.8, 5))
    with Cohort.open(blob_cohort) as cohort:
        (both, slices), (last, _) = units(cohort, settings)
    assert [len(both.slices), len(last.slices)] == [2, 1]
    together = forecast_unit(both, slices, targets, engine, settings)
    for place, present in zip(both.slices, slices, strict=True):
        one, other = (
            together[place.name],
            only(forecast_unit(replace(both, slices=(place,)), [present], targets, engine, settings)),
        )
        assert one.members is not None and other.members is not None
        np.testing.assert_allclose(one.members, other.members)
        assert one.source_slice == other.source_slice == place.source_slice


@pytest.mark.parametrize("encodings", [2, 3, None])
def test_members_of_a_block_are_those_of_the_whole(encodings: int | None, blob_cohort: Path) -> None:
    """Each from its own encoding and to its own target, whatever else is in its block."""
    sampler = SETTINGS.sampler.model_copy(update={"encodings": encodings})
    settings = SETTINGS.model_copy(update={"keep_members": True, "sampler": sampler, "block": 2})
    targets = PatientTargets(np.linspace(1, 1.8, 5))
    with Cohort.open(blob_cohort) as cohort:
        whole, slices = units(cohort, settings.model_copy(update={"block": 5}))[0]
        blocks = units(cohort, settings)[:3]
    assert [(unit.first, unit.last) for unit, _ in blocks] == [(0, 2), (2, 4), (4, 5)]
    every = only(forecast_unit(whole, slices, targets, AddingEngine(image=slices[0].image), settings))
    parts = [
        only(forecast_unit(unit, own, targets, AddingEngine(image=own[0].image), settings)) for unit, own in blocks
    ]
    assert every.members is not None
    assert np.ptp(every.members, axis=0).max() > 0.1
    kept = [part.members for part in parts if part.members is not None]
    np.testing.assert_array_equal(np.concatenate(kept), every.members)
    np.testing.assert_array_equal(np.concatenate([part.aimed_mm2 for part in parts]), every.aimed_mm2)
    np.testing.assert_array_equal(np.concatenate([part.reached_mm2 for part in parts]), every.reached_mm2)


def test_members_share_encodings_unless_their_noise_is_all_they_have(blob_cohort: Path) -> None:
    with Cohort.open(blob_cohort) as cohort:
        _, (present, *_) = units(cohort, SETTINGS)[0]
    targets = partial(SliceTargets, present)
    settings = ForecastSettings(relative_change=0.5, members=6)
    assert encodings_of(targets(np.linspace(0, 1, 6)), settings) == 4
    assert encodings_of(targets(np.full(6, 0.5)), settings) == 6
    paper = settings.model_copy(update={"sampler": SamplerSettings.paper()})
    assert encodings_of(targets(np.linspace(0, 1, 6)), paper) == 6
