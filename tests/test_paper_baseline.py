"""The baseline of benchmarks/growth_fit.py, against the closed form of its ODE."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "paper_fit.py"
DAYS = np.array([0.0, 15.0, 28.0, 60.0, 92.0, 142.0, 191.0, 218.0, 296.0])
TRUTH = np.array([0.02, 0.03, 60.0, 0.08, 0.05, 1.02])
TIGHT = {"rtol": 1e-11, "atol": 1e-12}
NEAR = tuple(1.1 * TRUTH[:5])


@pytest.fixture(scope="module")
def paper_fit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_fit", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def log_cosh(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, -x) - np.log(2.0)


def closed_form(parameters: np.ndarray, days: np.ndarray, rt_start: float) -> np.ndarray:
    """The notes' formula, with A0 on the earlier of the first day and rt_start."""
    rate, decay_rate, delay, slope, survival, initial = parameters
    origin = min(days[0], rt_start)
    after = days > rt_start
    elapsed = np.where(after, days - rt_start, 0.0)
    exponent = decay_rate / slope * (log_cosh(slope * delay) - log_cosh(slope * (elapsed - delay)))
    untreated = initial * np.exp(rate * (days - origin))
    dying = (1 - survival) * initial * np.exp(rate * (rt_start - origin) + exponent) if after.any() else 0.0
    return np.where(after, survival * untreated + dying, untreated)


@pytest.mark.slow
@pytest.mark.parametrize("rt_start", [28.0, 40.0, 0.0, -30.0, 296.0, 500.0, np.inf])
@pytest.mark.parametrize("derivative", ["published_derivative", "lean_derivative"])
def test_odeint_follows_the_closed_form(paper_fit: ModuleType, rt_start: float, derivative: str) -> None:
    sizes = paper_fit.odeint_sizes(TRUTH, DAYS, rt_start, derivative=getattr(paper_fit, derivative), **TIGHT)
    np.testing.assert_allclose(sizes, closed_form(TRUTH, DAYS, rt_start), rtol=1e-6)


def test_published_tolerance_is_loose_but_close(paper_fit: ModuleType) -> None:
    sizes = paper_fit.odeint_sizes(TRUTH, DAYS, 28.0)
    np.testing.assert_allclose(sizes, closed_form(TRUTH, DAYS, 28.0), rtol=2e-2)


def test_noise_free_parameters_are_recovered_from_near(paper_fit: ModuleType) -> None:
    relative = closed_form(TRUTH, DAYS, 28.0)
    found = paper_fit.fit(DAYS, relative, 28.0, quartic=False, derivative=paper_fit.lean_derivative, start=NEAR)
    np.testing.assert_allclose(found.parameters, TRUTH, rtol=0.05)
    assert found.sum_of_squares < 1e-4


def test_quartic_minimises_quartics_and_plain_squares(paper_fit: ModuleType) -> None:
    noise = np.random.default_rng(3).normal(1.0, 0.1, DAYS.size)
    relative = closed_form(TRUTH, DAYS, 28.0) * noise
    quartic, plain = (
        paper_fit.fit(DAYS, relative, 28.0, quartic=flag, derivative=paper_fit.lean_derivative, start=NEAR)
        for flag in (True, False)
    )
    assert quartic.sum_of_quartics < plain.sum_of_quartics
    assert plain.sum_of_squares < quartic.sum_of_squares
    residuals = relative - paper_fit.odeint_sizes(quartic.parameters, DAYS, 28.0, derivative=paper_fit.lean_derivative)
    assert quartic.sum_of_quartics == pytest.approx(np.sum(residuals**4))
    assert quartic.sum_of_squares == pytest.approx(np.sum(residuals**2))


@pytest.mark.parametrize("rt_start", [-20.0, 40.0, 500.0])
def test_fewer_scans_than_parameters_are_fitted_within_the_bounds(paper_fit: ModuleType, rt_start: float) -> None:
    relative = np.array([1.0, 0.8, 1.5])
    found = paper_fit.fit(DAYS[::4], relative, rt_start)
    assert np.isfinite(found.sum_of_squares)
    assert np.all(found.parameters[:5] >= paper_fit.LOWER) and np.all(found.parameters[:5] <= paper_fit.UPPER)
    assert 0.9 <= found.parameters[5] <= 1.1


def test_published_noise_only_shrinks(paper_fit: ModuleType) -> None:
    sizes = np.array([1.0, 2.0, 0.0])
    noisy = paper_fit.paper_replicates(sizes, 500)
    assert noisy.shape == (500, 3)
    assert np.all(noisy[:, :2] <= sizes[:2]) and np.all(noisy[:, 2] == 0.05)
    assert np.mean(noisy[:, 0] == 1.0) == pytest.approx(0.5, abs=0.07)
