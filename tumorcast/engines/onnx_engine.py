"""The engine of ONNX Runtime: the graphs of a bundle on CPU, CUDA or TensorRT.

What no GPU has run is listed in docs/engines.md.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.diffusion.sampler import Array
from tumorcast.durable import held_when_free
from tumorcast.engines.batches import Batches, Feeds, first_line
from tumorcast.engines.bundle import Bundle, Graph
from tumorcast.engines.graph_engine import GraphEngine, GraphLoop
from tumorcast.engines.onnxruntime_package import onnxruntime
from tumorcast.engines.providers import (
    ORT_NAMES,
    SessionTarget,
    check_precision,
    engine_cache,
    has_fixed_shapes,
    provider_list,
)
from tumorcast.errors import EngineError, TumorcastError
from tumorcast.settings import Provider

MEMORY_SHARE = 0.8  # of the device's memory that activations may take


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

    def run(self, loop: GraphLoop) -> list[Array]:
        """The answers of a loop; a block of rows goes through all of it, with what it carries on the device."""
        return self._thread.submit(self._blocks, loop).result()

    def _blocks(self, loop: GraphLoop) -> list[Array]:
        def compute(block: slice) -> list[Array]:
            if self.batches.rows != self.target.rows:  # out of memory: away with arenas, and profiles of the old batch
                self._graphs.clear()
                self.target = replace(self.target, rows=self.batches.rows)
            return self._session(loop.graph).run(loop, block)

        try:
            return self.batches.run(loop.count, compute)
        except TumorcastError:  # a graph that cannot be opened, or one image that is too much, with its whole message
            raise
        except Exception as fault:
            what = f"{self.bundle.graph(loop.graph)}: failed on {self.device}: {first_line(fault)}"
            raise EngineError(f"{what}; {remedy_for(self.bundle, self.provider)}") from fault

    def _session(self, graph: Graph) -> "_Session":
        if graph not in self._graphs:
            self._graphs[graph] = _Session(self.bundle, graph, self.target, self.cache)
        return self._graphs[graph]


class _Session:
    """One graph in ONNX Runtime, with its inputs and outputs in memory of its device that stays where it is.

    On a GPU the batch is fixed too, as CUDA graphs need; boxes have many sides, and go without.
    """

    def __init__(self, bundle: Bundle, graph: Graph, target: SessionTarget, cache: Path) -> None:
        self._session = open_session(bundle, graph, target, cache)
        padded_to_batch = target.gpu is not None and has_fixed_shapes(bundle, graph)
        self._rows = target.rows if padded_to_batch else None
        self._device = ("cpu", 0) if target.gpu is None else ("cuda", target.gpu.index)
        self._bound: _Bound | None = None

    def run(self, loop: GraphLoop, block: slice) -> list[Array]:
        """The answers of a loop, for a block of its rows."""
        count = len(range(*block.indices(loop.count)))

        def filled(feeds: Feeds) -> Feeds:
            return {
                name: padded(part, self._rows) if self._rows and part.ndim else part for name, part in feeds.items()
            }

        answers = loop.through(self._bound_for(filled(loop.first(block))), block, filled)
        return [answer[:count] for answer in answers]

    def _bound_for(self, feeds: Feeds) -> "_Bound":
        """Memory for these inputs, which are in it."""
        if self._bound is None or not self._bound.takes(feeds):
            self._bound = _Bound(self._session, feeds, *self._device)
        self._bound.put(feeds)
        return self._bound


class _Bound:
    """Inputs and outputs at fixed addresses of a device, which CUDA graphs need, and which saves copies."""

    def __init__(self, session: Any, feeds: Feeds, device: str, index: int) -> None:
        ort = onnxruntime()
        self._session, self._binding = session, session.io_binding()
        self._outputs = [output.name for output in session.get_outputs()]
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(part.shape, np.float32, device, index)
            for name, part in feeds.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            self._binding.bind_output(name, device, index)

    def takes(self, feeds: Feeds) -> bool:
        """Whether this memory has the shapes of these inputs."""
        return {name: tuple(value.shape()) for name, value in self._inputs.items()} == {
            name: part.shape for name, part in feeds.items()
        }

    def put(self, feeds: Feeds) -> None:
        """Copy inputs from the host; the others stay what they are."""
        for name, part in feeds.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(part, np.float32))

    def carry(self, carried: Mapping[str, str]) -> None:
        """Copy outputs to the inputs that they become, on the device."""
        outputs = dict(zip(self._outputs, self._binding.get_outputs(), strict=True))
        for output, name in carried.items():
            self._inputs[name].update_inplace(outputs[output])

    def run(self) -> None:
        """Compute the outputs, on the device."""
        self._session.run_with_iobinding(self._binding)

    def take(self, names: tuple[str, ...]) -> list[Array]:
        """Outputs, copied to the host."""
        outputs = dict(zip(self._outputs, self._binding.get_outputs(), strict=True))
        return [np.array(outputs[name].numpy()) for name in names]


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
