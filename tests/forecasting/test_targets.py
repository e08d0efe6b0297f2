"""Target sizes of members."""

import numpy as np
import pytest

from tumorcast.data.cohort import CohortSlice
from tumorcast.errors import InputError
from tumorcast.forecasting.targets import PatientTargets, spread_levels
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, SizeSeries
from tumorcast.settings import ForecastSettings

FIXED = ForecastSettings(relative_change=0.25, members=4)
FIT = FitSettings(replicates=400)
AHEAD = ForecastSettings(horizon_days=60, members=50)


def growing(size_name: str = "area_mm2") -> SizeSeries:
    days = np.array([0.0, 30.0, 60.0, 90.0])
    return SizeSeries("P", size_name, days, 1000 * np.exp(0.01 * days))


def slice_of(fraction: float) -> CohortSlice:
    """A slice of 1000 mm² of brain, of which `fraction` is tumour."""
    none = np.zeros((1, 1))
    return CohortSlice(none, none.astype(np.uint8), none > 0, np.eye(4), 1000 * fraction, 1000.0, 0)


def test_a_fixed_change_is_every_members_target() -> None:
    targets = PatientTargets.fixed(FIXED).of_slice(slice_of(0.04))
    np.testing.assert_allclose(targets.change, np.full(4, 0.01))
    np.testing.assert_allclose(targets.target_ratio, np.full(4, 1.25))
    np.testing.assert_allclose(targets.target_mm2, np.full(4, 50.0))


def test_targets_are_drawn_from_the_bootstrap_and_follow_the_growth() -> None:
    targets = PatientTargets.drawn(GrowthForecast(fit_growth(growing())), 90.0, AHEAD)
    assert np.median(targets.target_ratio) == pytest.approx(np.exp(0.6), rel=0.1)
    assert targets.target_ratio.std() > 0.02
    assert targets.curve is not None
    assert targets.curve["days"][-1] == 150.0
    assert (targets.curve["q05"] <= targets.curve["q95"]).all()


def test_a_volume_grows_an_area_by_the_power_two_thirds() -> None:
    area = PatientTargets.drawn(GrowthForecast(fit_growth(growing())), 90.0, AHEAD).target_ratio
    volume = PatientTargets.drawn(GrowthForecast(fit_growth(growing("volume_mm3"))), 90.0, AHEAD).target_ratio
    np.testing.assert_allclose(volume, area ** (2 / 3))


@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_members_stand_at_fixed_levels_of_the_forecast(forecaster: Forecaster) -> None:
    """Eight of them at 1/16, 3/16 …, whatever the seed."""
    prior = shipped_prior().for_size("area_mm2")
    series = growing()
    forecast = GrowthForecast(fit_growth(series, FIT, prior.law_for(FIT.law, "area_mm2")), prior, forecaster)
    levels = np.array([1.0, 3, 5, 7, 9, 11, 13, 15]) / 16
    assert sorted(spread_levels(8)) == levels.tolist()
    for seed in (0, 1):
        settings = AHEAD.model_copy(update={"members": 8, "seed": seed})
        found = np.sort(PatientTargets.drawn(forecast, 90.0, settings).target_ratio)
        if forecaster is Forecaster.MECHANISTIC:
            np.testing.assert_allclose(found, np.quantile(forecast.relative_change(90.0, 150.0), levels))
        else:
            np.testing.assert_allclose(found, forecast.predicted(150.0, levels) / series.sizes[-1])


def test_targets_from_before_the_last_scan_are_of_the_trajectories() -> None:
    forecast = GrowthForecast(fit_growth(growing()))
    found = PatientTargets.drawn(forecast, 60.0, AHEAD.model_copy(update={"members": 3})).target_ratio
    np.testing.assert_allclose(
        np.sort(found), np.quantile(forecast.relative_change(60.0, 120.0), [1 / 6, 1 / 2, 5 / 6])
    )


@pytest.mark.parametrize("count", [1, 2, 8, 50, 128])
def test_members_that_follow_each_other_are_spread_too(count: int) -> None:
    """So a block of them, or half an ensemble, is one of its own."""
    levels = spread_levels(count)
    np.testing.assert_allclose(np.sort(levels), (np.arange(count) + 0.5) / count)
    for part in (levels[: count // 2], levels[count // 2 :]):
        if part.size > 3:
            assert abs(part.mean() - 0.5) < 0.07 and np.ptp(part) > 0.6


def test_targets_and_curve_are_the_pooled_forecasts() -> None:
    prior = shipped_prior().for_size("area_mm2")
    series = growing()
    forecast = GrowthForecast(fit_growth(series, FIT, prior.law_for(FIT.law, "area_mm2")), prior, Forecaster.POOLED)
    targets = PatientTargets.drawn(forecast, 90.0, AHEAD.model_copy(update={"members": 400}))
    wanted = forecast.predicted(150.0, np.array([0.05, 0.5, 0.95])) / series.sizes[-1]
    np.testing.assert_allclose(np.quantile(targets.target_ratio, [0.05, 0.5, 0.95]), wanted, rtol=0.05)
    assert targets.curve is not None
    drawn = [targets.curve[name][-1] for name in ("q05", "q50", "q95")]
    np.testing.assert_allclose(np.array(drawn) / series.sizes[-1], wanted, rtol=0.05)


def test_sizes_without_a_unit_are_refused() -> None:
    with pytest.raises(InputError, match="neither an area"):
        PatientTargets.drawn(GrowthForecast(fit_growth(growing("diameter"))), 90.0, AHEAD)


def test_targets_never_fill_more_than_half_of_the_brain() -> None:
    settings = ForecastSettings(relative_change=20.0, members=1)
    assert PatientTargets.fixed(settings).of_slice(slice_of(0.1)).change[0] == pytest.approx(0.4)
