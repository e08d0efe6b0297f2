"""How fast patients are simulated and prepared: patient-sessions a minute; prints and writes JSON.

    benchmarks/simulate.py [--patients 8] [--sessions 3] [--voxels 2 1] [--pixels 128] [--jobs 2] [--out result.json]

For each voxel size one whole cohort is simulated, and prepared into slices of that many pixels; the start of the
processes counts, the compilation of the kernels does not.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import describe

from tumorcast.data.prepare import PrepareSettings, SliceChoice, Status, prepare_cohort
from tumorcast.simulation.cohort import simulate_cohort

SEED = 0


def per_minute(count: int, work: Callable[[], object]) -> float:
    """So many things, over the minutes that the work takes."""
    started = time.perf_counter()
    work()
    return 60 * count / (time.perf_counter() - started)


def measure(folder: Path, voxel_mm: float, options: argparse.Namespace) -> dict[str, float]:
    """Rates and sizes at one voxel size."""
    source, cohort = folder / "scans", folder / "cohort.h5"
    sessions = options.patients * options.sessions
    settings = PrepareSettings(image_size=options.pixels, slices=SliceChoice.ALL)

    def simulate() -> None:
        simulate_cohort(
            source,
            patients=options.patients,
            seed=SEED,
            sessions=options.sessions,
            voxel_mm=voxel_mm,
            jobs=options.jobs,
        )

    def prepare() -> None:
        report = prepare_cohort(source, cohort, settings, clinical=source / "clinical.csv", jobs=options.jobs)
        assert report.count(Status.FAILED) == 0, "a simulated session could not be prepared"

    rates = {"simulated_a_minute": per_minute(sessions, simulate), "prepared_a_minute": per_minute(sessions, prepare)}
    stored = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    return {
        "voxel_mm": voxel_mm,
        **{name: round(rate, 1) for name, rate in rates.items()},
        "scans_mb_a_session": round(stored / sessions / 1e6, 2),
        "cohort_mb_a_session": round(cohort.stat().st_size / sessions / 1e6, 2),
    }


def main() -> None:
    """Parse, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--sessions", type=int, default=3, help="of each patient")
    parser.add_argument("--voxels", type=float, nargs="+", default=[2.0, 1.0], help="mm")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": describe(threads=options.jobs),
        **{name: getattr(options, name) for name in ("patients", "sessions", "pixels", "jobs")},
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        simulate_cohort(Path(folder) / "compiled", patients=1, seed=SEED, sessions=1, voxel_mm=8.0)
        for voxel_mm in options.voxels:
            subfolder = Path(folder) / f"{voxel_mm:g}mm"
            subfolder.mkdir()
            result["rows"].append(measure(subfolder, voxel_mm, options))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
