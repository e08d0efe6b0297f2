"""What keeps a growth map from the sizes that its members aim at is seen, and told in words."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tumorcast.archive.maps import VolumeForecast
from tumorcast.arrival.field import FrontArrival
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.forecasting.volume_maps import forecast_volume
from tumorcast.forecasting.volume_reach import VolumeReach, notes_of
from tumorcast.records import Contrast, SessionVolume
from tumorcast.settings import ForecastSettings

SETTINGS = ForecastSettings(horizon_days=30.0, later_horizons=(90.0,), members=4, maps_only=True)
RATIOS = np.array([0.6, 1.0, 2.0, 3.0])


def foretold(volume: SessionVolume, *ratios: object) -> VolumeForecast:
    targets = PatientTargets(RATIOS, volumes=np.array(ratios, np.float64))
    return forecast_volume(volume, tuple(Contrast), targets, FrontArrival(), SETTINGS)


def test_a_map_that_comes_to_its_sizes_tells_nothing(ball: Callable[..., SessionVolume]) -> None:
    forecast = foretold(ball(12.0), RATIOS, 2 * RATIOS)
    assert notes_of(forecast) == []
    assert VolumeReach.of(forecast, 1).gained == pytest.approx(1.0, abs=0.1)
    assert np.isnan(VolumeReach.of(foretold(ball(12.0), [1, 1, 1, 1.05], RATIOS), 0).gained)


def test_members_held_at_half_of_the_brain_are_told(ball: Callable[..., SessionVolume]) -> None:
    forecast = foretold(ball(12.0), [2, 3, 40, 50], [60, 60, 60, 60])
    assert notes_of(forecast) == [
        "in 30 days: 2 of 4 members aim at the most that is allowed, half of the brain",
        "in 90 days: every member aims at the most that is allowed, half of the brain",
    ]
    assert VolumeReach.of(forecast, 0).record() | {"reach": None} == {
        "members_held": 2,
        "members_beyond_reach": 0,
        "reach": None,
    }


def test_a_tumour_that_fills_half_of_the_brain_is_held_at_its_size(ball: Callable[..., SessionVolume]) -> None:
    volume = ball(12.0)
    full = replace(volume, labels=np.where(volume.brain, 2, 0).astype(volume.labels.dtype))
    forecast = foretold(full, [0.5, 1.0, 2.0, 3.0], [2, 2, 2, 2])
    told = "at the present size, for the tumour fills half of the brain or more"
    assert notes_of(forecast)[0].startswith(f"in 30 days: 3 of 4 members are held {told}")
    assert notes_of(forecast)[1].startswith(f"in 90 days: every member is held {told}")


def test_members_beyond_what_the_map_can_reach_are_told(ball: Callable[..., SessionVolume]) -> None:
    whole = foretold(ball(12.0), RATIOS, 3 * RATIOS)
    near = whole.log_volume < np.log(2.5)
    cut = replace(
        whole,
        log_volume=np.where(near, whole.log_volume, np.inf).astype(np.float16),
        expected_mm3=(whole.growth * near).sum(axis=(1, 2, 3), dtype=np.float64) * 8,
        horizon_days=np.array([np.nan, 90.0]),
    )
    reachable = near.sum() * 8 / 1000
    first, second = notes_of(cut)
    assert first == f"for the change asked for: 1 of 4 members aim beyond the {reachable:.0f} mL that the map can reach"
    assert second.startswith("in 90 days: 3 of 4 members aim beyond the ")
    assert second.endswith(" % of the change of volume aimed at")
    assert VolumeReach.of(cut, 1).gained == pytest.approx(
        (cut.expected_mm3[1] / whole.present_mm3 - 1) / 3.95, abs=0.02
    )


def test_a_map_that_goes_the_wrong_way_is_told(ball: Callable[..., SessionVolume]) -> None:
    forecast = foretold(ball(12.0), RATIOS, 2 * RATIOS)
    wrong = replace(forecast, expected_mm3=forecast.present_mm3 * np.array([0.9, 9.0]))
    notes = notes_of(wrong)
    assert [float(note.split("gains ")[1].split(" %")[0]) < 0 for note in notes] == [True, False]
