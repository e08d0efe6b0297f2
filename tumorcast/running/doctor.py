"""What `tumorcast doctor` finds: the machine, and whether a provider computes what it should there, and how fast."""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tumorcast.diffusion.sampler import StepGuidance
from tumorcast.diffusion.schedule import Step, alpha_bars
from tumorcast.engines import parity
from tumorcast.engines.bundle import Bundle, TensorParity, is_bundle
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.opening import MODELS, EngineChoice, device_index, locate, open_engine
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError
from tumorcast.running import machine
from tumorcast.running.machine import Check, Found, attempt
from tumorcast.settings import Provider

SHIPPED = MODELS / "demo128"
ONNX_RUNTIME = {"onnxruntime-gpu", "ORT providers", "model", "provider", "parity"}
NEEDED = {  # and every speed
    Provider.TORCH: {"model", "provider", "parity"},
    Provider.CPU: ONNX_RUNTIME,
    Provider.CUDA: ONNX_RUNTIME | {"gpu"},
    Provider.TENSORRT: ONNX_RUNTIME | {"gpu", "engine cache"},
}
NO_TORCH = "not checked: torch is not installed"
BATCHES = {1, 8}
REPEATS = 5  # timed steps, after one that is not
TIME = 199  # of the timed step
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """What to check: a bundle, and what is to run it. device: None is the CPU, or the first GPU.

    cache: where TensorRT's engines lie; None is a folder in the bundle.
    """

    model: Path = SHIPPED
    provider: Provider = Provider.CPU
    device: str | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError where provider and device do not go together."""
        if self.provider is not Provider.TORCH:
            device_index(self.provider, self.device)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is to compute."""
        return self.provider in (Provider.CUDA, Provider.TENSORRT) or (self.device or "").startswith("cuda")

    def open(self, rows: int) -> Engine:
        """The engine that is asked for, for batches of `rows`."""
        return open_engine(EngineChoice((self.model,), self.provider, self.device, rows, self.cache))


def examine(asked: Asked, report: Report = lambda done, total: None) -> list[Check]:
    """Every check, in the order in which one looks for a fault. report: comparisons done, and how many there are."""
    tensorrt = asked.provider is Provider.TENSORRT
    looks: dict[str, Callable[[], list[Check]]] = {
        "packages": machine.packages,
        "ORT providers": machine.offered,
        "gpu": partial(machine.graphics, needed=asked.on_gpu),
        "cores": machine.cores,
        "memory": machine.memory,
        "working folder": partial(machine.disk, "working folder", Path()),
        "engine cache": partial(
            machine.disk, "engine cache", asked.cache or asked.model / "tensorrt", must_write=tensorrt
        ),
        "mpi": machine.mpi,
        "slurm": partial(machine.environment, os.environ),
    }
    return [check for name, look in looks.items() for check in attempt(name, look)] + engine(asked, report)


def failed(checks: list[Check], provider: Provider) -> bool:
    """Whether the provider, or what it needs, failed.

    >>> failed([Check("gpu", Found.FAILED, "")], Provider.CPU), failed([Check("gpu", Found.FAILED, "")], Provider.CUDA)
    (False, True)
    """
    bad = [check.name for check in checks if check.status is Found.FAILED]
    return any(name in NEEDED[provider] or name.startswith("speed") for name in bad)


def engine(asked: Asked, report: Report) -> list[Check]:
    """Bundle, provider, parity and speeds. What stands after a fault of the first two is not checked."""
    found = attempt("model", partial(model, asked.model))
    if found[-1].status is Found.OK:
        found += attempt("provider", partial(provider, asked))
    if found[-1].status is Found.FAILED:
        return [*found, Check("parity", Found.ABSENT, f"not checked: {found[-1].name} failed")]
    most = {Bundle.open(asked.model).manifest.max_batch} if asked.on_gpu else set()
    found += attempt("parity", partial(compare, asked, report))
    for batch in sorted(BATCHES | most):
        found += attempt(f"speed {batch}", partial(speed, asked, batch))
    return found


