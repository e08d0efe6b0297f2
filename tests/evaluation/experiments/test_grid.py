"""The grid with an engine whose answers are known: more gain grows more, a higher noise level keeps less."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import GainEngine
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.experiments.base import spread_evenly
from tumorcast.evaluation.experiments.followup_source import LatestFollowUps
from tumorcast.evaluation.experiments.grid import (
    CellSummary,
    GridCell,
    GridExperiment,
    best_of,
    cell_settings,
    cells_of,
    findings,
)
from tumorcast.evaluation.experiments.run import run_experiment
from tumorcast.evaluation.statistics import Estimate
from tumorcast.records import Contrast, Session
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings

SETTINGS = ForecastSettings(relative_change=0.25, members=2, batch=2, sampler=SamplerSettings(steps=2, noise_level=10))
CELLS = cells_of((300, 10), Guidance.NORMALISED, (1.0, 0.25))
SURE = Estimate(0.5, 0.5, 0.5, 2)


@pytest.fixture
def source(blob_cohort: Path) -> Iterator[LatestFollowUps]:
    with Cohort.open(blob_cohort) as cohort:
        yield LatestFollowUps(cohort, GainEngine(), SETTINGS)


def test_a_row_is_of_the_latest_growth_or_the_last_scan(
    source: LatestFollowUps, blob: Callable[..., Session], tmp_path: Path
) -> None:
    followup = source.followup("A")
    assert source.row(followup) == {
        "patient_id": "A",
        "session": "001",
        "later_session": "002",
        "slice": 10,
        "ratio": followup.later.area_mm2 / followup.now.area_mm2,
    }
    with pytest.raises(InputError, match="last scan of C"):
        source.followup("C")
    sessions = [blob("D", "000", 0.0, 6.0), blob("D", "001", 50.0, 5.0)]
    write_cohort(tmp_path / "c.h5", sessions, {}, image_size=64, contrasts=tuple(Contrast), config={})
    with Cohort.open(tmp_path / "c.h5") as cohort:
        shrinking = SETTINGS.model_copy(update={"relative_change": -0.5})
        of_cohort = replace(source, cohort=cohort, settings=shrinking)
        row = of_cohort.row(of_cohort.followup("D"))
    assert (row["ratio"], row["session"], row["later_session"]) == (0.5, "001", None)


def test_patients_are_spread_evenly() -> None:
    assert spread_evenly([*range(10)], 4) == [0, 3, 6, 9]
    assert spread_evenly([*range(3)], 9) == [0, 1, 2]


@pytest.mark.slow
def test_a_grid_on_a_cohort(source: LatestFollowUps, tmp_path: Path) -> None:
    result = run_experiment(GridExperiment(source, CELLS), tmp_path / "grid")
    assert (result.done, result.failed) == (8, {})
    told = json.loads((tmp_path / "grid" / "figures.json").read_text())
    cells = {(one["noise_level"], one["strength"]): one for one in told["figures"]["cells"]}
    assert list(cells) == [(10, 0.25), (10, 1.0), (300, 0.25), (300, 1.0)]
    for level in (10, 300):
        weak, strong = cells[level, 0.25], cells[level, 1.0]
        assert abs(weak["reach"]["value"]) < 0.1
        assert strong["reach"]["value"] > 1
        assert strong["change_inside"]["value"] > weak["change_inside"]["value"] > 0
        assert strong["ap_images"]["value"] > weak["ap_images"]["value"]
        assert strong["patients"] == strong["dice_images"]["patients"] == 2
    for gain in (0.25, 1.0):
        low, high = cells[10, gain], cells[300, gain]
        assert low["ssim_outside"]["value"] > high["ssim_outside"]["value"]
        assert low["change_outside"]["value"] < high["change_outside"]["value"] < 0.1
    assert set(told["units"]["A.NL10-g1"]) >= {"reach", "ap_change", "ap_growth", "hd95_images_mm"}
    pictures = sorted(path.name for path in (tmp_path / "grid").glob("*.png"))
    assert pictures == ["sheet-A.png", "sheet-B.png", "trade-off.png"]


def test_a_grid_is_widened_without_doing_it_again(source: LatestFollowUps, tmp_path: Path) -> None:
    run_experiment(GridExperiment(replace(source, patients=1), CELLS[:1]), tmp_path / "grid")
    row = tmp_path / "grid" / "rows" / "A.NL10-g0.25.json"
    before = row.stat().st_mtime_ns
    assert run_experiment(GridExperiment(source, CELLS[:2]), tmp_path / "grid").done == 4
    assert row.stat().st_mtime_ns == before
    assert (tmp_path / "grid" / "table-1.csv").read_text().count("\n") == 3


def test_without_a_later_scan_there_is_nothing_to_judge_by(
    source: LatestFollowUps, blob: Callable[..., Session], tmp_path: Path
) -> None:
    write_cohort(
        tmp_path / "c.h5", [blob("D", "000", 0.0, 6.0)], {}, image_size=64, contrasts=tuple(Contrast), config={}
    )
    with Cohort.open(tmp_path / "c.h5") as cohort:
        grid = GridExperiment(replace(source, cohort=cohort), CELLS[:1])
        run_experiment(grid, tmp_path / "grid")
    told = json.loads((tmp_path / "grid" / "figures.json").read_text())
    assert set(told["units"]["D.NL10-g0.25"]) == {
        *("patient_id", "session", "later_session", "slice", "ratio"),
        *("reach", "ssim_outside", "change_inside", "change_outside"),
    }
    assert "AP" not in (tmp_path / "grid" / "table-1.csv").read_text()
    assert "nearest comes NL 10, gain 0.25" in told["answer"] and "Judged" not in told["answer"]


def test_a_cohort_without_tumours_is_refused(
    source: LatestFollowUps, blob: Callable[..., Session], tmp_path: Path
) -> None:
    write_cohort(
        tmp_path / "c.h5", [blob("D", "000", 0.0, 0.0)], {}, image_size=64, contrasts=tuple(Contrast), config={}
    )
    with Cohort.open(tmp_path / "c.h5") as cohort, pytest.raises(InputError, match=r"c\.h5: no last scan"):
        run_experiment(GridExperiment(replace(source, cohort=cohort), CELLS), tmp_path / "grid")
    assert not (tmp_path / "grid").exists()


def test_the_papers_cells_are_the_papers_sampler() -> None:
    base = SETTINGS.model_copy(update={"sampler": SamplerSettings()})
    (cell,) = cells_of((100,), Guidance.PAPER, (50_000.0,))
    assert cell_settings(cell, base).sampler == SamplerSettings.paper(100, 50_000.0)
    changed = cell_settings(CELLS[0], SETTINGS).sampler
    assert (changed.noise_level, changed.gain, changed.steps, changed.guidance) == (10, 0.25, 2, Guidance.NORMALISED)


def test_cells_that_cannot_be_are_refused_before_anything_is_done(source: LatestFollowUps) -> None:
    with pytest.raises(UsageError, match="noise level 400"):
        GridExperiment(source, cells_of((10, 400), Guidance.NORMALISED, (0.5,)))
    with pytest.raises(UsageError, match=r"--scale.*--steps"):
        GridExperiment(source, cells_of((100,), Guidance.PAPER, (5e4,)))
    with pytest.raises(UsageError, match=r"grid, NL 2, gain 0\.5: sampler\.noise_level = 2"):
        GridExperiment(source, cells_of((2,), Guidance.NORMALISED, (0.5,)))


def test_the_best_cell_preserves_most_of_those_that_reach() -> None:
    def line(reach: float, kept: float) -> CellSummary:
        figures = {"reach": replace(SURE, value=reach), "ssim_outside": replace(SURE, value=kept)}
        return CellSummary(GridCell(100, Guidance.NORMALISED, reach), 2, figures)

    lines = [line(0.1, 0.99), line(0.8, 0.9), line(1.2, 0.95), line(2.0, 0.98)]
    assert best_of(lines) is lines[2]
    assert best_of(lines[:1]) is None


def test_nothing_measured_is_told() -> None:
    with pytest.raises(InputError, match="no cell"):
        findings({CELLS[0]: {}}, Path())
