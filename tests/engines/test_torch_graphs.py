"""The modules that are exported, run by torch: held to the reference in each precision, and their loops to their steps.

No GPU is here: where tensors lie is checked with torch's fake ones.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tumorcast.diffusion.box import BoxGuidance, EncodedPath
from tumorcast.diffusion.host_loops import HostLoops
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step
from tumorcast.engines import parity
from tumorcast.engines.bundle import Bundle, Graph
from tumorcast.engines.graph_engine import GraphEngine
from tumorcast.engines.model import ModelSet, for_boxes, load_networks
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.engines.torch_graphs import HeldModule, TorchGraphEngine
from tumorcast.engines.trial import try_out
from tumorcast.errors import EngineError, UsageError
from tumorcast.settings import CheckDepth, Precision, Provider

SIDE = 32


@pytest.fixture(scope="module")
def model(dense_runs: Path) -> ModelSet:
    """Networks that compute in boxes too."""
    images = for_boxes(load_networks([dense_runs])).images
    assert images is not None
    return images


@pytest.mark.parametrize("precision", Precision)
def test_parity(model: ModelSet, precision: Precision) -> None:
    inputs = [parity.phantom(2, SIDE), parity.noise(2, SIDE)]
    engines = TorchGraphEngine(model, precision), TorchEngine(model)
    found = parity.compare(*engines, precision, inputs, depth=CheckDepth.QUICK)
    parity.check(found, "torch")
    assert {"encode.eps", "guided.x_next", "box.departure_next", "segment.probability"} <= set(found)
    rounded = found["guided.eps"].difference
    assert (rounded > 1e-4) == (precision is not Precision.FP32)  # or half precision was not computed in


@pytest.fixture(scope="module", params=["torch", "torch fp16", "cpu"])
def engine(request: pytest.FixtureRequest, model: ModelSet) -> GraphEngine:
    if request.param == "cpu":
        return OnnxEngine(Bundle.open(request.getfixturevalue("boxed")))
    return TorchGraphEngine(model, Precision.FP16 if request.param.endswith("16") else Precision.FP32)


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_loops_are_their_steps_to_the_bit(engine: GraphEngine) -> None:
    rows, brain = 5, np.ones((5, SIDE, SIDE), np.float32)
    x, targets = normal(rows, 2, SIDE, SIDE), normal(3, rows)
    up = [Step(20 * i, 0.95 - 0.1 * i, 0.85 - 0.1 * i, 0.5 if i else 0.0) for i in range(3)]
    down = [Step(step.t + 20, step.abar_next, step.abar, step.blend) for step in reversed(up)]
    guidance = StepGuidance(targets[0], brain, brain / 2, gain=0.5)
    for found, wanted in zip(engine.encode(x, up), HostLoops.encode(engine, x, up), strict=True):
        np.testing.assert_array_equal(found, wanted)
    found = engine.decode(x, down, guidance, targets)
    np.testing.assert_array_equal(found, HostLoops.decode(engine, x, down, guidance, targets))
    others = engine.decode(x, down, guidance, targets + 1)
    assert np.abs(found - others).max() > 1e-3  # targets of all rows and steps are heard


def test_loops_in_boxes_are_their_steps_to_the_bit(engine: GraphEngine) -> None:
    rows, side, starts = 5, 16, np.array([1, 0, 1, 1, 0])
    planes = np.ones((rows, side, side), np.float32)
    targets = normal(3, rows)
    steps = [BoxStep(60 - 20 * i, 0.7 + 0.1 * i, -0.2, 0.0 if i == 0 else 0.4) for i in range(3)]
    nothing = np.zeros((2, 2, side, side), np.float32)
    _, _, norms = engine.survey(
        normal(2, 2, SIDE, SIDE),
        Step(20, 0.9, 0.8, 0.0),
        np.zeros((2, 2, SIDE, SIDE), np.float32),
        np.ones((2, SIDE, SIDE), np.float32),
    )
    levels = [EncodedPath(normal(2, 2, side, side + 0) * (1 + i), nothing, norms) for i in range(3)]
    guidance = BoxGuidance(targets[0], planes, planes / 2, gain=0.5)
    found = engine.decode_in_box(steps, levels, starts, guidance, targets)
    np.testing.assert_array_equal(found, HostLoops.decode_in_box(engine, steps, levels, starts, guidance, targets))
    assert np.abs(found[0] - found[1]).max() > 1e-4  # each member departs from its own encoding


def test_other_batches_take_other_places(model: ModelSet) -> None:
    engine = TorchGraphEngine(model, Precision.FP32)
    images = normal(4, 2, SIDE, SIDE)
    wanted = engine.segment(images)
    for rows in (1, 3, 4):
        np.testing.assert_allclose(engine.segment(images[:rows]), wanted[:rows], rtol=0, atol=1e-6)


class OutOfMemory:
    """A module that holds two images and no more."""

    def __init__(self, module: Any) -> None:
        self.module, self.OUTPUTS, self.rows = module, module.OUTPUTS, []

    def __call__(self, image: Tensor) -> Any:
        self.rows.append(len(image))
        if len(image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.module(image)


def test_out_of_memory_halves_the_batch_and_frees_what_is_held(model: ModelSet) -> None:
    engine = TorchGraphEngine(model, Precision.FP32)
    images = normal(5, 2, SIDE, SIDE)
    wanted = engine.segment(images)
    tight = engine._modules[Graph.SEGMENT] = OutOfMemory(engine._modules[Graph.SEGMENT])  # type: ignore[assignment]
    engine._held.clear()
    np.testing.assert_allclose(engine.segment(images), wanted, rtol=0, atol=1e-6)
    assert (tight.rows, engine.batches.rows) == ([5, 2, 2, 1], 2)


def test_what_torch_raises_is_told_with_the_device(model: ModelSet) -> None:
    engine = TorchGraphEngine(model, Precision.FP32)
    with pytest.raises(EngineError, match=r"torch failed on cpu fp32: .*; look at it"):
        engine.segment(normal(1, 3, SIDE, SIDE))


AWAY = torch.device("lazy")  # which stands for a GPU: without CUDA, torch has fake tensors of few devices but this one


class Watched(TorchDispatchMode):
    """Notes what would end the capture of a CUDA graph: anything that is computed, or comes from, elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [part for part in tree_leaves((args, kwargs, made)) if isinstance(part, Tensor)]
        self.elsewhere += [f"{func} {part.device}" for part in tensors if part.device.type != AWAY.type]
        return made


