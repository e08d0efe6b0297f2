"""TensorRT's own parser and builder take every graph: tensorrt-rtx needs no GPU for that."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from tumorcast.engines import make
from tumorcast.engines.bundle import IMAGE_GRAPHS, Bundle, Graph
from tumorcast.engines.providers import row_shapes

BATCH = 8


@pytest.fixture(scope="module")
def trt() -> Any:
    """The package; without it these tests are skipped, and in CI they fail."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tensorrt-rtx is missing, and CI must build the graphs")
        pytest.skip("tensorrt-rtx is missing (install tumorcast[test])")
    import tensorrt_rtx

    return tensorrt_rtx


def built(trt: Any, bundle: Bundle, graph: Graph) -> int:
    """Bytes of the engine of a graph, for batches of 1 to 8. A refusal fails with the operators that are refused."""
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(bundle.graph(graph))):
        faults = [parser.get_error(k) for k in range(parser.num_errors)]
        pytest.fail("\n".join(f"{graph}: {f.node_operator()} {f.node_name()}: {f.desc()}" for f in faults))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, shape in row_shapes(bundle, graph).items():
        profile.set_shape(name, (1, *shape), (BATCH, *shape), (BATCH, *shape))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, f"{graph}: parsed, but not built"
    return int(engine.nbytes)


def test_tensorrt_builds_every_graph(trt: Any, shaken_graph: tuple[Path, Graph]) -> None:
    folder, graph = shaken_graph
    assert built(trt, Bundle.open(folder), graph) > 100_000


def test_the_graphs_that_are_there_are_built(
    dense_bundle: Path, pool_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opening:
        """An engine that tells which graphs it is to open."""

        device = "cuda:0 fake"

        def __init__(self, bundle: Bundle, *_: object, rows: int, **__: object) -> None:
            assert rows == 8, "else forecasts of this batch would not find them"
            self.bundle = bundle

        def open(self, graph: Graph) -> None:
            opened.append(graph)

    monkeypatch.setattr(make, "OnnxEngine", Opening)
    for folder, count in ((dense_bundle, 4), (pool_bundle, 5)):
        opened: list[Graph] = []
        assert make.build_tensorrt(folder, 0, None, 8) == Opening.device
        assert opened == [*IMAGE_GRAPHS, Graph.PROGRESS][:count]


def test_what_tensorrt_refuses_fails_with_its_operator(trt: Any, dense_bundle: Path, tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(dense_bundle / "segment.onnx")
    next(node for node in graph.graph.node if node.op_type == "LayerNormalization").output.append("mean")
    onnx.save(graph, tmp_path / "segment.onnx")
    with pytest.raises(pytest.fail.Exception, match=r"segment: LayerNormalization node_\w*norm\w*: .*outputs"):
        built(trt, Bundle(tmp_path, Bundle.open(dense_bundle).manifest), Graph.SEGMENT)
