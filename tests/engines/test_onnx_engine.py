"""The engine for users against the reference engine, and what it does when a device or its memory fails."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tumorcast.diffusion.sampler import Array, Encodings, MemberTargets, StepGuidance, sample
from tumorcast.diffusion.schedule import Step
from tumorcast.durable import lock
from tumorcast.engines import onnx_engine
from tumorcast.engines.bundle import Bundle, Graph
from tumorcast.engines.graph_engine import GraphLoop, LoopStep
from tumorcast.engines.model import load_model_set
from tumorcast.engines.onnx_engine import OnnxEngine, _Bound, open_session, padded, rows_that_fit, threads
from tumorcast.engines.opening import make_ready
from tumorcast.engines.providers import SessionTarget, engine_cache, row_shapes
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.engines.torch_graphs import TorchGraphEngine
from tumorcast.errors import EngineError, InputError
from tumorcast.settings import Precision, Provider, SamplerSettings

pytestmark = pytest.mark.slow  # exports
SIDE = 32


@pytest.fixture(scope="module", params=["dense", "pool"])
def engines(request: pytest.FixtureRequest) -> tuple[OnnxEngine, TorchEngine]:
    """Of the same networks: ONNX Runtime from the bundle, torch from the RUN folders."""
    bundle: Path = request.getfixturevalue(f"{request.param}_bundle")
    runs: Path = request.getfixturevalue(f"{request.param}_runs")
    return OnnxEngine(Bundle.open(bundle)), TorchEngine(load_model_set([runs]))


def images(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, 2, SIDE, SIDE)).astype(np.float32)


def maps(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((rows, SIDE, SIDE), np.float32)


def assert_same(found: Array, wanted: Array, relative: float = 2e-5) -> None:
    assert found.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=relative * np.abs(wanted).max())


@pytest.mark.parametrize("blend", [0.0, 0.5])
@pytest.mark.parametrize("clip", [False, True])
def test_encode_step(engines: tuple[OnnxEngine, TorchEngine], *, clip: bool, blend: float) -> None:
    x, previous_eps, step = images(3), images(3, 7), Step(60, 0.8, 0.7, blend, clip)
    ours, theirs = (engine.encode_step(x, step, previous_eps) for engine in engines)
    for found, wanted in zip(ours, theirs, strict=True):
        assert_same(found, wanted)
    heard = np.abs(ours[0] - engines[0].encode_step(x, step, np.zeros_like(x))[0]).max() > 0.01
    assert heard == (blend > 0)


@pytest.mark.parametrize("blend", [0.0, 0.5])
@pytest.mark.parametrize("strength", [{"gain": 0.5}, {"scale": 2e4}], ids=["normalised", "paper"])
def test_guided_step(engines: tuple[OnnxEngine, TorchEngine], strength: dict[str, float], blend: float) -> None:
    x, previous_eps, step = images(3), images(3, 7), Step(60, 0.8, 0.85, blend)
    brain, window = np.ones((3, SIDE, SIDE), np.float32), maps(3)
    target = engines[1].sizes(x, 60, brain) + np.array([0.05, -0.05, 0.0], np.float32)
    none = StepGuidance(target, brain, window)
    answers = [engine.guided_step(x, step, previous_eps, replace(none, **strength)) for engine in engines]
    for found, wanted in zip(*answers, strict=True):
        assert_same(found, wanted)
    unguided, _ = engines[0].guided_step(x, step, previous_eps, none)
    moved = np.abs(answers[0][0] - unguided).max(axis=(1, 2, 3))
    assert moved[:2].min() > 100 * moved[2]  # or guidance would not have been compared
    assert moved[:2].min() > 1e-3


def test_sizes_and_segment(engines: tuple[OnnxEngine, TorchEngine]) -> None:
    x, brain = images(5), (maps(5) > 0.3).astype(np.float32)
    for t in (0, 250):
        ours, theirs = (engine.sizes(x, t, brain) for engine in engines)
        assert ours.shape == (5,)
        assert_same(ours, theirs)
    ours, theirs = (engine.segment(0.3 * x) for engine in engines)
    assert ours.shape == (5, SIDE, SIDE)
    assert_same(ours, theirs)


def test_progress(pool_bundle: Path, pool_runs: Path) -> None:
    model = load_model_set([pool_runs])
    engines = OnnxEngine(Bundle.open(pool_bundle), rows=2), TorchEngine(model), TorchGraphEngine(model, Precision.FP16)
    x, outline = 0.3 * images(3)[[0, 0, 0, 1, 2]], maps(3)[[0, 0, 0, 1, 2]]
    ours, theirs, lowered = (
        engine.predict_progression(x, outline, np.array([0.5, 1.6, 5.0, 0.0, -9.0], np.float32)) for engine in engines
    )
    assert ours.shape == (5, SIDE, SIDE)
    assert 0 <= ours.min() < ours.max() <= 1
    assert_same(ours, theirs)
    assert_same(lowered, theirs)  # only the denoiser is lowered
    assert np.abs(ours[1] - ours[0]).max() > 1e-3  # the size wanted is heard
    assert_same(ours[2], ours[1], 1e-6)  # up to where it is clamped
    other = engines[0].predict_progression(x, 1 - outline, np.array([0.5, 1.6, 5.0, 0.0, -9.0], np.float32))
    assert np.abs(other - ours).max(axis=(1, 2)).min() > 1e-3  # and so is the outline


def test_a_model_without_a_progression_network_says_so(dense_bundle: Path, dense_runs: Path) -> None:
    model = load_model_set([dense_runs])
    for engine in (OnnxEngine(Bundle.open(dense_bundle)), TorchEngine(model), TorchGraphEngine(model, Precision.FP32)):
        assert engine.info.progression is None
        with pytest.raises(InputError, match="tumorcast train slice-progression"):
            engine.predict_progression(images(1), maps(1), np.zeros(1, np.float32))


@pytest.mark.parametrize(
    "settings",
    [SamplerSettings(noise_level=100, steps=4), SamplerSettings.paper(noise_level=8, scale=1e6)],
    ids=["default", "paper"],
)
def test_a_whole_forecast_agrees(engines: tuple[OnnxEngine, TorchEngine], settings: SamplerSettings) -> None:
    brain = np.ones((2, SIDE, SIDE), np.float32)
    encodings = Encodings(0.3 * images(2), images(2, 1), np.full(2, 0.3, np.float32), brain, np.arange(2))
    targets = MemberTargets(np.array([0, 1, 1]), np.array([0.05, -0.05, 0.1], np.float32), maps(3))
    ours, theirs = (sample(engine, encodings, targets, settings, batch=2) for engine in engines)
    assert_same(ours, theirs, 5e-4)
    assert np.abs(theirs[2] - theirs[1]).max() > 1e-3


def test_denormal_numbers_are_left_to_others(engines: tuple[OnnxEngine, TorchEngine]) -> None:
    engines[0].segment(images(1))
    assert np.float64(1e-300) * np.float64(1e-15) > 0


def test_more_images_than_rows_are_cut_into_blocks(dense_bundle: Path) -> None:
    x = images(5)
    whole, cut = OnnxEngine(Bundle.open(dense_bundle)), OnnxEngine(Bundle.open(dense_bundle), rows=2)
    assert (whole.target.rows, cut.target.rows) == (16, 2)
    assert OnnxEngine(Bundle.open(dense_bundle), rows=64).target.rows == 16  # what the graphs declare
    assert_same(cut.segment(x), whole.segment(x), 1e-6)


class Failing:
    """A session that fails above so many rows, as a small GPU does."""

    def __init__(self, session: Any, most: int, fault: Exception) -> None:
        self.session, self.most, self.fault = session, most, fault

    def run(self, loop: GraphLoop, block: slice) -> list[Array]:
        if block.stop - block.start > self.most:
            raise self.fault
        return list(self.session.run(loop, block))


def failing_engine(bundle: Path, most: int, fault: Exception, monkeypatch: pytest.MonkeyPatch) -> OnnxEngine:
    engine = OnnxEngine(Bundle.open(bundle), rows=8)
    real = onnx_engine._Session
    monkeypatch.setattr(onnx_engine, "_Session", lambda *arguments: Failing(real(*arguments), most, fault))
    return engine


OUT_OF_MEMORY = RuntimeError("CUDA failure 2: out of memory\nat line 3")


def test_out_of_memory_halves_the_rows(
    dense_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = images(7)
    wanted = OnnxEngine(Bundle.open(dense_bundle)).segment(x)
    engine = failing_engine(dense_bundle, 2, OUT_OF_MEMORY, monkeypatch)
    assert_same(engine.segment(x), wanted, 1e-6)
    assert engine.target.rows == 2
    assert [record.getMessage().split("; ")[1] for record in caplog.records] == ["going on with 4", "going on with 2"]


def test_out_of_memory_with_one_image_ends(dense_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = failing_engine(dense_bundle, 0, OUT_OF_MEMORY, monkeypatch)
    with pytest.raises(EngineError, match=r"cpu: .*32 px \(CUDA failure 2"):
        engine.segment(images(3))


def test_another_fault_tells_the_graph(dense_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = failing_engine(dense_bundle, 0, RuntimeError("illegal instruction"), monkeypatch)
    with pytest.raises(EngineError, match=r"segment\.onnx: .*illegal"):
        engine.segment(images(1))
    assert engine.target.rows == 8


def test_images_of_another_size_are_a_fault_of_the_graph(dense_bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"segment\.onnx: failed on cpu: .*invalid dimensions"):
        OnnxEngine(Bundle.open(dense_bundle)).segment(np.zeros((1, 2, 16, 16), np.float32))


def test_a_graph_that_cannot_be_opened_is_told_once(dense_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, Bundle.open(dense_bundle).manifest)
    (tmp_path / "segment.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"segment\.onnx: .*cpu: ") as told:
        OnnxEngine(bundle).segment(images(1))
    assert str(told.value).count("on cpu") == 1


def test_a_session_that_falls_back_is_refused(
    dense_bundle: Path, gpu_target: SessionTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FallenBack:
        def __init__(self, *_: object, **__: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    fell_back = r"guided\.onnx: ONNX Runtime opened it on CPUExecutionProvider, and cuda was"
    with pytest.raises(EngineError, match=fell_back) as told:
        open_session(Bundle.open(dense_bundle), Graph.GUIDED, gpu_target, dense_bundle)
    assert "provider cpu" in str(told.value)


def test_the_providers_own_fault_comes_out(
    dense_bundle: Path, gpu_target: SessionTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would print it, and open the graph on the CPU."""
    opened: list[dict[str, Any]] = []

    def session(path: Path, options: onnxruntime.SessionOptions, **given: Any) -> None:
        opened.append(given | {"strict": options.get_session_config_entry("session.disable_cpu_ep_fallback")})
        raise RuntimeError("/src/cuda_call.cc:154 CudaCall() CUDA failure 35: driver is old ; GPU=-1 ; hostname=n1")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(EngineError, match=r"guided\.onnx: .*cuda:1 NVIDIA H100.*: CUDA failure 35: driver is old;"):
        open_session(Bundle.open(dense_bundle), Graph.GUIDED, gpu_target, dense_bundle)
    assert [(given["enable_fallback"], given["strict"]) for given in opened] == [(0, "1")]
    assert [name for name, _ in opened[0]["providers"]] == ["CUDAExecutionProvider"]


