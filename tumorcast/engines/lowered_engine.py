"""The graphs' own modules run by torch: what precision costs, where ONNX Runtime cannot tell."""

import numpy as np
import torch

from tumorcast.diffusion.sampler import Array
from tumorcast.engines.bundle import Graph
from tumorcast.engines.graphs import graph_modules, lower
from tumorcast.engines.model import ModelSet
from tumorcast.engines.onnx_engine import Feeds, GraphEngine
from tumorcast.settings import Precision, Provider


class LoweredEngine(GraphEngine):
    """The modules that are exported, with the denoiser in `precision`, on the CPU."""

    provider, device = Provider.TORCH, "cpu"

    def __init__(self, model: ModelSet, precision: Precision) -> None:
        self.info = model.info
        self._modules = graph_modules(lower(model, precision))

    @torch.no_grad()
    def _run(self, graph: Graph, rows: Feeds, scalars: dict[str, float]) -> list[Array]:
        tensors = {name: torch.from_numpy(np.array(part, np.float32)) for name, part in rows.items()}
        tensors |= {name: torch.tensor(value, dtype=torch.float32) for name, value in scalars.items()}
        found = self._modules[graph](**tensors)
        return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]
