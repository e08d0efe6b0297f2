"""TorchEngine on a GPU against TorchEngine on the CPU, in float32 with TF32 off, and how fast an ensemble is.

Run in the root of the repository; needs torch, numpy, safetensors and pydantic alone:
    benchmarks/torch_on_gpu.py [--device cuda] [--model tumorcast/models/demo128] [--members 512]
Prints a table, and as its last line one JSON object. Exit code 1 if a difference exceeds the limits of parity.py.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tumorcast.diffusion.progression import ProgressionNetwork
from tumorcast.diffusion.sampler import Encodings, MemberTargets, sample
from tumorcast.engines import parity
from tumorcast.engines.bundle import Bundle, TensorParity
from tumorcast.engines.model import ModelSet, load_bundle
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.settings import NetworkKind, Precision, Provider, SamplerSettings
from tumorcast.training.networks import default_architecture

BATCH = 64
SETTINGS = SamplerSettings(noise_level=200, steps=20)
Differences = dict[str, TensorParity]


def random_progression(model: ModelSet) -> ProgressionNetwork:
    """One of the default shape; fresh networks end in zeros, which would hide what is compared, so all is random."""
    kind = NetworkKind.SLICE_PROGRESSION
    architecture = default_architecture(kind, image_size=model.info.image_size, contrasts=len(model.info.contrasts))
    network, generator = ProgressionNetwork(architecture).eval().requires_grad_(False), torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        drawn = 0.5 * torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
        value.copy_(1 + drawn if name.endswith("weight") and value.ndim == 1 else drawn)
    return network


def engine_on(device: str, folder: Path) -> TorchEngine:
    """With networks of its own: an engine moves those it is given to its device."""
    model = load_bundle(Bundle.open(folder))
    if model.progression is None:
        info = replace(model.info, progression=NetworkKind.SLICE_PROGRESSION)
        model = replace(model, progression=random_progression(model), info=info)
    return TorchEngine(model, device)


def phantoms(engine: TorchEngine, rows: int) -> parity.Inputs:
    """As many as `rows`, by repeating the two that there are."""
    part = parity.phantom(len(engine.info.contrasts), engine.info.image_size)
    more = {
        n: np.resize(getattr(part, n), (rows, *getattr(part, n).shape[1:])) for n in ("images", "brains", "outlines")
    }
    return parity.Inputs(f"{rows} phantoms", **more)


def differences(engine: TorchEngine, reference: TorchEngine, inputs: list[parity.Inputs], times: int) -> Differences:
    """The largest differences by output, looked for at so many diffusion times."""
    parity.TIMES = times
    return parity.compare(engine, reference, Precision.FP32, inputs)


def print_table(title: str, measured: Differences) -> bool:
    """Print a table; whether all is within its limit."""
    print(f"\n{title}\n{'output':24}{'difference':>12}{'limit':>10}  where")
    for name, part in sorted(measured.items()):
        verdict = "" if part.difference <= part.limit else "  BEYOND"
        print(f"{name:24}{part.difference:12.2e}{part.limit:10.0e}  {part.where}{verdict}")
    return all(part.difference <= part.limit for part in measured.values())


def ensemble(engine: TorchEngine, members: int) -> tuple[np.ndarray, float]:
    """Members of one phantom from 4 encodings, aims of -20 % to +80 % of its size; and the seconds."""
    part, rng = phantoms(engine, 4), np.random.default_rng(0)
    images, brain = (np.repeat(rows[1:2], 4, axis=0) for rows in (part.images, part.brains))
    present = (part.outlines[1].sum() / part.brains[1].sum()).astype(np.float32)
    noise = rng.standard_normal(images.shape).astype(np.float32)
    encodings = Encodings(images, noise, np.full(4, present, np.float32), brain, np.zeros(4, int))
    change = (present * np.linspace(-0.2, 0.8, members)).astype(np.float32)
    targets = MemberTargets(np.arange(members) % 4, change, np.repeat(brain[:1], members, axis=0))
    began = time.perf_counter()
    made = sample(engine, encodings, targets, SETTINGS, batch=BATCH)
    return made, time.perf_counter() - began


def progress_rate(engine: TorchEngine, calls: int) -> float:
    """Images a second of the progression network, batch 64."""
    part, ratio = phantoms(engine, BATCH), np.full(BATCH, 0.5, np.float32)
    engine.predict_progression(part.images, part.outlines, ratio)
    began = time.perf_counter()
    for _ in range(calls):
        engine.predict_progression(part.images, part.outlines, ratio)
    return calls * BATCH / (time.perf_counter() - began)


def compared(gpu: TorchEngine, cpu: TorchEngine) -> tuple[dict[str, Any], bool]:
    """What differs between the GPU and the CPU, by name, and whether all is within its limit."""
    form = len(cpu.info.contrasts), cpu.info.image_size
    record: dict[str, Any] = {}
    within = True
    for rows, inputs, times in (
        (2, [parity.phantom(*form), parity.noise(*form)], 12),
        (BATCH, [phantoms(cpu, BATCH)], 3),
    ):
        measured = differences(gpu, cpu, inputs, times)
        within &= print_table(f"{gpu.device} against cpu, {times} times, {rows} rows", measured)
        record[f"parity_{rows}_rows"] = {
            key: [part.difference, part.limit, part.where] for key, part in measured.items()
        }
    record["ensemble_difference"] = float(np.abs(ensemble(gpu, 8)[0] - ensemble(cpu, 8)[0]).max())
    return record, within


def rates(gpu: TorchEngine, cpu: TorchEngine, members: int) -> dict[str, float | int | None]:
    """Images a second of an ensemble on either, the median of three on the GPU, and of the progression network."""
    ensemble(gpu, min(BATCH, members))  # warm
    speeds, some = sorted(members / ensemble(gpu, members)[1] for _ in range(3)), min(32, members)
    return {
        "members": members,
        "batch": BATCH,
        "steps_each_way": SETTINGS.steps,
        "ensemble_images_a_second": speeds[1],
        "progress_images_a_second": progress_rate(gpu, 20 if gpu.device.startswith("cuda") else 2),
        "cpu_threads": torch.get_num_threads(),
        "cpu_images_a_second": some / ensemble(cpu, some)[1],
    }


def main() -> int:
    """Compare, time, print; 1 if a difference is beyond its limit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, default=Path("tumorcast/models/demo128"))
    parser.add_argument("--members", type=int, default=512)
    options = parser.parse_args()
    opened = open_engine(EngineChoice((options.model,), Provider.TORCH, options.device))  # as tumorcast forecast does
    print(f"torch {torch.__version__}: {type(opened).__name__} on {opened.device}")
    gpu, cpu = engine_on(options.device, options.model), engine_on("cpu", options.model)
    record, within = compared(gpu, cpu)
    record |= {"device": gpu.device, "torch": torch.__version__, **rates(gpu, cpu, options.members)}
    print("PASSED" if within else "FAILED: a difference is beyond its limit")
    print(json.dumps(record))
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
