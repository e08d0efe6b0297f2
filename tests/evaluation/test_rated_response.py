"""Ratings, base rates of other folds, and scores of probabilities, on tables made by hand; and LUMIERE's own counts."""

from pathlib import Path

import numpy as np
import pytest

from tumorcast.errors import InputError
from tumorcast.evaluation.rated_response import (
    Event,
    RatedScan,
    Rating,
    auc_over_scans,
    base_rates,
    fold_models,
    forecast_chances,
    judged,
    mean_over_scans,
    progression_within,
    rated_scans,
    read_ratings,
    reliability,
    report,
    seen_by_experts,
    verdict,
)
from tumorcast.evaluation.statistics import Estimate
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.population.history import History
from tumorcast.growth.population.pool import Pool
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.growth.size_table import SizeColumns, read_sizes
from tumorcast.records import Forecaster, SizeSeries

QUICK = FitSettings(replicates=20)


def series(name: str, sizes: list[float]) -> SizeSeries:
    return SizeSeries(name, "enhancing_mm3", 60.0 * np.arange(len(sizes)), np.array(sizes))


def test_ratings_are_read_and_other_words_are_none(tmp_path: Path) -> None:
    path = tmp_path / "sizes.csv"
    path.write_text("patient_id,day,rano\nA,0,pre-op\nA,60,SD\nA,120,PD\nA,,PD\nB,60,\n")
    assert read_ratings(path) == {("A", 60.0): Rating.STABLE, ("A", 120.0): Rating.PROGRESSIVE}
    with pytest.raises(InputError, match="no column 'expert'"):
        read_ratings(path, "expert")


def test_a_rated_scan_has_two_before_it() -> None:
    cohort = [series("A", [1.0, 2.0]), series("B", [1.0, 2.0, 3.0, 4.0])]
    ratings = dict.fromkeys([("A", 60.0), ("B", 60.0), ("B", 120.0)], Rating.STABLE)
    assert rated_scans(cohort, ratings) == [RatedScan(1, 2, Rating.STABLE)]


def test_a_base_rate_knows_no_patient_of_its_fold() -> None:
    """Patients 0 and 5 share a fold: of the others' two scans one is progression."""
    scans = [RatedScan(0, 2, Rating.PROGRESSIVE), RatedScan(5, 2, Rating.PROGRESSIVE)]
    scans += [RatedScan(1, 2, Rating.PROGRESSIVE), RatedScan(2, 2, Rating.COMPLETE)]
    seen = seen_by_experts(scans, Event.PROGRESSION)
    assert seen.tolist() == [1, 1, 1, 0] and seen_by_experts(scans, Event.RESPONSE).tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(base_rates(scans, seen), [0.5, 0.5, 2 / 3, 1.0])


def test_an_interval_draws_patients_with_all_their_scans() -> None:
    """A patient's scans are all alike: as wide as of the two patients' means alone, not as of the forty scans."""
    values, patients = np.repeat([0.0, 1.0], 20), np.repeat([0, 1], 20).tolist()
    found = mean_over_scans(values, patients)
    assert (found.value, found.low, found.high, found.patients) == (0.5, 0.0, 1.0, 2)


def test_auc_is_that_of_all_pairs_and_its_interval_of_patients() -> None:
    rng = np.random.default_rng(0)
    chances, seen = rng.random(60).round(1), (rng.random(60) < 0.4).astype(float)
    pairs = [
        (high > low) + 0.5 * (high == low)
        for high in chances[seen == 1].tolist()
        for low in chances[seen == 0].tolist()
    ]
    found = auc_over_scans(chances, seen, np.repeat(np.arange(12), 5).tolist())
    assert found.value == pytest.approx(np.mean(pairs)) and found.low < found.value < found.high
    assert np.isnan(auc_over_scans(chances, np.ones(60), [0] * 60).value)


def test_reliability_counts_every_scan_once() -> None:
    table = reliability(np.array([0.0, 0.2, 0.39, 1.0]), np.array([0.0, 1.0, 0.0, 1.0]))
    assert [row["scans"] for row in table] == [1, 2, 0, 0, 1]
    assert (table[1]["forecast"], table[1]["observed"], table[2]["observed"]) == (0.295, 0.5, None)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.2, -0.01, "better than"), (-0.2, 0.01, "not shown to be better than"), (0.01, 0.2, "worse than")],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, words: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high, 30)) == f"{words} the base rate"


def test_a_forecast_that_knows_beats_the_base_rate_and_its_opposite_does_not() -> None:
    scans = [RatedScan(k, 2, Rating.PROGRESSIVE if k % 3 else Rating.STABLE) for k in range(30)]
    seen = seen_by_experts(scans, Event.PROGRESSION)
    knows, errs = judged(0.1 + 0.8 * seen, seen, scans), judged(0.9 - 0.8 * seen, seen, scans)
    assert knows["brier"] == 0.01 and knows["auc"][0] == 1.0 and knows["verdict"] == "better than the base rate"
    assert errs["brier"] == 0.81 and errs["auc"][0] == 0.0 and errs["verdict"] == "worse than the base rate"


