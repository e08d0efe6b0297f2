"""Sudden drops are operations that the table does not record; they are inferred, noted, and never doubled."""

import numpy as np
import pytest

from tumorcast.growth.fit import DROP_DAYS, fit_growth, with_sudden_drops
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import LawName, SizeSeries, Treatment

RATIO = 0.2
DAYS = np.array([0.0, 30.0, 60.0, 90.0])
QUICK = FitSettings(replicates=50, starts=16, scouts=4, finalists=2, pilots=8)
PRIOR = shipped_prior().for_size("enhancing_oedema_mm3").laws[LawName.EXPONENTIAL]


def series(sizes: list[float], resections: tuple[float, ...] = (), days: np.ndarray = DAYS) -> SizeSeries:
    return SizeSeries("P", "volume_mm3", days[: len(sizes)], np.array(sizes), Treatment(resection_days=resections))


def found(measured: SizeSeries, ratio: float | None = RATIO) -> tuple[float, ...]:
    return with_sudden_drops(measured, ratio)[0].treatment.resection_days


def test_it_lies_midway_and_is_told() -> None:
    operated, notes = with_sudden_drops(series([20_000.0, 25_000, 2000, 3000]), RATIO)
    assert operated.treatment.resection_days == (45.0,)
    assert notes == ("from day 30 to day 60 the size fell from 25000 to 2000: taken for a resection",)


@pytest.mark.parametrize(
    "measured",
    [
        series([20_000.0, 25_000, 2000], days=np.array([0.0, 30.0, 31.0 + DROP_DAYS])),  # a response may be that slow
        series([20_000.0, 25_000, 0.0]),  # gone: a complete response
        series([20_000.0, 4000, 800]),  # just the ratio
        series([0.0, 0.0, 500.0]),
        series([500.0]),
    ],
)
def test_what_is_none(measured: SizeSeries) -> None:
    assert with_sudden_drops(measured, RATIO) == (measured, ())


def test_the_bounds_of_a_drop() -> None:
    assert found(series([25_000.0, 2000], days=np.array([0.0, DROP_DAYS]))) == (0.5 * DROP_DAYS,)
    assert found(series([20_000.0, 3999.0])) == (15.0,)
    assert found(series([20_000.0, 9999.0]), 0.5) == (15.0,)
    assert found(series([20_000.0, 1.0]), None) == ()


@pytest.mark.parametrize(("day", "days"), [(30.0, (30.0,)), (59.0, (59.0,)), (60.0, (45.0, 60.0)), (0.0, (0.0, 45.0))])
def test_a_known_resection_explains_the_drop_it_lies_in(day: float, days: tuple[float, ...]) -> None:
    """One on the day of the later scan came after it."""
    assert found(series([20_000.0, 25_000, 2000], (day,))) == days


def test_every_drop_counts() -> None:
    measured = series([25_000.0, 2000, 30_000, 1000], (500.0,))
    assert found(measured) == (15.0, 75.0, 500.0)


def test_the_fit_resets_the_size_there() -> None:
    fit = fit_growth(series([20_000.0, 25_000, 2000, 3000]), QUICK, PRIOR)
    assert fit.series.treatment.resection_days == (45.0,) and len(fit.notes) == 1
    assert fit.parameter_names[-1] == "residual_1" and fit.parameters[-1] < 0.3
    before, after = GrowthForecast(fit).best(np.array([44.0, 46.0]))
    assert after < 0.3 * before
    ignored = fit_growth(series([20_000.0, 25_000, 2000, 3000]), QUICK.model_copy(update={"drop_ratio": None}), PRIOR)
    assert ignored.series.treatment.resection_days == () and ignored.notes == ()


def test_a_drop_that_is_explained_leaves_the_rate_alone() -> None:
    """Two exponential pieces at one rate: with the reset the law goes through all points."""
    grown = 20_000.0 * np.exp(0.01 * DAYS)
    measured = series([*grown[:2], *(0.1 * grown[2:])])
    fit = fit_growth(measured, QUICK)
    assert fit.loss < 1e-6 and fit.parameters[0] == pytest.approx(0.01, rel=1e-3)
    assert fit.parameters[-1] == pytest.approx(0.1, rel=1e-2)
