"""The engine of ONNX Runtime: the graphs of a bundle on CPU, CUDA or TensorRT.

What no GPU has run is listed in docs/engines.md.
"""

import math
import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.diffusion.box import BoxGuidance, EncodedPath
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step
from tumorcast.durable import held_when_free
from tumorcast.engines.batches import Batches, Feeds, first_line
from tumorcast.engines.bundle import Bundle, Graph
from tumorcast.engines.onnxruntime_package import onnxruntime
from tumorcast.engines.protocol import ModelInfo, check_progression
from tumorcast.engines.providers import (
    ORT_NAMES,
    SessionTarget,
    check_precision,
    engine_cache,
    has_fixed_shapes,
    provider_list,
    row_shapes,
)
from tumorcast.errors import EngineError, TumorcastError
from tumorcast.settings import Provider

UNBOUNDED = 1e30  # a bound that holds nothing back
MEMORY_SHARE = 0.8  # of the device's memory that activations may take


class GraphEngine(ABC):
    """The sampler's steps as calls of a bundle's graphs, whatever runs them."""

    info: ModelInfo
    provider: Provider
    device: str

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """(N, C, H, W) at the next noise level, unguided, and ε."""
        scalars = step_scalars(step) | {"bound": 1.0 if step.clip else UNBOUNDED}
        x_next, eps = self._run(Graph.ENCODE, {"x": x, "last": previous_eps}, scalars)
        return x_next, eps

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """(N, C, H, W) at the next, lower noise level, and ε."""
        maps = {"brain": guidance.brain, "window": guidance.window}
        rows = {"x": x, "last": previous_eps, "target": guidance.target} | maps
        strength = {"gain": guidance.gain, "scale": guidance.scale}
        x_next, eps, _ = self._run(Graph.GUIDED, rows, step_scalars(step) | strength)
        return x_next, eps

    def survey(self, x: Array, step: Step, previous_eps: Array, outside: Array) -> tuple[Array, Array, Array]:
        """(N, C, H, W) at the next noise level, unguided, ε, and (N, G, 2) what norms see outside of a box."""
        rows = {"x": x, "last": previous_eps, "outside": outside}
        x_next, eps, norms = self._run(Graph.SURVEY, rows, step_scalars(step))
        return x_next, eps, norms

    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]:
        """(N, C, S, S) the next departure, ε less the path's, and (N,) R(x, t) in the box."""
        rows = box_rows(departure, previous, path, guidance)
        scalars = box_scalars(departure, step, guidance, self.info.image_size)
        departure, change, size = self._run(Graph.BOX, rows, scalars)
        return departure, change, size

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """(N,) R(x, t) of the guiding regressor."""
        return self._run(Graph.SIZE, {"x": x, "brain": brain}, {"t": float(t)})[0]

    def segment(self, images: Array) -> Array:
        """(N, H, W) probability of tumour in clean images (N, C, H, W)."""
        return self._run(Graph.SEGMENT, {"image": images}, {})[0]

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """(N, H, W) probability of tumour later, of images (N, C, H, W), outline (N, H, W) and log_ratio (N,)."""
        check_progression(self.info)
        return self._run(Graph.PROGRESS, {"images": images, "outline": outline, "log_ratio": log_ratio}, {})[0]

    @abstractmethod
    def _run(self, graph: Graph, rows: Feeds, scalars: dict[str, float]) -> list[Array]:
        """The outputs of a graph, of as many rows as the inputs have."""


