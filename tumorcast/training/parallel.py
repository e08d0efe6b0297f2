"""The processes that train one network together: each takes its rows of every batch, and gradients are averaged.

They are started by torchrun, or by srun with MASTER_ADDR and MASTER_PORT set (slurm/train.sh). Only the first writes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tumorcast.errors import EngineError, UsageError

# Environment variables with a process' rank among all, how many there are, rank on its node.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


@dataclass(frozen=True)
class Team:
    """This process among `size` that train together; `local_rank`: on its node. A team of one sends nothing.

    A loss is a mean over the batch, and shares are of equal size, so the mean of the processes' losses, and of their
    gradients, is that of the whole batch. What is no mean of rows (soft Dice) is built on `whole_sum`.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Team":
        """What the launcher says. Raises UsageError if srun started several that cannot find each other."""
        names = TORCHRUN if TORCHRUN[1] in os.environ else SLURM
        rank, size, local_rank = (
            int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True)
        )
        if size > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
            raise UsageError(
                f"{names[1]} = {size}: several processes were started, but MASTER_ADDR and MASTER_PORT are not set; "
                "start them with torchrun or slurm/train.sh"
            )
        return cls(rank, size, local_rank)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def rows(self) -> slice:
        """The rows of a batch that this process works on."""
        return slice(self.rank, None, self.size)

    def whole_sum(self, part: Tensor) -> Tensor:
        """The sum of `part` over all processes. Its gradient is right once gradients have been averaged."""
        if self.size == 1:
            return part
        total: Tensor = _WholeSum.apply(part)  # type: ignore[no-untyped-call]
        return total

    def average(self, module: nn.Module, loss: Tensor) -> Tensor:
        """Average all gradients over the processes, in one message; returns the mean loss."""
        if self.size == 1:
            return loss.detach()
        parts = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        parts.append(loss.detach())
        flat = _summed(torch.cat([part.reshape(-1) for part in parts])) / self.size
        for part, mean in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
            part.copy_(mean.view_as(part))
        return parts[-1]

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            _summed(torch.zeros(1, device=_device_of_messages()))

    def any(self, mine: bool) -> bool:
        """Whether it is so for any process; each must ask."""
        if self.size == 1:
            return mine
        return bool(_summed(torch.tensor([float(mine)], device=_device_of_messages())) > 0)


ALONE = Team()


@contextmanager
def connected(team: Team, device: torch.device) -> Iterator[None]:
    """Connect the processes of a team: over NCCL where they train on CUDA devices, else over gloo.

    Those that are connected already stay so: torch's store does not tell a second meeting from the first.
    """
    if team.size == 1 or distributed.is_initialized():
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=team.rank, world_size=team.size)
    try:
        yield
    finally:
        distributed.destroy_process_group()


class _WholeSum(torch.autograd.Function):
    """Σ over processes. Each takes the gradient of its own part, times their number, since gradients are averaged."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        del ctx
        return _summed(part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return gradients[0] * distributed.get_world_size()


def _summed(value: Tensor) -> Tensor:
    total = value.detach().clone()
    try:
        distributed.all_reduce(total)
    except RuntimeError as fault:
        raise EngineError(
            "another process of this training is gone; its own message says why. Start the same again to go on from "
            "the last checkpoint"
        ) from fault
    return total


def _device_of_messages() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
