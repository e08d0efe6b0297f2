"""The state-space mixture: on patients one can think of, and how it is learnt."""

import numpy as np
import pytest

from tumorcast.growth.laws import UNTREATED
from tumorcast.growth.population.history import History, log_sizes, volumes
from tumorcast.growth.population.kinds import FLOOR, curves, first_weights, grid_of_kinds, is_lawful, with_lawful_share
from tumorcast.growth.population.state_space import StateSpaceMixture, expectation_maximisation
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.scores import dense_levels
from tumorcast.records import RadiotherapyCourse, Treatment

DAYS = 30.0 * np.arange(6)
BAND = np.array([0.05, 0.5, 0.95])
FLAT = 10_000 * (1 + 0.01 * np.array([1, -1, 0.5, -0.5, 1, 0.6]))
DOUBLING = 10_000 * 2 ** (DAYS / 60)
ERRATIC = 10_000 * np.array([1, 2, 0.7, 1.5, 0.5, 2.01])


def mixture() -> StateSpaceMixture:
    found = shipped_prior().for_size("enhancing_oedema_mm3").state_space
    assert found is not None
    return found


def history(sizes: np.ndarray, treatment: Treatment = UNTREATED) -> History:
    return History(DAYS[: sizes.size], log_sizes(sizes), treatment=treatment)


def band(patient: History, ahead_days: float) -> np.ndarray:
    """(3,) mm³."""
    return volumes(mixture().quantiles(patient, ahead_days, BAND))


def test_an_even_tumour_is_foretold_within_its_own_measure() -> None:
    low, middle, high = band(history(FLAT), 1.0)
    assert middle == pytest.approx(FLAT[-1], rel=0.02)
    assert 0.85 * FLAT[-1] < low < high < 1.15 * FLAT[-1]
    low, middle, high = band(history(FLAT), 90.0)
    assert FLAT[-1] / 1.8 < low < high < 1.8 * FLAT[-1]


def test_a_doubling_tumour_goes_on() -> None:
    low, middle, _ = band(history(DOUBLING), 90.0)
    assert middle == pytest.approx(DOUBLING[-1] * 2**1.5, rel=0.2)
    assert low > 1.2 * DOUBLING[-1]


def test_an_erratic_tumour_is_as_uncertain_as_its_past() -> None:
    (low, middle, high), (_, _, even) = band(history(ERRATIC), 30.0), band(history(FLAT), 30.0)
    assert high / low > 8 and high > 3 * even
    assert 0.5 * ERRATIC.mean() < middle < 2 * ERRATIC.mean()


def test_one_scan_leaves_much_open() -> None:
    low, middle, high = band(history(FLAT[:1]), 90.0)
    assert high / low > 20 and 0.6 < middle / FLAT[0] < 2.5


def test_tomorrow_is_today_and_intervals_widen() -> None:
    forecast = mixture().given(history(ERRATIC))
    ahead = np.array([0.0, 0.01, 1.0, 10.0, 100.0, 400.0])
    quantiles = forecast.quantiles(ahead, BAND)
    np.testing.assert_allclose(quantiles[1], quantiles[0], atol=1e-2)
    np.testing.assert_allclose(quantiles[2], quantiles[0], atol=0.1)
    assert (np.diff(quantiles[:, 2] - quantiles[:, 0]) > -0.02).all()


def test_what_vanished_mostly_stays_away_and_nothing_is_below_it() -> None:
    gone = history(np.array([5000.0, 1000, 0, 0, 0, 0]))
    levels = dense_levels()
    quantiles = mixture().given(gone).quantiles(np.array([1.0, 60.0]), levels)
    assert (quantiles >= FLOOR).all()
    assert np.mean(quantiles[0] == FLOOR) > 0.8 and 0.3 < np.mean(quantiles[1] == FLOOR) < 0.95
    assert quantiles[1, -1] > np.log(1000.0)


def test_no_tumour_outgrows_the_brain() -> None:
    assert band(history(DOUBLING), 800.0).max() == pytest.approx(1e6, rel=1e-3)
    paths = mixture().given(history(DOUBLING)).paths(np.array([800.0]), 100, np.random.default_rng(0))
    assert volumes(paths).max() == pytest.approx(1e6, rel=1e-3)


def test_a_course_to_come_turns_a_growing_tumour() -> None:
    """The law's answer to a course begun after the last scan is known before any scan shows it."""
    without = band(history(DOUBLING), 150.0)
    to_come = band(history(DOUBLING, Treatment((RadiotherapyCourse(160.0, 202.0),))), 150.0)
    assert to_come[1] < 0.6 * without[1] and to_come[0] < without[0]
    before = band(history(DOUBLING, Treatment((RadiotherapyCourse(160.0, 202.0),))), 5.0)
    np.testing.assert_allclose(before, band(history(DOUBLING), 5.0), rtol=1e-6)


def test_a_known_operation_to_come_makes_it_smaller_and_less_certain() -> None:
    operated = history(FLAT, Treatment(resection_days=(170.0,)))
    np.testing.assert_allclose(band(operated, 10.0), band(history(FLAT), 10.0), rtol=1e-6)
    low, middle, high = band(operated, 30.0)
    assert middle < 0.8 * FLAT[-1] and low < 0.3 * FLAT[-1] < high


