"""Pairs, the maps of an engine whose answers are known, and a patient's row."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tumorcast.evaluation.comparison import Comparison, TargetMode
from tumorcast.evaluation.judging import map_figures, size_figures
from tumorcast.evaluation.methods import (
    Method,
    MethodMap,
    distance_mm,
    near_tumour,
    paper_map,
    product_map,
    progression_map,
    resting_maps,
    unguided,
    unguided_maps,
)
from tumorcast.evaluation.pairs import Pair, pairs_of
from tumorcast.evaluation.regressor import r_squared, regressor_sizes

TWICE = np.array([2.0, 2.0, 3.0])


def test_pairs_are_successive_scans_that_grew_most_first(comparison: Comparison) -> None:
    pairs = pairs_of(comparison.cohort, "A", 9)
    assert [(pair.session_id, pair.later_id) for pair in pairs] == [("001", "002"), ("000", "001")]
    assert pairs[0].ratio > pairs[1].ratio > 1.1  # 109, 69 and 45 pixels
    assert len(pairs_of(comparison.cohort, "A", 1)) == 1
    assert pairs_of(comparison.cohort, "C", 9) == []  # no tumour


def test_baselines_without_diffusion(comparison: Comparison, pair: Pair) -> None:
    seen = np.zeros(pair.now.brain.shape, np.float32)
    seen[32, 45] = 1.0
    maps = dict(resting_maps(pair, seen, comparison.cohort.contrasts))
    assert list(maps) == [
        Method.NO_CHANGE,
        Method.DILATION,
        Method.FISHER_KOLMOGOROV,
        Method.SEGMENTER_DISTANCE,
    ]
    away_mm = distance_mm(pair)
    figures = {method: map_figures(pair, answer, away_mm) for method, answer in maps.items()}
    candidates = pair.now.brain & (pair.now.labels == 0)
    prevalence = ((pair.later.labels > 0) & candidates).sum() / candidates.sum()
    assert figures[Method.NO_CHANGE]["ap"] == pytest.approx(prevalence)
    assert figures[Method.NO_CHANGE]["auc"] == 0.5
    assert figures[Method.DILATION]["ap"] > 0.9  # the blob grows evenly
    assert figures[Method.DILATION]["dice"] > figures[Method.NO_CHANGE]["dice"]
    assert maps[Method.SEGMENTER_DISTANCE].score.argmax() == 32 * 64 + 45
    assert "brier" not in figures[Method.SEGMENTER_DISTANCE]


def test_nearness_takes_one_off_the_logarithm_a_millimetre() -> None:
    np.testing.assert_allclose(near_tumour(np.array([0.999, 0.999]), np.array([0.0, 4.0])), [0.0, -4.0], atol=1e-9)


def test_unguided_members_leave_no_window_open_and_are_as_many_as_encodings(comparison: Comparison, pair: Pair) -> None:
    members = unguided(pair, comparison.engine, comparison.settings.forecast)
    assert len(members) == 2
    assert comparison.engine.windows and max(comparison.engine.windows) == 0.0
    np.testing.assert_allclose(members[0], np.clip(pair.now.image, -1, 1), atol=0.06)  # the noise of σ = 0.01 alone
    maps = dict(unguided_maps(pair, members, comparison.engine))
    np.testing.assert_allclose(maps[Method.UNGUIDED_CHANGE].score, np.abs(members - pair.now.image).sum(1).mean(0))
    assert maps[Method.UNGUIDED_SEGMENTED].probability is not None


def test_the_papers_map_is_ranked_by_how_much_changed_and_told_by_how_many_did(
    comparison: Comparison, pair: Pair
) -> None:
    answer = paper_map(pair, TWICE[:2], comparison.engine, comparison.settings.forecast)
    inside = pair.now.brain
    assert answer.probability is not None
    assert answer.probability[inside].min() == 1.0  # 198 steps of 0.5
    assert answer.probability[~inside].max() == 0.0
    assert answer.score[inside].min() > comparison.settings.forecast.change_threshold
    assert answer.score[~inside].max() < comparison.settings.forecast.change_threshold


def test_the_progression_network_is_averaged_over_the_sizes_aimed_at(comparison: Comparison, pair: Pair) -> None:
    engine = comparison.engine
    assert progression_map(pair, TWICE, engine, 1) is None
    engine.info = type("Info", (), {"progression": True})
    answer = progression_map(pair, TWICE, engine, 1)
    assert answer is not None
    outside = pair.now.brain & (pair.now.labels == 0)
    np.testing.assert_allclose(answer.score[outside], (0.2 + 0.2 + 0.3) / 3, rtol=1e-6)
    np.testing.assert_allclose(answer.score[pair.now.labels > 0], 1.0)


def test_the_products_map_is_the_forecasts_own_where_it_has_one(comparison: Comparison, pair: Pair) -> None:
    forecast = comparison._forecast(pair, TargetMode.TRUTH)
    away_mm = distance_mm(pair)
    made = product_map(forecast, away_mm)
    assert made.probability is None
    np.testing.assert_allclose(made.score, near_tumour(forecast.tumour, away_mm))

    class WithGrowth:
        growth = np.full(away_mm.shape, 0.25, np.float32)

    told = product_map(WithGrowth(), away_mm)  # type: ignore[arg-type]
    assert told.probability is WithGrowth.growth and told.score is WithGrowth.growth


def test_a_certain_and_right_probability_has_no_error(pair: Pair) -> None:
    truth = (pair.later.labels > 0).astype(float)
    figures = map_figures(pair, MethodMap(truth, truth), distance_mm(pair))
    assert {name: figures[name] for name in ("ap", "auc", "dice", "hd95_mm", "brier", "dice_half")} == {
        "ap": 1.0,
        "auc": 1.0,
        "dice": 1.0,
        "hd95_mm": 0.0,
        "brier": 0.0,
        "dice_half": 1.0,
    }
    near, every = (sum(figures[name]["count"]) for name in ("reliability_near", "reliability"))
    assert 0 < near < every == (pair.now.brain & (pair.now.labels == 0)).sum()


def test_reach_is_counted_from_what_the_segmenter_sees_now(comparison: Comparison, pair: Pair) -> None:
    forecast = comparison._forecast(pair, TargetMode.TRUTH)
    aimed = pair.later.area_mm2
    half_way = forecast.present_segmented_mm2 + (aimed - pair.now.area_mm2) / 2
    figures = size_figures(pair, replace(forecast, reached_mm2=np.full(3, half_way)))
    assert figures["reach"] == pytest.approx(0.5)
    assert figures["size_error"] == pytest.approx(abs(half_way / aimed - 1))
    little = replace(forecast, aimed_mm2=np.full(3, pair.now.area_mm2))
    assert math.isnan(size_figures(pair, little)["reach"])


def test_a_row_has_every_method_under_both_targets(comparison: Comparison) -> None:
    row, example = comparison.patient("A", paper=True)
    (pair,) = row["pairs"]
    assert set(pair["any"]) == {
        "no_change",
        "dilation",
        "fisher_kolmogorov",
        "segmenter_distance",
        "unguided_change",
        "unguided_segmented",
        "paper",
    }
    assert set(pair["truth"]) == set(pair["ode"]) == {"product", "generated_segmented"}
    assert pair["size"]["truth"]["aimed_ratio"] == pytest.approx(pair["ratio"])
    assert pair["images"]["ssim_unguided"] > 0.9
    assert example is not None and 0 <= example.product.min() <= example.product.max() <= 1


def test_growth_is_forecast_from_no_scan_after_the_present_one(comparison: Comparison) -> None:
    comparison.patient("A", paper=False)
    comparison.patient("B", paper=False)
    assert [series.days.tolist() for series in comparison.growth.seen] == 4 * [
        [0.0, 60.0]
    ]  # of 0, 60, 120; each for targets and interval


def test_a_patient_without_a_pair_has_a_row_all_the_same(comparison: Comparison) -> None:
    row, example = comparison.patient("C", paper=True)
    assert (row["pairs"], example) == ([], None)
    assert row["regressor"]["true"] == [0.0, 0.0, 0.0]


def test_r_squared_by_hand(comparison: Comparison) -> None:
    """The engine is right on clean slices, and off by 0.01 on noisy ones."""
    told = [
        regressor_sizes(comparison.cohort, name, comparison.engine, slices=9, batch=2, seed=0) for name in ("A", "B")
    ]
    assert len(told[0]["true"]) == 9
    assert r_squared(told, "clean").value == pytest.approx(1.0, abs=1e-6)
    true = np.array([value for one in told for value in one["true"]])
    off = [{"true": one["true"], "clean": (np.array(one["true"]) + 0.01).tolist()} for one in told]
    expected = 1 - 0.01**2 * true.size / np.square(true - true.mean()).sum()
    assert r_squared(off, "clean").value == pytest.approx(expected)
    none = {"true": [0.0], "clean": [0.5]}
    assert r_squared([*off, none], "clean", tumour_only=True).value == pytest.approx(expected)
