"""One training: what is trained, how, where; its device, and the random numbers of a step from (seed, step) alone."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tumorcast.errors import EngineError
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.parallel import ALONE, Team


class Device(StrEnum):
    """What the user asks for; auto is cuda where torch sees one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def open_device(wanted: Device, index: int = 0) -> torch.device:
    """The device, made ready; `index` counts a node's CUDA devices. Raises EngineError if it is not there."""
    if wanted is Device.CPU or (wanted is Device.AUTO and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if index >= count:
        raise EngineError(
            f"--device {wanted}: torch {torch.__version__} sees {count} CUDA devices, and process {index} of this node "
            "needs one of its own; use --device cpu, start fewer processes, or install a torch with CUDA"
        )
    torch.cuda.set_device(index)
    torch.set_float32_matmul_precision("high")  # TF32: training is no place where float32's last bits count
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    return torch.device("cuda", index)


def device_name(device: torch.device, processes: int = 1) -> str:
    """What trains, for the record: `cpu`, `cuda (NVIDIA H100)`, or `2 x cpu` for two processes."""
    name = device.type if device.type == "cpu" else f"{device.type} ({torch.cuda.get_device_name(device)})"
    return name if processes == 1 else f"{processes} x {name}"


@dataclass(frozen=True)
class Draws:
    """Numbers for a batch of `size` rows: drawn for all of them by every process, which then keeps its own rows."""

    generator: torch.Generator
    size: int
    team: Team = ALONE

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(n, *shape) in [low, high), for this process' n rows."""
        whole = torch.rand((self.size, *shape), generator=self.generator, device=self.generator.device)
        return (whole * (high - low) + low)[self.team.rows]

    def normal(self, *shape: int) -> Tensor:
        """(n, *shape) of the standard normal distribution."""
        whole = torch.randn((self.size, *shape), generator=self.generator, device=self.generator.device)
        return whole[self.team.rows]

    def integers(self, low: int, high: int) -> Tensor:
        """(n,) in low … high - 1."""
        whole = torch.randint(low, high, (self.size,), generator=self.generator, device=self.generator.device)
        return whole[self.team.rows]

    def members(self, pools: list[Tensor], counts: list[int]) -> Tensor:
        """(n,) where the batch holds counts[k] members, drawn with replacement, of pools[k]."""
        device = self.generator.device
        picks = [
            pool[torch.randint(len(pool), (count,), generator=self.generator, device=device)]
            for pool, count in zip(pools, counts, strict=True)
        ]
        return torch.cat(picks)[self.team.rows]


def generator_of(device: torch.device, *key: int) -> torch.Generator:
    """A generator on `device` for a key, as (seed, step). It keeps 32 bits of its seed: the key is mixed into so many.

    Each device has random numbers of its own.
    """
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


@dataclass(frozen=True)
class Job:
    """What every part of a training needs to know. `team`: of this process; what only one does is done by its lead."""

    kind: NetworkKind
    settings: TrainSettings
    out: Path
    device: torch.device
    team: Team = ALONE

    def draws(self, step: int) -> Draws:
        """The random numbers of a step, counted from 0."""
        return Draws(generator_of(self.device, self.settings.seed, step), self.settings.batch, self.team)

    def fixed_draws(self, number: int, size: int) -> Draws:
        """Random numbers that are no step's and stay the same throughout the run, for `size` rows of this process."""
        return Draws(generator_of(self.device, self.settings.seed, 0, number), size)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that the network is run in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16)
