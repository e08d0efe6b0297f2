"""Metrics against cases worked by hand, and against a second way to the same number."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from skimage.metrics import structural_similarity

from tumorcast.evaluation.metrics import (
    Overlap,
    Reliability,
    average_precision,
    brier,
    dice,
    filled,
    psnr,
    roc_auc,
    ssim,
    surface_distance,
)

ROW = np.ones((1, 6), bool)


def row(*values: float) -> np.ndarray:
    return np.array([values])


def square(size: int, first: int, past: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[first:past, first:past] = True
    return mask


def outline(mask: np.ndarray) -> np.ndarray:
    """(N, 2) pixels with a neighbour of four outside, the long way round."""
    padded = np.pad(mask, 1)
    return np.array(
        [
            (y, x)
            for y, x in np.argwhere(mask)
            if not all(padded[y + 1 + dy, x + 1 + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        ]
    )


def test_dice_of_empty_masks_is_one_and_of_one_empty_mask_zero() -> None:
    nothing, something = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    assert dice(nothing, nothing) == 1.0
    assert dice(nothing, something) == dice(something, nothing) == 0.0
    assert dice(square(6, 0, 3), square(6, 1, 4)) == pytest.approx(2 * 4 / 18)


def test_a_shifted_square_is_as_far_off_as_its_shift() -> None:
    a = square(20, 5, 10)
    b = np.roll(a, 3, axis=1)
    assert surface_distance(a, b, 2.0).hd95 == 6.0
    assert surface_distance(a, a, 2.0) == surface_distance(b, b, 2.0)
    assert surface_distance(a, a, 2.0).mean == 0.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.9), pixel_mm=st.floats(0.5, 4.0))
def test_surface_distances_are_those_of_brute_force(seed: int, share: float, pixel_mm: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.random((9, 12)) < share for _ in range(2))
    a[4, 4] = b[2, 7] = True
    apart = cdist(outline(a), outline(b)) * pixel_mm
    to_b, to_a = apart.min(axis=1), apart.min(axis=0)
    found = surface_distance(a, b, pixel_mm)
    assert found.hd95 == pytest.approx(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))
    assert found.mean == pytest.approx(np.concatenate([to_b, to_a]).mean())


def test_an_empty_outline_is_the_diagonal_away_and_two_agree() -> None:
    nothing, something = np.zeros((30, 40), bool), square(40, 0, 30)[:30]
    assert surface_distance(nothing, something, 2.0).hd95 == 100.0
    assert surface_distance(something, nothing, 2.0).mean == 100.0
    assert surface_distance(nothing, nothing, 2.0).hd95 == 0.0


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
    best = Overlap.at_true_area(before, after.astype(float), brain & ~before, after, 4.0)
    assert vars(best) == {"dice": 1.0, "hd95_mm": 0.0, "surface_mm": 0.0}
    blind = Overlap.at_true_area(before, np.zeros(after.shape), brain & ~before, after, 4.0)
    expected = (4 + 12 * 12 / (14 * 14 - 4)) / 16  # of 12 pixels drawn among 192, the share of truth is 12 / 192
    assert blind.dice == pytest.approx(expected, abs=0.08)
    assert blind.hd95_mm > 16


def test_average_precision_by_hand() -> None:
    """Found at ranks 1 and 3 of 4: (1/1 + 2/3) / 2. Pixels that are no candidates do not count."""
    truth, score = row(1, 0, 1, 0, 1, 0) > 0, row(9, 8, 7, 6, 99, 99)
    candidates = row(1, 1, 1, 1, 0, 0) > 0
    assert average_precision(truth, score, candidates) == pytest.approx((1 + 2 / 3) / 2)
    assert roc_auc(truth, score, candidates) == pytest.approx(3 / 4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 12))
def test_average_precision_of_tied_scores_is_the_sum_over_thresholds(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    truth, score = rng.random((5, 8)) < 0.3, rng.integers(0, levels, (5, 8)).astype(float)
    truth[0, 0] = True
    expected, recall = 0.0, 0.0
    for threshold in np.unique(score)[::-1]:
        taken = score >= threshold
        now = (taken & truth).sum() / truth.sum()
        expected += (now - recall) * (taken & truth).sum() / taken.sum()
        recall = now
    assert average_precision(truth, score, np.ones_like(truth)) == pytest.approx(expected)


def test_ranking_nothing_has_no_value() -> None:
    nothing = np.zeros((1, 6), bool)
    assert math.isnan(average_precision(nothing, row(*range(6)), ROW))
    assert math.isnan(roc_auc(nothing, row(*range(6)), ROW))
    assert math.isnan(roc_auc(ROW, row(*range(6)), ROW))
    assert math.isnan(brier(nothing, row(*range(6)), nothing))


def test_brier_and_calibration_by_hand() -> None:
    truth, said = row(1, 0, 0, 1) > 0, row(0.8, 0.84, 0.0, 1.0)
    everywhere = np.ones((1, 4), bool)
    assert brier(truth, said, everywhere) == pytest.approx((0.2**2 + 0.84**2) / 4)
    found = Reliability.of(truth, said, everywhere)
    assert found.count.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 2, 1]
    assert found.expected_error == pytest.approx((2 * abs(0.82 - 0.5)) / 4)
    np.testing.assert_allclose(found.curve(), [[0.0, 0.82, 1.0], [0.0, 0.5, 1.0]])


def test_calibration_of_no_pixel_has_no_value() -> None:
    assert math.isnan(Reliability.of(ROW, ROW.astype(float), ~ROW).expected_error)


def test_a_calibrated_probability_has_a_small_error_and_a_bold_one_has_not() -> None:
    rng = np.random.default_rng(0)
    said = rng.random((200, 200))
    truth = rng.random((200, 200)) < said
    everywhere = np.ones_like(truth)
    assert Reliability.of(truth, said, everywhere).expected_error < 0.02
    assert Reliability.of(truth, np.clip(2 * said - 0.5, 0, 1), everywhere).expected_error > 0.1


def test_image_figures_look_only_inside_the_mask() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, 24, 24)).astype(np.float32)
    other = image.copy()
    other[:, 12:] = 0.0
    upper = np.zeros((24, 24), bool)
    upper[:9] = True  # an SSIM window of 7 reaches 3 pixels further
    assert ssim(other, image, upper) == pytest.approx(1.0)
    assert psnr(other, image, upper) == math.inf
    assert ssim(other, image, ~upper) < 0.9
    assert math.isnan(ssim(image, image, upper & ~upper)) and math.isnan(psnr(image, image, upper & ~upper))


def test_ssim_of_the_whole_image_is_scikit_images_and_counts_no_padded_window() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.uniform(-1, 1, (2, 2, 20, 24))
    whole = np.ones((20, 24), bool)
    expected = structural_similarity(a, b, win_size=7, data_range=2.0, channel_axis=0)
    assert ssim(a, b, whole) == pytest.approx(expected)
    rim = whole & ~np.pad(whole[3:-3, 3:-3], 3)
    assert math.isnan(ssim(a, b, rim))


def test_an_outline_that_is_missed_counts_in_the_mean() -> None:
    """Some tools drop it, so that a method gains by finding nothing."""
    truth, nothing = square(30, 10, 20), np.zeros((30, 30), bool)
    found = Overlap.mean_of([truth, nothing], truth, 2.0)
    assert (found.dice, found.hd95_mm) == (0.5, pytest.approx(30 * math.sqrt(2)))


def test_psnr_by_hand() -> None:
    """An error of 0.2 of a range of 2: 20 log10(10) dB."""
    image = np.zeros((1, 8, 8), np.float32)
    assert psnr(image + np.float32(0.2), image, np.ones((8, 8), bool)) == pytest.approx(20.0, rel=1e-5)


def test_ssim_is_the_formula_of_wang() -> None:
    """At one pixel, by the window's own means and sample variances, both contrasts averaged."""
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-1, 1, (2, 2, 9, 9))
    inside = np.zeros((9, 9), bool)
    inside[4, 4] = True
    values = []
    for x, y in zip(a[:, 1:8, 1:8], b[:, 1:8, 1:8], strict=True):
        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        joint = ((x - x.mean()) * (y - y.mean())).sum() / (x.size - 1)
        top = (2 * x.mean() * y.mean() + c1) * (2 * joint + c2)
        values.append(top / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (x.var(ddof=1) + y.var(ddof=1) + c2)))
    assert ssim(a, b, inside) == pytest.approx(np.mean(values))
