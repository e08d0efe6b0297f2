"""How well sizes are forecast on patients who were left out; prints JSON.

Nested leave-one-patient-out, rolling origin: every scan that has two earlier ones is forecast from them, by members and
a pool learnt from the other patients alone. Scores are in y = log(v + 100 mm³); ratios are to calibrated persistence.

    benchmarks/growth_forecast.py --table ../shared/data/mu_glioma_post/volumes.csv --size-column enhancing_mm3
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorcast.growth import scores
from tumorcast.growth.population.equivalents import history_of
from tumorcast.growth.population.history import Case, History
from tumorcast.growth.population.members import Persistence
from tumorcast.growth.population.pooling import Pool, pooled
from tumorcast.growth.table import SizeColumns, read_sizes

Array = npt.NDArray[np.float64]

DENSE = scores.dense_levels()
LEVELS = np.append(DENSE, [0.05, 0.5, 0.95])
LOW, MEDIAN, HIGH = -3, -2, -1


def read_histories(table: Path, size_column: str, companion_column: str | None) -> list[History]:
    """One history a patient, of the scans whose size is known; companion_column: of another compartment, if any."""
    columns = SizeColumns(size=size_column, companion=companion_column or "")
    return [history_of(series) for series in read_sizes(table, columns).series]


def left_out_forecasts(histories: list[History]) -> tuple[list[Case], dict[str, Array]]:
    """The cases, and by forecaster (C, Q) quantiles at LEVELS, each learnt from the other patients."""
    cases = scores.rolling_cases(histories)
    said: dict[str, list[Array]] = {}
    for patient in range(len(histories)):
        mine = [case for case in cases if case.patient == patient]
        if not mine:
            continue
        others = histories[:patient] + histories[patient + 1 :]
        baseline, pool = Persistence.fitted(others), Pool.fitted(others)
        for case in mine:
            for name, quantiles in _said(case, baseline, pool).items():
                said.setdefault(name, []).append(quantiles)
    return cases, {name: np.array(rows) for name, rows in said.items()}


def _said(case: Case, baseline: Persistence, pool: Pool) -> dict[str, Array]:
    contributions = pool.contributions(case.history, case.horizon_days, LEVELS)
    by_member = {one.name: one.quantiles for one in contributions}
    persistence = baseline.quantiles(case.history, case.horizon_days, LEVELS)
    return {baseline.name: persistence, **by_member, "pooled": pooled(contributions)}


def figures(quantiles: Array, baseline: Array, cases: list[Case]) -> dict[str, object]:
    """The scores of one forecaster beside the baseline's: (C, Q) each."""
    truth = np.array([case.log_size for case in cases])
    patients = [case.patient for case in cases]
    ours, theirs = (scores.crps(one[:, : DENSE.size], DENSE, truth) for one in (quantiles, baseline))
    low, high = scores.ratio_interval(ours, theirs, patients)
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
    cases, said = left_out_forecasts(histories)
    report = {
        "size_column": arguments.size_column,
        "companion_column": arguments.companion_column,
        "patients": len(histories),
        "cases": len(cases),
        "seconds": round(time.perf_counter() - started, 2),
        "forecasters": {name: figures(one, said["persistence"], cases) for name, one in said.items()},
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
