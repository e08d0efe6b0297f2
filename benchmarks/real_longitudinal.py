"""Where the tumours of real patients went, foretold by what was learned from the other patients, in three dimensions.

    benchmarks/real_longitudinal.py ../shared/data/brain_tumor_progression --out DIR [--start-from RUN]

DATA is a folder that `tumorcast prepare` reads, with two dates or more and a mask at each. It is prepared with voxels
of the in-plane spacing that its headers tell, so that no slices are averaged, and `tumorcast fit-place` does the rest:
every patient's pairs of scans are forecast at their true later volume, by models that have not learned from that
patient. Where the headers' spacing is a placeholder, mm are voxels.

DIR gets cohort.h5, place/ (for `tumorcast forecast DIR/cohort.h5 --place DIR/place --left-out`) and
real_longitudinal.json. For research, not a medical device.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.prepare import PrepareSettings, SliceChoice, prepare_cohort
from tumorcast.durable import write_text
from tumorcast.errors import TumorcastError
from tumorcast.evaluation.fit_place import FitPlaceResult, FitPlaceSettings, fit_place
from tumorcast.evaluation.metrics import AP, HD95
from tumorcast.evaluation.tables import jsonable, markdown_table
from tumorcast.forecasting.place_folder import Candidate

SHOWN = (AP, HD95)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--brain", choices=list(BrainMask), type=BrainMask, default=BrainMask.INNER)
    parser.add_argument("--voxel-mm", type=float, default=1.0)
    parser.add_argument("--candidates", type=Candidate, nargs="*", help="as of fit-place")
    parser.add_argument("--start-from", type=Path, help="a RUN folder or bundle, as of fit-place")
    parser.add_argument("--tiny", nargs="*", default=[], help="patients who are left out of the second means")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> FitPlaceResult:
    """Prepare once, and compare."""
    cohort = options.out / "cohort.h5"
    if not cohort.exists():
        options.out.mkdir(parents=True, exist_ok=True)
        settings = PrepareSettings(slices=SliceChoice.ALL, brain=options.brain, voxel_mm=options.voxel_mm)
        prepare_cohort(options.data, cohort, settings)
    candidates = tuple(options.candidates) if options.candidates else None
    asked = FitPlaceSettings(candidates=candidates, start_from=options.start_from)
    return fit_place(cohort, options.out / "place", asked, tell=lambda text: print(text, file=sys.stderr))


def patients_table(result: FitPlaceResult) -> str:
    """Every patient's figures."""
    found = result.comparison
    heads = ("patient", *(f"{metric.label} {method}" for metric in SHOWN for method in found.values))
    figures = [(metric, found.values[method][metric.name]) for metric in SHOWN for method in found.values]
    lines = [
        (name, *(f"{values[number]:.{metric.digits}f}" for metric, values in figures))
        for number, name in enumerate(found.patients)
    ]
    return markdown_table(heads, lines)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, write, and return what is printed."""
    machine = describe(threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    result = measured(options)
    print(patients_table(result), result.table(), sep="\n", file=sys.stderr)
    kept = ~np.isin(result.comparison.patients, options.tiny)
    means = {
        method: {metric.name: float(np.nanmean(values[metric.name][kept])) for metric in SHOWN}
        for method, values in result.comparison.values.items()
    }
    record = {"machine": machine, "means_without_tiny": means, "tiny": options.tiny} | result.as_dict()
    write_text(options.out / "real_longitudinal.json", json.dumps(jsonable(record), indent=1) + "\n")
    return {"out": str(options.out), "winner": str(result.winner), "means_without_tiny": jsonable(means)}


if __name__ == "__main__":
    try:
        print(json.dumps(run(arguments())))
    except TumorcastError as error:
        print(f"real_longitudinal.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
