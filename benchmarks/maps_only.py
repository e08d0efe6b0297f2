"""Growth maps alone against the images of an earlier build: the same patients and members, one after the other.

    benchmarks/maps_only.py COHORT.h5 --before CHECKOUT --slices 2 [--members 16] [--repeats 3]

CHECKOUT is a folder with an earlier commit (`git worktree add`). It forecasts so many slices
of each patient with most tumour; its time for all of a patient's slices is told by their number, as slices are forecast
one by one there. Prints one JSON object. OMP_NUM_THREADS is what both use.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

from tumorcast.data.cohort import Cohort

HERE = Path(__file__).parents[1]
CHANGE = ["--relative-change", "0.25"]


def seconds(checkout: Path, arguments: list[str]) -> float:
    """What a forecast of a checkout takes, its start included."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "tumorcast", "forecast", *arguments, "--out", f"{folder}/maps.h5"]
        began = time.perf_counter()
        subprocess.run(command, check=True, env=environment, capture_output=True)
        return time.perf_counter() - began


def run(options: argparse.Namespace) -> dict[str, object]:
    """Time both, and the start of either."""
    with Cohort.open(options.cohort) as cohort:
        last = [cohort.sessions(name)[-1] for name in cohort.patient_ids()]
        bearing = [int((info.area_mm2 > 0).sum()) for info in last]
    members = ["--members", str(options.members), "--model", options.model, *CHANGE]
    given, few = str(options.cohort), [min(count, options.slices) for count in bearing]
    now = [seconds(HERE, [given, "--maps-only", *members]) for _ in range(options.repeats)]
    before = seconds(options.before, [given, "--max-slices", str(options.slices), *members])
    a_slice = before / sum(few)
    return {
        "machine": describe(threads=int(os.environ.get("OMP_NUM_THREADS", "2"))),
        "patients": len(bearing),
        "members": options.members,
        "slices_with_tumour": sum(bearing),
        "maps_seconds": now,
        "maps_seconds_a_patient": statistics.median(now) / len(bearing),
        "before_seconds": before,
        "before_slices": sum(few),
        "before_seconds_a_slice": a_slice,
        "times_faster": a_slice * sum(bearing) / statistics.median(now),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--model", default="demo128")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    print(json.dumps(run(parser.parse_args())))
