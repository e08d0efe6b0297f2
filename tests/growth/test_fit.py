import numpy as np
import pytest

from tumorcast.errors import InputError
from tumorcast.growth.bootstrap import BLOCK, Bootstrap, Noise
from tumorcast.growth.fit import ReplicateFitter, fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.laws import (
    DEFAULT_BOUNDS,
    UNTREATED,
    BoundsPreset,
    Exponential,
    Gompertz,
    Logistic,
    Response,
    size_after,
)
from tumorcast.growth.prior import LawPrior, shipped_prior
from tumorcast.growth.problem import PatientProblem, Sample
from tumorcast.growth.settings import FitSettings
from tumorcast.kernels import growth as kernels
from tumorcast.records import FitStatus, GrowthFit, LawName, RadiotherapyCourse, SizeSeries, Treatment

DAYS = np.array([0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 190.0, 230.0, 280.0, 340.0])
TREATED = Treatment((RadiotherapyCourse(28.0, 70.0),))
RESPONSE = Response(0.03, 70.0, 0.08, 0.08)
LAWS = {
    LawName.EXPONENTIAL: Exponential(0.012, RESPONSE),
    LawName.LOGISTIC: Logistic(0.02, 6.0, RESPONSE),
    LawName.GOMPERTZ: Gompertz(0.02, 8.0, RESPONSE),
}
QUICK = FitSettings(replicates=8, starts=16, scouts=4, finalists=2, pilots=8)


def series(sizes: list[float] | np.ndarray, treatment: Treatment = UNTREATED, days: np.ndarray = DAYS) -> SizeSeries:
    return SizeSeries("P1", "volume_mm3", days[: len(sizes)], np.asarray(sizes, dtype=float), treatment)


def prior(law: LawName = LawName.EXPONENTIAL) -> LawPrior:
    return shipped_prior().for_size("enhancing_oedema_mm3").laws[law]


def check_shapes(fit: GrowthFit, replicates: int = 8) -> None:
    width = 8 + len(fit.series.treatment.resection_days)
    assert fit.parameters.shape == (width,) and fit.replicates.shape == (replicates, width)
    assert len(fit.parameter_names) == width and fit.replicate_status.shape == fit.deviations.shape == (replicates,)
    assert np.isfinite(fit.parameters).all() and np.isfinite(fit.replicates).all() and np.isfinite(fit.loss)


@pytest.mark.parametrize("law", list(LawName))
def test_noise_free_growth_is_recovered(law: LawName) -> None:
    sizes = size_after(LAWS[law], DAYS, 37_500.0, treatment=TREATED)
    fit = fit_growth(series(sizes, TREATED), FitSettings(law=law, replicates=4, pilots=4))
    assert fit.status is FitStatus.CONVERGED and fit.loss < 1e-8
    beyond = np.array([400.0, 500.0])
    wanted = size_after(LAWS[law], beyond, 37_500.0, treatment=TREATED)
    np.testing.assert_allclose(GrowthForecast(fit).best(beyond), wanted, rtol=1e-2)
    check_shapes(fit, 4)


def test_parameters_of_the_papers_law_are_recovered() -> None:
    sizes = size_after(LAWS[LawName.EXPONENTIAL], DAYS, 37_500.0, treatment=TREATED)
    fit = fit_growth(series(sizes, TREATED), FitSettings(replicates=1, pilots=1))
    np.testing.assert_allclose(fit.parameters[[0, 1, 2, 3, 4, 7]], [0.012, 0.03, 70.0, 0.08, 0.08, 37_500], rtol=2e-2)


def test_patient_first_scanned_after_treatment() -> None:
    days = DAYS[3:]
    sizes = size_after(LAWS[LawName.EXPONENTIAL], days, 5000.0, origin_day=days[0], treatment=TREATED)
    fit = fit_growth(series(sizes, TREATED, days), QUICK)
    assert fit.loss < 1e-7
    assert fit.parameters[kernels.INITIAL_SIZE] == pytest.approx(5000.0, rel=1e-3)


def test_without_radiotherapy_growth_is_purely_exponential() -> None:
    fit = fit_growth(series(20_000.0 * np.exp(-0.005 * DAYS)), QUICK)
    assert fit.parameters[kernels.RATE] == pytest.approx(-0.005, rel=1e-4)
    assert np.all(fit.replicates[:, kernels.SURVIVAL] == 1.0)


def test_a_course_yet_to_come_has_an_open_effect() -> None:
    later = Treatment((RadiotherapyCourse(1000.0, 1042.0),))
    settings = QUICK.model_copy(update={"replicates": 200})
    fit = fit_growth(series(2000.0 * np.exp(0.005 * DAYS), later), settings)
    for name in ("survival", "delay_days", "decay_rate_per_day", "slope_per_day"):
        lower, upper = getattr(DEFAULT_BOUNDS, name)
        column = fit.replicates[:, fit.parameter_names.index(name)]
        assert lower <= column.min() < lower * (upper / lower) ** 0.1
        assert lower * (upper / lower) ** 0.9 < column.max() <= upper


