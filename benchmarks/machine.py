"""What a benchmark ran on, for its JSON: a figure without its machine says nothing."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tumorcast.provenance import commit

PACKAGES = ("numpy", "scipy", "numba", "lmfit", "torch", "onnxruntime")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")


def describe(*, threads: int) -> dict[str, Any]:
    """Processor, cores, versions, load, date and commit. threads: how many the benchmark says it used.

    Take it before the work begins, so that the load is that of others.
    """
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "environment": {name: os.environ.get(name) for name in THREAD_VARIABLES},
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }


def processor_name() -> str:
    """The name by which Linux knows the processor; elsewhere what platform says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """The version of a package; None if it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
