"""Maps of baselines with an engine whose answers are known."""

import numpy as np
import pytest

from tests.fakes import WindowEngine
from tumorcast.evaluation.baselines import (
    Baseline,
    Method,
    Unguided,
    distance_mm,
    near_tumour,
    product_map,
    slice_maps,
    unguided,
)
from tumorcast.evaluation.followup import FollowUp, forecast_followups
from tumorcast.evaluation.score import by_metric, score_maps
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.records import Contrast

from .conftest import SETTINGS

OWN = [Method.PRODUCT, Method.CHANGED]  # of a model without a progression network


def forecast_of(followup: FollowUp, engine: WindowEngine) -> object:
    targets = PatientTargets(np.full(SETTINGS.members, followup.ratio))
    return forecast_followups([followup], targets, engine, SETTINGS)[0]


def test_baselines_without_diffusion(followup: FollowUp, engine: WindowEngine) -> None:
    forecast = forecast_of(followup, engine)
    forecast.tumour_now[:] = 0
    forecast.tumour_now[32, 45] = 1.0
    maps = slice_maps(followup, forecast, tuple(Contrast), tuple(Baseline)).maps
    assert list(maps) == [
        *OWN,
        Method.NO_CHANGE,
        Method.DILATION,
        Method.FISHER_KOLMOGOROV,
        Method.SEGMENTER_DISTANCE,
    ]
    scores = score_maps(followup, maps, int((followup.later.labels > 0).sum()))
    values = {method: by_metric(scores, method) for method in maps}
    candidates = followup.now.brain & (followup.now.labels == 0)
    prevalence = ((followup.later.labels > 0) & candidates).sum() / candidates.sum()
    assert values[Method.NO_CHANGE]["ap"] == pytest.approx(prevalence)
    assert values[Method.NO_CHANGE]["auc"] == 0.5
    assert "coverage" not in values[Method.NO_CHANGE]
    assert values[Method.DILATION]["ap"] > 0.9  # the blob grows evenly
    assert values[Method.DILATION]["dice"] > values[Method.NO_CHANGE]["dice"]
    assert maps[Method.SEGMENTER_DISTANCE].score.argmax() == 32 * 64 + 45
    assert "brier" not in values[Method.SEGMENTER_DISTANCE]


def test_without_a_t1_there_is_no_fisher_kolmogorov(followup: FollowUp, engine: WindowEngine) -> None:
    forecast = forecast_of(followup, engine)
    assert list(slice_maps(followup, forecast, (Contrast.T2F,), (Baseline.FISHER_KOLMOGOROV,)).maps) == OWN


def test_nearness_takes_one_off_the_logarithm_a_millimetre() -> None:
    np.testing.assert_allclose(near_tumour(np.array([0.999, 0.999]), np.array([0.0, 4.0])), [0.0, -4.0], atol=1e-9)


def test_unguided_members_leave_no_window_open_and_are_as_many_as_encodings(
    followup: FollowUp, engine: WindowEngine
) -> None:
    members = unguided(followup, engine, SETTINGS)
    assert len(members) == 2
    assert engine.windows and max(engine.windows) == 0.0
    np.testing.assert_allclose(members[0], np.clip(followup.now.image, -1, 1), atol=0.06)  # the noise of σ = 0.01 alone
    found = slice_maps(followup, forecast_of(followup, engine), (), tuple(Baseline), Unguided(engine, SETTINGS))
    assert found.unguided is not None
    np.testing.assert_allclose(found.unguided, members.mean(axis=0))
    outside, change = followup.now.labels == 0, np.abs(members - followup.now.image).sum(1).mean(0)
    np.testing.assert_allclose(found.maps[Method.UNGUIDED_CHANGE].score[outside], change[outside])
    assert found.maps[Method.UNGUIDED_SEGMENTED].probability is not None


def test_the_products_map_is_the_forecasts_own_where_it_has_one(followup: FollowUp, engine: WindowEngine) -> None:
    forecast = forecast_of(followup, engine)
    away_mm = distance_mm(followup)
    made = product_map(forecast, away_mm)
    assert made.probability is None
    np.testing.assert_allclose(made.score, near_tumour(forecast.tumour, away_mm))

    class WithGrowth:
        growth = np.full(away_mm.shape, 0.25, np.float32)

    found = product_map(WithGrowth(), away_mm)  # type: ignore[arg-type]
    assert found.probability is WithGrowth.growth and found.score is WithGrowth.growth
