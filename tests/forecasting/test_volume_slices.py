"""Slices through a map in three dimensions: they agree with it, and new ones are found and cut out."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tumorcast.arrival.field import FrontArrival
from tumorcast.data.grey import from_grey
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.forecasting.volume_maps import forecast_volume
from tumorcast.forecasting.volume_slices import SlicedField, reached_slices, slice_through
from tumorcast.records import Contrast, SessionVolume
from tumorcast.settings import ForecastSettings

RATIOS = np.array([0.6, 1.0, 2.0, 3.0])
TARGETS = PatientTargets(RATIOS ** (2 / 3), volumes=RATIOS[None])


def plane_affine(volume: SessionVolume, spacing_mm: float) -> np.ndarray:
    """Of slices of 2 mm pixels on the volume's grid, so many mm apart, the first at the volume's first plane."""
    return volume.affine @ np.diag([1.0, 1.0, spacing_mm / 2.0, 1.0])


def test_areas_of_all_slices_add_up_to_the_volume(ball: Callable[..., SessionVolume]) -> None:
    volume = ball(14.0)
    field = FrontArrival().field(volume, tuple(Contrast))
    sliced = SlicedField.of(field, volume, TARGETS)
    affine = plane_affine(volume, 2.0)
    shown = np.flatnonzero(volume.brain.any(axis=(1, 2)))
    slices = [slice_through(volume, affine, int(number), 64) for number in shown]
    aimed = np.array([sliced.targets(one).target_mm2 for one in slices]).sum(axis=0) * 2.0
    present_mm3 = volume.volume_mm3
    np.testing.assert_allclose(aimed[1:], RATIOS[1:] * present_mm3, rtol=0.12)
    assert aimed[1] == pytest.approx(present_mm3, rel=1e-6)
    maps = np.stack([sliced.probability(one, RATIOS) for one in slices], axis=1)
    whole = np.stack([field.probability(np.array([ratio])) for ratio in RATIOS])
    found, expected = maps[:, :, :56, :52], whole[:, shown]
    np.testing.assert_allclose(found[:, volume.brain[shown]], expected[:, volume.brain[shown]], atol=1e-4)


def test_a_slice_is_the_plane_of_the_volume(ball: Callable[..., SessionVolume]) -> None:
    volume = ball(12.0)
    cut = slice_through(volume, plane_affine(volume, 4.0), 12, 64)
    np.testing.assert_array_equal(cut.labels[:56, :52], volume.labels[24])
    np.testing.assert_allclose(
        cut.image[:, :56, :52][:, volume.brain[24]], from_grey(volume.images)[:, 24][:, volume.brain[24]], atol=1e-5
    )
    assert (cut.image[:, ~cut.brain] == -1).all() and cut.area_mm2 == (volume.labels[24] > 0).sum() * 4


def test_slices_are_those_that_the_map_reaches(ball: Callable[..., SessionVolume]) -> None:
    volume, affine = ball(12.0), plane_affine(ball(12.0), 2.0)
    field = FrontArrival().field(volume, tuple(Contrast))
    present = np.flatnonzero(volume.tumour.any(axis=(1, 2)))
    eightfold = reached_slices(volume, affine, field.probability(np.full(3, 8.0)), volume.labels.shape[0])
    assert set(present[1:-1]) < set(eightfold)
    assert 8 <= len(set(eightfold) - set(present)) <= 14  # twice the radius
    shrinking = reached_slices(volume, affine, field.probability(np.array([0.5, 0.9])), volume.labels.shape[0])
    assert set(shrinking) < set(present)
    thick = reached_slices(volume, plane_affine(volume, 6.0), field.probability(np.full(3, 8.0)), 16)
    assert len(eightfold) / 3 - 1 <= len(thick) <= len(eightfold) / 3 + 1


def test_planes_within_the_outermost_half_voxel_are_of_it(ball: Callable[..., SessionVolume]) -> None:
    volume = ball(12.0)
    thin = volume.affine @ np.diag([1.0, 1.0, 0.5, 1.0])  # two slices a voxel
    thin[:3, 3] = (volume.affine @ [0, 0, -0.25, 1])[:3]
    brain = np.repeat(volume.brain[24:25], len(volume.brain), axis=0)
    whole = replace(volume, brain=brain)
    first, last = (slice_through(whole, thin, number, 64) for number in (0, 2 * len(brain) - 1))
    assert first.brain.sum() == last.brain.sum() == volume.brain[24].sum()


def test_the_map_of_a_forecast_is_of_each_horizon(ball: Callable[..., SessionVolume]) -> None:
    volume = ball(12.0)
    settings = ForecastSettings(horizon_days=30.0, later_horizons=(90.0,), members=4, maps_only=True)
    targets = PatientTargets(RATIOS, volumes=np.stack([RATIOS, 2 * RATIOS]))
    forecast = forecast_volume(volume, tuple(Contrast), targets, FrontArrival(), settings)
    assert forecast.growth.shape == (2, *volume.labels.shape)
    assert list(forecast.horizon_days) == [30.0, 90.0] and (forecast.growth[1] >= forecast.growth[0]).all()
    np.testing.assert_allclose(
        forecast.expected_mm3, (forecast.target_ratio * volume.volume_mm3).mean(axis=1), rtol=0.1
    )
    outline = forecast.outline(0, volume.volume_mm3)
    assert outline.sum() == volume.tumour.sum() and (outline == volume.tumour).mean() > 0.99
    many = PatientTargets(np.full(2, 1e3), volumes=np.full((1, 2), 1e4))
    assert forecast_volume(volume, tuple(Contrast), many, FrontArrival(), settings).target_ratio.max() < 30