def test_chemotherapy_is_fitted_where_asked() -> None:
    from tumorcast.records import ChemotherapyCourse

    treatment = Treatment(chemotherapy=(ChemotherapyCourse(90.0, 190.0),))
    law = Exponential(0.01, Response(chemo_rate_per_day=0.02))
    patient = series(size_after(law, DAYS, 2000.0, treatment=treatment), treatment)
    with_rate = fit_growth(patient, QUICK.model_copy(update={"chemotherapy": True}))
    assert with_rate.parameters[[0, 5]] == pytest.approx([0.01, 0.02], rel=1e-2)
    assert fit_growth(patient, QUICK).loss > 0.1 and with_rate.loss < 1e-6


def test_rate_beyond_its_bound_is_told() -> None:
    fit = fit_growth(series(1e7 * np.exp(-0.1 * DAYS[:5])), QUICK.model_copy(update={"drop_ratio": None}))
    assert fit.status is FitStatus.AT_BOUND
    assert fit.parameters[kernels.RATE] == DEFAULT_BOUNDS.rate_per_day.lower


@pytest.mark.parametrize(
    "sizes", [[0.0, 0.0, 500.0, 1000.0], [1000.0, 0.0, 0.0], [1000.0, 500.0, 0.0, 800.0], [1e-9, 1e9, 1e-9], [5.0] * 9]
)
@pytest.mark.parametrize("noise", list(Noise))
def test_odd_sizes_end_with_a_status(sizes: list[float], noise: Noise) -> None:
    fit = fit_growth(series(sizes, TREATED), QUICK.model_copy(update={"noise": noise}))
    check_shapes(fit)
    sizes_then = GrowthForecast(fit).trajectories(np.array([-50.0, 20.0, 400.0, 1e5]))
    assert np.isfinite(sizes_then).all() and (sizes_then >= 0).all()


@pytest.mark.parametrize(
    "sizes",
    [[0.0], [0.0, 0.0], [0.0, 500.0], [500.0, 0.0], [0.0, 0.0, 500.0, 1000.0], [1e-9, 1e9, 1e-9], [1e9, 1.0, 1e9]],
)
@pytest.mark.parametrize("law", list(LawName))
def test_odd_sizes_with_a_prior_end_with_a_status(sizes: list[float], law: LawName) -> None:
    treatment = Treatment((RadiotherapyCourse(-90.0, -50.0), RadiotherapyCourse(28.0, 28.0)), resection_days=(-99.0,))
    fit = fit_growth(series(sizes, treatment), QUICK.model_copy(update={"law": law}), prior(law))
    check_shapes(fit)
    assert (fit.status is FitStatus.TOO_FEW_POINTS) == (len(sizes) < 3 or not any(sizes))
    forecast = GrowthForecast(fit)
    for values in (forecast.trajectories(np.array([-500.0, 20.0, 400.0, 1e5])), forecast.relative_change(30.0, 400.0)):
        assert np.isfinite(values).all() and (values >= 0).all()


def test_many_scans_and_much_treatment() -> None:
    days = np.arange(60) * 14.0
    courses = tuple(RadiotherapyCourse(100.0 * k, 100.0 * k + 20.0, 30.0, 10) for k in range(8))
    patient = series(
        2000.0 * np.exp(0.3 * np.sin(days / 90.0)), Treatment(courses, resection_days=(200.0, 400.0)), days
    )
    for fit in (fit_growth(patient, QUICK), fit_growth(patient, QUICK, prior())):
        check_shapes(fit)


def test_no_scan_is_misuse() -> None:
    with pytest.raises(InputError, match="P1: no volume_mm3"):
        fit_growth(series([]))


@pytest.mark.parametrize("bootstrap", list(Bootstrap))
def test_every_bootstrap_spreads_the_forecast(bootstrap: Bootstrap) -> None:
    noise = np.exp(np.random.default_rng(0).normal(0, 0.1, DAYS.size))
    patient = series(2000.0 * np.exp(0.005 * DAYS) * noise)
    fit = fit_growth(patient, QUICK.model_copy(update={"bootstrap": bootstrap, "replicates": 200}))
    low, high = np.quantile(fit.replicates[:, kernels.RATE], [0.05, 0.95])
    assert low < 0.005 < high and high - low < 0.004


def test_seed_and_patient_decide_the_replicates() -> None:
    one = series(size_after(LAWS[LawName.EXPONENTIAL], DAYS, 37_500.0, treatment=TREATED), TREATED)
    alone, again = fit_growth(one, QUICK), fit_growth(one, QUICK)
    assert np.array_equal(again.replicates, alone.replicates)
    other = SizeSeries("P2", one.size_name, one.days, one.sizes, TREATED)
    assert not np.array_equal(fit_growth(other, QUICK).replicates, alone.replicates)
    assert not np.array_equal(fit_growth(one, QUICK.model_copy(update={"seed": 1})).replicates, alone.replicates)


