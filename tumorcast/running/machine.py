"""What is installed here, and what the machine and the job give: checks that need no network and no engine.

No check ends another one. What is told names no host, no user and no patient.
"""

import getpass
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tumorcast.engines.onnx_engine import first_line, threads
from tumorcast.engines.providers import TENSORRT_PACKAGES, Gpu, gpus, onnxruntime
from tumorcast.errors import TumorcastError
from tumorcast.extra import how_to_install
from tumorcast.running.ranks import mpi_library, open_ranks
from tumorcast.version import VERSION

log = logging.getLogger(__name__)

PACKAGES = ("numpy", "numba", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "mpi4py")
BOTH_REMEDY = "pip uninstall onnxruntime onnxruntime-gpu, then install tumorcast[gpu] (or tumorcast[cpu]) alone"
NO_GPU_REMEDY = "ask the scheduler for one (--gres=gpu:1), and see that `nvidia-smi` lists it in the same job"
VARIABLES = (
    *("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_CPUS_PER_TASK"),
    *("SLURM_GPUS_ON_NODE", "SLURM_STEP_GPUS", "SLURM_MEM_PER_NODE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
GB = 1e9
LEAST_DISK = 1 * GB


class Found(StrEnum):
    """How a check ended. ABSENT: not there or not checked, which is no fault."""

    OK = "ok"
    ABSENT = "absent"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, how it ended, what was found and, where it failed, what to do."""

    name: str
    status: Found
    told: str
    remedy: str = ""


def attempt(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """What `look` finds; where it raises, a failed check. The messages of tumorcast end in a remedy, after "; "."""
    try:
        return look()
    except TumorcastError as fault:
        told, _, remedy = private(first_line(fault)).partition("; ")
    except ModuleNotFoundError as fault:
        told, remedy = f"{fault.name} is not installed", how_to_install("train")
    except Exception as fault:  # whatever a driver or a package does is a finding
        told, remedy = private(f"{type(fault).__name__}: {first_line(fault)}"), ""
    log.debug("%s", name, exc_info=True)
    return [Check(name, Found.FAILED, told, remedy or "`tumorcast --debug doctor …` shows where")]


def private(told: str) -> str:
    """A message without the home folder, the user and the host.

    >>> private(f"{Path.home()}/model: missing")
    '~/model: missing'
    """
    told = told.replace(str(Path.home()), "~")
    try:
        user = re.escape(getpass.getuser())
    except (OSError, KeyError):  # a container whose user has no name
        user = "(?!)"
    host = re.escape(platform.node()) or "(?!)"
    told = re.sub(rf"(?<=/){user}(?![\w.-])", "USER", told)
    return re.sub(rf"(?<![\w.-]){host}(?![\w-])", "HOST", told)


def packages() -> list[Check]:
    """The versions of tumorcast, Python and the packages; the two onnxruntimes together are a fault."""
    versions = {name: version_of(name) for name in PACKAGES}
    versions["tensorrt"] = next(filter(None, map(version_of, TENSORRT_PACKAGES)), None)
    found = [Check("tumorcast", Found.OK, VERSION), Check("python", Found.OK, platform.python_version())]
    for name, version in versions.items():
        if version is None:
            found.append(Check(name, Found.ABSENT, "not installed"))
        elif name == "onnxruntime-gpu" and versions["onnxruntime"]:
            told = f"{version}, together with onnxruntime: they overwrite each other's files"
            found.append(Check(name, Found.FAILED, told, BOTH_REMEDY))
        else:
            found.append(Check(name, Found.OK, version))
    return found


def version_of(package: str) -> str | None:
    """The installed version; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def offered() -> list[Check]:
    """The providers that this ONNX Runtime was built with."""
    if importlib.util.find_spec("onnxruntime") is None:
        return [Check("ORT providers", Found.ABSENT, "onnxruntime is not installed")]
    return [Check("ORT providers", Found.OK, ", ".join(onnxruntime().get_available_providers()))]


def graphics(*, needed: bool) -> list[Check]:
    """The GPUs, a check each; none is a fault where one is needed."""
    found = [Check(f"gpu {gpu.index}", Found.OK, _gpu_in_words(gpu)) for gpu in gpus()]
    if found:
        return found
    return [Check("gpu", *((Found.FAILED, "none found", NO_GPU_REMEDY) if needed else (Found.ABSENT, "none found")))]


def _gpu_in_words(gpu: Gpu) -> str:
    room = f"{gpu.free / GB:.1f} of {gpu.memory / GB:.1f} GB free" if gpu.memory else "memory not told"
    return f"{gpu.name}, {gpu.architecture}, driver {gpu.driver}, {room}"


def cores() -> list[Check]:
    """The cores that this process may use, and the threads that ONNX Runtime is given."""
    usable, used = len(os.sched_getaffinity(0)), threads()
    told = f"{usable} usable, {used} threads used"
    if used > usable:
        return [Check("cores", Found.FAILED, told, f"set OMP_NUM_THREADS={usable}, or ask for {used} cores")]
    return [Check("cores", Found.OK, told)]


def memory() -> list[Check]:
    """The machine's memory; a job may be allowed less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    free, total = (kib[key] * 1024 / GB for key in ("MemAvailable", "MemTotal"))
    return [Check("memory", Found.OK, f"{free:.1f} of {total:.1f} GB free on the machine")]


def disk(name: str, folder: Path, *, must_write: bool = False) -> list[Check]:
    """The room where `folder` is, or will be made."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free, can_write = shutil.disk_usage(place).free, os.access(place, os.W_OK)
    told = f"{free / GB:.1f} GB free{'' if can_write else ', cannot be written'}"
    if free < LEAST_DISK or (must_write and not can_write):
        return [Check(name, Found.FAILED, told, f"make room for {LEAST_DISK / GB:.0f} GB where you may write")]
    return [Check(name, Found.OK, told)]


def mpi() -> list[Check]:
    """The MPI and the size of its world. Raises EngineError where a launcher started what MPI does not see."""
    with open_ranks() as ranks:
        library = mpi_library()
    if library is None:
        return [Check("mpi", Found.ABSENT, "mpi4py or its MPI library is missing; one process needs none")]
    return [Check("mpi", Found.OK, f"{library}, world of {ranks.size}")]


def environment(variables: Mapping[str, str]) -> list[Check]:
    """What the scheduler said of this task.

    >>> environment({"SLURM_JOB_ID": "7", "SLURM_JOB_USER": "me"})[0].told
    'SLURM_JOB_ID=7'
    """
    told = [f"{name}={variables[name]}" for name in VARIABLES if name in variables]
    inside = any(name.startswith("SLURM_") for name in variables)
    return [Check("slurm", Found.OK if inside else Found.ABSENT, ", ".join(([] if inside else ["no job"]) + told))]