def test_with_the_batch_fixed_no_arithmetic_of_shapes_is_left(shaken_bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime would do it on the CPU, which a session on a GPU does not allow."""
    for graph in Bundle.open(shaken_bundle).manifest.slice_graphs:
        kinds = []
        for fixed in (False, True):
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.optimized_model_filepath = str(tmp_path / f"{graph}-{fixed}.onnx")
            if fixed:
                options.add_free_dimension_override_by_name("N", 4)
            onnxruntime.InferenceSession(shaken_bundle / graph.file, options, providers=["CPUExecutionProvider"])
            nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
            kinds.append({node.op_type for node in nodes})
        assert "Shape" in kinds[0] and "Shape" not in kinds[1]


def test_graphs_are_opened_ahead(dense_bundle: Path) -> None:
    engine = OnnxEngine(Bundle.open(dense_bundle))
    make_ready(engine)
    assert {*engine._graphs} == {*engine.bundle.manifest.slice_graphs}


def test_what_cannot_be_opened_is_told_ahead(dense_bundle: Path, tmp_path: Path) -> None:
    broken = Bundle(tmp_path, Bundle.open(dense_bundle).manifest)
    with pytest.raises(EngineError, match=r"encode\.onnx: cannot be opened on cpu"):
        make_ready(OnnxEngine(broken))


def test_one_process_alone_builds_an_engine(
    dense_bundle: Path, gpu_target: SessionTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While a session of TensorRT is opened, another process finds the lock of its graph taken, and no other one."""
    bundle, target = Bundle.open(dense_bundle), replace(gpu_target, provider=Provider.TENSORRT)
    monkeypatch.setattr("tumorcast.engines.providers.version", lambda _: "10.14.1")
    seen: list[tuple[str, bool]] = []

    def session(*_: object, **__: object) -> None:
        for path in sorted(engine_cache(target, bundle, tmp_path).glob("*.lock")):
            descriptor = os.open(path, os.O_RDWR)
            seen.append((path.name, lock(descriptor)))
            os.close(descriptor)
        raise RuntimeError("seen")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for graph in (Graph.SIZE, Graph.GUIDED):
        with pytest.raises(EngineError, match="seen"):
            open_session(bundle, graph, target, tmp_path)
    assert seen == [("size.lock", False), ("guided.lock", False), ("size.lock", True)]


def test_bound_memory_gives_the_same_numbers(dense_bundle: Path) -> None:
    """The code of GPUs, with its buffers in the memory of the CPU."""
    bundle = Bundle.open(dense_bundle)
    session = open_session(bundle, Graph.SIZE, SessionTarget(Provider.CPU, None, 4), dense_bundle)
    bound = None
    for seed in (0, 1):
        feeds = {"x": images(4, seed), "brain": maps(4, seed), "t": np.array(9.0 + seed, np.float32)}
        bound = bound or _Bound(session, feeds, "cpu", 0)
        bound.put(feeds)
        bound.run()
        (found,) = bound.take(("size",))
        np.testing.assert_array_equal(found, session.run(["size"], feeds)[0])


def test_a_session_on_a_gpu_pads_to_its_batch(
    dense_bundle: Path, gpu_target: SessionTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, bound = SessionTarget(Provider.CPU, None, 4), onnx_engine._Bound
    monkeypatch.setattr(onnx_engine, "open_session", lambda b, g, _, c: open_session(b, g, cpu, c))
    monkeypatch.setattr(onnx_engine, "_Bound", lambda s, feeds, *_: bound(s, feeds, "cpu", 0))
    session = onnx_engine._Session(Bundle.open(dense_bundle), Graph.SEGMENT, gpu_target, dense_bundle)
    plain = OnnxEngine(Bundle.open(dense_bundle))
    for rows in (4, 3, 1):
        asked = GraphLoop(Graph.SEGMENT, {"image": images(rows, rows)}, [LoopStep({})], ("probability",))
        (found,) = session.run(asked, slice(0, rows))
        assert len(found) == rows
        assert_same(found, plain.segment(images(rows, rows)), 1e-6)


def test_the_inputs_with_rows_are_those_of_the_graphs(shaken_bundle: Path) -> None:
    for graph in Bundle.open(shaken_bundle).manifest.graphs:
        session = onnxruntime.InferenceSession(shaken_bundle / graph.file, providers=["CPUExecutionProvider"])
        told = {value.name: tuple(value.shape[1:]) for value in session.get_inputs() if value.shape}
        assert told == row_shapes(Bundle.open(shaken_bundle), graph)


@pytest.mark.parametrize(("memory", "rows"), [(0, 4), (10**12, 4), (1, 1)], ids=["not told", "ample", "scarce"])
def test_rows_are_what_fits_the_memory(dense_bundle: Path, gpu_target: SessionTarget, memory: int, rows: int) -> None:
    """All of it: ranks that see another part of it free at their start take the same rows."""
    assert gpu_target.gpu is not None
    target = replace(gpu_target, gpu=replace(gpu_target.gpu, memory=memory, free=1))
    assert rows_that_fit(Bundle.open(dense_bundle), target) == rows


def test_rows_that_fit_are_a_power_of_two(dense_bundle: Path, gpu_target: SessionTarget) -> None:
    bundle = Bundle.open(dense_bundle)
    one, weights = max(bundle.manifest.activation_bytes.values()), bundle.weights.stat().st_size
    assert gpu_target.gpu is not None
    gpu = replace(gpu_target.gpu, memory=int((3.5 * one + 4 * weights) / onnx_engine.MEMORY_SHARE))
    assert rows_that_fit(bundle, replace(gpu_target, gpu=gpu)) == 2


def test_threads_are_those_that_the_user_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
    for told in ("", "0", "4,2"):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert threads() >= 1


def test_padding_keeps_a_full_block() -> None:
    part = np.arange(4)
    assert padded(part, 4) is part
