import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tumorcast.growth.population.autoregression import Drift, Persistence, Regression
from tumorcast.growth.population.history import History, log_sizes, size_changes, volumes
from tumorcast.growth.population.mixture import MixtureAutoregression, NormalMixture
from tumorcast.growth.population.pool import POOLED, ComponentModel, fit_components
from tumorcast.growth.population.student_t_process import StudentTProcess

LEVELS = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
EVERY = (Persistence, *POOLED)


def cohort(patients: int = 40, scans: int = 5, seed: int = 0, *, companion: bool = False) -> list[History]:
    """Patients with a level each, a wander about it and days as irregular as real ones."""
    rng = np.random.default_rng(seed)
    histories = []
    for _ in range(patients):
        days = np.cumsum(rng.uniform(10, 150, scans))
        sizes = rng.normal(9.0, 1.0) + 0.3 * np.cumsum(rng.standard_t(5, scans)) + rng.normal(0, 0.4, scans)
        other = sizes + rng.normal(1.0, 1.0, scans) if companion else None
        histories.append(History(days, sizes, rt_end_day=float(days[0] - 30), companion=other))
    return histories


COHORT = cohort()
MODELS = (Persistence.fitted(COHORT), *fit_components(COHORT))
by_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)


def width(model: ComponentModel, history: History, horizon_days: float) -> float:
    low, high = model.quantiles(history, horizon_days, np.array([0.05, 0.95]))
    return float(high - low)


@st.composite
def any_history(draw: st.DrawFn) -> History:
    """One scan to eight, of sizes from nothing to a hundred times the greatest of the cohort."""
    gaps = draw(st.lists(st.floats(1.0, 400.0), min_size=1, max_size=8))
    sizes = draw(st.lists(st.floats(4.6, 16.0), min_size=len(gaps), max_size=len(gaps)))
    rt_end_day = draw(st.none() | st.floats(-2000.0, 400.0))
    return History(np.cumsum(gaps), np.array(sizes), rt_end_day)


@by_model
@settings(max_examples=60, deadline=None)
@given(history=any_history(), horizon_days=st.floats(1.0, 3000.0))
def test_quantiles_are_finite_and_rise_with_the_level(
    model: ComponentModel, history: History, horizon_days: float
) -> None:
    quantiles = model.quantiles(history, horizon_days, LEVELS)
    assert np.all(np.isfinite(quantiles)) and np.all(np.diff(quantiles) > 0)


@by_model
@settings(max_examples=60, deadline=None)
@given(history=any_history(), horizons=st.tuples(st.floats(1.0, 1500.0), st.floats(1.0, 1500.0)))
def test_intervals_never_narrow_with_the_horizon(
    model: ComponentModel, history: History, horizons: tuple[float, float]
) -> None:
    near, far = sorted(horizons)
    assert width(model, history, near) <= width(model, history, far) * (1 + 1e-6)


@by_model
def test_zero_of_days_does_not_matter(model: ComponentModel) -> None:
    one = COHORT[3]
    assert one.rt_end_day is not None
    moved = History(one.days + 5000.0, one.log_sizes, one.rt_end_day + 5000.0)
    np.testing.assert_allclose(model.quantiles(moved, 90.0, LEVELS), model.quantiles(one, 90.0, LEVELS), atol=1e-9)


@by_model
def test_no_radiotherapy_one_scan_and_a_complete_response_can_be_forecast(model: ComponentModel) -> None:
    history = History(np.array([12.0]), log_sizes(np.array([0.0])))
    quantiles = volumes(model.quantiles(history, 730.0, LEVELS))
    assert np.all(np.isfinite(quantiles)) and np.all(quantiles >= 0) and quantiles[-1] > 0


@by_model
def test_serialisation_keeps_every_number(model: ComponentModel) -> None:
    text = json.dumps(model.model_dump(mode="json"))
    read: ComponentModel = TypeAdapter(ComponentModel).validate_python(json.loads(text))
    assert read == model
    np.testing.assert_array_equal(read.quantiles(COHORT[0], 50.0, LEVELS), model.quantiles(COHORT[0], 50.0, LEVELS))


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_too_few_changes_are_refused(kind: type[Persistence]) -> None:
    with pytest.raises(ValueError, match="at least 10"):
        kind.fitted(COHORT[:2])


