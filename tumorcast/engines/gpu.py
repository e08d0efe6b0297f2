"""What `nvidia-smi` tells of the GPUs here. Nothing else asks the driver, and no GPU package is needed."""

import subprocess
from dataclasses import dataclass

QUERY = ("name", "compute_cap", "driver_version", "memory.total", "memory.free")
MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """A GPU. architecture: as "sm90". Memory in bytes."""

    index: int
    name: str
    architecture: str
    driver: str
    memory: int
    free: int


def gpus() -> list[Gpu]:
    """The GPUs that this process may use, as nvidia-smi lists them; none where it is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse(told)


def parse(told: str) -> list[Gpu]:
    """The lines of nvidia-smi's csv.

    >>> parse("NVIDIA H100 80GB HBM3, 9.0, 570.86.15, 81559, 81000")[0].architecture
    'sm90'
    """
    found = []
    for index, line in enumerate(filter(None, map(str.strip, told.splitlines()))):
        name, capability, driver, total, free = (part.strip() for part in line.rsplit(",", 4))
        found.append(Gpu(index, name, f"sm{capability.replace('.', '')}", driver, int(total) * MIB, int(free) * MIB))
    return found
