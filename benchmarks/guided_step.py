"""One guided step: the paper's eager torch against the exported graph in ONNX Runtime, side by side; writes JSON.

    OMP_NUM_THREADS=2 benchmarks/guided_step.py [--repeats 9] [--sizes 64 128] [--out result.json]

Networks with random weights: the paper's attention (denoiser at 16 pixels; its regressor at 32, 16 and 8) and, with the
same denoiser, our dense regressor.
The peers take turns in every repeat, so that a noisy machine disturbs them alike. `peak` is the fastest 3×3 convolution
of torch (oneDNN) found in the same run; `share_of_peak` is convolutions' and products' work over time, over that peak.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from paper_step import as_the_paper
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tumorcast.diffusion.pullback import size_and_gradient
from tumorcast.diffusion.sampler import StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.bundle import Bundle
from tumorcast.engines.export import ExportSettings, write_graphs
from tumorcast.engines.model import ModelSet, Networks
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.protocol import Engine, ModelInfo
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.settings import NetworkKind, Provider
from tumorcast.training.networks import build, default_architecture
from tumorcast.training.run_info import RunInfo

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
CHANNELS = {64: 32, 128: 64}  # of the denoiser, as the measurements in the project's notes
PAPER_DENOISER = {"attention_resolutions": (16,)}  # where the paper's networks attend
PAPER_REGRESSOR = {"attention_resolutions": (32, 16, 8), "head_channels": 64, "res_blocks": 2}
STEP = Step(100, 0.85, 0.86)


def random_model(kind: NetworkKind, side: int) -> ModelSet:
    """Untrained networks with random weights in every layer."""
    torch.manual_seed(0)
    parts = {}
    for name, part in (("denoiser", NetworkKind.DENOISER), ("regressor", kind), ("segmenter", NetworkKind.SEGMENTER)):
        arch = default_architecture(part, image_size=side, contrasts=4)
        if name == "denoiser":
            arch = arch.model_copy(update={"channels": CHANNELS.get(side, 64)} | PAPER_DENOISER)
        if part is NetworkKind.ATTENTION_POOL_REGRESSOR:
            arch = arch.model_copy(update=PAPER_REGRESSOR)
        module = build(part, arch).eval().requires_grad_(False)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.03)
        parts[name] = (module, RunInfo(part, arch, CONTRASTS, 350, {}))
    modules: dict[str, Any] = {name: module for name, (module, _) in parts.items()}
    info = ModelInfo(CONTRASTS, side, 350, NetworkKind.SEGMENTER, "random")
    return ModelSet(**modules, info=info, entries={name: entry for name, (_, entry) in parts.items()})


def gigaflops(model: ModelSet, side: int) -> float:
    """Multiplications and additions, in 1e9, of one image's guided step with the gradient to the image alone."""
    x, t, brain = torch.zeros(1, 4, side, side), torch.zeros(1, dtype=torch.long), torch.ones(1, side, side)
    with FlopCounterMode(display=False) as denoiser:
        model.denoiser(x, t, torch.ones_like(t))
    with FlopCounterMode(display=False) as regressor:
        size_and_gradient(model.regressor, x, t, brain)
    return float(denoiser.get_total_flops() + regressor.get_total_flops()) / 1e9


def peak_gigaflops() -> float:
    """The fastest of some 3×3 convolutions in torch."""
    best = 0.0
    for channels, side in ((64, 64), (128, 32), (128, 64), (256, 32)):
        x, weight = torch.randn(8, channels, side, side), torch.randn(channels, channels, 3, 3)
        work = 2 * 9 * channels**2 * side**2 * 8 / 1e9
        taken = [seconds(partial(functional.conv2d, x, weight, padding=1)) for _ in range(9)]
        best = max(best, work / min(taken))
    return best


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def step_of(engine: Engine, rows: int, side: int, kind: NetworkKind) -> Callable[[], object]:
    """A guided step on noise."""
    x = np.random.default_rng(0).standard_normal((rows, 4, side, side), np.float32)
    maps, target = np.ones((rows, side, side), np.float32), np.full(rows, 0.1, np.float32)
    strength = (0.0, 50_000.0) if kind is NetworkKind.ATTENTION_POOL_REGRESSOR else (0.5, 0.0)
    guidance, previous_eps = StepGuidance(target, maps, maps, *strength), np.zeros_like(x)
    return lambda: engine.guided_step(x, STEP, previous_eps, guidance)


def compare(kind: NetworkKind, side: int, repeats: int, peak: float) -> list[dict[str, Any]]:
    """Medians at batch 1 and 8."""
    model = random_model(kind, side)
    with tempfile.TemporaryDirectory() as folder:
        bundle: Bundle = write_graphs(Networks(model, None), Path(folder) / "bundle", ExportSettings())
        engines: dict[str, Engine] = {
            "paper_eager": TorchEngine(model),
            "torch_engine": TorchEngine(model),
            "onnxruntime": OnnxEngine(bundle, Provider.CPU),
        }
        return [measure(engines, kind, side, rows, repeats) | share(model, side, rows, peak) for rows in (1, 8)]


def measure(engines: dict[str, Engine], kind: NetworkKind, side: int, rows: int, repeats: int) -> dict[str, Any]:
    """Median milliseconds of each engine, taken in turns."""
    works = {name: step_of(engine, rows, side, kind) for name, engine in engines.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            if name == "paper_eager":
                with as_the_paper():
                    taken = seconds(work)
            else:
                taken = seconds(work)
            if repeat:  # the first warms up
                times[name].append(taken)
    medians = {name: 1e3 * statistics.median(taken) for name, taken in times.items()}
    return {
        "regressor": str(kind),
        "pixels": side,
        "batch": rows,
        "milliseconds": medians,
        "speedup": medians["paper_eager"] / medians["onnxruntime"],
    }


def share(model: ModelSet, side: int, rows: int, peak: float) -> dict[str, float]:
    """What the work of a step is, and how long it takes at the peak."""
    work = gigaflops(model, side) * rows
    return {"gigaflop": work, "milliseconds_at_peak": 1e3 * work / peak}


def main() -> None:
    """Parse, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    torch.set_num_threads(threads)
    machine = describe(threads=threads)
    peak = peak_gigaflops()
    kinds = (NetworkKind.ATTENTION_POOL_REGRESSOR, NetworkKind.DENSE_REGRESSOR)
    rows = [row for side in options.sizes for kind in kinds for row in compare(kind, side, options.repeats, peak)]
    for row in rows:
        row["share_of_peak"] = row["milliseconds_at_peak"] / row["milliseconds"]["onnxruntime"]
    result = {"machine": machine, "peak_gigaflop_per_s": peak, "steps": rows}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
