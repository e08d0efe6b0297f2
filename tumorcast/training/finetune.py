"""A few more steps of training on one patient's own slices, held in memory: a copy of a network, for that patient."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tumorcast.errors import EngineError
from tumorcast.records import Session
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.arrays import SliceArrays
from tumorcast.training.checkpoint import TrainingState
from tumorcast.training.dataset import Pools, SliceStore
from tumorcast.training.job import Job
from tumorcast.training.stepper import Stepper

Network = TypeVar("Network", bound=nn.Module)


def tuned(network: Network, kind: NetworkKind, arrays: SliceArrays, settings: TrainSettings) -> Network:
    """A copy of `network`, on its device, after `settings.steps` steps on `arrays`, with its averaged weights.

    It is in evaluation mode; the network itself stays as it is.
    Every slice is trained on, whatever validation_share says. Raises InputError if nothing in `arrays` can be trained
    on, EngineError if the loss is no longer a number.
    """
    every = settings.model_copy(update={"validation_share": 0.0})
    device = next(network.parameters()).device
    module = copy.deepcopy(network).requires_grad_(True).train()
    pools = Pools.open(kind, SliceStore.open(arrays, device), every)
    state = TrainingState.fresh(module, every.learning_rate, every.weight_decay)
    stepper = Stepper(Job(kind, every, arrays.origin, device), state, pools.training)
    for _ in range(every.steps):
        stepper.advance()
        for row in stepper.collect(at_once=state.step == every.steps):
            _check(row["loss"], row["step"], kind, arrays)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(state.average[name])
    return module.eval().requires_grad_(False)


def _check(loss: float, step: int, kind: NetworkKind, arrays: SliceArrays) -> None:
    if not math.isfinite(loss):
        raise EngineError(
            f"{arrays.origin}: {', '.join(arrays.patient_ids)}: step {step} of the {kind}: the loss is {loss}; tune "
            "with a lower learning rate"
        )


def patient_arrays(origin: Path, scans: Sequence[Session]) -> SliceArrays:
    """The slices of one patient's scans, in the order of time, as training reads them; none without a mask."""
    masked = [np.isfinite(scan.area_mm2) for scan in scans]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(scan, name)[kept] for scan, kept in zip(scans, masked, strict=True)])

    tumour = joined("labels") > 0
    counts = [int(kept.sum()) for kept in masked]
    return SliceArrays(
        origin=origin,
        cohort_sha256="",
        contrasts=tuple(map(str, scans[0].contrasts)),
        patient_ids=(scans[0].patient_id,),
        images=joined("images").astype(np.float16),
        tumour=tumour,
        brain=joined("brain"),
        tumour_pixels=tumour.sum(axis=(1, 2)).astype(np.int32),
        patient=np.zeros(len(tumour), np.int32),
        session=np.repeat(np.arange(len(scans), dtype=np.int32), counts),
        source_slice=joined("source_slice").astype(np.int32),
    )
