"""Patients of whom nothing can be fitted: no exception, the last size, and a spread that says how little is known."""

import numpy as np
import pytest

from tumorcast.growth.fit import PERSISTENCE_RATE_LIMIT, fit_growth, persist
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.settings import FitSettings
from tumorcast.records import FitStatus, LawName, RadiotherapyCourse, SizeSeries, Treatment

SETTINGS = FitSettings(replicates=400)
TREATED = Treatment((RadiotherapyCourse(28.0, 70.0),), resection_days=(-10.0, 15.0))
DAYS = np.array([0.0, 30.0, 60.0, 90.0])


def series(sizes: list[float], shift: float = 0.0) -> SizeSeries:
    course = RadiotherapyCourse(28.0 + shift, 70.0 + shift)
    treatment = Treatment((course,), resection_days=(-10.0 + shift, 15.0 + shift))
    return SizeSeries("P1", "volume_mm3", DAYS[: len(sizes)] + shift, np.array(sizes), treatment)


@pytest.mark.parametrize("sizes", [[100.0], [100.0, 150.0], [150.0, 0.0], [0.0, 150.0], [0.0] * 4, [0.0]])
@pytest.mark.parametrize("law", list(LawName))
def test_too_few_points_persist(sizes: list[float], law: LawName) -> None:
    fit = fit_growth(series(sizes), SETTINGS.model_copy(update={"law": law}))
    assert fit.status is FitStatus.TOO_FEW_POINTS and np.isfinite(fit.loss)
    assert set(fit.replicate_status) == {list(FitStatus).index(FitStatus.TOO_FEW_POINTS)}
    assert fit.parameters.shape == (len(fit.parameter_names),)
    assert fit.replicates.shape == (400, len(fit.parameter_names))
    ahead = GrowthForecast(fit).trajectories(np.array([-100.0, 0.0, 50.0, 1e4]))
    assert np.isfinite(ahead).all() and (ahead >= 0).all()
    np.testing.assert_allclose(GrowthForecast(fit).best(np.array([-5.0, 400.0])), sizes[-1])


def test_the_spread_widens_round_the_last_size() -> None:
    forecast = GrowthForecast(persist(series([100.0, 150.0]), SETTINGS))
    low, middle, high = forecast.quantiles(np.array([30.0, 60.0, 300.0]), np.array([0.05, 0.5, 0.95]))
    np.testing.assert_allclose(middle[:2], 150.0, rtol=0.05)
    widths = np.log(high / low)
    assert 0.2 < widths[0] < widths[1] < widths[2]
    assert (np.abs(forecast.fit.replicates[:, 0]) <= PERSISTENCE_RATE_LIMIT).all()


@pytest.mark.parametrize("sizes", [[0.0], [0.0, 0.0, 0.0], [80.0, 0.0]])
def test_a_tumour_that_is_gone_stays_gone(sizes: list[float]) -> None:
    forecast = GrowthForecast(fit_growth(series(sizes), SETTINGS))
    assert not forecast.trajectories(np.array([100.0, 1000.0])).any()
    assert np.isfinite(forecast.relative_change(90.0, 400.0)).all()


def test_treatment_has_no_effect() -> None:
    treated = GrowthForecast(persist(series([100.0]), SETTINGS)).trajectories(np.array([20.0, 200.0]))
    plain = SizeSeries("P1", "volume_mm3", DAYS[:1], np.array([100.0]))
    np.testing.assert_allclose(treated, GrowthForecast(persist(plain, SETTINGS)).trajectories(np.array([20.0, 200.0])))


@pytest.mark.parametrize("shift", [-1000.0, 700.0])
def test_the_zero_of_days_changes_nothing(shift: float) -> None:
    here, there = (GrowthForecast(persist(series([100.0, 150.0], by), SETTINGS)) for by in (0.0, shift))
    days = np.array([10.0, 100.0, 400.0])
    np.testing.assert_allclose(there.trajectories(days + shift), here.trajectories(days), rtol=1e-9)


def test_seed_and_patient_decide_the_replicates() -> None:
    one = series([100.0])
    alone = persist(one, SETTINGS).replicates
    np.testing.assert_array_equal(persist(one, SETTINGS).replicates, alone)
    assert not np.array_equal(persist(one, SETTINGS.model_copy(update={"seed": 1})).replicates, alone)
    other = SizeSeries("P2", one.size_name, one.days, one.sizes, one.treatment)
    assert not np.array_equal(persist(other, SETTINGS).replicates, alone)
