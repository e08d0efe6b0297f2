import json

import numpy as np
import pytest
from pydantic import ValidationError

from tumorcast.growth.population.history import History
from tumorcast.growth.population.pool import MECHANISTIC, Pool, pooled

LEVELS = np.linspace(0.02, 0.98, 25)


def cohort() -> list[History]:
    rng = np.random.default_rng(7)
    return [
        History(np.cumsum(rng.uniform(20, 100, 4)), rng.normal(9.0, 1.0) + np.cumsum(rng.normal(0.1, 0.5, 4)), 0.0)
        for _ in range(30)
    ]


COHORT = cohort()
POOL = Pool.fitted(COHORT)


def test_weights_are_equal_and_sum_to_one() -> None:
    assert POOL.weights == pytest.approx((0.2,) * 4) and POOL.mechanistic_weight == pytest.approx(0.2)
    half = Pool.fitted(COHORT, mechanistic_weight=0.5)
    assert half.weights == pytest.approx((0.125,) * 4)


@pytest.mark.parametrize("mechanistic", [None, np.linspace(8.0, 10.0, 25)], ids=["without", "with"])
def test_forecast_is_the_weighted_mean_of_what_is_said(mechanistic: np.ndarray | None) -> None:
    said = POOL.contributions(COHORT[0], 60.0, LEVELS, mechanistic)
    names = ["drift", "regression", "redraw", "process"] + ([] if mechanistic is None else [MECHANISTIC])
    assert [one.name for one in said] == names
    assert sum(one.weight for one in said) == pytest.approx(1.0)
    quantiles = POOL.quantiles(COHORT[0], 60.0, LEVELS, mechanistic)
    np.testing.assert_array_equal(quantiles, pooled(said))
    np.testing.assert_allclose(quantiles, np.mean([one.quantiles for one in said], axis=0))
    assert np.all(np.diff(quantiles) > 0)


def test_mechanistic_member_moves_the_forecast_by_its_weight() -> None:
    low, high = (POOL.quantiles(COHORT[0], 60.0, LEVELS, np.full(25, y)) for y in (8.0, 9.0))
    np.testing.assert_allclose(high - low, POOL.mechanistic_weight)


def test_intervals_do_not_narrow_with_the_horizon() -> None:
    for scans in (1, 2, 4):
        widths = [np.ptp(POOL.quantiles(COHORT[1].first(scans), days, LEVELS)) for days in (1, 30, 90, 365, 730, 1500)]
        assert np.all(np.diff(widths) >= -1e-9)


def test_one_scan_is_forecast_with_a_wide_interval() -> None:
    ranges = [np.ptp(POOL.quantiles(one.first(1), 60.0, LEVELS)) for one in COHORT]
    assert min(ranges) > 1.0


def test_serialisation_keeps_the_forecast() -> None:
    read = Pool.model_validate(json.loads(json.dumps(POOL.model_dump(mode="json"))))
    assert read == POOL
    np.testing.assert_array_equal(read.quantiles(COHORT[2], 30.0, LEVELS), POOL.quantiles(COHORT[2], 30.0, LEVELS))


def test_weights_that_are_none_are_refused() -> None:
    values = POOL.model_dump()
    for change, message in [
        ({"weights": (0.4, 0.4)}, "2 weights for 4 members"),
        ({"weights": (0.5,) * 4}, "sum to 1"),
        ({"weights": (-0.2, 0.2, 0.4, 0.4)}, "negative"),
    ]:
        with pytest.raises(ValidationError, match=message):
            Pool.model_validate({**values, **change})


def test_pool_beats_persistence_on_the_patients_it_is_made_for() -> None:
    """On patients with a level each, and noise, whom the pool never saw."""
    from tumorcast.growth import scores
    from tumorcast.growth.population.autoregression import Persistence

    rng = np.random.default_rng(8)
    sizes = [rng.normal(9.0, 1.0) + rng.normal(0.0, 0.7, 5) for _ in range(120)]
    histories = [History(np.arange(5) * 60.0, y, 0.0) for y in sizes]
    train, held_out = histories[:60], histories[60:]
    dense, truth = scores.dense_levels(), np.array([history.log_sizes[-1] for history in held_out])
    mean = {}
    for forecaster in (Persistence.fitted(train), Pool.fitted(train)):
        quantiles = np.array([forecaster.quantiles(history.first(4), 60.0, dense) for history in held_out])
        mean[type(forecaster)] = scores.crps(quantiles, dense, truth).mean()
    assert mean[Pool] < 0.9 * mean[Persistence]
