"""Seeds and members: figures counted by hand, parts that are ensembles of their own, and how many are enough."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.experiments.consistency import (
    CHANGED,
    GROWTH,
    IMAGES,
    MEMBERS,
    ConsistencyExperiment,
    ConvergenceCurve,
    convergence,
    findings,
    member_maps,
    seed_figures,
)
from tumorcast.evaluation.experiments.followup_source import LatestFollowUps, forecast_ratios
from tumorcast.evaluation.experiments.run import run_experiment
from tumorcast.evaluation.followup import TargetSize
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Contrast, Forecaster, Session
from tumorcast.settings import ForecastSettings, NetworkKind, SamplerSettings

SETTINGS = ForecastSettings(relative_change=0.25, members=4, batch=3, sampler=SamplerSettings(steps=2, noise_level=10))
GROWTH_MODEL = GrowthModel(FitSettings(replicates=4), Forecaster.MECHANISTIC, fixed_prior(None))


@pytest.fixture
def source(engine: Any, blob_cohort: Path) -> Iterator[LatestFollowUps]:
    engine.info = replace(engine.info, progression=NetworkKind.SLICE_PROGRESSION)
    with Cohort.open(blob_cohort) as cohort:
        yield LatestFollowUps(cohort, engine, SETTINGS)


@pytest.fixture
def asked(source: LatestFollowUps) -> ConsistencyExperiment:
    return ConsistencyExperiment(source, 3, TargetSize.FORECAST, GROWTH_MODEL)


def test_maps_of_members_are_the_forecasts_maps(source: LatestFollowUps) -> None:
    followup, ratios = source.followup("A"), np.array([1.0, 1.2, 1.5, 2.0])
    forecast = forecast_ratios(followup, ratios, source.engine, SETTINGS)
    maps = member_maps(followup, forecast, ratios, source.engine, SETTINGS)
    assert set(maps) == {GROWTH, IMAGES, CHANGED}
    for name, whole in ((GROWTH, forecast.growth), (IMAGES, forecast.tumour), (CHANGED, forecast.changed)):
        assert whole is not None and whole.max() > 0
        np.testing.assert_allclose(maps[name].mean(axis=0), whole, atol=1e-6, err_msg=name)
    assert np.ptp(maps[GROWTH], axis=0).max() > 0.01


def test_a_part_of_an_ensemble_is_one_of_its_own(asked: ConsistencyExperiment) -> None:
    """A member depends on its number and on what it aims at, not on how many others there are."""
    source, followup = asked.source, asked.source.followup("B")
    few = replace(asked, source=replace(source, settings=SETTINGS.model_copy(update={"members": 2})))
    ratios = asked._ratios(followup)
    assert np.ptp(ratios) > 0
    many = forecast_ratios(followup, ratios, source.engine, asked.settings)
    two = forecast_ratios(followup, ratios[:2], source.engine, few.settings)
    assert many.members is not None and two.members is not None
    np.testing.assert_array_equal(many.members[:2], two.members)
    assert not np.array_equal(many.members[0], many.members[1])


def test_convergence_counted_by_hand(source: LatestFollowUps) -> None:
    followup = source.followup("A")
    forecast = forecast_ratios(followup, np.full(4, followup.ratio), source.engine, SETTINGS)
    brain, new = followup.now.brain, (followup.later.labels > 0) & (followup.now.labels == 0)
    everywhere, truth = brain.astype(np.float64), new.astype(np.float64)
    found = convergence(followup, forecast, np.stack([everywhere, truth, everywhere, truth]))
    assert list(found) == ["1", "2", "4"]
    share, outside = new.sum() / brain.sum(), (brain & (followup.now.labels == 0)).sum()
    assert found["1"]["from_another"] == pytest.approx(1 - share)
    assert found["1"]["from_full"] == pytest.approx((1 - share) / 2)
    assert found["1"]["ap"] == pytest.approx((1 + new.sum() / outside) / 2)
    assert found["1"]["brier"] == pytest.approx((outside - new.sum()) / outside / 2)
    assert found["1"]["agreement"] == pytest.approx(2 * new.sum() / (new.sum() + outside))
    assert (found["2"]["from_another"], found["2"]["agreement"], found["2"]["from_full"]) == (0, 1, 0)
    assert found["2"]["ap"] == found["4"]["ap"] == 1
    assert np.isnan([found["4"]["from_another"], found["4"]["agreement"]]).all()


def test_seeds_that_are_alike_and_seeds_that_are_not(source: LatestFollowUps) -> None:
    followup = source.followup("A")
    forecast = forecast_ratios(followup, np.full(3, followup.ratio), source.engine, SETTINGS)
    assert forecast.members is not None
    same = replace(forecast, members=forecast.members[[0, 0, 0]], reached_mm2=np.full(3, 5.0))
    found = seed_figures(followup, same, source.engine, 2)
    alike = ("outlines_dice", "ssim_inside", "ssim_outside", "sd_inside", "sd_outside", "area_spread")
    assert [found[name] for name in alike] == pytest.approx([1, 1, 1, 0, 0, 0], abs=1e-6)
    assert found["ssim_present_inside"] < found["ssim_present_outside"] <= 1
    noisy = forecast.members.copy()
    noisy[1] += 0.2 * np.random.default_rng(0).standard_normal(noisy[1].shape, np.float32) * (followup.now.labels > 0)
    before, after = (
        seed_figures(followup, one, source.engine, 2) for one in (forecast, replace(forecast, members=noisy))
    )
    assert after["ssim_inside"] < before["ssim_inside"] - 0.01
    assert after["ssim_outside"] == pytest.approx(before["ssim_outside"], abs=1e-3)
    assert after["sd_inside"] > 1.5 * before["sd_inside"] and after["sd_outside"] == pytest.approx(before["sd_outside"])


@pytest.mark.slow
def test_on_a_cohort(asked: ConsistencyExperiment, tmp_path: Path) -> None:
    result = run_experiment(asked, tmp_path / "out")
    assert (result.done, result.failed) == (2, {})
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    row = told["units"]["B"]
    assert (row["members"], set(row["maps"]), row["maps"][GROWTH]["4"]["from_full"]) == (
        4,
        {GROWTH, IMAGES, CHANGED},
        0,
    )
    assert set(told["figures"]["enough"]) == {GROWTH, IMAGES, CHANGED}
    assert told["figures"]["seeds"]["outlines_dice"]["patients"] == 2
    assert told["made_of"]["settings"]["sampler"]["encodings"] is None
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["members.png", "seeds.png"]
    assert "3 seeds of one target" in told["answer"] and "growth map: " in told["answer"]
    with pytest.raises(UsageError, match="target = 'ode' there"):
        run_experiment(replace(asked, target=TargetSize.TRUE), tmp_path / "out")


def test_one_ensemble_does_for_seeds_and_members_that_aim_alike(asked: ConsistencyExperiment, tmp_path: Path) -> None:
    made: list[int] = []

    class Counting(type(asked.source.engine)):  # type: ignore[misc]
        def encode_step(self, x: Any, *told: Any, **more: Any) -> Any:
            made.append(len(x))
            return super().encode_step(x, *told, **more)

        def segment(self, images: Any) -> Any:
            assert len(images) <= SETTINGS.batch
            return super().segment(images)

    engine = Counting()
    one = replace(asked, source=replace(asked.source, engine=engine), target=TargetSize.TRUE)
    row = one.measure("A", tmp_path)
    steps = len(made)
    assert GROWTH not in row["maps"] and row["aimed_ratio_low_high"] == pytest.approx([row["ratio"]] * 2)
    replace(one, target=TargetSize.FORECAST).measure("A", tmp_path)
    assert len(made) - steps > steps


def curve(aps: list[float], agreements: list[float]) -> ConvergenceCurve:
    def row(ap: float, agreed: float) -> dict[str, float]:
        return dict.fromkeys((metric.name for metric in MEMBERS), 0.0) | {"ap": ap, "agreement": agreed}

    found = {str(2**k): row(ap, agreed) for k, (ap, agreed) in enumerate(zip(aps, agreements, strict=True))}
    return ConvergenceCurve.of(IMAGES, [{"maps": {IMAGES: found}}])


@pytest.mark.parametrize(
    ("aps", "agreements", "enough"),
    [
        ([0.7, 0.795, 0.8, 0.8], [0.5, 0.92, 0.95, np.nan], 2),
        ([0.8, 0.8, 0.8, 0.8], [0.5, 0.8, 0.95, np.nan], 4),
        ([0.5, 0.6, 0.7, 0.8], [0.95, 0.95, 0.95, np.nan], None),
        ([np.nan] * 4, [0.5, 0.91, 0.95, np.nan], 2),
    ],
)
def test_how_many_are_enough(aps: list[float], agreements: list[float], enough: int | None) -> None:
    assert curve(aps, agreements).enough == enough


def test_what_cannot_be_asked_is_refused(
    asked: ConsistencyExperiment, blob: Callable[..., Session], tmp_path: Path
) -> None:
    source = asked.source
    with pytest.raises(UsageError, match="--members 1, --seeds 3"):
        replace(asked, source=replace(source, settings=SETTINGS.model_copy(update={"members": 1})))
    undated = {"image_size": 64, "contrasts": tuple(Contrast), "config": {"dated": False}}
    write_cohort(tmp_path / "c.h5", [blob("D", "000", 0.0, 6.0)], {}, **undated)
    with Cohort.open(tmp_path / "c.h5") as cohort:
        without_dates = replace(source, cohort=cohort)
        with pytest.raises(InputError, match="--target truth"):
            replace(asked, source=without_dates)
        alone = replace(asked, source=without_dates, target=TargetSize.TRUE)
        row = alone.measure("D", tmp_path)
    assert row["ratio"] == 1.25 and "ap" not in row["maps"][GROWTH]["1"]
    with pytest.raises(InputError, match="no patient"):
        findings({}, tmp_path, seeds=3, target=TargetSize.FORECAST)
