"""How well RANO progression and response are forecast, by the experts' ratings of LUMIERE; prints JSON.

Every rated scan that has two earlier ones, forecast from them with the shipped prior and with priors of LUMIERE's own
patients in five folds, beside the rate of the other folds (tumorcast/evaluation/rated_response.py has the rules).

    benchmarks/response.py --table ../shared/data/lumiere/sizes.csv
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tumorcast.evaluation.rated_response import fold_models, read_ratings, report
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.growth.size_table import SizeColumns, read_sizes
from tumorcast.records import Forecaster

SIZES = {"enhancing_mm3": "edema_infiltration_mm3", "enhancing_oedema_mm3": ""}  # and its companion


def figures(table: Path, size: str, companion: str) -> dict[str, Any]:
    """Of one column of sizes."""
    cohort = read_sizes(table, SizeColumns(size=size, companion=companion)).series
    population = shipped_prior()
    shipped = GrowthModel(FitSettings(), Forecaster.COMBINED, fixed_prior(population))
    models = {"shipped": lambda patient: shipped, "folds": fold_models(cohort, population.for_size(size))}
    return report(cohort, read_ratings(table), models)


def main() -> None:
    """Read, forecast, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    arguments = parser.parse_args()
    started = time.perf_counter()
    found: dict[str, Any] = {size: figures(arguments.table, size, other) for size, other in SIZES.items()}
    print(json.dumps(found | {"seconds": round(time.perf_counter() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
