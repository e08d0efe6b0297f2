"""The fit by lmfit: the same model and loss as ours, and the paper's preset."""

import numpy as np
import pytest

from tumorcast.growth.bootstrap import Noise, Stream, noise_factors, patient_rng
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.laws import PAPER_BOUNDS, BoundsPreset, Exponential, Response, size_after
from tumorcast.growth.settings import FitMethod, FitSettings
from tumorcast.kernels import growth as kernels
from tumorcast.records import FitStatus, LawName, RadiotherapyCourse, SizeSeries, Treatment

DAYS = np.array([0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 190.0, 230.0, 280.0, 340.0])
TREATED = Treatment((RadiotherapyCourse(28.0, 70.0),))
LAW = Exponential(0.012, Response(0.03, 70.0, 0.08, 0.08))
LMFIT = FitSettings(method=FitMethod.LMFIT, replicates=2)
ODD = [[0.0, 0.0, 500.0, 1000.0], [1000.0, 0.0, 0.0], [1e-9, 1e9, 1e-9], [5.0] * 5, [100.0], [0.0] * 3]


def series(sizes: list[float] | np.ndarray, treatment: Treatment = TREATED, shift: float = 0.0) -> SizeSeries:
    return SizeSeries("P1", "volume_mm3", DAYS[: len(sizes)] + shift, np.asarray(sizes, dtype=float), treatment)


def noisy(rate: float = 0.005, error: float = 0.05) -> np.ndarray:
    return np.asarray(2000.0 * np.exp(rate * DAYS + np.random.default_rng(0).normal(0, error, DAYS.size)))


def loss_of(settings: FitSettings, sizes: np.ndarray, model: np.ndarray) -> float:
    match settings.noise:
        case Noise.LOGNORMAL:
            return float(np.sum(np.log(model / sizes) ** 2))
        case Noise.ADDITIVE:
            return float(np.sum(((model - sizes) / sizes[0]) ** 2))
        case Noise.PAPER:
            return float(np.sum(((model - sizes) / sizes[0]) ** 4))


@pytest.mark.slow
@pytest.mark.parametrize("noise", list(Noise))
@pytest.mark.parametrize("method", list(FitMethod))
def test_the_loss_is_what_it_is_called(noise: Noise, method: FitMethod) -> None:
    settings = FitSettings(method=method, noise=noise, replicates=1, pilots=4)
    sizes = noisy()
    fit = fit_growth(series(sizes, Treatment()), settings)
    assert fit.loss_name == noise
    assert fit.loss == pytest.approx(loss_of(settings, sizes, GrowthForecast(fit).best(DAYS)), rel=1e-6)


@pytest.mark.parametrize("noise", list(Noise))
def test_both_methods_agree_where_there_is_one_minimum(noise: Noise) -> None:
    measured = series(noisy(), Treatment())
    settings = FitSettings(noise=noise, replicates=1, pilots=4)
    native, reference = (
        fit_growth(measured, settings.model_copy(update={"method": method}))
        for method in (FitMethod.NATIVE, FitMethod.LMFIT)
    )
    assert native.status is reference.status is FitStatus.CONVERGED
    assert native.loss == pytest.approx(reference.loss, rel=1e-4)
    np.testing.assert_allclose(native.parameters[[0, 7]], reference.parameters[[0, 7]], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [Noise.LOGNORMAL, Noise.ADDITIVE])
def test_lmfit_is_never_better_than_our_search(noise: Noise) -> None:
    sizes = size_after(LAW, DAYS, 37_500.0, treatment=TREATED)
    measured = series(sizes * np.exp(np.random.default_rng(2).normal(0, 0.05, DAYS.size)))
    settings = FitSettings(noise=noise, replicates=1, pilots=4)
    native = fit_growth(measured, settings)
    reference = fit_growth(measured, settings.model_copy(update={"method": FitMethod.LMFIT}))
    assert native.loss <= reference.loss * (1 + 1e-4)
    assert reference.loss < 4 * native.loss


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ODD)
@pytest.mark.parametrize("noise", list(Noise))
def test_odd_sizes_end_with_a_status(sizes: list[float], noise: Noise) -> None:
    fit = fit_growth(series(sizes), LMFIT.model_copy(update={"noise": noise}))
    assert isinstance(fit.status, FitStatus) and np.isfinite(fit.loss)
    ahead = GrowthForecast(fit).trajectories(np.array([-50.0, 20.0, 400.0, 1e5]))
    assert np.isfinite(ahead).all() and (ahead >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("law", list(LawName))
def test_the_zero_of_days_changes_nothing(law: LawName) -> None:
    later = Treatment((RadiotherapyCourse(728.0, 770.0),))
    settings = LMFIT.model_copy(update={"law": law})
    here = GrowthForecast(fit_growth(series([4000.0, 5000, 3000, 6000]), settings))
    there = GrowthForecast(fit_growth(series([4000.0, 5000, 3000, 6000], later, 700.0), settings))
    days = np.array([10.0, 100.0, 200.0])
    np.testing.assert_allclose(there.trajectories(days + 700.0), here.trajectories(days), rtol=1e-4)


def test_confidence_intervals() -> None:
    fit = fit_growth(series(noisy(), Treatment()), LMFIT)
    low, high = fit.intervals["rate_per_day"]
    assert low < 0.005 < high and high - low < 0.002
    low, high = fit.intervals["initial_size"]
    assert low < fit.parameters[kernels.INITIAL_SIZE] < high


def test_a_parameter_at_its_bound_is_told() -> None:
    assert fit_growth(series(noisy(0.3, 0.0), Treatment()), LMFIT).status is FitStatus.AT_BOUND


def test_the_papers_preset() -> None:
    """One start, its bounds, fourth powers, noise that only shrinks, nothing inferred: as the docstring says."""
    paper = FitSettings.paper()
    assert (paper.method, paper.bounds, paper.noise, paper.starts, paper.drop_ratio) == (
        FitMethod.LMFIT, BoundsPreset.PAPER, Noise.PAPER, 1, None,
    )  # fmt: skip
    assert not paper.takes_prior and FitSettings().takes_prior
    fit = fit_growth(series([375.0, 1380, 1195, 1045, 200, 1195]), paper.model_copy(update={"replicates": 3}))
    assert fit.loss_name == "paper" and fit.notes[0].startswith("lmfit: ")
    assert fit.series.treatment.resection_days == () and not fit.doses
    for name in ("rate_per_day", "decay_rate_per_day", "delay_days", "slope_per_day", "survival"):
        lower, upper = getattr(PAPER_BOUNDS, name)
        column = fit.replicates[:, fit.parameter_names.index(name)]
        assert (lower - 1e-12 <= column).all() and (column <= upper * (1 + 1e-9)).all()
    assert (fit.replicates[:, kernels.INITIAL_SIZE] <= 1.1 * 375.0 * (1 + 1e-9)).all()
    factors = noise_factors(patient_rng(0, "P1", Stream.NOISE), (2000,), paper.resampling)
    assert factors.max() == 1.0 and factors.mean() == pytest.approx(1 - 0.1 / np.sqrt(2 * np.pi), abs=0.005)


def test_the_papers_day_zero_is_radiotherapy_before_the_first_scan() -> None:
    treatment = Treatment((RadiotherapyCourse(-40.0, 2.0),))
    measured = series([4000.0, 5000, 3000, 6000], treatment)
    assert fit_growth(measured, FitSettings.paper().model_copy(update={"replicates": 1})).origin_day == -40.0
    assert fit_growth(measured, LMFIT).origin_day == 0.0
