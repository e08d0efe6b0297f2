"""Follow-ups: which slices and scans they are of, what is refused, and the sizes that forecasts of them aim at."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import RecordingGrowth, WindowEngine
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.errors import InputError
from tumorcast.evaluation.followup import (
    FollowUp,
    TargetSize,
    area_ratio,
    counterparts,
    followed_patients,
    forecast_followups,
    grown_followups,
    last_followups,
    latest_followup,
    same_slices,
)
from tumorcast.evaluation.targets import TargetSource, targets_from_past
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Contrast, Forecaster, Session
from tumorcast.settings import ForecastSettings, SamplerSettings

GROWTH = GrowthModel(FitSettings(replicates=4), Forecaster.MECHANISTIC, fixed_prior(None))
BASE = ForecastSettings(relative_change=0, members=2, batch=4, sampler=SamplerSettings(steps=2, noise_level=10))


@pytest.fixture
def cohort(blob_cohort: Path) -> Iterator[Cohort]:
    with Cohort.open(blob_cohort) as opened:
        yield opened


def test_those_that_grew_most_come_first(cohort: Cohort) -> None:
    found = grown_followups(cohort, "A", 9)
    assert [(one.session_id, one.later_id) for one in found] == [("001", "002"), ("000", "001")]
    assert found[0].ratio > found[1].ratio > 1.1  # 109, 69 and 45 pixels
    assert len(grown_followups(cohort, "A", 1)) == 1
    assert grown_followups(cohort, "C", 9) == []  # no tumour


def test_without_growth_the_latest_is_the_last_scan_alone(cohort: Cohort, blob: Callable, tmp_path: Path) -> None:
    latest = latest_followup(cohort, "A")
    assert latest is not None and latest.is_known
    assert (latest.session_id, latest.later_id) == ("001", "002")
    assert latest_followup(cohort, "C") is None
    scans = [blob("S", f"{k}", 9.0 * k, 8.0 - k) for k in range(2)]
    write_cohort(tmp_path / "x.h5", scans, {}, image_size=64, contrasts=tuple(Contrast), config={})
    with Cohort.open(tmp_path / "x.h5") as shrinking:
        last = latest_followup(shrinking, "S")
    assert last is not None and not last.is_known
    assert (last.session_id, last.later_day, last.ratio) == ("1", 9.0, 1.0)


def test_the_last_scan_is_followed_up_from_the_one_before(cohort: Cohort) -> None:
    assert followed_patients(cohort) == ["A", "B"]  # C has one scan
    found = last_followups(cohort, "A", 2)
    assert [(one.session_id, one.later_id, one.planned.source_slice) for one in found] == [
        ("001", "002", 10),
        ("001", "002", 11),
    ]
    assert area_ratio(found) == found[0].ratio > 1.1
    assert len(last_followups(cohort, "A", None)) == 3


def test_what_cannot_be_followed_up_is_refused(blob: Callable[..., Session], tmp_path: Path) -> None:
    sessions = [
        *(blob("bare", f"{k}", 9.0 * k, 0.0) for k in range(2)),
        *(blob("gone", f"{k}", 9.0 * k, 6.0 * (k == 0)) for k in range(2)),
        *(replace(blob("moved", f"{k}", 9.0 * k, 6.0), source_slice=np.arange(3) + 9 * k) for k in range(2)),
        blob("single", "0", 0.0, 4.0),
    ]
    path = tmp_path / "x.h5"
    write_cohort(path, sessions, {}, image_size=64, contrasts=tuple(Contrast), config={"dated": False})
    truth, ahead = (TargetSource(target, GROWTH) for target in TargetSize)
    with Cohort.open(path) as cohort:
        with pytest.raises(InputError, match="bare shows no tumour"):
            last_followups(cohort, "bare", 1)
        with pytest.raises(InputError, match="of moved has no slice 0 "):
            last_followups(cohort, "moved", 1)
        with pytest.raises(InputError, match=r"gone: .* 0 times"):
            truth.of(cohort, last_followups(cohort, "gone", 1), BASE)
        with pytest.raises(InputError, match="--target truth"):
            ahead.check(cohort)
        truth.check(cohort)
    flat = [replace(blob("flat", f"{k}", 9.0 * k, 4.0 + k), volume_mm3=float("nan")) for k in range(2)]
    write_cohort(path, flat, {}, image_size=64, contrasts=tuple(Contrast), config={})
    with Cohort.open(path) as cohort, pytest.raises(InputError, match=r"flat .* volume_mm3"):
        ahead.of(cohort, last_followups(cohort, "flat", 1), BASE)
    write_cohort(path, sessions[-1:], {}, image_size=64, contrasts=tuple(Contrast), config={})
    with Cohort.open(path) as cohort, pytest.raises(InputError, match="no patient has two scans"):
        followed_patients(cohort)


def test_the_same_slices_are_found_in_another_cohort(cohort: Cohort, blob: Callable, tmp_path: Path) -> None:
    found = last_followups(cohort, "A", 2)
    assert same_slices(counterparts(cohort, found), found)
    others = {
        "last scans of A": [blob("A", f"{k:03d}", 50.0 * k, 4.0 + k) for k in range(3)],
        "slices .10, 11. of A": [blob("A", f"{k:03d}", 60.0 * k, 5.0 + k) for k in range(3)],
    }
    for message, scans in others.items():
        path = tmp_path / f"{len(message)}.h5"
        write_cohort(path, scans, {}, image_size=64, contrasts=tuple(Contrast), config={})
        with Cohort.open(path) as other, pytest.raises(InputError, match=message):
            counterparts(other, found)


def test_true_and_forecast_sizes(cohort: Cohort) -> None:
    found = last_followups(cohort, "A", 2)
    true = TargetSource(TargetSize.TRUE, GROWTH).of(cohort, found, BASE)
    np.testing.assert_allclose(true.draw(true.settings).target_ratio, area_ratio(found))
    ahead = TargetSource(TargetSize.FORECAST, GROWTH).of(cohort, found, BASE)
    assert (ahead.settings.horizon_days, ahead.settings.relative_change) == (60.0, None)
    more = ahead.settings.model_copy(update={"members": 5})
    assert ahead.draw(more).target_ratio.shape == (5,)


def test_sizes_are_forecast_from_no_later_scan(cohort: Cohort) -> None:
    growth = RecordingGrowth(GROWTH.settings, GROWTH.forecaster, GROWTH.prior_for)
    found = last_followups(cohort, "A", 1)
    TargetSource(TargetSize.FORECAST, growth).of(cohort, found, BASE)
    series = cohort.size_series("A", TargetSource(TargetSize.FORECAST, growth).size)
    targets_from_past(growth, series, BASE, day=found[0].day, later_day=found[0].later_day)
    assert [one.days.tolist() for one in growth.seen] == 2 * [[0.0, 60.0]]  # of 0, 60, 120


def test_every_slice_is_forecast(cohort: Cohort) -> None:
    found: tuple[FollowUp, ...] = last_followups(cohort, "A", 2)
    true = TargetSource(TargetSize.TRUE, GROWTH).of(cohort, found, BASE)
    made = forecast_followups(found, true.draw(true.settings), WindowEngine(), true.settings)
    assert [one.source_slice for one in made] == [10, 11]
    np.testing.assert_allclose(made[0].aimed_mm2, found[0].later.area_mm2)
