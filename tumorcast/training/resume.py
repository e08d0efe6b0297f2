"""A RUN folder under training: how a run is taken up where it stands, and what is saved of it."""

import json
import logging
import platform
from pathlib import Path

from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.provenance import commit, refuse_other
from tumorcast.training.checkpoint import TrainingState, checkpoint_step, load_checkpoint, save_tensors
from tumorcast.training.job import Job
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo

CHECKPOINT_FILE = "checkpoint.safetensors"
logger = logging.getLogger(__name__)


def resume(job: Job, info: RunInfo, state: TrainingState) -> None:
    """Bring `state` to where the run stands; a new one is begun. Another device than before is said, and no fault.

    Raises UsageError if the folder holds another run, InputError if it cannot be resumed.
    """
    run, checkpoint = job.out / RUN_FILE, job.out / CHECKPOINT_FILE
    if not run.exists():
        if job.team.leads:
            with written_whole(run) as temporary:
                temporary.write_text(info.to_json(commit()), encoding="utf-8")
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


def save(job: Job, info: RunInfo, state: TrainingState) -> None:
    """Write checkpoint and weights."""
    metadata = {"step": str(state.step), "kind": str(info.kind), "machine": platform.machine()}
    metadata["device"] = info.provenance["device"]
    save_tensors(job.out / CHECKPOINT_FILE, state.tensors(), metadata)
    save_tensors(job.out / WEIGHTS_FILE, state.average, metadata)
