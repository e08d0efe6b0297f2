"""Forecasters side by side: from the past and other persons alone, with figures that are what they are called."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tumorcast.growth import comparison
from tumorcast.growth.comparison import (
    Case,
    Comparison,
    Contestants,
    cross_validated,
    diebold_mariano,
    folds_of,
    ratio_interval,
    rolling_cases,
    scored_on,
)
from tumorcast.growth.heldout import forecast_scan
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.population.history import History, to_log
from tumorcast.growth.population.kinds import FLOOR
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, SizeSeries, Treatment

PRIOR = shipped_prior().for_size("enhancing_mm3")


def patient(
    name: str, sizes: list[float], days: list[float] | None = None, resections: tuple[float, ...] = ()
) -> SizeSeries:
    when = np.array(days) if days else 50.0 * np.arange(len(sizes))
    return SizeSeries(name, "enhancing_mm3", when, np.array(sizes), Treatment(resection_days=resections))


def cohort(patients: int, seed: int = 0) -> list[SizeSeries]:
    rng = np.random.default_rng(seed)
    return [patient(f"P{k}", np.exp(9 + np.cumsum(rng.normal(0, 0.6, 4))).tolist()) for k in range(patients)]


def test_cases_are_the_scans_with_two_before_them() -> None:
    one = patient("A", [900.0, 800, 0, 700], [0.0, 30, 70, 150], resections=(10.0,))
    first, second = rolling_cases([one, patient("B", [1.0, 2.0])], {"A": "Z"})
    assert (first.patient_id, first.person, first.history.days.size, first.horizon_days) == ("A", "Z", 2, 40.0)
    assert (second.history.days.size, second.horizon_days, second.person) == (3, 80.0, "Z")
    assert [first.log_size, second.log_size] == pytest.approx(np.log([100.0, 800.0]))
    assert (first.operated, second.operated) == (True, False)


@pytest.mark.parametrize(
    ("day", "told"), [(-5.0, (False, False)), (30.0, (True, True)), (70.0, (False, True)), (150.0, (False, False))]
)
def test_an_operation_counts_in_the_forecast_interval_and_the_one_before(day: float, told: tuple[bool, bool]) -> None:
    one = patient("A", [900.0, 800, 0, 700], [0.0, 30, 70, 150], resections=(day,))
    assert tuple(case.operated for case in rolling_cases([one])) == told


def test_folds_hold_persons_together_and_are_equally_large() -> None:
    persons = [f"P{k // 2}" for k in range(44)]
    folds = folds_of(persons, 5, 7)
    assert all(folds[2 * k] == folds[2 * k + 1] for k in range(22))
    assert sorted(np.bincount(folds) // 2) == [4, 4, 4, 5, 5]
    assert not np.array_equal(folds, folds_of(persons, 5, 8))


def test_ratios_are_over_persons_drawn_with_all_their_cases() -> None:
    rng = np.random.default_rng(0)
    theirs, alone = rng.uniform(1, 2, 40), [f"P{k}" for k in range(40)]
    ours = theirs * rng.uniform(0.5, 1.5, 40)
    low, high = ratio_interval(ours, theirs, alone)
    assert low < ours.mean() / theirs.mean() < high
    twice = ratio_interval(np.repeat(ours, 2), np.repeat(theirs, 2), np.repeat(alone, 2).tolist())
    assert twice == pytest.approx((low, high))  # scans of the same persons add no certainty
    np.testing.assert_allclose(ratio_interval(0.8 * theirs, theirs, alone), 0.8)  # paired


def test_diebold_mariano_is_a_t_test_whose_units_are_persons() -> None:
    rng = np.random.default_rng(1)
    ours, theirs, alone = rng.normal(0.3, 1, 30), rng.normal(0, 1, 30), [f"P{k}" for k in range(30)]
    expected = stats.ttest_1samp(ours - theirs, 0.0)
    assert diebold_mariano(ours, theirs, alone) == pytest.approx((expected.statistic, expected.pvalue))
    thrice = diebold_mariano(np.repeat(ours, 3), np.repeat(theirs, 3), np.repeat(alone, 3).tolist())
    assert thrice == pytest.approx((expected.statistic, expected.pvalue))
    assert diebold_mariano(theirs, theirs, alone) == (None, None)
    assert diebold_mariano(ours, theirs, ["P"] * 30) == (None, None)


def test_a_fold_is_forecast_by_the_others_alone() -> None:
    """The last sizes of a person, under both ids, and that person's other scans change no forecast of the person's."""
    seen = cohort(16)
    same = {"P3": "P4"}
    hidden = [
        replace(one, sizes=np.append(one.sizes[:-1], 77.0)) if one.patient_id in {"P3", "P4"} else one for one in seen
    ]
    one, other = (cross_validated(patients, 2, 5, same) for patients in (seen, hidden))
    mine, others = one.part(frozenset({"P3", "P4"})), one.part(frozenset({"P3"})) ^ True
    assert mine.sum() == 4 and {case.person for case in np.array(one.cases, dtype=object)[mine]} == {"P4"}
    for name, rows in one.quantiles.items():
        np.testing.assert_array_equal(rows[mine], other.quantiles[name][mine])
        assert name == "line" or not np.array_equal(rows[others], other.quantiles[name][others])
    assert list(one.quantiles) == [
        "persistence", "cohort_steps", "linear_regression", "line", "pool", "state_space", "combined"
    ]  # fmt: skip


def test_those_of_a_prior_are_the_forecasters_of_fit() -> None:
    """The shipped prior gives the growth law no weight in the pool, so nothing is fitted that is not here."""
    one = patient("A", [9000.0, 300, 0, 0, 2500])
    model = GrowthModel(FitSettings(replicates=20), Forecaster.COMBINED, fixed_prior(shipped_prior()))
    assert PRIOR.mechanistic_weights[model.settings.law] == 0
    told = scored_on([one], Contestants.of_prior(PRIOR))
    assert list(told.quantiles) == ["persistence", "line", "pool", "state_space", "combined"]
    names = {"combined": Forecaster.COMBINED, "pool": Forecaster.POOLED, "state_space": Forecaster.STATE_SPACE}
    for name, forecaster in names.items():
        scans = [forecast_scan(replace(model, forecaster=forecaster), one, scan) for scan in (2, 3, 4)]
        np.testing.assert_allclose(told.quantiles[name], [scan.log_quantiles for scan in scans], atol=1e-9)
    persistence = [scan.persistence_log_quantiles for scan in scans]
    np.testing.assert_array_equal(told.quantiles["persistence"], persistence)
    assert {rows.min() for rows in told.quantiles.values()} == {FLOOR}


def test_what_a_prior_lacks_is_learnt_or_told() -> None:
    case = rolling_cases([patient("A", [9000.0, 300, 0])])[0]
    histories = [History.of(one) for one in cohort(8)]
    told = Contestants.of_prior(PRIOR, histories).quantiles(case)
    assert {"cohort_steps", "linear_regression"} < set(told)
    with pytest.raises(ValueError, match="older tumorcast"):
        Contestants.of_prior(PRIOR.model_copy(update={"state_space": None}))


def made(patient_id: str, sizes: list[float], horizon_days: float, truth: float, *, operated: bool = False) -> Case:
    y = to_log(np.array(sizes), "x_mm3")
    return Case(patient_id, patient_id, History(np.arange(y.size) * 1.0, y), horizon_days, truth, operated)


CASES = [
    made("A", [900.0, 0.0], 10.0, 5.0),
    made("A", [900.0, 0.0, 50.0], 20.0, 6.0, operated=True),
    made("B", [900.0, 800.0], 30.0, 7.0),
    made("C", [900.0] * 7, 40.0, 8.0),
]


def points(*values: float) -> np.ndarray:
    return np.repeat(np.array(values)[:, None], comparison.LEVELS.size, axis=1)


def test_the_report_is_what_it_is_called() -> None:
    """Point forecasts: CRPS and MAE are the absolute error, and an interval holds what is hit."""
    said = {"persistence": points(6, 8, 9, 10), "pool": points(5.5, 7, 7.5, 10), "other": points(5, 6, 7, 9)}
    told = Comparison(CASES, said)
    report = told.report(told.part(None))
    assert (report["cases"], report["patients"]) == (4, 3)
    assert report["strata"] == {
        "short horizon": 1, "middle horizon": 1, "long horizon": 2, "2 earlier scans": 2, "3 earlier scans": 1,
        "4 earlier scans or more": 1, "after zero": 1, "after non-zero": 3, "after an operation": 1,
    }  # fmt: skip
    other = report["forecasters"]["other"]
    assert (other["crps"], other["mae"], other["coverage90"], other["width90"]) == pytest.approx(
        (0.25, 0.25, 0.75, 0.0)
    )
    assert other["over_persistence"]["crps_ratio"] == pytest.approx(0.25 / 1.75)
    assert other["over_pool"]["crps_ratio"] == pytest.approx(0.25)
    assert other["over_pool"]["low"] <= 0.25 <= other["over_pool"]["high"]
    differences = np.array([-0.5, -1, -0.5, -1])
    sums = np.array([0.25 - 0.25, 0.25, -0.25])  # of A, B and C, about the mean
    expected = differences.mean() / (np.sqrt(1.5 * np.sum(sums**2)) / 4)
    assert other["over_pool"]["diebold_mariano"] == pytest.approx(expected)
    assert other["over_pool"]["p"] == pytest.approx(2 * stats.t.sf(abs(expected), 2))
    after = {name: other["strata"][name] for name in ("after zero", "after non-zero", "after an operation")}
    assert [each["cases"] for each in after.values()] == [1, 3, 1]
    assert [each["crps"] for each in after.values()] == pytest.approx([0.0, 1 / 3, 0.0])
    assert [each["coverage90"] for each in after.values()] == pytest.approx([1.0, 2 / 3, 1.0])
    assert other["strata"]["4 earlier scans or more"] == {
        "cases": 1, "crps": 1.0, "over_persistence": 0.5, "over_pool": 0.5, "coverage90": 0.0
    }  # fmt: skip


def test_a_part_is_its_patients_alone() -> None:
    told = Comparison(CASES, {"persistence": points(6, 8, 9, 10), "pool": points(5.5, 7, 7.5, 10)})
    report = told.report(told.part(frozenset({"B"})))
    assert (report["cases"], report["patients"]) == (1, 1)
    assert report["forecasters"]["persistence"]["crps"] == pytest.approx(2.0)
    assert report["forecasters"]["pool"]["over_persistence"]["diebold_mariano"] is None
    assert "long horizon" in report["strata"] and "after zero" not in report["forecasters"]["pool"]["strata"]
    assert told.report(told.part(frozenset()))["forecasters"] == {}