def test_persistence_is_the_last_size_with_the_spread_of_the_changes() -> None:
    rng = np.random.default_rng(1)
    steps = 0.5 * rng.standard_t(4, (800, 5))
    histories = [History(np.arange(5.0), 9 + np.cumsum(row)) for row in steps]
    model = Persistence.fitted(histories)
    assert np.exp(model.log_scale) == pytest.approx(0.5, rel=0.05)
    assert np.exp(model.log_dof) == pytest.approx(4.0, rel=0.25)
    assert model.quantiles(histories[0], 70.0, np.array([0.5]))[0] == pytest.approx(histories[0].log_sizes[-1])


def test_regression_recovers_what_made_the_sizes() -> None:
    rng = np.random.default_rng(2)
    histories = []
    for _ in range(1500):
        y = [rng.normal(9.0, 1.0)]
        for _ in range(5):
            first, before = len(y) == 1, y if len(y) == 1 else y[:-1]
            mean = y[-1] + 0.1 + 0.3 * first + 0.2 * (np.mean(before) - y[-1]) + 0.15 * (9.0 - y[-1])
            y.append(mean + 0.4 * rng.standard_t(5))
        histories.append(History(np.arange(6.0), np.array(y)))
    model = Regression.fitted(histories)
    shift_at_nine = model.shift + model.to_centre * (model.centre - 9.0)
    assert [shift_at_nine, model.first_shift] == pytest.approx([0.1, 0.3], abs=0.04)
    assert [model.to_past, model.to_centre] == pytest.approx([0.2, 0.15], abs=0.03)
    assert np.exp(model.log_scale) == pytest.approx(0.4, rel=0.05)


def test_drift_after_a_first_scan_is_its_own() -> None:
    rng = np.random.default_rng(3)
    histories = []
    for _ in range(400):
        steps = np.array([1.0, 0.2, 0.2]) + 0.1 * rng.standard_normal(3)
        histories.append(History(np.arange(4.0), 9 + np.append(0.0, np.cumsum(steps))))
    model = Drift.fitted(histories)
    later = model.quantiles(histories[0], 50.0, np.array([0.5]))[0] - histories[0].log_sizes[-1]
    first = model.quantiles(histories[0].first(1), 50.0, np.array([0.5]))[0] - histories[0].log_sizes[0]
    assert [first, later] == pytest.approx([1.0, 0.2], abs=0.03)


def test_companion_is_learnt_and_does_nothing_where_unknown() -> None:
    rng = np.random.default_rng(4)
    histories = []
    for _ in range(500):
        y, gap = [rng.normal(9.0, 1.0)], rng.normal(1.0, 1.0, 5)
        for j in range(4):
            y.append(y[-1] + 0.3 * (gap[j] - 1.0) + 0.3 * rng.standard_normal())
        histories.append(History(np.arange(5.0), np.array(y), companion=np.array(y) + gap))
    median = np.array([0.5])
    known = History(np.array([0.0, 1.0]), np.array([9.0, 9.0]), companion=np.array([10.0, 11.0]))
    unknown = History(known.days, known.log_sizes)
    for model in (Drift.fitted(histories), Regression.fitted(histories), MixtureAutoregression.fitted(histories)):
        assert model.by_companion == pytest.approx(0.3, abs=0.03)
        rise = model.quantiles(known, 30.0, median) - model.quantiles(unknown, 30.0, median)
        assert rise[0] == pytest.approx(0.3, abs=0.05)
    assert Drift.fitted(COHORT).by_companion == pytest.approx(0.0, abs=1e-6)


def test_mixture_autoregression_recovers_the_chance_and_spreads() -> None:
    rng = np.random.default_rng(5)
    histories = []
    for _ in range(1500):
        level = rng.normal(9.0, 1e-3)
        y = [level + rng.normal()]
        for _ in range(5):
            anew = rng.random() < 0.3
            y.append(level + rng.normal() if anew else y[-1] + 0.2 * rng.normal())
        histories.append(History(np.arange(6.0), np.array(y)))
    model = MixtureAutoregression.fitted(histories)
    assert 1 / (1 + np.exp(-model.logit_chance)) == pytest.approx(0.3, abs=0.03)
    assert np.exp(model.log_stay_sd) == pytest.approx(0.2, rel=0.1)
    assert np.exp(model.log_redraw_sd) == pytest.approx(1.0, rel=0.1)


