import numpy as np
import pytest
from scipy.optimize import least_squares as scipy_least_squares

from tumorcast.errors import InputError
from tumorcast.growth.fit import FitSettings, fit_cohort, fit_growth
from tumorcast.growth.laws import DEFAULT_BOUNDS, PARAMETER_NAMES, UNTREATED, BoundsPreset, Exponential, size_after
from tumorcast.kernels import growth as kernels
from tumorcast.records import FitStatus, GrowthFit, RadiotherapyCourse, SizeSeries, Treatment

DAYS = np.array([0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 190.0, 230.0, 280.0, 340.0])
TREATED = Treatment((RadiotherapyCourse(28.0, 70.0),))
LAW = Exponential(0.012, 0.03, 70.0, 0.08, 0.08)
QUICK = FitSettings(replicates=8, starts=8)


def series(sizes: list[float] | np.ndarray, treatment: Treatment = UNTREATED, days: np.ndarray = DAYS) -> SizeSeries:
    return SizeSeries("P1", "area_mm2", days[: len(sizes)], np.asarray(sizes, dtype=float), treatment)


def check_shapes(fit: GrowthFit, replicates: int = 8) -> None:
    assert fit.parameters.shape == (6,) and fit.replicates.shape == (replicates, 6)
    assert fit.parameter_names == PARAMETER_NAMES and len(fit.replicate_status) == replicates
    assert np.all(np.isfinite(fit.parameters)) and np.all(np.isfinite(fit.replicates)) and np.isfinite(fit.loss)


@pytest.mark.parametrize("preset", list(BoundsPreset))
def test_noise_free_treated_growth_is_recovered(preset: BoundsPreset) -> None:
    sizes = size_after(LAW, DAYS, 375.0, treatment=TREATED)
    fit = fit_growth(series(sizes, TREATED), FitSettings(bounds=preset, replicates=8))
    expected = [0.012, 0.03, 70.0, 0.08, 0.08, 375.0]
    np.testing.assert_allclose(fit.parameters, expected, rtol=1e-3)
    assert fit.status is FitStatus.CONVERGED and fit.loss < 1e-10
    check_shapes(fit)


def test_patient_first_scanned_after_treatment() -> None:
    days = DAYS[3:]
    sizes = size_after(LAW, days, 500.0, origin_day=days[0], treatment=TREATED)
    fit = fit_growth(series(sizes, TREATED, days), QUICK)
    assert fit.loss < 1e-8
    assert fit.parameters[kernels.INITIAL_SIZE] == pytest.approx(500.0, rel=1e-3)


def test_loss_is_never_above_a_single_start() -> None:
    rng = np.random.default_rng(5)
    low, high = DEFAULT_BOUNDS.lower(), DEFAULT_BOUNDS.upper()
    for _ in range(3):
        sizes = size_after(LAW, DAYS, 1.0, treatment=TREATED) * np.exp(rng.normal(0, 0.15, DAYS.size))
        relative = sizes / sizes[0]
        fit = fit_growth(series(sizes, TREATED), FitSettings(replicates=1))

        def residuals(x: np.ndarray, relative: np.ndarray = relative) -> np.ndarray:
            law = Exponential(*x[:5])
            return size_after(law, DAYS, x[5], treatment=TREATED) - relative

        for start in ([0.01, 0.05, 30.0, 0.1, 0.1, 1.0], [0.02, 0.02, 90.0, 0.5, 0.05, 1.0]):
            single = scipy_least_squares(residuals, start, bounds=(low, high), x_scale=high - low)
            assert fit.loss <= 2 * single.cost * (1 + 1e-6)


def test_without_radiotherapy_growth_is_purely_exponential() -> None:
    fit = fit_growth(series(100.0 * np.exp(-0.005 * DAYS)), QUICK)
    assert fit.parameters[kernels.RATE] == pytest.approx(-0.005, rel=1e-5)
    assert np.all(fit.replicates[:, kernels.SURVIVAL] == 1.0)
    assert np.ptp(fit.replicates[:, kernels.DELAY]) == 0.0


