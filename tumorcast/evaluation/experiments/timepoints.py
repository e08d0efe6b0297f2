"""How do forecasts fare with few or irregular scans? Each patient's last scan is forecast from fewer earlier ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.evaluation.experiments.experiment import Findings, Picture
from tumorcast.evaluation.experiments.size_methods import forecast_by
from tumorcast.evaluation.experiments.size_scores import SizeData, scored
from tumorcast.evaluation.experiments.timepoints_summary import (
    METHODS,
    Kind,
    answer_of,
    figures_of,
    lines_of,
    tables_of,
)
from tumorcast.evaluation.judging import Figures
from tumorcast.growth.model import GrowthModel
from tumorcast.random_keys import patient_key
from tumorcast.records import SizeSeries

Places = tuple[int, ...]

MOST_GIVEN = 6  # scans; and all there are
DRAWS, TRIES = 3, 30  # thinned sets of each size
DRAWS_KEY = 3  # a key of two numbers, which no other draw of a patient has


def given_sets(scans: int, patient_id: str, seed: int) -> Iterator[tuple[Kind, Places]]:
    """Which of the `scans` earlier scans are given: the last 1, 2, … MOST_GIVEN, all; and of each size but all up to
    DRAWS other sets, drawn by the patient's own key.

    >>> list(given_sets(2, "P1", 0))
    [(<Kind.LAST: 'last'>, (1,)), (<Kind.LAST: 'last'>, (0, 1)), (<Kind.OLDER: 'older'>, (0,))]
    """
    counts = sorted({*range(1, min(scans, MOST_GIVEN) + 1), scans})
    for count in counts:
        yield Kind.LAST, tuple(range(scans - count, scans))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient_key(patient_id), DRAWS_KEY)))
    for count in counts[:-1]:
        drawn = [tuple(sorted(rng.choice(scans, count, replace=False).tolist())) for _ in range(TRIES)]
        others = [one for one in dict.fromkeys(drawn) if one != tuple(range(scans - count, scans))]
        for one in others[:DRAWS]:
            yield (Kind.THINNED if one[-1] == scans - 1 else Kind.OLDER), one


@dataclass(frozen=True)
class Timepoints:
    """Each patient's last scan, forecast from the last one, two, three … earlier scans, and from thinned ones."""

    data: SizeData
    model: GrowthModel
    name = "timepoints"

    def made_of(self) -> dict[str, Any]:
        """Sizes, settings and prior, and how many sets of scans are tried."""
        settings = self.model.settings.model_dump(mode="json")
        return self.data.made_of | {"settings": settings, "most_given": MOST_GIVEN, "draws": DRAWS}

    def units(self) -> Sequence[str]:
        """The patients with three scans or more."""
        return list(self.data.units())

    def measure(self, unit: str, pictures: Path) -> Figures:
        """A forecast for each set of scans that is given."""
        series = self.data.units()[unit]
        sets = given_sets(series.days.size - 1, series.patient_id, self.model.settings.seed)
        return {
            "patient_id": series.patient_id,
            "size_name": series.size_name,
            "day": float(series.days[-1]),
            "observed": float(series.sizes[-1]),
            "forecasts": [self._forecast(series, kind, places) for kind, places in sets],
        }

    def _forecast(self, series: SizeSeries, kind: Kind, places: Places) -> Figures:
        known = _of_scans(series, (*places, series.days.size - 1))
        forecasts = forecast_by(METHODS, self.model, known, len(places))
        gaps = np.diff(known.days)
        return {
            "kind": str(kind),
            "given": len(places),
            "days": known.days[:-1].tolist(),
            "horizon_days": float(gaps[-1]),
            "longest_gap_days": float(gaps[:-1].max()) if len(places) > 1 else None,
            "irregularity": forecasts.scan.irregularity if len(places) > 1 else None,
            "methods": scored(forecasts),
        }

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """Error and coverage by the number of scans, by how they were chosen, by horizon, gap and spacing."""
        patients = [row["forecasts"] for row in rows.values()]
        return Findings(
            answer=answer_of(patients),
            figures=figures_of(patients),
            tables=[*tables_of(patients), *self.data.left_out_table()],
            pictures=_pictures(patients),
        )


def _of_scans(series: SizeSeries, places: Sequence[int]) -> SizeSeries:
    """The series as if no other scans had been made."""
    chosen = list(places)
    companion = None if series.companion is None else series.companion[chosen]
    return replace(series, days=series.days[chosen], sizes=series.sizes[chosen], companion=companion)


def _pictures(patients: Sequence[list[Figures]]) -> list[Picture]:
    from tumorcast.evaluation.experiments import size_figures  # noqa: PLC0415 - matplotlib is slow

    every = [one for patient in patients for one in patient]
    return [
        Picture(
            "scans",
            "CRPS and share of truths in the 90 % interval by how many of the last scans are given, with 95 % "
            "intervals over patients; patients with more scans are fewer.",
            partial(size_figures.draw_by_count, lines_of(patients)),
        ),
        Picture(
            "horizon",
            "Error of the pooled median by the days from the latest scan given, a point a forecast; filled: the last "
            "scans are given, open: others.",
            partial(size_figures.draw_by_horizon, every),
        ),
    ]
