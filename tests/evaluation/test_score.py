"""Scores of a follow-up: outlines of a given area, maps and images against cases worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.fakes import WindowEngine
from tumorcast.archive.maps import SliceForecast
from tumorcast.evaluation.baselines import Baseline, Method, MethodMap, slice_maps
from tumorcast.evaluation.followup import FollowUp, forecast_followups
from tumorcast.evaluation.score import (
    by_metric,
    filled,
    outline_values,
    outlines_at,
    outside_tumour,
    reconstruction,
    score_images,
    score_maps,
    score_slice,
    size_error,
)
from tumorcast.evaluation.tables import IMAGE_METRICS, PROBABILITIES, WHERE
from tumorcast.forecasting.targets import PatientTargets

from .conftest import SETTINGS

ROW = np.ones((1, 6), bool)


def row(*values: float) -> np.ndarray:
    return np.array([values])


def mask(*values: int) -> np.ndarray:
    return np.array([values], bool)


def square(size: int, first: int, past: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[first:past, first:past] = True
    return mask


def disc(row_: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:40, :40]
    return np.hypot(rows - row_, columns - column) < radius


def test_filling_takes_the_best_candidates_and_no_other_pixel() -> None:
    inside, candidates = row(1, 0, 0, 0, 0, 0) > 0, row(0, 1, 1, 1, 1, 0) > 0
    grown = filled(inside, row(9, 1, 4, 2, 3, 9), candidates, 2, np.random.default_rng(0))
    assert grown.tolist() == [[True, False, True, False, True, False]]
    everything = filled(inside, row(9, 1, 4, 2, 3, 9), candidates, 99, np.random.default_rng(0))
    assert everything.tolist() == [[True, True, True, True, True, False]]
    assert np.array_equal(filled(inside, row(9, 1, 4, 2, 3, 9), candidates, -3, np.random.default_rng(0)), inside)


def test_equal_scores_are_drawn_evenly() -> None:
    """Each of four equal candidates is taken in half of the draws of two, wherever it lies; the better one always."""
    inside, candidates = np.zeros((1, 6), bool), ROW
    score = row(1, 0, 0, 5, 0, 0)
    draws = [filled(inside, score, candidates, 4, np.random.default_rng(k))[0] for k in range(400)]
    shares = np.mean(draws, axis=0)
    assert shares[0] == shares[3] == 1.0
    np.testing.assert_allclose(shares[[1, 2, 4, 5]], 0.5, atol=0.1)


def test_overlap_at_the_true_area_is_whole_for_the_truth_and_fair_to_a_constant_score() -> None:
    before, after, brain = square(16, 6, 8), square(16, 5, 9), square(16, 1, 15)
    pixels = int(after.sum())
    best = dict(outline_values(outlines_at(before, after.astype(float), brain, pixels), after, 4.0))
    assert best == {"dice": 1.0, "hd95_mm": 0.0, "surface_mm": 0.0}
    blind = dict(outline_values(outlines_at(before, np.zeros(after.shape), brain, pixels), after, 4.0))
    expected = (4 + 12 * 12 / (14 * 14 - 4)) / 16  # of 12 pixels drawn among 192, the share of truth is 12 / 192
    assert blind["dice"] == pytest.approx(expected, abs=0.08)
    assert blind["hd95_mm"] > 16


def test_an_outline_that_is_missed_counts_in_the_mean() -> None:
    """Some tools drop it, so that a method gains by finding nothing."""
    truth, nothing = square(30, 10, 20), np.zeros((30, 30), bool)
    found = dict(outline_values([truth, nothing], truth, 2.0))
    assert (found["dice"], found["hd95_mm"]) == (0.5, pytest.approx(30 * math.sqrt(2)))


@pytest.mark.parametrize("pixels", [0, 10, 45, 80, 200, 5000])
def test_an_outline_has_the_area_it_is_given(pixels: int) -> None:
    present, brain = disc(20, 20, 4), disc(20, 20, 15)
    assert present.sum() == 45
    rows, columns = np.mgrid[:40, :40]
    away = -np.hypot(rows - 20.0, columns - 21.0)
    for outline in outlines_at(present, away, brain, pixels):
        assert outline.sum() == min(pixels, brain.sum())
        assert not (outline & ~brain).any()
        assert (outline & ~present).any() == (pixels > 45)
        assert (present & ~outline).any() == (pixels < 45)


def test_a_smaller_outline_keeps_the_best_pixels_of_the_present_one() -> None:
    (outline,) = outlines_at(mask(1, 1, 1, 0), row(0.9, 0.1, 0.5, 1.0), mask(1, 1, 1, 1), 2)
    assert outline.tolist() == [[True, False, True, False]]


def test_equal_scores_give_several_outlines() -> None:
    assert len(outlines_at(mask(1, 0, 0, 0, 0), row(0, 0, 0, 0, 0), mask(1, 1, 1, 1, 1), 3)) > 1
    assert len(outlines_at(mask(1, 0, 0, 0, 0), row(0, 4, 3, 2, 1), mask(1, 1, 1, 1, 1), 3)) == 1


@pytest.fixture
def forecast(followup: FollowUp, engine: WindowEngine) -> SliceForecast:
    """Aimed at the true size."""
    settings = SETTINGS.model_copy(update={"keep_members": True})
    targets = PatientTargets(np.full(settings.members, followup.ratio))
    (made,) = forecast_followups([followup], targets, engine, settings)
    return made


def test_a_certain_and_right_probability_has_no_error(followup: FollowUp) -> None:
    truth = followup.later.labels > 0
    right = MethodMap(truth.astype(float), truth.astype(float))
    found = by_metric(score_maps(followup, {Method.PRODUCT: right}, int(truth.sum())), "product")
    assert {name: found[name] for name in ("ap", "auc", "dice", "hd95_mm", "brier", "dice_half", "coverage")} == {
        "ap": 1.0,
        "auc": 1.0,
        "dice": 1.0,
        "hd95_mm": 0.0,
        "brier": 0.0,
        "dice_half": 1.0,
        "coverage": 1.0,
    }


def test_every_method_is_scored_and_lies_in_its_metrics_support(followup: FollowUp, forecast: SliceForecast) -> None:
    maps = slice_maps(followup, forecast, (), (Baseline.NO_CHANGE, Baseline.DILATION))
    found = score_slice(followup, forecast, maps, 100)
    assert list(dict.fromkeys(score.method for score in found.maps)) == ["product", "changed", "no_change", "dilation"]
    supports = {metric.name: metric.support for metric in (*WHERE, *PROBABILITIES, *IMAGE_METRICS)}
    for score in (*found.maps, *found.images):
        least, most = supports.get(score.metric, (0.0, 1.0))  # dice_at_…
        assert math.isnan(score.value) or least <= score.value <= most, score
    assert found.areas.aimed_mm2.shape == found.areas.reached_mm2.shape == (SETTINGS.members,)
    near, every = (found.reliability[Method.PRODUCT, name].count.sum() for name in ("reliability_near", "reliability"))
    assert 0 < near < every == (followup.now.brain & (followup.now.labels == 0)).sum()
    assert (Method.DILATION, "reliability") not in found.reliability


def test_images_are_compared_where_something_changed_and_elsewhere(followup: FollowUp) -> None:
    images = {"present": followup.now.image, "later": followup.later.image}
    scores = score_images(followup, images)
    later, present = (by_metric(scores, name) for name in ("later", "present"))
    assert list(later) == [metric.name for metric in IMAGE_METRICS]
    assert later["psnr_db_brain"] == 100.0 and later["ssim_changed"] == pytest.approx(1.0)
    assert present["psnr_db_changed"] < present["psnr_db_unchanged"] < 100.0


def test_outside_is_without_all_tumour(followup: FollowUp, forecast: SliceForecast, engine: WindowEngine) -> None:
    members = forecast.members
    assert members is not None
    for outside in outside_tumour(followup, members, engine, batch=2):
        assert not (outside & ((followup.now.labels > 0) | (followup.later.labels > 0) | ~followup.now.brain)).any()
    similar, noise_db = reconstruction(followup, np.stack([followup.now.image] * 2))
    assert similar == pytest.approx(1.0) and noise_db == math.inf


def test_size_error_leaves_out_what_the_segmenter_misreads_now(followup: FollowUp, forecast: SliceForecast) -> None:
    gain = followup.later.area_mm2 - forecast.present_mm2
    right = replace(forecast, reached_mm2=np.full(3, forecast.present_segmented_mm2 + gain))
    assert size_error(followup, right) == pytest.approx(0.0)
    half = replace(forecast, reached_mm2=np.full(3, forecast.present_segmented_mm2 + gain / 2))
    assert size_error(followup, half) == pytest.approx(gain / 2 / followup.later.area_mm2)
    gone = replace(followup, later=replace(followup.later, area_mm2=0.0))
    assert math.isnan(size_error(gone, forecast))