def test_mixture_quantiles_invert_its_distribution() -> None:
    mixture = NormalMixture(np.log([[0.7], [0.3]]), np.array([[0.0], [4.0]]), np.array([[1.0], [0.5]]))
    quantiles = mixture.quantiles(LEVELS)
    x = np.linspace(-12.0, 12.0, 200_001)
    below = np.cumsum(np.exp(mixture.log_density(x))) * (x[1] - x[0])
    np.testing.assert_allclose(np.interp(quantiles, x, below), LEVELS, atol=1e-4)


def test_student_t_process_recovers_its_spreads_and_is_calibrated() -> None:
    rng = np.random.default_rng(6)
    histories, future = [], []
    for _ in range(500):
        days = np.cumsum(rng.uniform(20, 120, 6))
        apart = np.abs(days[:, None] - days)
        K = 1.0 + 0.25 * np.exp(-apart / 100.0) + 0.09 * np.eye(6)
        y = 9 + np.linalg.cholesky(K) @ rng.normal(size=6)
        histories.append(History(days[:5], y[:5], rt_end_day=0.0))
        future.append((days[5] - days[4], y[5]))
    model = StudentTProcess.fitted(histories)
    assert np.exp(model.log_level_sd) == pytest.approx(1.0, rel=0.12)
    assert np.exp(2 * model.log_wander_sd) + np.exp(2 * model.log_noise_sd) == pytest.approx(0.34, rel=0.15)
    bounds = [model.quantiles(h, gap, np.array([0.05, 0.95])) for h, (gap, _) in zip(histories, future, strict=True)]
    inside = [low <= y <= high for (low, high), (_, y) in zip(bounds, future, strict=True)]
    assert 0.86 < np.mean(inside) < 0.94


def test_student_t_process_is_wider_for_a_patient_whose_sizes_leap_and_for_fewer_scans() -> None:
    process = StudentTProcess.fitted(COHORT)
    days = np.array([0.0, 60.0, 120.0, 180.0])
    calm, leaping = History(days, np.full(4, 9.0)), History(days, np.array([9.0, 6.0, 11.5, 9.0]))
    assert width(process, leaping, 60.0) > 1.3 * width(process, calm, 60.0)
    assert width(process, calm.first(1), 60.0) > width(process, calm, 60.0)


def test_mean_and_spread_hold_beyond_the_sizes_seen() -> None:
    """A tumour ten times the greatest seen is not forecast with an interval that has shrunk to nothing."""
    days = np.array([0.0, 60.0])
    for model in MODELS:
        usual, huge = History(days, np.array([9.0, 9.0])), History(days, np.array([14.5, 14.5]))
        assert width(model, huge, 60.0) > 0.5 * width(model, usual, 60.0)


def test_history_refuses_what_is_no_history() -> None:
    one = np.array([1.0])
    for days, sizes in [(np.empty(0), np.empty(0)), (one, np.array([1.0, 2.0])), (one, np.array([np.nan]))]:
        with pytest.raises(ValueError, match="must be"):
            History(days, sizes)
    with pytest.raises(ValueError, match="increase strictly"):
        History(np.array([2.0, 2.0]), np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="shape of days"):
        History(one, one, companion=np.ones(2))
    with pytest.raises(ValueError, match="not in 1"):
        COHORT[0].first(9)


def test_earlier_part_knows_no_later_radiotherapy() -> None:
    history = History(np.array([0.0, 50.0, 90.0]), np.full(3, 9.0), rt_end_day=80.0, rt_start_day=40.0)
    assert history.first(1).rt_end_day is None
    assert history.first(2).rt_end_day == 80.0


def test_size_changes_are_all_changes() -> None:
    changes = size_changes(COHORT)
    assert len(changes) == 160
    assert changes[0].history.days.size == 1 and changes[0].log_size == COHORT[0].log_sizes[1]


def test_fit_and_forecast_are_quick() -> None:
    """Leaving each patient out in turn takes forty fits, and a figure thousands of forecasts."""
    started = time.perf_counter()
    models = fit_components(COHORT)
    assert time.perf_counter() - started < 3.0
    started = time.perf_counter()
    for _ in range(100):
        for model in models:
            model.quantiles(COHORT[0], 60.0, LEVELS)
    assert time.perf_counter() - started < 1.0
