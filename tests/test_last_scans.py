"""What benchmarks/model_card.py is made of: forecasts of last scans, judged by the library."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.conftest import SETTINGS
from tests.fakes import WindowEngine, model_info
from tumorcast.data.cohort import Cohort
from tumorcast.evaluation.aggregate import PatientValues, Summaries, long_table
from tumorcast.evaluation.baselines import Method
from tumorcast.evaluation.followup import TargetSize
from tumorcast.evaluation.metrics import AP
from tumorcast.evaluation.targets import TargetSource
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GROWTH = GrowthModel(FitSettings(replicates=4), Forecaster.MECHANISTIC, fixed_prior(None))
KEPT = SETTINGS.model_copy(update={"keep_members": True})


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def cohort(blob_cohort: Path) -> Iterator[Cohort]:
    with Cohort.open(blob_cohort) as opened:
        yield opened


@pytest.mark.slow
def test_last_scans_are_forecast_once_and_judged(cohort: Cohort, tmp_path: Path) -> None:
    from last_scans import LastScans, OtherMaps, evaluated, largest_slices

    engine = WindowEngine(model_info(progression=True))
    asked: list[str] = []

    def engine_for(patient_id: str) -> WindowEngine:
        asked.append(patient_id)
        return engine

    scans = LastScans(cohort, engine_for, KEPT, slices=2)
    maps = OtherMaps(engine, KEPT, tmp_path, largest_slices(scans, ["A"]), members=1)
    made_of = {"contrasts": [str(name) for name in cohort.contrasts]}
    path = scans.archive(tmp_path / "truth.h5", TargetSource(TargetSize.TRUE, GROWTH), made_of)
    scans.archive(path, TargetSource(TargetSize.TRUE, GROWTH), made_of)
    assert asked == ["A", "B"]  # the second time they stand
    found = evaluated(path, scans, TargetSize.TRUE, maps)
    assert [(one.patient_id, one.days_off, len(one.slices)) for one in found.patients] == [("A", 0.0, 2), ("B", 0.0, 2)]
    methods = {line.method for line in Summaries.of(found.patients).methods}
    assert {Method.PAPER, Method.PROGRESSION_ALONE, Method.UNGUIDED_CHANGE} < methods
    values = PatientValues.of(long_table(found.patients))
    assert np.isnan(values.of_metric(Method.PAPER, AP)).tolist() == [False, True]
    path = scans.archive(tmp_path / "aimed.h5", TargetSource(TargetSize.FORECAST, GROWTH), made_of)
    found = evaluated(path, scans, TargetSize.FORECAST, maps)
    assert Method.UNGUIDED_CHANGE not in {line.method for line in Summaries.of(found.patients).methods}
    assert [one.status for one in found.outcomes] == ["ok", "ok"]


def test_the_papers_map_is_ranked_by_how_much_changed(cohort: Cohort) -> None:
    from last_scans import paper_map

    from tumorcast.evaluation.followup import last_followups

    (followup,) = last_followups(cohort, "A", 1)
    score, probability = paper_map(followup, 2, WindowEngine(), KEPT)
    inside = followup.now.brain
    assert probability[inside].min() == 1.0  # 198 steps of 0.5
    assert probability[~inside].max() == 0.0
    assert score[inside].min() > KEPT.change_threshold > score[~inside].max()


def test_r_squared_by_hand(cohort: Cohort) -> None:
    """The engine is right on clean slices, and off by 0.01 on noisy ones."""
    from regressor import r_squared, regressor_sizes

    sizes: list[dict[str, Any]] = [
        regressor_sizes(cohort, name, WindowEngine(), slices=9, batch=2, seed=0) for name in ("A", "B")
    ]
    assert len(sizes[0]["true"]) == 9
    assert r_squared(sizes, "clean").value == pytest.approx(1.0, abs=1e-6)
    true = np.array([value for one in sizes for value in one["true"]])
    off = [{"true": one["true"], "clean": (np.array(one["true"]) + 0.01).tolist()} for one in sizes]
    expected = 1 - 0.01**2 * true.size / np.square(true - true.mean()).sum()
    assert r_squared(off, "clean").value == pytest.approx(expected)
    none = {"true": [0.0], "clean": [0.5]}
    assert r_squared([*off, none], "clean", tumour_only=True).value == pytest.approx(expected)
    assert math.isnan(r_squared([none], "clean").value)
