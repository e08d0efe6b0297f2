"""Fisher-Kolmogorov in one slice: the rule for tissue, and where the front goes first."""

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr

from tumorcast.data.cohort import CohortSlice
from tumorcast.evaluation.fisher_kolmogorov import GREY_SHARE, WHITE_MM2_PER_DAY, arrival_score, diffusivity, t1_of
from tumorcast.records import Contrast

SIZE = 48


def slice_of(t1: np.ndarray) -> CohortSlice:
    """A round tumour in the middle of a round brain of such a T1."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    away = np.hypot(rows - 24, columns - 24)
    labels = np.where(away < 4, 2, 0).astype(np.uint8)
    area, brain = float((labels > 0).sum() * 4), away < 20
    return CohortSlice(t1[None], labels, brain, np.eye(4), area, float(brain.sum() * 4), 0)


def quarters() -> np.ndarray:
    """White matter on the left and the right, grey above, CSF below the middle; air outside is darker still."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - 24
    t1 = np.where(np.abs(columns) >= np.abs(rows), 0.6, np.where(rows < 0, 0.2, -0.6))
    return (t1 + 0.02 * np.random.default_rng(0).standard_normal(t1.shape)).astype(np.float32)


def test_three_classes_of_t1_are_told_apart_and_the_tumour_is_taken_for_white_matter() -> None:
    found = diffusivity(slice_of(quarters()), quarters())
    np.testing.assert_allclose(
        [found[24, 8], found[8, 24], found[40, 24], found[24, 24], found[0, 0]],
        [WHITE_MM2_PER_DAY, GREY_SHARE * WHITE_MM2_PER_DAY, 0.0, WHITE_MM2_PER_DAY, 0.0],
        rtol=1e-6,
    )


def test_the_front_goes_first_along_white_matter_and_last_into_csf() -> None:
    score = arrival_score(slice_of(quarters()), quarters(), 2.0)
    assert score[24, 24] == 0.0
    for step in (6, 8):
        white, grey, csf = score[24, 24 - step], score[24 - step, 24], score[24 + step, 24]
        assert 0 > white > grey > csf


def test_in_one_tissue_it_ranks_as_distance_does() -> None:
    flat = np.zeros((SIZE, SIZE), np.float32)
    present = slice_of(flat)
    distance = distance_transform_edt(present.labels == 0)
    ring = present.brain & (distance > 0)
    assert spearmanr(arrival_score(present, flat, 2.0)[ring], -distance[ring]).statistic > 0.98


def test_the_front_moves_at_its_speed() -> None:
    """2 sqrt(D r), from two pixels on: less than 15 % off, since its profile takes some way to form."""
    flat = np.zeros((SIZE, SIZE), np.float32)
    score = arrival_score(slice_of(flat), flat, 2.0)
    speed = 2.0 * 4 / (score[24, 30] - score[24, 34])
    assert abs(speed / (2 * np.sqrt(WHITE_MM2_PER_DAY * 0.025)) - 1) < 0.15


def test_pixels_it_never_reaches_are_ranked_by_distance() -> None:
    score = arrival_score(slice_of(quarters()), quarters(), 2.0)
    below = score[34:43, 24]
    assert np.all(np.diff(below) < 0)
    assert np.isfinite(score).all()


def test_t1_before_contrast_is_preferred_and_may_be_missing() -> None:
    assert t1_of((Contrast.T2F, Contrast.T1C, Contrast.T1N)) == 2
    assert t1_of((Contrast.T2F, Contrast.T1C)) == 1
    assert t1_of((Contrast.T2F,)) is None
