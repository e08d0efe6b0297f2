"""Guidance of members by a progression network whose answers are known."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import distance_transform_edt

from tumorcast.data.cohort import CohortSlice
from tumorcast.diffusion.sampler import Array
from tumorcast.engines.protocol import ModelInfo
from tumorcast.forecasting.ensemble import fused, member_growth
from tumorcast.forecasting.progression import (
    LEAST_WEIGHT,
    GuidanceKeys,
    ProgressionGuidance,
    guidance_window,
    progression_guidance,
)
from tumorcast.forecasting.targets import SliceTargets
from tumorcast.settings import ForecastSettings, NetworkKind, SamplerSettings

SIDE = 32
OUTLINE = np.s_[10:16, 10:16]
AHEAD = np.s_[10:16, 16:20]  # where the network says that tumour comes


@dataclass
class Predictor:
    """Predicts .9 ahead of the tumour, less .1 a unit of ln(area ratio), .8 in it, and tumour beyond the brain."""

    info = ModelInfo(("t1n",), SIDE, 350, NetworkKind.SEGMENTER, "", progression=NetworkKind.SLICE_PROGRESSION)
    asked: list[int] = field(default_factory=list)

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        self.asked.append(len(log_ratio))
        answer = 0.8 * outline
        answer[(slice(None), *AHEAD)] = 0.9 - 0.1 * log_ratio[:, None, None]
        answer[:, :2] = 1.0
        return np.asarray(answer, np.float32)


class WithoutProgression(Predictor):
    """Has no progression network."""

    info = ModelInfo(("t1n",), SIDE, 350, NetworkKind.SEGMENTER, "")


@pytest.fixture
def present() -> CohortSlice:
    labels, brain = np.zeros((SIDE, SIDE), np.uint8), np.ones((SIDE, SIDE), bool)
    labels[OUTLINE], brain[:2] = 2, False
    pixel_mm2 = 4.0
    return CohortSlice(
        np.zeros((1, SIDE, SIDE), np.float32), labels, brain, np.diag([2.0, 2, 2, 1]), 36 * pixel_mm2,
        brain.sum() * pixel_mm2, 7,
    )  # fmt: skip


def settings(spread: float = 0.0, batch: int = 3) -> ForecastSettings:
    return ForecastSettings(relative_change=0.5, members=8, batch=batch, sampler=SamplerSettings(spread=spread))


def guide(
    present: CohortSlice,
    change: npt.NDArray[np.float64],
    settings: ForecastSettings,
    engine: Predictor | None = None,
    members: range | None = None,
) -> ProgressionGuidance:
    targets = SliceTargets(present, change)
    own = range(len(change)) if members is None else members
    keys, asked = GuidanceKeys("P", present.source_slice, own.start), engine or Predictor()
    return progression_guidance(keys, targets, None, engine=asked, settings=settings)  # type: ignore[arg-type]


def test_a_growing_tumour_is_led_where_the_network_says_and_no_further(present: CohortSlice) -> None:
    guidance = guide(present, np.full(2, 0.02), settings())
    assert guidance.probability is not None
    near = guidance_window(present.labels > 0, 12.0, 2.0)
    ratio = 1 + 0.02 / present.brain_fraction
    np.testing.assert_allclose(guidance.window[0][AHEAD], 0.9 - 0.1 * np.log(ratio), rtol=1e-5)
    np.testing.assert_array_equal(guidance.window[0][OUTLINE], 1.0)
    np.testing.assert_allclose(guidance.window[0][25, 25], LEAST_WEIGHT * near[25, 25], rtol=1e-5)
    assert not guidance.window[:, :2].any()
    assert not guidance.probability[:, :2].any()


def test_a_shrinking_tumour_is_led_where_it_leaves(present: CohortSlice) -> None:
    guidance = guide(present, np.array([-0.01]), settings())
    np.testing.assert_allclose(guidance.window[0][OUTLINE], 0.2, rtol=1e-5)
    assert guidance.window[0][AHEAD].max() <= LEAST_WEIGHT


def test_members_of_one_size_share_an_answer_and_sizes_go_in_batches(present: CohortSlice) -> None:
    engine = Predictor()
    guide(present, np.full(8, 0.02), settings(), engine)
    guide(present, np.linspace(0, 0.02, 8), settings(), engine)
    assert engine.asked == [1, 3, 3, 2]


def test_blocks_of_members_are_those_of_the_whole(present: CohortSlice) -> None:
    change = np.linspace(-0.01, 0.05, 8)
    whole, *blocks = (
        guide(present, change[part.start : part.stop], settings(1.0), members=part)
        for part in (range(8), range(3), range(3, 8))
    )
    np.testing.assert_array_equal(whole.window, np.concatenate([block.window for block in blocks]))
    assert whole.probability is not None
    np.testing.assert_array_equal(
        whole.probability, np.concatenate([b.probability for b in blocks if b.probability is not None])
    )


def test_spread_sends_members_to_different_places_but_not_the_map(present: CohortSlice) -> None:
    change = np.full(6, 0.02)
    still, spread = (guide(present, change, settings(s)) for s in (0.0, 1.0))
    assert still.probability is not None and spread.probability is not None
    assert np.ptp(still.window, axis=0).max() == 0
    assert spread.window[(slice(None), *AHEAD)].std(axis=0).max() > 0.02
    np.testing.assert_array_equal(still.probability, spread.probability)


def test_a_model_without_the_network_leads_round_the_tumour(present: CohortSlice) -> None:
    guidance = guide(present, np.full(2, 0.02), settings(1.0), WithoutProgression())
    assert guidance.probability is None
    np.testing.assert_array_equal(
        guidance.window, np.repeat(guidance_window(present.labels > 0, 12.0, 2.0)[None], 2, 0)
    )


def test_the_growth_map_is_a_weighted_mean_of_logits() -> None:
    predicted, seen = np.float32([[0.5, 0.9, 0.0]]), np.float32([[0.5, 0.1, 0.0]])
    odds = 9**0.75 * (1 / 9) ** 0.25
    np.testing.assert_allclose(fused(predicted, seen, 0.25)[0, :2], [0.5, odds / (1 + odds)], rtol=1e-5)
    assert 0 < fused(predicted, seen, 0.25)[0, 2] < 1e-3


def test_nearness_lowers_the_growth_map_by_the_distance_alone(present: CohortSlice) -> None:
    flat = np.full((2, SIDE, SIDE), 0.5, np.float32)
    plain, near = (
        member_growth(present, flat, flat, SamplerSettings(nearness_per_mm=per_mm)).mean(axis=0)
        for per_mm in (0.0, 0.1)
    )
    pixel_mm = float(np.linalg.norm(present.affine[:3, 0]))
    away = distance_transform_edt(~(present.labels > 0)) * pixel_mm
    np.testing.assert_allclose(plain, 0.5)
    np.testing.assert_allclose(near, 1 / (1 + np.exp(0.1 * away)), rtol=1e-4)
    np.testing.assert_allclose(near[OUTLINE], 0.5)
