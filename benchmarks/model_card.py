"""What a model set does on patients it has not seen, beside everything that needs less; writes a page and its figures.

    benchmarks/model_card.py TEST_COHORT.h5 --model BUNDLE --out docs/model-card [--members 16] [--set gain=0.5 …]

README.md, figures.json, reliability.png and examples.png go into --out. Rows of finished patients are kept in --rows
(by default OUT.rows, beside it): started again, it goes on with the next patient. The machine that the page names is
the one that ended it. Methods and figures are those of tumorcast.evaluation.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import describe

from tumorcast.data.cohort import Cohort, SizeMeasure
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.protocol import check_same_images
from tumorcast.errors import TumorcastError
from tumorcast.evaluation.comparison import Comparison, ComparisonSettings
from tumorcast.evaluation.rows import RowStore
from tumorcast.evaluation.run import compare_patients, summaries, write_card
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster
from tumorcast.settings import ForecastSettings, Provider, SamplerSettings
from tumorcast.version import VERSION


def whole(least: int) -> Callable[[str], int]:
    """Of argparse: a whole number, not below `least`."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: at least {least}")
        return int(text)

    return number


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="a bundle, or RUN folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument("--rows", type=Path, help="folder of the rows of finished patients")
    parser.add_argument("--provider", type=Provider, choices=list(Provider))
    parser.add_argument("--device")
    parser.add_argument("--members", type=whole(1), default=16)
    parser.add_argument("--batch", type=whole(1), default=16)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--pairs-a-patient", type=whole(1), default=1)
    parser.add_argument(
        "--paper-members", type=whole(0), default=2, help="398 evaluations each; 0 leaves the paper out"
    )
    parser.add_argument("--paper-patients", type=whole(0), default=10)
    parser.add_argument("--regressor-slices", type=whole(1), default=60, help="of a patient, for R²")
    parser.add_argument("--set", nargs="*", default=[], help="sampler settings, key=value")
    return parser.parse_args()


def settings_of(options: argparse.Namespace) -> ComparisonSettings:
    """What the options ask for."""
    given = {key: value for key, _, value in (item.partition("=") for item in options.set)}
    base = SamplerSettings.paper().model_dump() if given.get("preset") == "paper" else {}
    values = {key: None if value == "none" else value for key, value in given.items()}
    forecast = ForecastSettings.of(
        {
            "relative_change": 0,
            "members": options.members,
            "batch": options.batch,
            "block": options.members,
            "seed": options.seed,
            "sampler": SamplerSettings.of(base | values, "--set"),
        },
        "model_card.py",
    )
    return ComparisonSettings(
        forecast, options.pairs_a_patient, options.paper_members, SizeMeasure.VOLUME_MM3, options.regressor_slices
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compare, write, and return what is printed."""
    machine = describe(threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    settings = settings_of(options)
    engine = open_engine(EngineChoice(tuple(options.model), options.provider, options.device))
    growth = GrowthModel(FitSettings(), Forecaster.POOLED, fixed_prior(shipped_prior()))
    with Cohort.open(options.cohort) as cohort:
        check_same_images(cohort, engine.info.images)  # before a folder of rows is begun for them
        made_of = {
            "model": {"name": " ".join(path.name for path in options.model), "sha256": engine.info.sha256},
            "cohort": {"name": options.cohort.name, "sha256": cohort.sha256, "config": cohort.config},
            "engine": {"provider": engine.provider, "device": engine.device, "version": VERSION},
            "settings": settings.as_dict() | {"paper_patients": options.paper_patients},
        }
        store = RowStore.open(options.rows or options.out.with_name(options.out.name + ".rows"), made_of)
        comparison = Comparison(cohort, engine, growth, settings)
        rows = compare_patients(comparison, store, options.paper_patients, tell)
    write_card(options.out, rows, store, made_of | {"machine": machine})
    told = summaries(rows)["goals"]
    return {"out": str(options.out), "reached": sum(goal.reached for goal in told), "goals": len(told)}


def tell(done: int, total: int) -> None:
    """Progress, to stderr."""
    print(f"{done} of {total} patients", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(json.dumps(run(arguments())))
    except TumorcastError as error:
        print(f"model_card.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
