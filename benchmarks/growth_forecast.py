"""How well sizes are forecast on patients who were left out; prints JSON.

Nested leave-one-patient-out, rolling origin: every scan that has two earlier ones is forecast from them, by members and
a pool learnt from the other patients alone. Scores are in y = log(v + 100 mm³); ratios are to calibrated persistence.

    benchmarks/growth_forecast.py --table ../shared/data/mu_glioma_post/volumes.csv --size-column enhancing_mm3
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.growth import scores
from tumorcast.growth.population.autoregression import Persistence
from tumorcast.growth.population.history import History
from tumorcast.growth.population.pool import Pool, pooled
from tumorcast.growth.size_table import SizeColumns, read_sizes

Array = npt.NDArray[np.float64]

DENSE = scores.dense_levels()
LEVELS = np.append(DENSE, [0.05, 0.5, 0.95])
LOW, MEDIAN, HIGH = -3, -2, -1


class Target(NamedTuple):
    """A scan that is forecast: the index of its patient, what was known before it, days ahead, and its y."""

    patient: int
    history: History
    horizon_days: float
    log_size: float


def read_histories(table: Path, size_column: str, companion_column: str | None) -> list[History]:
    """One history a patient, of the scans whose size is known; companion_column: of another compartment, if any."""
    columns = SizeColumns(size=size_column, companion=companion_column or "")
    return [History.of(series) for series in read_sizes(table, columns).series]


def rolling_targets(histories: list[History]) -> list[Target]:
    """Every scan that has two earlier ones, to be forecast from all that came before it."""
    return [
        Target(
            patient,
            history.first(scans),
            float(history.days[scans] - history.days[scans - 1]),
            float(history.log_sizes[scans]),
        )
        for patient, history in enumerate(histories)
        for scans in range(2, history.days.size)
    ]


def left_out_forecasts(histories: list[History]) -> tuple[list[Target], dict[str, Array]]:
    """The targets, and by forecaster (C, Q) quantiles at LEVELS, each learnt from the other patients."""
    targets = rolling_targets(histories)
    forecasts: dict[str, list[Array]] = {}
    for patient in range(len(histories)):
        mine = [target for target in targets if target.patient == patient]
        if not mine:
            continue
        others = histories[:patient] + histories[patient + 1 :]
        baseline, pool = Persistence.fitted(others), Pool.fitted(others)
        for target in mine:
            for name, quantiles in _by_forecaster(target, baseline, pool).items():
                forecasts.setdefault(name, []).append(quantiles)
    return targets, {name: np.array(rows) for name, rows in forecasts.items()}


def _by_forecaster(target: Target, baseline: Persistence, pool: Pool) -> dict[str, Array]:
    contributions = pool.contributions(target.history, target.horizon_days, LEVELS)
    by_component = {part.name: part.quantiles for part in contributions}
    persistence = baseline.quantiles(target.history, target.horizon_days, LEVELS)
    return {baseline.name: persistence, **by_component, "pooled": pooled(contributions)}


def ratio_interval(
    ours: Array, reference: Array, patients: Sequence[int], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of mean(ours) / mean(reference), each (C,): patients are drawn, with all their targets."""
    _, index = np.unique(np.asarray(patients), return_inverse=True)
    sums, reference_sums = np.bincount(index, ours), np.bincount(index, reference)
    drawn = np.random.default_rng(seed).integers(0, sums.size, (draws, sums.size))
    low, high = np.quantile(sums[drawn].sum(axis=1) / reference_sums[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def figures(quantiles: Array, baseline: Array, targets: list[Target]) -> dict[str, object]:
    """The scores of one forecaster beside the baseline's: (C, Q) each."""
    truth = np.array([target.log_size for target in targets])
    patients = [target.patient for target in targets]
    ours, theirs = (scores.crps(forecasts[:, : DENSE.size], DENSE, truth) for forecasts in (quantiles, baseline))
    low, high = ratio_interval(ours, theirs, patients)
    return {
        "crps": round(float(ours.mean()), 4),
        "crps_ratio": round(float(ours.mean() / theirs.mean()), 4),
        "crps_ratio_95": [round(low, 4), round(high, 4)],
        "mae": round(float(scores.absolute_errors(quantiles[:, MEDIAN], truth).mean()), 4),
        "coverage90": round(scores.coverage(quantiles[:, LOW], quantiles[:, HIGH], truth), 4),
        "median_width90": round(scores.median_width(quantiles[:, LOW], quantiles[:, HIGH]), 4),
    }


def main() -> None:
    """Read the table, forecast, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--size-column", required=True)
    parser.add_argument("--companion-column", help="of another compartment of the tumour, as a sign of what comes")
    arguments = parser.parse_args()
    histories = read_histories(arguments.table, arguments.size_column, arguments.companion_column)
    started = time.perf_counter()
    targets, forecasts = left_out_forecasts(histories)
    report = {
        "size_column": arguments.size_column,
        "companion_column": arguments.companion_column,
        "patients": len(histories),
        "cases": len(targets),
        "seconds": round(time.perf_counter() - started, 2),
        "forecasters": {name: figures(rows, forecasts["persistence"], targets) for name, rows in forecasts.items()},
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
