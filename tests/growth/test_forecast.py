"""What a fit says of other days, by whichever forecaster."""

import numpy as np
import pytest

from tumorcast.growth.bootstrap import Noise
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import LEVELS, GrowthForecast
from tumorcast.growth.population.history import from_log, from_volumes, to_log, to_volumes
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, LawName, RadiotherapyCourse, SizeSeries, Treatment

TREATED = Treatment((RadiotherapyCourse(28.0, 70.0),))
DAYS = np.array([0.0, 92.0, 142.0, 191.0, 218.0, 296.0])
SIZES = np.array([375.0, 1380.0, 1195.0, 1045.0, 935.0, 1195.0])
SETTINGS = FitSettings(replicates=200)
QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
BOTH = [Forecaster.POOLED, Forecaster.PERSISTENCE]


def forecast_of(series: SizeSeries, forecaster: Forecaster, settings: FitSettings = SETTINGS) -> GrowthForecast:
    prior = shipped_prior().for_size(series.size_name)
    fit = fit_growth(series, settings, prior.law_for(settings.law, series.size_name))
    return GrowthForecast(fit, prior, forecaster)


@pytest.fixture(scope="module")
def forecasts() -> dict[Forecaster, GrowthForecast]:
    series = SizeSeries("PID1", "area_mm2", DAYS, SIZES, TREATED)
    return {forecaster: forecast_of(series, forecaster) for forecaster in Forecaster}


@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_quantiles_come_from_the_trajectories(
    forecasts: dict[Forecaster, GrowthForecast], forecaster: Forecaster
) -> None:
    days, levels = np.array([0.0, 100.0, 366.0]), np.array([0.0, 0.5, 1.0])
    paths = forecasts[forecaster].trajectories(days)
    assert paths.shape == (200, 3)
    quantiles = forecasts[forecaster].quantiles(days, levels)
    np.testing.assert_allclose(quantiles, [paths.min(axis=0), np.median(paths, axis=0), paths.max(axis=0)])


def test_relative_change_belongs_to_its_trajectory(forecasts: dict[Forecaster, GrowthForecast]) -> None:
    forecast = forecasts[Forecaster.MECHANISTIC]
    paths = forecast.trajectories(np.array([296.0, 366.0]))
    np.testing.assert_allclose(forecast.relative_change(296.0, 366.0), paths[:, 1] / paths[:, 0], rtol=1e-9)
    np.testing.assert_allclose(forecast.relative_change(296.0, 296.0), 1.0, rtol=1e-12)
    for forecaster in BOTH:
        change = forecasts[forecaster].relative_change(296.0, 366.0)
        sizes = forecasts[forecaster].trajectories(np.array([366.0])).ravel()
        np.testing.assert_allclose(change, sizes / SIZES[-1], rtol=1e-12)


@pytest.mark.parametrize("forecaster", BOTH)
def test_a_later_day_has_the_forecasters_distribution_and_the_laws_order(
    forecasts: dict[Forecaster, GrowthForecast], forecaster: Forecaster
) -> None:
    """Ensemble copula coupling."""
    days = np.array([310.0, 366.0, 500.0])
    paths, law = forecasts[forecaster].trajectories(days), forecasts[Forecaster.MECHANISTIC].trajectories(days)
    levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    for place, day in enumerate(days):
        wanted = forecasts[forecaster].predicted(float(day), levels)
        np.testing.assert_allclose(np.quantile(paths[:, place], levels), wanted, rtol=0.03)
        assert (np.argsort(paths[:, place], kind="stable") == np.argsort(law[:, place], kind="stable")).all()
    np.testing.assert_array_equal(
        forecasts[forecaster].trajectories(DAYS), forecasts[Forecaster.MECHANISTIC].trajectories(DAYS)
    )


def test_the_band_of_the_pool_is_what_its_members_say(forecasts: dict[Forecaster, GrowthForecast]) -> None:
    """Mean of quantiles, weighted: from the contributions alone."""
    forecast = forecasts[Forecaster.POOLED]
    mean = sum(one.weight * one.quantiles for one in forecast.contributions(366.0))
    np.testing.assert_allclose(to_log(forecast.predicted(366.0, LEVELS), "area_mm2"), mean, rtol=1e-9)


@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_trajectories_do_not_depend_on_the_other_days(
    forecasts: dict[Forecaster, GrowthForecast], forecaster: Forecaster
) -> None:
    """Days in any order, once or twice, alone or with others: so targets and curves of one row agree."""
    forecast = forecasts[forecaster]
    days = np.array([500.0, 0.0, 366.0, 296.0, 366.0])
    together = forecast.trajectories(days)
    for place, day in enumerate(days):
        np.testing.assert_allclose(together[:, place], forecast.trajectories(np.array([day])).ravel(), rtol=1e-12)