def test_chances_are_forecast_from_the_scans_before_alone() -> None:
    """A later scan that changes changes what was measured, and no forecast."""
    shipped = GrowthModel(QUICK, Forecaster.COMBINED, fixed_prior(shipped_prior()))
    scans = [RatedScan(0, 2, Rating.PROGRESSIVE)]
    grown, gone = (
        forecast_chances([series("A", [9000.0, 5000.0, size])], scans, lambda patient: shipped)
        for size in (8000.0, 0.0)
    )
    for event in Event:
        assert grown.forecast[event] == gone.forecast[event] and 0 < grown.forecast[event][0] < 1
    assert not grown.had_progressed[0]
    assert (grown.measured[Event.PROGRESSION], gone.measured[Event.PROGRESSION]) == (1.0, 0.0)
    assert (grown.measured[Event.RESPONSE], gone.measured[Event.RESPONSE]) == (0.0, 1.0)


def test_who_has_progressed_by_the_last_scan_known() -> None:
    """From 5000 to 8000 a tumour has; what the scan to forecast shows is not asked."""
    shipped = GrowthModel(QUICK, Forecaster.COMBINED, fixed_prior(shipped_prior()))
    scans = [RatedScan(patient, 2, Rating.STABLE) for patient in (0, 1)]
    cohort = [series("A", [5000.0, 8000.0, 0.0]), series("B", [5000.0, 4000.0, 9000.0])]
    assert forecast_chances(cohort, scans, lambda patient: shipped).had_progressed.tolist() == [True, False]


def test_progression_by_a_date_is_over_the_least_size_on_the_way() -> None:
    """Of scans on days 0, 60 …: B falls to 2000 on the way, and 3000 is progression; A has progressed on day 60."""
    shipped = GrowthModel(QUICK, Forecaster.COMBINED, fixed_prior(shipped_prior()))
    cohort = [series("A", [3000.0, 5000.0, 1.0]), series("B", [9000.0, 2900.0, 2000.0, 3000.0])]
    ratings = {("A", 120.0): Rating.PROGRESSIVE, ("B", 120.0): Rating.STABLE, ("B", 180.0): Rating.PROGRESSIVE}
    known, chances, seen = progression_within(cohort, ratings, lambda patient: shipped, days=120.0)
    assert known == [RatedScan(1, 1, Rating.PROGRESSIVE), RatedScan(1, 2, Rating.PROGRESSIVE)]
    assert seen.tolist() == [1.0, 1.0] and np.all((chances > 0) & (chances < 1))
    known, _, seen = progression_within(cohort, ratings, lambda patient: shipped, days=60.0)
    assert [each.rating for each in known] == [Rating.STABLE, Rating.PROGRESSIVE] and seen.tolist() == [0.0, 1.0]


@pytest.mark.slow
def test_models_of_folds_know_no_patient_of_theirs() -> None:
    rng = np.random.default_rng(0)
    cohort = [series(f"P{k}", rng.lognormal(9, 0.7, 4).round().tolist()) for k in range(15)]
    cohort[0] = series("P0", [200.0, 900.0, 900.0, 900.0])
    model_of = fold_models(cohort, shipped_prior().for_size("enhancing_mm3"))
    prior = model_of(1).prior_for(cohort[1])
    others = [History.of(one) for k, one in enumerate(cohort) if k % 5 != 1]
    assert prior is not None and prior.patients == 12 and prior.pool == Pool.fitted(others)
    ratings = {(f"P{k}", 180.0): Rating.PROGRESSIVE if k % 2 else Rating.COMPLETE for k in range(15)}
    figures = report(cohort, ratings, {"folds": model_of})
    assert (figures["scans"], figures["patients"]) == (15, 15)
    assert figures["baseline_not_measurable"] == {"CR": 1, "PR": 0, "SD": 0, "PD": 0}  # patient 0's is made so
    assert set(figures["folds"]) == {"progression", "response", "new_progression", "within"}
    assert 0 < figures["folds"]["new_progression"]["scans"] < 15
    assert set(figures["folds"]["response"]) == {"of_rating", "of_size"}


def test_lumiere_has_its_rated_scans(shared_data: Path) -> None:
    table = shared_data / "lumiere" / "sizes.csv"
    scans = rated_scans(read_sizes(table, SizeColumns(size="enhancing_mm3")).series, read_ratings(table))
    assert len(scans) == 146 and seen_by_experts(scans, Event.PROGRESSION).sum() == 95
