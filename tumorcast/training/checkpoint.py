"""The state of a training run on disk, as safetensors, and how a run is resumed from it. Nothing is pickled.

A checkpoint holds weights, their moving average, and AdamW's moments.
"""

import json
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from tumorcast.durable import write_text, written_whole
from tumorcast.errors import InputError
from tumorcast.provenance import commit, refuse_other
from tumorcast.training.job import Job
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo

MOMENTS = ("exp_avg", "exp_avg_sq")
CHECKPOINT_FILE = "checkpoint.safetensors"
logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """A network under training. `average`: the exponential moving average of its parameters, by name."""

    module: nn.Module
    average: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    step: int = 0

    @classmethod
    def fresh(cls, module: nn.Module, learning_rate: float, weight_decay: float) -> "TrainingState":
        """The state before the first step."""
        fused = next(module.parameters()).is_cuda
        optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused)
        average = {name: value.detach().clone() for name, value in module.named_parameters()}
        return cls(module, average, optimizer)

    def update_average(self, decay: float) -> None:
        """Move the average towards the weights; the decay starts low so that the first weights are forgotten."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        values = [value.detach() for _, value in self.module.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), values, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network in evaluation mode with the averaged weights, which are taken out again after the block."""
        with torch.no_grad():
            parameters = dict(self.module.named_parameters())
            trained = {name: value.clone() for name, value in parameters.items()}
            for name, value in parameters.items():
                value.copy_(self.average[name])
            try:
                yield self.module.eval()
            finally:
                self.module.train()
                for name, value in parameters.items():
                    value.copy_(trained[name])

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, under unique names."""
        state = {f"weights/{name}": value.detach() for name, value in self.module.named_parameters()}
        state |= {f"average/{name}": value for name, value in self.average.items()}
        return state | dict(self._moments())

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.module.named_parameters():
            for moment in MOMENTS if parameter in self.optimizer.state else ():
                yield f"{moment}/{name}", self.optimizer.state[parameter][moment]

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Put back what `tensors()` gave after `step` steps. Raises KeyError or RuntimeError if it does not fit."""
        self.step = step
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(tensors[f"weights/{name}"])
                self.average[name].copy_(tensors[f"average/{name}"])
                moments = {moment: tensors[f"{moment}/{name}"].to(parameter.device, copy=True) for moment in MOMENTS}
                counter = torch.tensor(float(step), device=parameter.device)
                self.optimizer.state[parameter] = {"step": counter, **moments}


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that a crash leaves the old one or the new one, never half of one."""
    with written_whole(path) as temporary:
        temporary.write_bytes(serialised({name: value.contiguous() for name, value in tensors.items()}, metadata))


def checkpoint_step(path: Path) -> int | None:
    """The step that a checkpoint is of; None where there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["step"])
    except (OSError, SafetensorError, KeyError):
        return None


def load_checkpoint(path: Path, state: TrainingState) -> dict[str, str]:
    """Restore `state` from `path` and return the file's metadata. Raises InputError if it does not fit."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        state.restore(tensors, int(metadata["step"]))
    except (OSError, SafetensorError, KeyError, RuntimeError) as fault:
        raise InputError(f"{path}: cannot be resumed from ({fault}); remove the folder to start again") from None
    return metadata


def resume(job: Job, info: RunInfo, state: TrainingState) -> None:
    """Bring `state` to where the run stands; a new one is begun. Another device than before is said, and no fault.

    Raises UsageError if the folder holds another run, InputError if it cannot be resumed.
    """
    run, checkpoint = job.out / RUN_FILE, job.out / CHECKPOINT_FILE
    if not run.exists():
        if job.team.leads:
            write_text(run, info.to_json(commit()))
        return
    try:
        wanted = json.loads(info.to_json(None))
        device = wanted["provenance"].pop("device")
        refuse_other(run, json.loads(run.read_text(encoding="utf-8")), wanted)
        if not checkpoint.exists() and not (job.out / WEIGHTS_FILE).exists():
            return
        before = load_checkpoint(checkpoint, state).get("device", device)
    except (OSError, ValueError, KeyError) as fault:
        raise InputError(f"{job.out}: the run there cannot be resumed ({fault}); give another --out") from None
    if before != device and job.team.leads:
        logger.warning("%s: goes on on %s, after %s: no longer bit for bit", job.out, device, before)


def what_is_kept(out: Path) -> str:
    """What a run that ends now can go on from, in words."""
    step = checkpoint_step(out / CHECKPOINT_FILE)
    if step is None:
        return "no step is saved yet; start the command again to begin anew"
    return f"the checkpoint of step {step} is kept; start the command again to go on"


def save_run(job: Job, info: RunInfo, state: TrainingState) -> None:
    """Write checkpoint and weights."""
    metadata = {"step": str(state.step), "kind": str(info.kind), "machine": platform.machine()}
    metadata["device"] = info.provenance["device"]
    save_tensors(job.out / CHECKPOINT_FILE, state.tensors(), metadata)
    save_tensors(job.out / WEIGHTS_FILE, state.average, metadata)