@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_the_band_never_narrows_with_the_horizon(
    forecasts: dict[Forecaster, GrowthForecast], forecaster: Forecaster
) -> None:
    low, high = forecasts[forecaster].quantiles(np.array([300.0, 366.0, 500.0, 900.0]), np.array([0.05, 0.95]))
    assert (np.diff(np.log(high / low)) > -1e-9).all()


def test_quantile_levels_beyond_0_and_1_are_misuse(forecasts: dict[Forecaster, GrowthForecast]) -> None:
    with pytest.raises(ValueError, match="range"):
        forecasts[Forecaster.POOLED].quantiles(np.array([366.0]), np.array([1.5]))


def test_persistence_has_its_median_at_the_last_size(forecasts: dict[Forecaster, GrowthForecast]) -> None:
    (middle,) = forecasts[Forecaster.PERSISTENCE].predicted(366.0, np.array([0.5]))
    assert middle == pytest.approx(SIZES[-1], rel=0.02)


def test_a_dose_of_growth_after_a_complete_response_is_no_division_by_zero() -> None:
    """The change is of a size that can be seen at least."""
    series = SizeSeries("P", "v_mm3", DAYS[:3], np.array([5000.0, 0.0, 0.0]), TREATED)
    for forecaster in BOTH:
        forecast = forecast_of(series, forecaster, QUICK)
        sizes = forecast.trajectories(np.array([300.0])).ravel()
        np.testing.assert_allclose(forecast.relative_change(142.0, 300.0), sizes / 100.0)


def test_members_are_told_with_their_weights(forecasts: dict[Forecaster, GrowthForecast]) -> None:
    said = forecasts[Forecaster.POOLED].contributions(366.0)
    assert sum(one.weight for one in said) == pytest.approx(1.0)
    assert said[-1].name == "mechanistic" and len(said) == 5
    for one in said:
        assert (np.diff(one.quantiles) >= 0).all()
    assert [one.weight for one in forecasts[Forecaster.PERSISTENCE].contributions(366.0)] == [1.0]


def test_without_a_prior_trajectories_are_the_laws() -> None:
    fit = fit_growth(SizeSeries("P", "area_mm2", DAYS, SIZES, TREATED), QUICK)
    forecast = GrowthForecast(fit)
    residuals = np.log(forecast.best(DAYS) / SIZES)
    assert np.sum(residuals**2) == pytest.approx(fit.loss, rel=1e-6)
    additive = fit_growth(fit.series, QUICK.model_copy(update={"noise": Noise.ADDITIVE}))
    residuals = (GrowthForecast(additive).best(DAYS) - SIZES) / SIZES[0]
    assert np.sum(residuals**2) == pytest.approx(additive.loss, rel=1e-6)


@pytest.mark.parametrize("sizes", [[0.0, 0.0, 0.0], [100.0], [100.0, 0.0], [5.0, 0.0, 0.0, 0.0], [1e-9, 1e9, 1e-9]])
@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_every_forecast_is_finite(sizes: list[float], forecaster: Forecaster) -> None:
    series = SizeSeries("P1", "area_mm2", DAYS[: len(sizes)], np.array(sizes), TREATED)
    forecast = forecast_of(series, forecaster, QUICK)
    last = float(series.days[-1])
    for values in (
        forecast.trajectories(np.array([-50.0, 20.0, 400.0, 1e4])),
        forecast.relative_change(last, last + 300.0),
    ):
        assert np.isfinite(values).all() and (values >= 0).all()


@pytest.mark.parametrize("forecaster", [Forecaster.COMBINED, Forecaster.STATE_SPACE])
def test_scans_before_the_forecast_narrow_it(forecaster: Forecaster) -> None:
    widths = []
    for count in (1, 6):
        series = SizeSeries("P", "area_mm2", DAYS[:count], SIZES[:count], TREATED)
        low, high = forecast_of(series, forecaster).quantiles(series.days[-1:] + 60.0, np.array([0.05, 0.95]))
        widths.append(float(np.log(high / low)[0]))
    assert widths[1] < 0.9 * widths[0]


@pytest.mark.parametrize("forecaster", [Forecaster.COMBINED, Forecaster.STATE_SPACE])
def test_the_forecast_begins_at_the_last_scan(
    forecasts: dict[Forecaster, GrowthForecast], forecaster: Forecaster
) -> None:
    """Without a jump the day after it, and round the size measured there; the pool jumps."""
    low, middle, high = forecasts[forecaster].quantiles(np.array([296.0, 296.01, 297.0]), np.array([0.05, 0.5, 0.95]))
    for band in (low, middle, high):
        np.testing.assert_allclose(band[1], band[0], rtol=1e-3)
        np.testing.assert_allclose(band[2], band[0], rtol=0.05)
    assert low[0] < SIZES[-1] < high[0]
    pooled = forecasts[Forecaster.POOLED].quantiles(np.array([296.0, 297.0]), np.array([0.95]))
    assert pooled[0, 1] > 1.2 * pooled[0, 0]