class OnnxEngine(GraphEngine):
    """Encode, guide, segment and predict progression with the graphs of a bundle.

    Graphs are opened when they are first needed. rows: how many images a call of the graph takes; more are cut into
    such blocks. On a GPU it is what fits its memory, and halves when that runs out.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: Provider = Provider.CPU,
        *,
        device: int = 0,
        rows: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self.bundle, self.info, self.provider = bundle, bundle.info, provider
        check_precision(bundle, provider)
        most = bundle.manifest.max_batch
        target = SessionTarget.find(provider, device, min(rows or most, most))
        self.target = SessionTarget(provider, target.gpu, rows_that_fit(bundle, target))
        self.device = target.device
        self.batches = Batches(self.target.rows, self.device, self.info.image_size)
        self.cache = cache or bundle.folder / "tensorrt"
        self._graphs: dict[Graph, _Session] = {}
        # ONNX Runtime flushes denormal numbers in the thread that opens a session: it gets a thread of its own.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime")

    def open(self, graph: Graph) -> None:
        """Open a graph ahead of its first use; with TensorRT this builds its engine, or finds it in the cache."""
        self._thread.submit(self._session, graph).result()

    def open_all(self) -> None:
        """Open every graph that slices are asked of."""
        for graph in self.bundle.manifest.slice_graphs:
            self.open(graph)

    def _run(self, graph: Graph, rows: Feeds, scalars: dict[str, float]) -> list[Array]:
        return self._thread.submit(self._blocks, graph, rows, scalars).result()

    def _blocks(self, graph: Graph, rows: Feeds, scalars: dict[str, float]) -> list[Array]:
        fixed = {name: np.asarray(value, np.float32) for name, value in scalars.items()}

        def compute(block: Feeds) -> list[Array]:
            if self.batches.rows != self.target.rows:  # out of memory: away with arenas, and profiles of the old batch
                self._graphs.clear()
                self.target = replace(self.target, rows=self.batches.rows)
            return self._session(graph).run(block | fixed)

        try:
            return self.batches.run(rows, compute)
        except TumorcastError:  # a graph that cannot be opened, or one image that is too much, with its whole message
            raise
        except Exception as fault:
            what = f"{self.bundle.graph(graph)}: failed on {self.device}: {first_line(fault)}"
            raise EngineError(f"{what}; {remedy_for(self.bundle, self.provider)}") from fault

    def _session(self, graph: Graph) -> "_Session":
        if graph not in self._graphs:
            self._graphs[graph] = _Session(self.bundle, graph, self.target, self.cache)
        return self._graphs[graph]


class _Session:
    """One graph in ONNX Runtime.

    On a GPU its inputs and outputs lie in fixed device memory, of a fixed batch; boxes have many sides, and go without.
    """

    def __init__(self, bundle: Bundle, graph: Graph, target: SessionTarget, cache: Path) -> None:
        self._session = open_session(bundle, graph, target, cache)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._fixed = has_fixed_shapes(bundle, graph)
        self._row_names = tuple(row_shapes(bundle, graph)) if self._fixed else ()
        self._target = target
        self._bound: _Bound | None = None

    def run(self, feeds: Feeds) -> list[Array]:
        """The outputs, of as many rows as the inputs have."""
        if self._target.gpu is None or not self._fixed:
            return list(self._session.run(self._outputs, feeds))
        count = len(feeds[self._row_names[0]])
        full = {
            name: padded(part, self._target.rows) if name in self._row_names else part for name, part in feeds.items()
        }
        if self._bound is None:
            self._bound = _Bound(self._session, full, self._outputs, "cuda", self._target.gpu.index)
        return [output[:count] for output in self._bound.run(full)]


class _Bound:
    """Inputs and outputs at fixed addresses of a device, which CUDA graphs need, and which saves allocations."""

    def __init__(self, session: Any, feeds: Feeds, outputs: list[str], device: str, index: int) -> None:
        ort = onnxruntime()
        self._session, self._outputs = session, outputs
        self._binding = session.io_binding()
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(part, device, index) for name, part in feeds.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in outputs:
            self._binding.bind_output(name, device, index)

    def run(self, feeds: Feeds) -> list[Array]:
        """The outputs, copied to the host."""
        for name, part in feeds.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(part))
        self._session.run_with_iobinding(self._binding)
        return [np.array(value) for value in self._binding.copy_outputs_to_cpu()]


def open_session(bundle: Bundle, graph: Graph, target: SessionTarget, cache: Path) -> Any:
    """An InferenceSession, whose nodes are all the provider's own.

    Raises EngineError if it cannot be opened so. One process alone builds an engine of TensorRT, and others wait.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    path = bundle.graph(graph)
    if target.gpu is not None and has_fixed_shapes(bundle, graph):
        options.add_free_dimension_override_by_name("N", target.rows)  # so no arithmetic of shapes is left, for the CPU
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        providers = provider_list(target, bundle, graph, cache)
        with _building(target, bundle, graph, cache):
            session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as fault:
        what = f"{path}: cannot be opened on {target.device}: {first_line(fault)}"
        raise EngineError(f"{what}; {remedy_for(bundle, target.provider)}") from fault
    first = session.get_providers()[0]
    if first != ORT_NAMES[target.provider]:
        raise EngineError(
            f"{path}: ONNX Runtime opened it on {first}, and {target.provider} was asked for; its own line above tells "
            "why. Every library that it names loads here: see that driver and GPU are those that this onnxruntime-gpu "
            "was built for (`tumorcast doctor`), or use --provider cpu"
        )
    return session


