"""The modules that are exported, run by torch: in half precision too, and on a GPU under CUDA graphs.

No GPU has run this; what of it a CPU can run is tested there (docs/engines.md).
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from tumorcast.diffusion.sampler import Array
from tumorcast.engines.batches import Batches, Feeds
from tumorcast.engines.bundle import Graph
from tumorcast.engines.graph_engine import GraphEngine, GraphLoop
from tumorcast.engines.graphs import graph_modules, lower, outputs_of
from tumorcast.engines.guarded import run_guarded
from tumorcast.engines.model import ModelSet
from tumorcast.engines.torch_engine import flushed_denormals, free_memory, open_device, whole_float32
from tumorcast.kernels.guided_step import group_norm_by_channels
from tumorcast.settings import Precision, Provider

WARM_UPS = 3  # before a capture, so that libraries have chosen their kernels and taken their memory


class TorchGraphEngine(GraphEngine):
    """Encode, guide, segment and predict progression; x stays on the device until a loop ends.

    precision: of the denoiser, whose feature maps keep their channels last, as half precision on a GPU wants them.
    """

    provider = Provider.TORCH

    def __init__(self, model: ModelSet, precision: Precision, device: str = "cpu") -> None:
        self.info = model.info
        self._device = open_device(device)
        self.device = f"{self._device} {precision}"
        self.batches = Batches(Batches.WITHOUT_LIMIT, self.device, self.info.image_size)
        # Copies: the reference on the same networks would lose digits with its weights laid out so.
        self._modules = copy.deepcopy(graph_modules(lower(model, precision), group_norm_by_channels))
        for module in self._modules.values():
            module.to(self._device)
            for weights in module.parameters():
                weights.data = weights.data.contiguous(memory_format=layout_of(weights.ndim))
        self._held: dict[Graph, HeldModule] = {}

    def run(self, loop: GraphLoop) -> list[Array]:
        """The answers of a loop; a block of rows goes through all of it, with what it carries on the device."""
        return run_guarded(self.batches, loop.count, lambda block: self._block(loop, block), self._free)

    def _free(self) -> None:
        self._held.clear()
        free_memory()

    @torch.no_grad()
    @flushed_denormals()
    @whole_float32()
    def _block(self, loop: GraphLoop, block: slice) -> list[Array]:
        with _on(self._device):
            return loop.through(self._held_for(loop.graph, loop.first(block)), block)

    def _held_for(self, graph: Graph, feeds: Feeds) -> "HeldModule":
        held = self._held.get(graph)
        if held is None or not held.takes(feeds):
            self._held.pop(graph, None)
            held = self._held[graph] = HeldModule(self._modules[graph], feeds, self._device)
        held.put(feeds)
        return held


class HeldModule:
    """A module of graphs with its inputs at fixed places of a device; on a GPU it is captured once and replayed."""

    def __init__(self, module: nn.Module, feeds: Feeds, device: torch.device) -> None:
        self._module, self._names = module, outputs_of(module)
        self._inputs = {
            name: torch.empty(part.shape, device=device).contiguous(memory_format=layout_of(part.ndim))
            for name, part in feeds.items()
        }
        self._outputs: tuple[Tensor, ...] = ()
        self._captured: torch.cuda.CUDAGraph | None = None
        self._captures = device.type == "cuda"

    def takes(self, feeds: Feeds) -> bool:
        """Whether its places have the shapes of these inputs."""
        return {name: value.shape for name, value in self._inputs.items()} == {
            name: torch.Size(part.shape) for name, part in feeds.items()
        }

    def put(self, feeds: Feeds) -> None:
        """Copy inputs from the host; the others stay what they are."""
        for name, part in feeds.items():
            self._inputs[name].copy_(torch.from_numpy(np.array(part, dtype=np.float32)))

    def carry(self, carried: Mapping[str, str]) -> None:
        """Copy outputs to the inputs that they become, on the device."""
        outputs = dict(zip(self._names, self._outputs, strict=True))
        for output, name in carried.items():
            self._inputs[name].copy_(outputs[output])

    def run(self) -> None:
        """Compute the outputs, on the device."""
        if not self._captures:
            self._outputs = self._compute()
            return
        if self._captured is None:
            self._capture()
        assert self._captured is not None
        self._captured.replay()

    def take(self, names: tuple[str, ...]) -> list[Array]:
        """Outputs, copied to the host."""
        outputs = dict(zip(self._names, self._outputs, strict=True))
        return [np.array(outputs[name].cpu().numpy(), order="C") for name in names]

    def _compute(self) -> tuple[Tensor, ...]:
        outputs = self._module(**self._inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _capture(self) -> None:
        """As torch asks for it: some runs on a stream beside, and then the one that is kept."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self._compute()
        torch.cuda.current_stream().wait_stream(beside)
        self._captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._captured):
            self._outputs = self._compute()


def layout_of(dimensions: int) -> torch.memory_format:
    """Channels last for feature maps and the kernels of convolutions, as half precision on a GPU wants them."""
    return torch.channels_last if dimensions == 4 else torch.contiguous_format


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """With this GPU as the current one, whose streams are then meant."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield
