import numpy as np
import pytest

from tumorcast.errors import InputError
from tumorcast.growth.bootstrap import Bootstrap, Noise
from tumorcast.growth.drops import with_sudden_drops
from tumorcast.growth.fit import fit_growth, fit_replicates
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
from tumorcast.growth.mechanistic_prior import MechanisticPrior
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings, Method
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


def prior(law: LawName = LawName.EXPONENTIAL) -> MechanisticPrior:
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
    told = series(size_after(law, DAYS, 2000.0, treatment=treatment), treatment)
    with_rate = fit_growth(told, QUICK.model_copy(update={"chemotherapy": True}))
    assert with_rate.parameters[[0, 5]] == pytest.approx([0.01, 0.02], rel=1e-2)
    assert fit_growth(told, QUICK).loss > 0.1 and with_rate.loss < 1e-6


def test_rate_beyond_its_bound_is_told() -> None:
    fit = fit_growth(series(1e7 * np.exp(-0.1 * DAYS[:5])), QUICK.model_copy(update={"drop_ratio": None}))
    assert fit.status is FitStatus.AT_BOUND
    assert fit.parameters[kernels.RATE] == DEFAULT_BOUNDS.rate_per_day.lower


@pytest.mark.parametrize("sizes", [[100.0], [100.0, 150.0], [0.0, 0.0, 0.0, 0.0], [0.0]])
def test_too_few_points_persist(sizes: list[float]) -> None:
    fit = fit_growth(series(sizes, TREATED), QUICK)
    assert fit.status is FitStatus.TOO_FEW_POINTS
    assert fit.parameters[kernels.INITIAL_SIZE] == sizes[-1]
    check_shapes(fit)


@pytest.mark.parametrize(
    "sizes", [[0.0, 0.0, 500.0, 1000.0], [1000.0, 0.0, 0.0], [1000.0, 500.0, 0.0, 800.0], [1e-9, 1e9, 1e-9], [5.0] * 9]
)
@pytest.mark.parametrize("noise", list(Noise))
def test_odd_sizes_end_with_a_status(sizes: list[float], noise: Noise) -> None:
    fit = fit_growth(series(sizes, TREATED), QUICK.model_copy(update={"noise": noise}))
    check_shapes(fit)
    sizes_then = GrowthForecast(fit).trajectories(np.array([-50.0, 20.0, 400.0, 1e5]))
    assert np.isfinite(sizes_then).all() and (sizes_then >= 0).all()


def test_no_scan_is_misuse() -> None:
    with pytest.raises(InputError, match="patient P1: no volume_mm3 was measured"):
        fit_growth(series([]))


@pytest.mark.parametrize("bootstrap", list(Bootstrap))
def test_every_bootstrap_spreads_the_forecast(bootstrap: Bootstrap) -> None:
    noise = np.exp(np.random.default_rng(0).normal(0, 0.1, DAYS.size))
    told = series(2000.0 * np.exp(0.005 * DAYS) * noise)
    fit = fit_growth(told, QUICK.model_copy(update={"bootstrap": bootstrap, "replicates": 200}))
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
    told = series([4000.0, 5000.0, 3000.0, 6000.0], TREATED)
    few, many = (
        fit_growth(told, QUICK.model_copy(update={"replicates": count}), prior() if hierarchical else None).replicates
        for count in (5, 20)
    )
    np.testing.assert_array_equal(many[:5], few)


def test_unit_of_size_only_scales() -> None:
    sizes = size_after(LAWS[LawName.EXPONENTIAL], DAYS, 37_500.0, treatment=TREATED)
    large, small = fit_growth(series(sizes, TREATED), QUICK), fit_growth(series(sizes / 2.0, TREATED), QUICK)
    np.testing.assert_allclose(large.replicates[:, :5], small.replicates[:, :5], rtol=1e-6)
    np.testing.assert_allclose(large.replicates[:, 7], 2.0 * small.replicates[:, 7], rtol=1e-6)


@pytest.mark.parametrize("shift", [-1000.0, 700.0])
@pytest.mark.parametrize("hierarchical", [False, True])
def test_the_zero_of_days_changes_nothing(shift: float, hierarchical: bool) -> None:
    treatment = Treatment((RadiotherapyCourse(28.0 + shift, 70.0 + shift),))
    told = prior() if hierarchical else None
    here = GrowthForecast(fit_growth(series([4000.0, 5000, 3000, 6000], TREATED), QUICK, told))
    there = GrowthForecast(fit_growth(series([4000.0, 5000, 3000, 6000], treatment, DAYS + shift), QUICK, told))
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
    told = series(2000.0 * np.exp(0.05 * DAYS[:3]))
    alone, with_prior = fit_growth(told, QUICK), fit_growth(told, QUICK, prior())
    mean = prior().parameters["rate_per_day"].mean
    assert mean < with_prior.parameters[kernels.RATE] < alone.parameters[kernels.RATE]
    assert with_prior.errors == prior().errors and alone.errors is None


def test_a_sudden_drop_is_a_resection_and_told() -> None:
    told = series([20_000.0, 25_000.0, 2000.0, 3000.0], TREATED)
    fit = fit_growth(told, QUICK, prior())
    assert fit.series.treatment.resection_days == (45.0,)
    assert fit.notes == ("from day 30 to day 60 the size fell from 25000 to 2000: taken for a resection",)
    assert fit.parameter_names[-1] == "residual_1" and fit.parameters[-1] < 0.3
    ignored = fit_growth(told, QUICK.model_copy(update={"drop_ratio": None}), prior())
    assert ignored.series.treatment.resection_days == () and ignored.notes == ()


def test_what_is_no_sudden_drop() -> None:
    known = Treatment(resection_days=(40.0,))
    assert with_sudden_drops(series([20_000.0, 25_000, 2000], known), 0.2)[0].treatment.resection_days == (40.0,)
    slow = np.array([0.0, 30.0, 300.0])
    for told in (series([20_000.0, 25_000, 2000], days=slow), series([20_000.0, 25_000, 0.0]), series([20.0, 15, 9])):
        assert with_sudden_drops(told, 0.2) == (told, ())


def test_replicates_can_be_given() -> None:
    told = series(size_after(LAWS[LawName.EXPONENTIAL], DAYS, 37_500.0, treatment=TREATED), TREATED)
    observed = told.sizes * np.exp(np.random.default_rng(1).normal(0, 0.1, (5, DAYS.size)))
    fits = fit_replicates(told, observed, QUICK)
    assert fits.rows.shape == (5, 8) and (fits.losses < 0.3).all()
    quick = fit_replicates(told, observed, FitSettings().quick)
    assert (fits.losses <= 1.01 * quick.losses).mean() > 0.5


def test_the_papers_preset() -> None:
    paper = FitSettings.paper()
    assert (paper.method, paper.bounds, paper.noise, paper.starts) == (
        Method.LMFIT, BoundsPreset.PAPER, Noise.PAPER, 1,
    )  # fmt: skip
    assert not paper.takes_prior and FitSettings().takes_prior
    fit = fit_growth(series([375.0, 1380, 1195, 1045, 935, 1195], TREATED), paper.model_copy(update={"replicates": 3}))
    assert fit.loss_name == "paper" and fit.notes[0].startswith("lmfit: ")
    assert (fit.replicates[:, kernels.SURVIVAL] <= 0.2).all()
    first = fit.series.sizes[0]
    assert (fit.replicates[:, kernels.INITIAL_SIZE] <= 1.1 * first * (1 + 1e-9)).all()


@pytest.mark.parametrize("noise", [Noise.LOGNORMAL, Noise.ADDITIVE])
def test_lmfit_is_never_better_than_our_search(noise: Noise) -> None:
    sizes = size_after(LAWS[LawName.EXPONENTIAL], DAYS, 37_500.0, treatment=TREATED)
    told = series(sizes * np.exp(np.random.default_rng(2).normal(0, 0.05, DAYS.size)), TREATED)
    settings = FitSettings(noise=noise, replicates=1, pilots=4)
    native = fit_growth(told, settings)
    reference = fit_growth(told, settings.model_copy(update={"method": Method.LMFIT}))
    assert native.loss <= reference.loss * (1 + 1e-4)
    assert reference.loss < 4 * native.loss


def test_lmfit_gives_confidence_intervals() -> None:
    noise = np.exp(np.random.default_rng(0).normal(0, 0.05, DAYS.size))
    settings = FitSettings(method=Method.LMFIT, replicates=1)
    fit = fit_growth(series(2000.0 * np.exp(0.005 * DAYS) * noise), settings)
    low, high = fit.intervals["rate_per_day"]
    assert low < 0.005 < high and high - low < 0.002
    low, high = fit.intervals["initial_size"]
    assert low < fit.parameters[kernels.INITIAL_SIZE] < high
