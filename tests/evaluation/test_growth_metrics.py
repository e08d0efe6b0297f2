"""Figures of growth against cases worked by hand, and against the long way round."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorcast.evaluation.growth_metrics import (
    NO_DIRECTION_DEGREES,
    THRESHOLDS,
    continuous_dice,
    coverage,
    dice_by_threshold,
    direction_degrees,
    outlines_at,
)

ALL = np.full((1, 6), True)


def row(*values: float) -> np.ndarray:
    return np.array([values])


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
    assert dice_by_threshold(truth, found.astype(float)) == pytest.approx([expected] * len(THRESHOLDS))


def test_dice_over_thresholds_of_empty_masks() -> None:
    nothing = np.zeros((2, 2), bool)
    assert dice_by_threshold(nothing, np.zeros((2, 2))) == [1.0] * len(THRESHOLDS)
    assert dice_by_threshold(nothing, np.full((2, 2), 0.55)) == [0.0] * 5 + [1.0] * 4


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