def test_the_combined_forecast_is_what_its_components_say(forecasts: dict[Forecaster, GrowthForecast]) -> None:
    forecast = forecasts[Forecaster.COMBINED]
    components = forecast.contributions(366.0)
    assert sum(one.weight for one in components) == pytest.approx(1.0)
    assert components[0].name == "state_space" and len(components) == 6
    mean = sum(one.weight * one.quantiles for one in components)
    np.testing.assert_allclose(to_log(forecast.predicted(366.0, LEVELS), "area_mm2"), mean, rtol=1e-9)
    assert forecast.contributions(296.0)[0].weight == 1.0


@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_paths_have_the_forecasters_distribution_on_every_day(
    forecasts: dict[Forecaster, GrowthForecast], forecaster: Forecaster
) -> None:
    forecast, days, levels = forecasts[forecaster], np.array([310.0, 366.0, 500.0]), np.array([0.1, 0.5, 0.9])
    paths = forecast.paths(days, 1000)
    assert paths.shape == (1000, 3) and (paths >= 0).all()
    np.testing.assert_array_equal(paths, forecast.paths(days, 1000))
    wanted = forecast.quantiles(days, levels)
    np.testing.assert_allclose(np.quantile(paths, levels, axis=0), wanted, rtol=0.05)


def test_paths_cross(forecasts: dict[Forecaster, GrowthForecast]) -> None:
    """What is large on one day need not be on the next, or a first day beyond a size would mean nothing."""
    paths = forecasts[Forecaster.COMBINED].paths(np.array([310.0, 366.0, 500.0, 506.0]), 2000)
    ranks = np.argsort(np.argsort(paths, axis=0), axis=0)
    near, far = np.corrcoef(ranks[:, 2], ranks[:, 3])[0, 1], np.corrcoef(ranks[:, 0], ranks[:, 2])[0, 1]
    assert 0.1 < far < near < 0.999
    assert forecasts[Forecaster.COMBINED].paths(np.array([366.0]), 5, seed=1).std() > 0


def test_resections_that_were_inferred_are_no_news_to_the_mixture() -> None:
    """The sizes themselves tell of them; a known one makes the level after it uncertain."""
    days, sizes = np.array([0.0, 60.0, 120.0]), np.array([20_000.0, 22_000.0, 2000.0])
    inferred = forecast_of(SizeSeries("P", "v_mm3", days, sizes), Forecaster.STATE_SPACE, QUICK)
    assert inferred.fit.series.treatment.resection_days == inferred.fit.inferred_resections == (90.0,)
    assert inferred.fit.told.treatment.resection_days == ()
    known = SizeSeries("P", "v_mm3", days, sizes, Treatment(resection_days=(90.0,)))
    told = forecast_of(known, Forecaster.STATE_SPACE, QUICK)
    assert told.fit.inferred_resections == () and told.fit.told.treatment.resection_days == (90.0,)
    assert told.predicted(150.0, np.array([0.5])) != pytest.approx(inferred.predicted(150.0, np.array([0.5])), rel=0.01)


def test_areas_are_compared_as_spheres() -> None:
    radius = np.array([3.0, 10.0])
    areas = np.pi * radius**2
    np.testing.assert_allclose(to_volumes(areas, "area_mm2"), 4 / 3 * np.pi * radius**3)
    np.testing.assert_allclose(from_volumes(to_volumes(areas, "area_mm2"), "area_mm2"), areas)
    np.testing.assert_allclose(from_log(to_log(areas, "area_mm2"), "area_mm2"), areas)
    np.testing.assert_array_equal(to_volumes(areas, "enhancing_mm3"), areas)


@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_an_area_and_its_volume_have_one_forecast(forecaster: Forecaster) -> None:
    sizes = 20.0 * SIZES
    area = forecast_of(SizeSeries("P", "area_mm2", DAYS, sizes, TREATED), forecaster)
    volume = forecast_of(SizeSeries("P", "v_mm3", DAYS, to_volumes(sizes, "area_mm2"), TREATED), forecaster)
    ours = to_volumes(area.predicted(366.0, LEVELS[20:-20]), "area_mm2")
    np.testing.assert_allclose(ours, volume.predicted(366.0, LEVELS[20:-20]), rtol=0.15)


@pytest.mark.parametrize("law", list(LawName))
def test_the_published_patient_follows_the_law(law: LawName) -> None:
    """dmg_pid1.csv, the paper's Figure A: the scan of day 366 was 1550 mm², and the paper's fit says 4645."""
    series = SizeSeries("PID1", "area_mm2", DAYS, SIZES, TREATED)
    forecast = forecast_of(series, Forecaster.MECHANISTIC, SETTINGS.model_copy(update={"law": law}))
    low, middle, high = forecast.predicted(366.0, np.array([0.05, 0.5, 0.95]))
    assert low < 1550 < high and abs(middle - 1550) < 0.5 * (4645 - 1550)
