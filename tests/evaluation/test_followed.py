"""Leave-patient-out: what is judged, what each patient's forecast has learned from, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.errors import InputError
from tumorcast.evaluation.archive_methods import Baseline
from tumorcast.evaluation.evaluate import EvaluationSettings
from tumorcast.evaluation.followed import LastScan, LeavePatientOut
from tumorcast.forecasting.pixel_model import PixelModelEngine
from tumorcast.growth.model import GrowthModel, fixed
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Contrast, Forecaster
from tumorcast.settings import ForecastSettings, SamplerSettings

SETTINGS = ForecastSettings(relative_change=0, members=2, batch=4, sampler=SamplerSettings(steps=2, noise_level=10))
FEW = EvaluationSettings((Baseline.NO_CHANGE, Baseline.DILATION, Baseline.UNGUIDED))


@pytest.fixture(scope="module")
def two_dates(blob: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients at two dates, of four; the last has one scan."""
    path = tmp_path_factory.mktemp("followed") / "cohort.h5"
    sizes = {"A": (4.0, 6.0), "B": (5.0, 6.5), "C": (6.0, 5.0), "D": (5.0,)}
    scans = [blob(name, f"{k}", 60.0 * k, radius) for name, radii in sizes.items() for k, radius in enumerate(radii)]
    write_cohort(path, scans, {}, image_size=64, contrasts=tuple(Contrast), config={"dated": True})
    return path


@pytest.fixture(scope="module")
def study(two_dates: Path, tiny_model: Path) -> LeavePatientOut:
    growth = GrowthModel(FitSettings(replicates=40), Forecaster.POOLED, fixed(shipped_prior()))
    engine = open_engine(EngineChoice((tiny_model,)))
    return LeavePatientOut(Cohort.open(two_dates), engine, growth, SETTINGS, FEW, slices=2)


def test_the_last_scan_is_forecast_from_the_one_before(two_dates: Path) -> None:
    with Cohort.open(two_dates) as cohort:
        scan = LastScan.of(cohort, "A")
        assert (scan.before.id, scan.after.id, scan.days) == ("0", "1", 60.0)
        assert [pair.now.source_slice for pair in scan.pairs] == [10, 11, 12]
        now, later = ((pair.labels > 0).sum() for pair in (scan.pairs[0].now, scan.pairs[0].later))
        assert scan.ratio == pytest.approx(later / now)
        assert [pair.now.source_slice for pair in LastScan.of(cohort, "A", 2).pairs] == [10, 11]
        with pytest.raises(InputError, match="D has 1 scans with a mask and needs two; leave it out"):
            LastScan.of(cohort, "D")


def test_a_front_is_learned_from_all_others_and_not_from_the_patient(study: LeavePatientOut) -> None:
    fronts = {}
    for name in "ABC":
        engine = study.engine_for(name)
        assert isinstance(engine, PixelModelEngine)
        fronts[name] = engine.front.taught_by
    assert len(set(fronts.values())) == 3


def test_both_aims_are_judged(study: LeavePatientOut) -> None:
    rows = study.patient("A", paper=False)
    truth, population = rows["truth"], rows["population"]
    assert truth["aimed_ratio"] == pytest.approx(truth["true_ratio"])
    low, high = population["aimed_90"]
    assert low < population["aimed_ratio"] < high
    for row, unguided in ((truth, True), (population, False)):
        assert len(row["slices"]) == 2
        for one in row["slices"]:
            assert ("unguided_change" in one["methods"]) is unguided
            assert 0 <= one["methods"]["product"]["ap"] <= 1
            assert one["methods"]["dilation"]["dice"] > one["methods"]["no_change"]["dice"] or row is population
    assert truth["slices"][0]["pixels_given"] == int((LastScan.of(study.cohort, "A").pairs[0].later.labels > 0).sum())
    assert np.isfinite(truth["slices"][0]["methods"]["product"]["hd95_mm"])