def computed_elsewhere(module: nn.Module, inputs: dict[str, Tensor]) -> list[str]:
    """Operations of a module that lies on a GPU, with inputs like these, that are not done there."""
    weights = module.state_dict()
    with FakeTensorMode(), Watched() as watched:
        fakes = [
            {name: torch.empty(part.shape, dtype=part.dtype, device=AWAY) for name, part in tensors.items()}
            for tensors in (weights, inputs)
        ]
        functional_call(module, fakes[0], (), fakes[1])
    return watched.elsewhere


@pytest.mark.parametrize("precision", Precision)
def test_on_a_gpu_all_is_computed_there(model: ModelSet, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    compute = HeldModule._compute

    def watched(held: HeldModule) -> Any:
        seen.append(type(held._module).__name__)
        assert computed_elsewhere(held._module, held._inputs) == []
        return compute(held)

    monkeypatch.setattr(HeldModule, "_compute", watched)
    try_out(TorchGraphEngine(model, precision))
    assert set(seen) == {"EncodeGraph", "GuidedGraph", "SurveyGraph", "BoxGraph", "SizeGraph", "SegmentGraph"}


class FromTheHost(nn.Module):
    """What CUDA graphs do not take: a table that is made on the host at every call."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(4.0).to(x.device)


def test_what_comes_from_the_host_is_seen() -> None:
    assert computed_elsewhere(FromTheHost(), {"x": torch.zeros(4)})


def test_what_does_not_go_together(dense_bundle: Path, dense_runs: Path) -> None:
    engine = open_engine(EngineChoice((dense_runs,), precision=Precision.BF16))
    assert isinstance(engine, TorchGraphEngine)
    assert (engine.provider, engine.device) == (Provider.TORCH, "cpu bf16")
    with pytest.raises(UsageError, match=r"--precision bf16: is for --provider torch; with --provider cpu"):
        open_engine(EngineChoice((dense_bundle,), precision=Precision.BF16))