@pytest.mark.parametrize("hierarchical", [False, True])
def test_the_first_replicates_stay_when_more_are_asked_for(hierarchical: bool) -> None:
    patient = series([4000.0, 5000.0, 3000.0, 6000.0], TREATED)
    few, many = (
        fit_growth(
            patient, QUICK.model_copy(update={"replicates": count}), prior() if hierarchical else None
        ).replicates
        for count in (5, 20)
    )
    np.testing.assert_array_equal(many[:5], few)


def test_blocks_of_replicates_are_drawn_alike() -> None:
    """More blocks change none of the first; each block has draws of its own."""
    settings = FitSettings(starts=4, pilots=2).quick.model_copy(update={"pilots": 2})
    patient = series([2000.0, 2300.0, 2500.0])
    one, two = (
        fit_growth(patient, settings.model_copy(update={"replicates": count})).replicates
        for count in (BLOCK, BLOCK + 50)
    )
    np.testing.assert_array_equal(two[:BLOCK], one)
    assert not np.isin(two[BLOCK:, kernels.RATE], one[:, kernels.RATE]).any()


def test_unit_of_size_only_scales() -> None:
    sizes = size_after(LAWS[LawName.EXPONENTIAL], DAYS, 37_500.0, treatment=TREATED)
    large, small = fit_growth(series(sizes, TREATED), QUICK), fit_growth(series(sizes / 2.0, TREATED), QUICK)
    np.testing.assert_allclose(large.replicates[:, :5], small.replicates[:, :5], rtol=1e-6)
    np.testing.assert_allclose(large.replicates[:, 7], 2.0 * small.replicates[:, 7], rtol=1e-6)


@pytest.mark.parametrize("shift", [-1000.0, 700.0])
@pytest.mark.parametrize("hierarchical", [False, True])
def test_the_zero_of_days_changes_nothing(shift: float, hierarchical: bool) -> None:
    treatment = Treatment((RadiotherapyCourse(28.0 + shift, 70.0 + shift),))
    patient = prior() if hierarchical else None
    here = GrowthForecast(fit_growth(series([4000.0, 5000, 3000, 6000], TREATED), QUICK, patient))
    there = GrowthForecast(fit_growth(series([4000.0, 5000, 3000, 6000], treatment, DAYS + shift), QUICK, patient))
    days = np.array([10.0, 100.0, 200.0])
    np.testing.assert_allclose(there.trajectories(days + shift), here.trajectories(days), rtol=1e-6)


@pytest.mark.parametrize("law", list(LawName))
def test_one_scan_is_enough_with_a_prior(law: LawName) -> None:
    settings = QUICK.model_copy(update={"law": law, "replicates": 200})
    fit = fit_growth(series([4000.0], Treatment((RadiotherapyCourse(-60.0, -20.0),))), settings, prior(law))
    assert fit.status is FitStatus.TOO_FEW_POINTS
    bands = GrowthForecast(fit).quantiles(np.array([0.0, 30.0, 300.0]), np.array([0.05, 0.95]))
    widths = np.log(bands[1] / bands[0])
    assert widths[0] < widths[1] < widths[2] and widths[1] > 0.5


def test_a_prior_draws_parameters_to_the_population() -> None:
    patient = series(2000.0 * np.exp(0.05 * DAYS[:3]))
    alone, with_prior = fit_growth(patient, QUICK), fit_growth(patient, QUICK, prior())
    mean = prior().parameters["rate_per_day"].mean
    assert mean < with_prior.parameters[kernels.RATE] < alone.parameters[kernels.RATE]
    assert with_prior.errors == prior().errors and alone.errors is None


def test_replicates_can_be_given() -> None:
    patient = series(size_after(LAWS[LawName.EXPONENTIAL], DAYS, 37_500.0, treatment=TREATED), TREATED)
    observed = patient.sizes * np.exp(np.random.default_rng(1).normal(0, 0.1, (5, DAYS.size)))
    problem = PatientProblem(patient, LawName.EXPONENTIAL, BoundsPreset.DEFAULT, Noise.LOGNORMAL)
    sample = Sample(observed, np.ones_like(observed), np.tile(problem.prior_on_coordinates[0], (5, 1)))
    fits = ReplicateFitter.of(problem, QUICK).fit(sample)
    assert fits.rows.shape == (5, 8) and (fits.losses < 0.3).all()
    quick = ReplicateFitter.of(problem, FitSettings().quick).fit(sample)
    assert (fits.losses <= 1.01 * quick.losses).mean() > 0.5
