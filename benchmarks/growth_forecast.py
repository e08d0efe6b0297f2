"""How well sizes are forecast on patients who were left out; prints JSON.

The persons of the tables are dealt to folds, and each fold is forecast, every scan with two earlier ones, by what the
others teach. With --train all is learnt from other tables, with --prior it is as the prior file has it (and what a
prior lacks, steps and regression, from --train). tumorcast/growth/comparison.py says what the figures are.

    benchmarks/growth_forecast.py --table ../shared/data/mu_glioma_post/volumes.csv \
        --table ../shared/data/mu_glioma_post/volumes_more.csv --same-person PatientID_0238=PatientID_0019 \
        --size-column enhancing_mm3 --companion-column edema_infiltration_mm3
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tumorcast.growth.comparison import Comparison, Contestants, cross_validated, scored_on
from tumorcast.growth.population.history import History
from tumorcast.growth.prior import read_prior, shipped_prior
from tumorcast.growth.size_table import SizeColumns, read_sizes
from tumorcast.records import SizeSeries

SEED = 20261130  # of the folds
EVERY_SECOND = "every-second"


def read_cohort(tables: Sequence[Path], columns: SizeColumns) -> list[SizeSeries]:
    """The patients of all tables, of the scans whose size is known."""
    return [series for table in tables for series in read_sizes(table, columns).series]


def chosen_patients(named: str, cohort: Sequence[SizeSeries], columns: SizeColumns) -> frozenset[str]:
    """The ids of a table's patients, or every second id in their order, the first among them."""
    if named == EVERY_SECOND:
        return frozenset(sorted({series.patient_id for series in cohort})[::2])
    return frozenset(series.patient_id for series in read_cohort([Path(named)], columns))


def compare(arguments: argparse.Namespace, cohort: Sequence[SizeSeries], columns: SizeColumns) -> Comparison:
    """By folds, or by what was learnt elsewhere."""
    histories = [History.of(series) for series in read_cohort(arguments.train, columns)]
    if arguments.prior is not None:
        shipped = arguments.prior == "shipped"
        prior = shipped_prior() if shipped else read_prior(Path(arguments.prior))
        return scored_on(cohort, Contestants.of_prior(prior.for_size(columns.size), histories))
    if histories:
        return scored_on(cohort, Contestants.learnt(histories))
    same_person = dict(pair.split("=", 1) for pair in arguments.same_person)
    return cross_validated(cohort, arguments.folds, SEED, same_person)


def rounded(value: Any) -> Any:
    """The same, numbers with four digits after the point."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def parse() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, action="append", required=True, help="repeat for several")
    parser.add_argument("--size-column", required=True)
    parser.add_argument("--companion-column", default="", help="of another compartment, as a sign of what comes")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--same-person", action="append", default=[], metavar="A=B", help="id A is the person of id B")
    parser.add_argument("--prior", help="a prior file, or `shipped`")
    parser.add_argument("--train", type=Path, action="append", default=[], help="a table to learn from; repeat")
    parser.add_argument("--chosen-on", help=f"a table, or `{EVERY_SECOND}`: its patients and the others are also told")
    return parser.parse_args()


def main() -> None:
    """Read the tables, forecast, score, print."""
    arguments = parse()
    columns = SizeColumns(size=arguments.size_column, companion=arguments.companion_column)
    cohort = read_cohort(arguments.table, columns)
    started = time.perf_counter()
    comparison = compare(arguments, cohort, columns)
    every = comparison.part(None)
    parts = {"all": every}
    if arguments.chosen_on is not None:
        chosen = comparison.part(chosen_patients(arguments.chosen_on, cohort, columns))
        parts |= {"chosen": chosen, "others": every & ~chosen}
    report = {
        "arguments": {name: str(value) for name, value in vars(arguments).items() if value},
        "patients": len(cohort),
        "third_days": comparison.third_days.tolist(),
        "parts": {name: comparison.report(which) for name, which in parts.items()},
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps(rounded(report), indent=1))


if __name__ == "__main__":
    main()