def test_log_scores_are_densities_of_the_forecasts() -> None:
    """Of each scan given those before it, by the quantiles of the forecast made then."""
    patient = history(ERRATIC)
    scores = mixture().given(patient).log_scores
    assert scores.shape == (6,)
    levels = np.linspace(0.002, 0.998, 2000)
    for scan in (1, 3, 5):
        quantiles = mixture().given(patient.first(scan)).quantiles(np.array([30.0]), levels)[0]
        y, half = patient.log_sizes[scan], 0.05
        chance = np.interp(y + half, quantiles, levels) - np.interp(y - half, quantiles, levels)
        assert scores[scan] == pytest.approx(np.log(chance / (2 * half)), abs=0.05)


def test_paths_have_the_distribution_of_the_quantiles() -> None:
    for sizes in (ERRATIC, FLAT[:1], DOUBLING):
        forecast, ahead = mixture().given(history(sizes)), np.array([1.0, 30.0, 90.0, 180.0])
        paths = forecast.paths(ahead, 20_000, np.random.default_rng(0))
        levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
        np.testing.assert_allclose(np.quantile(paths, levels, axis=0).T, forecast.quantiles(ahead, levels), atol=0.12)


def test_an_area_is_asked_as_a_sphere_and_days_count_from_any_zero() -> None:
    moved = History(DAYS + 5000.0, log_sizes(ERRATIC))
    np.testing.assert_allclose(band(moved, 30.0), band(history(ERRATIC), 30.0), rtol=1e-6)


def lawful_cohort(seed: int, patients: int = 24) -> list[History]:
    """Each grows at a rate of its own, measured within 5 %."""
    rng = np.random.default_rng(seed)
    return [
        History(
            days := np.cumsum(rng.uniform(20, 90, 5)),
            log_sizes(np.exp(rng.normal(9, 0.5) + rng.normal(0.004, 0.004) * days + 0.05 * rng.standard_normal(5))),
        )
        for _ in range(patients)
    ]


def erratic_cohort(seed: int, patients: int = 24) -> list[History]:
    """Each is drawn anew round its level at every scan."""
    rng = np.random.default_rng(seed)
    return [
        History(np.cumsum(rng.uniform(20, 90, 5)), log_sizes(np.exp(rng.normal(9, 0.5) + rng.standard_normal(5))))
        for _ in range(patients)
    ]


def test_a_cohort_says_how_regular_its_patients_are() -> None:
    kinds = grid_of_kinds()
    lawful, erratic = StateSpaceMixture.fitted(lawful_cohort(0)), StateSpaceMixture.fitted(erratic_cohort(0))
    noise = [float(np.array(each.weights) @ kinds[:, 0]) for each in (lawful, erratic)]
    assert noise[0] < 0.5 * noise[1]
    shares = [float(np.array(each.weights)[is_lawful(kinds)].sum()) for each in (lawful, erratic)]
    assert shares[0] > 0.6 and shares[1] == pytest.approx(0.3, abs=1e-4)
    unseen = lawful_cohort(1)
    assert sum(lawful.given(each).log_scores[1:].sum() for each in unseen) > sum(
        erratic.given(each).log_scores[1:].sum() for each in unseen
    )
    assert lawful == StateSpaceMixture.model_validate_json(lawful.model_dump_json())


def test_too_few_changes_teach_nothing() -> None:
    with pytest.raises(ValueError, match="too few to learn from"):
        StateSpaceMixture.fitted(lawful_cohort(0, 2))


def test_weights_are_of_the_grid() -> None:
    good = mixture().model_dump()
    for weights in ((1.0,), (0.0,) * len(grid_of_kinds()), (-1.0, 2.0) + (0.0,) * (len(grid_of_kinds()) - 2)):
        with pytest.raises(ValueError, match="weights must be"):
            StateSpaceMixture(**(good | {"weights": weights}))


def test_the_share_of_the_lawful_is_kept_and_not_forgotten() -> None:
    kinds = grid_of_kinds()
    lawful = is_lawful(kinds)
    assert first_weights(kinds).sum() == pytest.approx(1.0)
    none = np.where(lawful, 0.0, 1 / (~lawful).sum())
    weights = with_lawful_share(none, kinds)
    assert weights.sum() == pytest.approx(1.0) and weights[lawful].sum() == pytest.approx(0.3)
    assert np.ptp(weights[lawful]) == pytest.approx(0.0)
    many = np.where(lawful, 0.8 / lawful.sum(), 0.2 / (~lawful).sum())
    assert with_lawful_share(many, kinds)[lawful].sum() == pytest.approx(0.8)


def test_expectation_maximisation_finds_the_shares() -> None:
    rng = np.random.default_rng(0)
    component = rng.random(4000) < 0.3
    x = rng.normal(np.where(component, 3.0, 0.0), 1.0)
    log_likelihoods = np.stack([-0.5 * (x - 3.0) ** 2, -0.5 * x**2], axis=1)
    np.testing.assert_allclose(
        expectation_maximisation(log_likelihoods, np.array([0.5, 0.5]), 200), [0.3, 0.7], atol=0.02
    )


def test_curves_cover_what_is_likely() -> None:
    rows = curves()
    assert rows.shape == (128, 8) and np.isfinite(rows).all()
    assert rows[:, 0].mean() == pytest.approx(0.003, abs=2e-4) and rows[:, 0].std() == pytest.approx(0.004, rel=0.05)
    assert np.median(rows[:, 2]) == pytest.approx(25.0, rel=0.05) and 0 < rows[:, 4].min() < rows[:, 4].max() <= 0.95
