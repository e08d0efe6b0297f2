"""The choice of settings for a patient: the grid, the search over given scores, and its files."""

from dataclasses import replace
from pathlib import Path

import pytest

from tumorcast.cli.forecast_options import forecast_settings
from tumorcast.errors import InputError, UsageError
from tumorcast.forecasting.select import Point, SelectGrid, Selection, select
from tumorcast.forecasting.selection_files import TrialStore, table_of_scores, toml_of
from tumorcast.forecasting.selection_scores import Scores
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings

BASE = ForecastSettings(relative_change=0.4, batch=4, sampler=SamplerSettings(steps=2))
EVEN = Scores(0.5, 0.5, 0.5, 0.5)


def test_the_grid_is_of_the_guidance_in_use() -> None:
    plain, paper = SamplerSettings(), SamplerSettings.paper()
    assert [point.strength for point in SelectGrid(noise_level=(200,)).points(plain)] == [0.25, 0.5, 1.0]
    assert {point.guidance for point in SelectGrid().points(paper)} == {Guidance.PAPER}
    (point,) = SelectGrid(noise_level=(50,), scale=(9.0,), members=(8, 2)).points(plain)
    assert point == Point(50, Guidance.PAPER, 9.0, 2)
    settings = point.settings(BASE)
    assert (settings.members, settings.sampler.noise_level, settings.sampler.scale) == (2, 50, 9.0)
    with pytest.raises(UsageError, match="not both"):
        SelectGrid.of({"gain": [1.0], "scale": [1.0]}, "grid.toml")


class GivenScores:
    """Scores that are given: size by noise level, and agreement by members."""

    def __init__(self, sizes: dict[int, float], agreements: dict[int, float], fails_at: int = 99) -> None:
        self.sizes, self.agreements, self.fails_at = sizes, agreements, fails_at
        self.asked: list[tuple[int, int]] = []

    def __call__(self, point: Point) -> Scores:
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append((point.noise_level, point.members))
        return replace(EVEN, size=self.sizes[point.noise_level], agreement=self.agreements[point.members])


GRID = SelectGrid(noise_level=(100, 200, 300), gain=(0.5,), members=(2, 4, 8))
SIZES = {100: 0.2, 200: 0.9, 300: 0.9}


@pytest.mark.parametrize(
    ("agreements", "members"),
    [
        ({2: 0.95, 4: 0.97, 8: 0.99}, 2),
        ({2: 0.5, 4: 0.9, 8: 0.99}, 4),
        ({2: 0.5, 4: 0.6, 8: 0.7}, 8),
    ],
)
def test_the_first_best_wins_with_the_fewest_members_that_agree(agreements: dict[int, float], members: int) -> None:
    score, reports = GivenScores(SIZES, agreements), []
    selection = select(score, BASE, GRID, lambda *report: reports.append(report), noise_levels=350)
    assert selection.chosen == Point(200, Guidance.NORMALISED, 0.5, members)
    assert score.asked == [(100, 2), (200, 2), (300, 2), (200, 4), (200, 8)]
    assert reports == [(k, 5) for k in range(1, 6)]
    chosen = [row for row in table_of_scores(selection) if row["chosen"]]
    assert [(row["noise_level"], row["gain"], row["members"]) for row in chosen] == [(200, 0.5, members)]


def test_a_stopped_search_goes_on_with_what_it_has(tmp_path: Path) -> None:
    path, agreements = tmp_path / "scores.json", {2: 0.5, 4: 0.6, 8: 0.7}
    stopped, resumed = GivenScores(SIZES, agreements, fails_at=2), GivenScores(SIZES, agreements)

    def search(score: GivenScores) -> Selection:
        store = TrialStore.open(path, {"seed": 1})
        remembered = lambda point: store.scores(point, lambda: score(point))  # noqa: E731
        return select(remembered, BASE, GRID, lambda *_: None, noise_levels=350)

    with pytest.raises(KeyboardInterrupt):
        search(stopped)
    selection = search(resumed)
    assert stopped.asked + resumed.asked == [(100, 2), (200, 2), (300, 2), (200, 4), (200, 8)]
    assert len(selection.tried) == 5
    with pytest.raises(UsageError, match="seed = 1 there, but 2 now"):
        TrialStore.open(path, {"seed": 2})
    path.write_text("[]")
    with pytest.raises(InputError, match="tumorcast select"):
        TrialStore.open(path, {"seed": 1})


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (SelectGrid(noise_level=(100, 400)), "noise_level = 400"),
        (SelectGrid(noise_level=(2,)), "sampler.noise_level = 2"),
        (SelectGrid(gain=(9.0,)), "sampler.gain = 9.0"),
        (SelectGrid(members=(4, 0)), "members = 0"),
    ],
)
def test_settings_that_are_not_allowed_are_told_before_any_is_tried(grid: SelectGrid, message: str) -> None:
    score = GivenScores(SIZES, {4: 1.0})
    with pytest.raises(UsageError, match=message):
        select(score, BASE, grid, lambda *_: None, noise_levels=350)
    assert score.asked == []


def test_settings_of_the_paper_survive_their_file(tmp_path: Path) -> None:
    paper = ForecastSettings(horizon_days=90, sampler=SamplerSettings.paper(100, 7e4))
    (tmp_path / "forecast.toml").write_text(toml_of(paper))
    assert forecast_settings({"config": tmp_path / "forecast.toml"}) == paper