def _building(target: SessionTarget, bundle: Bundle, graph: Graph, cache: Path) -> AbstractContextManager[None]:
    if target.provider is not Provider.TENSORRT:
        return nullcontext()
    return held_when_free(engine_cache(target, bundle, cache) / f"{graph}.lock")


def remedy_for(bundle: Bundle, provider: Provider) -> str:
    """What to try where ONNX Runtime does not take a graph."""
    if provider is not Provider.CPU:
        return "its libraries load, so look at the GPU (`nvidia-smi -q`); use another one, or --provider cpu"
    checked_with = bundle.manifest.checked_with or "another version"
    return f"the bundle was checked with {checked_with}: install that, or export the bundle again"


def threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores this process may use.

    ONNX Runtime reads neither: on a shared node it would take every core.
    """
    count = os.environ.get("OMP_NUM_THREADS", "")
    return int(count) if count.isdecimal() and int(count) > 0 else len(os.sched_getaffinity(0))


def rows_that_fit(bundle: Bundle, target: SessionTarget) -> int:
    """The rows asked for, or the power of two below that fits the memory of the GPU.

    All of it counts, and not what is free now: every rank shall have the same rows, and the engines built for them.
    """
    if target.gpu is None or not target.gpu.memory:
        return target.rows
    graphs = bundle.manifest.slice_graphs
    room = MEMORY_SHARE * target.gpu.memory - bundle.weights.stat().st_size * len(graphs)
    fitting = max(1, int(room / max(bundle.manifest.activation_bytes[graph] for graph in graphs)))
    return min(target.rows, 1 << (fitting.bit_length() - 1))


def padded(part: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """`part` with its last row repeated up to `rows`.

    >>> padded(np.array([1, 2]), 4)
    array([1, 2, 2, 2])
    """
    return np.concatenate([part, np.repeat(part[-1:], rows - len(part), axis=0)]) if len(part) < rows else part


def step_scalars(step: Step) -> dict[str, float]:
    """A step's time and blend, and its noise levels as √ᾱ and √(1 - ᾱ), in float64 until here."""
    return {
        "t": float(step.t),
        "signal": math.sqrt(step.abar),
        "noise": math.sqrt(1 - step.abar),
        "signal_next": math.sqrt(step.abar_next),
        "noise_next": math.sqrt(1 - step.abar_next),
        "blend": step.blend,
    }


def box_rows(departure: Array, previous: Array, path: EncodedPath, guidance: BoxGuidance) -> Feeds:
    """The inputs of the graph of boxes that have a row a member."""
    encoded = {"path": path.x, "path_eps": path.eps, "norms": path.outside}
    wanted = {"target": guidance.target, "brain": guidance.brain, "window": guidance.window}
    return {"departure": departure, "last": previous} | encoded | wanted


def box_scalars(departure: Array, step: BoxStep, guidance: BoxGuidance, image_size: int) -> dict[str, float]:
    """Its other inputs, in float64 until here."""
    return {
        "share": (departure.shape[-1] / image_size) ** 2,
        "t": float(step.t),
        "signal": math.sqrt(step.abar),
        "noise": math.sqrt(1 - step.abar),
        "length": step.length,
        "blend": step.blend,
        "gain": guidance.gain,
    }
