"""Metrics against cases worked by hand, and against a second way to the same number."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from skimage.metrics import structural_similarity

from tumorcast.evaluation.metrics import (
    IMAGE_METRICS,
    NO_DIRECTION_DEGREES,
    PARTS,
    SIZE_METRICS,
    THRESHOLDS,
    Metric,
    Reliability,
    average_precision,
    brier,
    calibration_error,
    continuous_dice,
    coverage,
    dice,
    dice_above,
    direction_degrees,
    psnr,
    roc_auc,
    ssim,
    surface_distance,
)
from tumorcast.evaluation.tables import PROBABILITIES, WHERE

METRICS = (*WHERE, *PROBABILITIES, *IMAGE_METRICS, *SIZE_METRICS)

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


def error(reliability: Reliability) -> float:
    """The calibration error of one patient with one slice."""
    return float(calibration_error(Reliability.of_patient([reliability])[None]))


def test_brier_and_calibration_by_hand() -> None:
    truth, said = row(1, 0, 0, 1) > 0, row(0.8, 0.84, 0.0, 1.0)
    everywhere = np.ones((1, 4), bool)
    assert brier(truth, said, everywhere) == pytest.approx((0.2**2 + 0.84**2) / 4)
    found = Reliability.of(truth, said, everywhere)
    assert found.count.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 2, 1]
    assert error(found) == pytest.approx((2 * abs(0.82 - 0.5)) / 4)
    np.testing.assert_allclose(found.curve(), [[0.0, 0.82, 1.0], [0.0, 0.5, 1.0]])


def test_calibration_of_no_pixel_has_no_error() -> None:
    assert error(Reliability.of(ROW, ROW.astype(float), ~ROW)) == 0.0


def test_a_calibrated_probability_has_a_small_error_and_a_bold_one_has_not() -> None:
    rng = np.random.default_rng(0)
    said = rng.random((200, 200))
    truth = rng.random((200, 200)) < said
    everywhere = np.ones_like(truth)
    assert error(Reliability.of(truth, said, everywhere)) < 0.02
    assert error(Reliability.of(truth, np.clip(2 * said - 0.5, 0, 1), everywhere)) > 0.1


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


ALL = np.full((1, 6), True)


def mask(*values: int) -> np.ndarray:
    return np.array([values], bool)


def test_continuous_dice_by_hand() -> None:
    truth = mask(1, 1, 0, 0)
    assert continuous_dice(truth, row(1, 1, 0, 0)) == 1.0
    assert continuous_dice(truth, row(0.25, 0.25, 0, 0)) == 1.0  # faint, and on the truth alone
    assert continuous_dice(truth, row(0, 0, 1, 0)) == 0.0
    # met 0.75 of one pixel: c = 0.75; 2 * 0.75 / (0.75 * 2 + 0.75 + 0.5)
    assert continuous_dice(truth, row(0.75, 0, 0.5, 0)) == pytest.approx(1.5 / 2.75)
    assert continuous_dice(mask(0, 0), row(0, 0)) == 1.0
    assert continuous_dice(mask(0, 0), row(0.5, 0)) == 0.0


def test_continuous_dice_of_a_mask_is_dice() -> None:
    rng = np.random.default_rng(0)
    truth, found = rng.random((2, 8, 8)) > 0.5
    expected = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    assert continuous_dice(truth, found.astype(float)) == pytest.approx(expected)
    for threshold in THRESHOLDS:
        assert dice_above(truth, found.astype(float), threshold) == pytest.approx(expected)


def test_dice_over_thresholds_of_empty_masks() -> None:
    nothing = np.zeros((2, 2), bool)
    assert [dice_above(nothing, np.zeros((2, 2)), threshold) for threshold in THRESHOLDS] == [1.0] * 9
    assert [dice_above(nothing, np.full((2, 2), 0.55), threshold) for threshold in THRESHOLDS] == [0.0] * 5 + [1.0] * 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 62), st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 7))
def test_coverage_is_the_mean_over_every_order_of_equal_scores(new: int, scores: list[int], pixels: int) -> None:
    wanted = np.array([[bool(new >> k & 1) for k in range(6)]])
    score = np.array([scores], float)
    shares = []
    for order in itertools.permutations(range(6)):
        best = sorted(order, key=lambda k: -scores[k])[:pixels]
        shares.append(sum(wanted[0, k] for k in best) / wanted.sum())
    assert coverage(wanted, score, ALL, pixels) == pytest.approx(np.mean(shares))


def test_coverage_without_new_tumour_has_no_value_and_of_no_plan_is_none() -> None:
    assert math.isnan(coverage(mask(0, 0, 0, 0, 0, 0), row(1, 2, 3, 4, 5, 6), ALL, 2))
    assert coverage(mask(1, 0, 0, 0, 0, 0), row(9, 2, 3, 4, 5, 6), ALL, -3) == 0.0


def test_candidates_alone_are_covered() -> None:
    candidates = mask(0, 1, 1, 1, 1, 1)
    assert coverage(mask(0, 1, 1, 0, 0, 0), row(9, 1, 5, 0, 0, 0), candidates, 1) == 0.5


def disc(row_: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:40, :40]
    return np.hypot(rows - row_, columns - column) < radius


def test_direction_is_the_angle_between_the_shifts() -> None:
    present, right, below, left = disc(20, 20, 4), disc(20, 23, 6), disc(23, 20, 6), disc(20, 17, 6)
    assert direction_degrees(present, right, right) == pytest.approx(0.0, abs=1e-5)
    assert direction_degrees(present, below, right) == pytest.approx(90.0)
    assert direction_degrees(present, left, right) == pytest.approx(180.0)
    both = direction_degrees(present, disc(23, 23, 6), right)
    assert both == pytest.approx(45.0)


def test_direction_where_there_is_none() -> None:
    present, right, grown = disc(20, 20, 4), disc(20, 23, 6), disc(20, 20, 6)
    assert direction_degrees(present, grown, right) == NO_DIRECTION_DEGREES
    assert math.isnan(direction_degrees(present, right, grown))  # the truth went nowhere
    assert math.isnan(direction_degrees(present, right, np.zeros_like(right)))
    assert direction_degrees(present, np.zeros_like(right), right) == NO_DIRECTION_DEGREES  # missing it is no excuse


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_says_what_it_is(metric: Metric) -> None:
    assert all(metric.part(name) for name in PARTS)
    assert metric.summary and not metric.summary[0].isupper() and not metric.summary.endswith(".")


def test_patients_count_alike_in_calibration_however_many_pixels_they_have() -> None:
    many, few = (np.zeros((3, 10)) for _ in range(2))
    many[:, 0], few[:, 0] = (90.0, 18.0, 90.0), (10.0, 2.0, 2.0)
    patients = np.array([Reliability.of_patient([Reliability(*one)]) for one in (many, few)])
    np.testing.assert_allclose(patients[:, :, 0], [[1.0, 0.2, 1.0], [1.0, 0.2, 0.2]])
    assert float(calibration_error(patients)) == pytest.approx(0.4)  # said .2, true .6 on average


def test_the_tables_of_definitions_are_current() -> None:
    """A definition that has changed: run docs/evaluation_tables.py."""
    script = Path(__file__).parents[2] / "docs" / "evaluation_tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
