"""The figures by which settings are chosen, by hand and with an engine that is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.archive.conftest import images_of, slice_of
from tests.fakes import ThresholdEngine
from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.forecasting.plan import plan_patient
from tumorcast.forecasting.select import Point
from tumorcast.forecasting.selection_scores import (
    WEIGHTS,
    PatientCase,
    Scores,
    agreement,
    past_likelihood,
    preservation,
    size_score,
)
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings

SIDE, PIXEL_MM = 40, 2.0
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
BASE = ForecastSettings(relative_change=0.4, batch=4, sampler=SamplerSettings(steps=2))


def forecast_of(**changes: Any) -> SliceForecast:
    """A tumour of 3 × 3 pixels in a brain of 40 × 40, forecast without any change."""
    present = (np.abs(ROWS - 20) < 2) & (np.abs(COLUMNS - 5) < 2)
    plain = slice_of(images_of(0, 2, SIDE))
    given: dict[str, Any] = dict(
        labels=present.astype(np.uint8),
        brain=np.ones((SIDE, SIDE), bool),
        affine=np.diag([-PIXEL_MM, -PIXEL_MM, 5.0, 1.0]),
        mean=plain.image,
        std=np.zeros_like(plain.image),
        tumour=present.astype(np.float32),
        present_mm2=100.0,
        present_segmented_mm2=110.0,
        aimed_mm2=np.full(3, 150.0),
    )
    return replace(plain, **(given | changes))


@pytest.mark.parametrize(
    ("reached", "aimed", "score"),
    [
        (160.0, 150.0, 1.0),
        (135.0, 150.0, 0.5),
        (185.0, 150.0, 0.5),
        (110.0, 150.0, 0.0),
        (90.0, 150.0, 0.0),
        (110.0, 100.0, 1.0),
        (112.5, 100.0, 0.5),  # nothing wanted: counted in 5 mm²
    ],
)
def test_size_is_the_share_of_the_change_that_was_reached(reached: float, aimed: float, score: float) -> None:
    forecast = forecast_of(reached_mm2=np.full(3, reached), aimed_mm2=np.full(3, aimed))
    assert size_score(forecast) == pytest.approx(score)


def test_preservation_is_of_the_members_far_from_the_tumour() -> None:
    strip, far = (np.abs(COLUMNS - 5) < 2).astype(np.uint8), COLUMNS > 6 + 20 / PIXEL_MM
    plain = forecast_of(labels=strip)
    image, beyond = plain.image, far.astype(np.float32)
    assert preservation(plain) == 1.0
    assert preservation(replace(plain, mean=image + (1 - beyond))) == 1.0
    assert preservation(replace(plain, mean=image + 0.1 * beyond)) == pytest.approx(0.5, rel=1e-4)
    both = replace(plain, mean=image + 0.06 * beyond, std=np.full_like(image, 0.08))
    assert preservation(both) == pytest.approx(0.5, rel=1e-4)  # √(.06² + .08²) = .1
    assert preservation(replace(plain, mean=image + 1)) == 0.0
    assert preservation(replace(plain, mean=image + 1, brain=~far)) == 1.0


def test_agreement_is_of_the_maps_outside_the_present_outline() -> None:
    a, b = np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.float32)
    a[20, 20:22], b[20, 21:23] = 0.5, 1.0
    a[20, 5] = 1.0  # in the present tumour
    assert agreement(forecast_of(tumour=a), forecast_of(tumour=b)) == pytest.approx(2 * 0.5 / 3)
    assert agreement(forecast_of(tumour=a), forecast_of(tumour=a)) == 1.0
    assert agreement(forecast_of(), forecast_of()) == 1.0  # nothing outside


def test_likelihood_of_the_past_is_the_mean_probability_of_what_came() -> None:
    near = np.zeros((SIDE, SIDE), bool)
    near[20, 7:11] = True
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[20, 7:9] = 3
    forecast = forecast_of(tumour=np.full((SIDE, SIDE), 0.8, np.float32), brain=near)
    now = CohortSlice(forecast.image, labels, near, forecast.affine, 1.0, 1.0, 7)
    assert past_likelihood(forecast, now) == pytest.approx((0.8 * 0.8 * 0.2 * 0.2) ** 0.25)
    sure = replace(forecast, tumour=np.ones((SIDE, SIDE), np.float32))
    assert past_likelihood(sure, now) == pytest.approx((0.999**2 * 0.001**2) ** 0.25)


def test_a_total_is_the_weighted_mean_of_what_is_known() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert Scores(1.0, 0.0, 0.0, 0.0).total == pytest.approx(0.3)
    assert Scores(0.5, 0.5, 0.5, None).total == pytest.approx(0.5)


def test_scores_of_a_patient_with_and_without_a_past(blob_cohort: Path) -> None:
    quiet = Point(100, Guidance.NORMALISED, 0.5, 2).settings(BASE)
    weak = Point(100, Guidance.NORMALISED, 0.25, 2).settings(BASE)
    loud = Point(300, Guidance.NORMALISED, 0.5, 2).settings(BASE)
    with Cohort.open(blob_cohort) as cohort:
        case = PatientCase.of(cohort, ThresholdEngine(), None, plan_patient(cohort, "A", 2))
        assert [(part.session_id, part.planned.index) for part in case.earlier] == [("001", 0), ("001", 1)]
        good, small, bright = (case.scores(settings) for settings in (quiet, weak, loud))
        (first,) = (info for info in cohort.sessions("C"))
        alone = PatientCase.of(cohort, ThresholdEngine(), None, replace(plan_patient(cohort, "A", 1), patient_id="C"))
        assert first.n_slices and alone.earlier == []
    assert good.size > 0.8 and small.size == 0.0
    assert good.preservation == pytest.approx(0.95, abs=0.01)  # the noise of σ = 0.01 alone
    assert bright.preservation < good.preservation
    assert good.agreement == small.agreement == 1.0
    assert good.past is not None and small.past is not None and good.past > small.past
    assert good.total > max(small.total, bright.total)
