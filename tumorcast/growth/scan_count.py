"""Forecasts by the number of scans they are made from, and by how irregular the spacing is (`fit --min-scans`).

The paper leaves open how many scans are needed. Every scan with an earlier one is forecast from its last one, two,
three … earlier scans, as if the others had not been made.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.durable import written_whole
from tumorcast.growth.forecast import LEVELS
from tumorcast.growth.heldout import HeldOutForecast, forecast_scan, scores
from tumorcast.growth.model import GrowthModel
from tumorcast.records import SizeSeries

Table = list[dict[str, Any]]

MOST_SCANS = 5
ALWAYS = 3  # scans before a target from which it is forecast with one, two and three, so that rows compare the same
# Coefficients of variation of the intervals between scans, from and below.
SPACINGS = {"regular": (0.0, 0.25), "uneven": (0.25, 0.5), "irregular": (0.5, float("inf"))}


def forecast_from_fewer(model: GrowthModel, series: SizeSeries) -> list[HeldOutForecast]:
    """Each scan but the first, from its last 1, 2, … MOST_SCANS earlier ones."""
    return [
        forecast_scan(model, series, scan, scan - given)
        for scan in range(1, series.days.size)
        for given in range(1, min(scan, MOST_SCANS) + 1)
    ]


def scan_count_tables(forecasts: Sequence[HeldOutForecast]) -> dict[str, Table]:
    """The tables by name: by scans given, over all targets and over those with ALWAYS scans before them; by spacing."""
    most_given: dict[tuple[str, float], int] = {}
    for forecast in forecasts:
        most_given[_target(forecast)] = max(most_given.get(_target(forecast), 0), forecast.scans_given)
    from_few = [each for each in forecasts if most_given[_target(each)] >= ALWAYS >= each.scans_given]
    longest = [each for each in forecasts if most_given[_target(each)] == each.scans_given > 1]
    return {
        "all targets": _by(forecasts, "scans_given", lambda forecast: forecast.scans_given),
        f"targets with {ALWAYS} scans before them": _by(from_few, "scans_given", lambda forecast: forecast.scans_given),
        "spacing": sorted(_by(longest, "spacing", _spacing), key=lambda row: list(SPACINGS).index(row["spacing"])),
    }


def _target(forecast: HeldOutForecast) -> tuple[str, float]:
    return forecast.patient_id, forecast.day


def _spacing(forecast: HeldOutForecast) -> str:
    return next(name for name, (low, high) in SPACINGS.items() if low <= forecast.irregularity < high)


def _by(forecasts: Sequence[HeldOutForecast], name: str, key: Callable[[HeldOutForecast], Any]) -> Table:
    groups: dict[Any, list[HeldOutForecast]] = {}
    for forecast in forecasts:
        groups.setdefault(key(forecast), []).append(forecast)
    return [{name: value} | _scores(groups[value]) for value in sorted(groups)]


def _scores(group: Sequence[HeldOutForecast]) -> dict[str, Any]:
    errors = np.abs([np.interp(0.5, LEVELS, forecast.log_quantiles) - forecast.truth for forecast in group])
    return scores(group) | {"median_error": float(np.median(errors))}


def write_scan_counts(folder: Path, tables: dict[str, Table]) -> None:
    """One CSV file, min_scans.csv, with a row a group; the column `table` names the table."""
    columns = ["table", "scans_given", "spacing", *scores([]), "median_error"]
    with (
        written_whole(folder / "min_scans.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for table, rows in tables.items():
            for row in rows:
                writer.writerow({"table": table} | {key: _short(value) for key, value in row.items()})


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