def test_scans_before_radiotherapy_leave_its_effect_open() -> None:
    later = Treatment((RadiotherapyCourse(1000.0, 1042.0),))
    fit = fit_growth(series(100.0 * np.exp(0.005 * DAYS), later), FitSettings(replicates=200, starts=4))
    assert fit.parameters[kernels.RATE] == pytest.approx(0.005, rel=1e-5)
    for name in ("survival", "delay_days", "decay_rate_per_day", "slope_per_day"):
        lower, upper = getattr(DEFAULT_BOUNDS, name)
        column = fit.replicates[:, PARAMETER_NAMES.index(name)]
        assert lower <= column.min() < lower * (upper / lower) ** 0.1
        assert lower * (upper / lower) ** 0.9 < column.max() <= upper


def test_rate_beyond_its_bound_is_told() -> None:
    fit = fit_growth(series(100.0 * np.exp(-0.1 * DAYS[:5])), QUICK)
    assert fit.status is FitStatus.AT_BOUND
    assert fit.parameters[kernels.RATE] == DEFAULT_BOUNDS.rate_per_day.lower


@pytest.mark.parametrize("sizes", [[100.0], [100.0, 150.0], [0.0, 0.0, 0.0, 0.0], [0.0]])
def test_too_few_points_persist(sizes: list[float]) -> None:
    fit = fit_growth(series(sizes, TREATED), QUICK)
    assert fit.status is FitStatus.TOO_FEW_POINTS
    assert set(fit.replicate_status) == {FitStatus.TOO_FEW_POINTS}
    assert fit.parameters[kernels.INITIAL_SIZE] == sizes[-1]
    check_shapes(fit)


def test_persistence_spreads_both_ways_and_widens() -> None:
    fit = fit_growth(series([80.0, 100.0]), FitSettings(replicates=4000))
    rates = fit.replicates[:, kernels.RATE]
    assert abs(np.median(rates)) < 0.001
    assert np.quantile(rates, 0.95) == pytest.approx(0.015 * 2.353, rel=0.15)  # the 95 % point of Student's t, 3 d.f.
    at_last = fit.replicates[:, kernels.INITIAL_SIZE] * np.exp(rates * 30.0)
    assert np.std(np.log(at_last)) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("sizes", [[0.0, 0.0, 50.0, 100.0], [100.0, 0.0, 0.0], [100.0, 50.0, 0.0, 80.0]])
def test_zero_sizes_are_fitted(sizes: list[float]) -> None:
    fit = fit_growth(series(sizes, TREATED), QUICK)
    assert fit.status in {FitStatus.CONVERGED, FitStatus.AT_BOUND, FitStatus.NOT_CONVERGED}
    check_shapes(fit)


def test_no_scan_is_misuse() -> None:
    with pytest.raises(InputError, match="patient P1: no area_mm2 was measured"):
        fit_growth(series([]))


def test_seed_and_patient_decide_the_replicates() -> None:
    one = series(size_after(LAW, DAYS, 375.0, treatment=TREATED), TREATED)
    other = SizeSeries("P2", one.size_name, one.days, one.sizes, TREATED)
    again, alone = fit_cohort([other, one], QUICK)[1], fit_growth(one, QUICK)
    assert np.array_equal(again.replicates, alone.replicates)
    assert not np.array_equal(fit_growth(other, QUICK).replicates, alone.replicates)
    reseeded = fit_growth(one, QUICK.model_copy(update={"seed": 1}))
    assert not np.array_equal(reseeded.replicates, alone.replicates)
    assert np.array_equal(reseeded.parameters.round(6), alone.parameters.round(6))


def test_unit_of_size_only_scales() -> None:
    sizes = size_after(LAW, DAYS, 375.0, treatment=TREATED)
    mm2, cm2 = fit_growth(series(sizes, TREATED), QUICK), fit_growth(series(sizes / 128.0, TREATED), QUICK)
    np.testing.assert_allclose(mm2.replicates[:, :5], cm2.replicates[:, :5], rtol=1e-6)
    np.testing.assert_allclose(mm2.replicates[:, 5], 128.0 * cm2.replicates[:, 5], rtol=1e-6)
