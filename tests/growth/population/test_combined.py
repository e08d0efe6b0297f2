"""How much the pool counts beside the mixture."""

import numpy as np
import pytest
from scipy.special import ndtri

from tumorcast.growth.population.combined import DENSITY_LEVELS, POOL_SHARE, CombinedForecast, log_density
from tumorcast.growth.population.history import History, log_sizes
from tumorcast.growth.population.kinds import FLOOR
from tumorcast.growth.prior import shipped_prior

PRIOR = shipped_prior().for_size("enhancing_oedema_mm3")
MONTHLY = 30.0 * np.arange(6)


def combined(volumes: list[float]) -> CombinedForecast:
    assert PRIOR.state_space is not None
    history = History(MONTHLY[: len(volumes)], log_sizes(np.array(volumes)))
    return CombinedForecast(PRIOR.state_space.given(history), PRIOR.pool)


def test_the_pool_counts_nothing_at_the_last_scan_and_more_from_day_to_day() -> None:
    weights = combined([10_000.0, 20_000, 7000]).pool_weights(np.array([0.0, 1.0, 10.0, 100.0, 1000.0]))
    assert weights[0] == 0.0 and (np.diff(weights) > 0).all()
    assert weights[2] / weights[4] == pytest.approx(1 - np.exp(-1))
    assert 0.5 < weights[4] < POOL_SHARE


def test_after_one_scan_the_pool_has_its_share_of_what_follows_no_law() -> None:
    alone = combined([10_000.0])
    assert alone.pool_advantage == 0.0
    (weight,) = alone.pool_weights(np.array([1e4]))
    assert weight == pytest.approx(POOL_SHARE * (1 - alone.mixture.lawful_share))


def test_a_patient_whom_the_mixture_foresaw_is_left_to_it() -> None:
    even = combined([10_000.0, 10_100, 9900, 10_050, 9950, 10_000])
    assert even.pool_advantage < -5.0 and even.mixture.lawful_share > 0.9
    assert even.pool_weights(np.array([90.0]))[0] < 0.02


def test_a_pool_that_foresaw_better_gets_no_more_than_its_share() -> None:
    erratic = combined([10_000.0, 50, 20_000, 0, 90_000, 3000])
    assert erratic.pool_weights(np.array([1e4]))[0] <= POOL_SHARE


def test_densities_are_those_of_the_quantiles() -> None:
    normal = 9.0 + np.sqrt(2) * ndtri(DENSITY_LEVELS)
    for y in (8.0, 9.0, 10.5):
        wanted = -0.25 * (y - 9.0) ** 2 - 0.5 * np.log(4 * np.pi)
        assert log_density(normal, y) == pytest.approx(wanted, abs=0.05)
    assert log_density(normal, 15.0) < log_density(normal, 13.5) < log_density(normal, 12.0)
    censored = np.maximum(normal - 4.0, FLOOR)
    assert np.exp(log_density(censored, FLOOR)) == pytest.approx(np.mean(normal - 4.0 <= FLOOR), abs=0.02)
