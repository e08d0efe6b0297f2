"""What `nvidia-smi` tells of the GPUs here. Nothing else asks the driver, and no GPU package is needed."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace

QUERY = ("name", "compute_cap", "driver_version", "memory.total", "memory.free", "uuid")
MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """A GPU. index: as CUDA counts those that it may use. architecture: as "sm90". Memory in bytes, 0 if not told."""

    index: int
    name: str
    architecture: str
    driver: str
    memory: int
    free: int
    uuid: str = ""


def gpus() -> list[Gpu]:
    """The GPUs that this process may use, in the order of CUDA; none where nvidia-smi is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return visible(parse(told), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse(told: str) -> list[Gpu]:
    """The lines of nvidia-smi's csv.

    >>> parse("NVIDIA H100 80GB HBM3, 9.0, 570.86.15, 81559, 81000, GPU-1f")[0].architecture
    'sm90'
    """
    found = []
    for index, line in enumerate(filter(None, map(str.strip, told.splitlines()))):
        name, capability, driver, total, free, uuid = (part.strip() for part in line.rsplit(",", 5))
        architecture = f"sm{capability.replace('.', '')}"
        found.append(Gpu(index, name, architecture, driver, _bytes(total), _bytes(free), uuid))
    return found


def _bytes(mib: str) -> int:
    return int(mib) * MIB if mib.isdecimal() else 0  # "[N/A]" where memory is shared or split


def visible(listed: list[Gpu], wanted: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves, which nvidia-smi does not heed; the first unknown one ends the list.

    >>> [gpu.name for gpu in visible(parse("A, 9.0, 5, 1, 1, GPU-1f\\nB, 9.0, 5, 1, 1, GPU-2e"), "GPU-2,0,7")]
    ['B', 'A']
    """
    if wanted is None:
        return listed
    found: list[Gpu] = []
    for word in map(str.strip, wanted.split(",")):
        named = [gpu for gpu in listed if word == str(gpu.index) or (word and gpu.uuid.startswith(word))]
        if len(named) != 1:
            break
        found.append(replace(named[0], index=len(found)))
    return found


def visible_count(variables: Mapping[str, str]) -> int:
    """How many GPUs CUDA would see: what CUDA_VISIBLE_DEVICES lists, else what `nvidia-smi` does.

    >>> visible_count({"CUDA_VISIBLE_DEVICES": "2,3"}), visible_count({"CUDA_VISIBLE_DEVICES": ""})
    (2, 0)
    """
    told = variables.get("CUDA_VISIBLE_DEVICES")
    return len(gpus()) if told is None else len([word for word in told.split(",") if word.strip()])