def model(folder: Path) -> list[Check]:
    """The bundle: whole, and every file that of its sum. Raises InputError if not."""
    if not is_bundle(locate(folder)):
        raise InputError(
            f"{folder}: holds RUN folders and no engine bundle; make one (`tumorcast export {folder} --out BUNDLE`) "
            "and give --model BUNDLE"
        )
    bundle = Bundle.open(folder)
    told, info = bundle.manifest, bundle.info
    size = f"{info.image_size} px, {', '.join(info.contrasts)}, {told.precision}, batches to {told.max_batch}"
    graphs = ", ".join(told.graphs)
    return [Check("model", Found.OK, f"{size}, graphs {graphs}, checked with {told.checked_with or 'nothing'}")]


def provider(asked: Asked) -> list[Check]:
    """Whether the provider opens the graph and does a step, and how long this takes at first."""
    began = time.perf_counter()
    opened = asked.open(rows=1)
    guided_step(opened, 1)
    seconds = time.perf_counter() - began
    return [Check("provider", Found.OK, f"{asked.provider} on {opened.device}, {seconds:.1f} s to open and first step")]


def compare(asked: Asked, report: Report) -> list[Check]:
    """Whether the provider gives what torch gives; without torch, a GPU is held against the CPU.

    Raises EngineError if it differs too much.
    """
    if importlib.util.find_spec("torch") is None:
        if not asked.on_gpu:
            return [Check("parity", Found.ABSENT, NO_TORCH)]
        worst = _worst(_with_cpu(asked, Provider.CPU, report))
        return [Check("parity", Found.OK, f"{NO_TORCH}; provider cpu instead: {worst}")]
    if asked.provider is Provider.TORCH:
        if not asked.on_gpu:
            return [Check("parity", Found.OK, "torch on the CPU is the reference")]
        return [Check("parity", Found.OK, _worst(_with_cpu(asked, Provider.TORCH, report)))]
    from tumorcast.engines.make import check_bundle  # noqa: PLC0415 - needs torch

    device = device_index(asked.provider, asked.device)
    found = check_bundle(asked.model, None, asked.provider, report, device=device, cache=asked.cache)
    return [Check("parity", Found.OK, _worst(found))]


def _with_cpu(asked: Asked, reference: Provider, report: Report) -> dict[str, TensorParity]:
    bundle = Bundle.open(asked.model)
    form = len(bundle.info.contrasts), bundle.info.image_size
    inputs = [parity.phantom(*form), parity.noise(*form)]
    rows = len(inputs[0].images)
    wanted = Asked(asked.model, reference, "cpu").open(rows)
    found = parity.compare(asked.open(rows), wanted, bundle.manifest.precision, inputs, report)
    parity.check(found, f"{asked.model}, held against provider {reference} on the CPU")
    return found


def _worst(found: dict[str, TensorParity]) -> str:
    name, worst = max(found.items(), key=lambda item: item[1].difference / item[1].limit)
    return f"worst {name}: {worst.difference:.1e} of its largest value, {worst.limit:.0e} allowed"


def speed(asked: Asked, batch: int) -> list[Check]:
    """Images/s: the median of several guided steps, after one."""
    opened = asked.open(rows=batch)
    guided_step(opened, batch)
    seconds = statistics.median(guided_step(opened, batch) for _ in range(REPEATS))
    blocks = opened.target.rows if isinstance(opened, OnnxEngine) else batch
    cut = f", in blocks of {blocks}" if blocks < batch else ""
    told = f"{batch / seconds:.3g} images/s, guided step of {batch}{cut}: {1000 * seconds:.3g} ms"
    return [Check(f"speed {batch}", Found.OK, told)]


def guided_step(opened: Engine, batch: int) -> float:
    """The seconds of a guided step of `batch` phantoms."""
    info, abar = opened.info, alpha_bars()
    part = parity.phantom(len(info.contrasts), info.image_size)
    images, brains = (np.resize(rows, (batch, *rows.shape[1:])) for rows in (part.images, part.brains))
    time_asked = min(TIME, info.noise_levels - 1)
    step = Step(time_asked, abar[time_asked], abar[max(time_asked - parity.STRIDE, 0)])
    guidance = StepGuidance(np.full(batch, 0.1, np.float32), brain=brains, window=brains, gain=0.5)
    began = time.perf_counter()
    opened.guided_step(images, step, np.zeros_like(images), guidance)
    return time.perf_counter() - began
