"""The graphs of a bundle: plain ONNX of any batch, weights stored once and without loss, nothing left behind."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto
from safetensors.torch import load_file

from tumorcast.diffusion.sampler import Array
from tumorcast.diffusion.schedule import Step
from tumorcast.engines import export, make, parity
from tumorcast.engines.bundle import Bundle, Graph, read_manifest
from tumorcast.engines.export import ExportSettings, WeightStore, compact, whole_folder
from tumorcast.engines.graph_engine import GraphEngine, GraphLoop
from tumorcast.engines.graphs import lower
from tumorcast.engines.model import load_model_set
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import EngineError, StorageError, UsageError
from tumorcast.settings import NetworkKind, Precision


def proto_of(bundle: Path, graph: Graph) -> ModelProto:
    return onnx.load(bundle / graph.file, load_external_data=False)


def places(proto: ModelProto) -> dict[str, tuple[str, ...]]:
    """Where each external constant lies: file, offset and length."""
    return {
        constant.name: tuple(entry.value for entry in constant.external_data)
        for constant in proto.graph.initializer
        if constant.data_location == TensorProto.EXTERNAL
    }


def test_a_graph_is_plain_onnx_of_any_batch(shaken_graph: tuple[Path, Graph]) -> None:
    proto = proto_of(*shaken_graph)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert not dims or (dims[0].dim_param and not any(dim.dim_param for dim in dims[1:])), value.name


def feeds_of(session: ort.InferenceSession, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sides = {value.name: value.shape[1:] for value in session.get_inputs() if value.shape}
    full = {name: rng.random((8, *side), np.float32) for name, side in sides.items()}
    scalars = {value.name: np.array(0.5, np.float32) for value in session.get_inputs() if not value.shape}
    return {name: part[:rows] for name, part in full.items()} | scalars


def test_a_row_does_not_depend_on_its_batch(shaken_graph: tuple[Path, Graph]) -> None:
    bundle, graph = shaken_graph
    session = ort.InferenceSession(bundle / graph.file, providers=["CPUExecutionProvider"])
    whole = session.run(None, feeds_of(session, 8))
    for rows in (1, 3):
        for part, full in zip(session.run(None, feeds_of(session, rows)), whole, strict=True):
            assert part.shape == (rows, *full.shape[1:])
            np.testing.assert_allclose(part, full[:rows], rtol=0, atol=1e-5 * np.abs(full).max())


def test_files_tell_nothing_of_this_machine(shaken_bundle: Path) -> None:
    root = str(Path(__file__).parents[2]).encode()
    for path in shaken_bundle.iterdir():
        content = path.read_bytes()
        assert root not in content
        if path.suffix == ".safetensors":  # random bytes spell anything; the header is text
            content = content[8 : 8 + int.from_bytes(content[:8], "little")]
        for trace in (b".py", b"torch/", b"site-packages", b"/tmp", b"/home"):
            assert trace not in content.replace(b"torch.cpu", b""), (path.name, trace)


def test_graphs_refer_to_one_copy_of_the_weights(shaken_bundle: Path) -> None:
    encode, guided = (places(proto_of(shaken_bundle, graph)) for graph in (Graph.ENCODE, Graph.GUIDED))
    shared = {name for name in encode if name.startswith("denoiser.")}
    assert len(shared) > 20
    assert {name: guided[name] for name in shared} == {name: encode[name] for name in shared}
    tensors = load_file(shaken_bundle / "weights.safetensors")
    assert shared <= tensors.keys()
    start = (shaken_bundle / "weights.safetensors").read_bytes()
    for name in sorted(shared)[:5]:
        file, offset, length = encode[name]
        assert file == "weights.safetensors"
        found = np.frombuffer(start[int(offset) :][: int(length)], np.float32)
        np.testing.assert_array_equal(found, tensors[name].numpy().ravel())


def test_no_parameter_of_size_is_stored_twice(shaken_bundle: Path) -> None:
    stored = load_file(shaken_bundle / "weights.safetensors").keys()
    for graph in read_manifest(shaken_bundle).graphs:
        for constant in proto_of(shaken_bundle, graph).graph.initializer:
            assert constant.name not in stored or len(constant.raw_data) <= export.EMBEDDED_UP_TO, constant.name


def test_no_constant_of_size_stands_twice_in_a_graph(shaken_graph: tuple[Path, Graph]) -> None:
    """Each group norm brings its plane of ones; left apart they were two thirds of a graph."""
    embedded = [constant for constant in proto_of(*shaken_graph).graph.initializer if len(constant.raw_data) > 4096]
    assert embedded
    assert len({(tuple(c.dims), c.data_type, c.raw_data) for c in embedded}) == len(embedded)


def test_what_half_precision_holds_is_stored_so_and_widened(dense_bundle: Path) -> None:
    tensors = load_file(dense_bundle / "weights.safetensors")
    by_network = {name: {part.dtype for key, part in tensors.items() if key.startswith(name)} for name in NAMES}
    assert by_network["segmenter."] == {torch.float16}
    assert by_network["denoiser."] == {torch.float32}
    segment = proto_of(dense_bundle, Graph.SEGMENT)
    halves = {c.name for c in segment.graph.initializer if c.data_type == TensorProto.FLOAT16}
    casts = {node.input[0] for node in segment.graph.node if node.op_type == "Cast"}
    assert len(halves) > 10
    assert halves <= casts


NAMES = ("denoiser.", "regressor.", "segmenter.")


@pytest.mark.parametrize("value", [0.5, 1 / 3, 1e-9, 1e6, float("inf")])
def test_compact_keeps_every_value(value: float) -> None:
    tensor = torch.tensor([value, 1.0])
    assert torch.equal(compact(tensor).float(), tensor)


def test_the_weights_come_back_as_they_were(dense_bundle: Path, dense_runs: Path) -> None:
    stored = load_file(dense_bundle / "weights.safetensors")
    for name, module in (("denoiser", "denoiser"), ("regressor", "dense-regressor"), ("segmenter", "segmenter")):
        for key, value in load_file(dense_runs / module / "weights.safetensors").items():
            assert torch.equal(stored[f"{name}.{key}"].float(), value), key


@pytest.mark.slow
def test_bf16_has_bfloat16_convolutions_and_float32_norms(least_runs: Path) -> None:
    """Nothing here runs them: the graph alone is looked at."""
    settings, model = ExportSettings(Precision.BF16), load_model_set([least_runs])
    lowered = lower(model, settings.precision)
    proto = export._trace(*export._exported(lowered, settings.max_batch)[Graph.ENCODE], settings)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 22)]
    types = {constant.name: constant.data_type for constant in proto.graph.initializer}
    assert {types[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"} == {TensorProto.BFLOAT16}
    inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred}
    for node in proto.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert kinds[node.output[0]] == TensorProto.FLOAT, node.name
    assert {value.type.tensor_type.elem_type for value in proto.graph.output} == {TensorProto.FLOAT}


def test_a_bundle_that_does_not_match_is_not_left(
    least_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(model: object, out: Path, settings: ExportSettings, report: object) -> Bundle:
        (out / "encode.onnx").write_bytes(b"graph")
        return Bundle(out, None)

    def off(*_: object, **__: object) -> tuple[dict[str, object], str]:
        found = {
            name: parity.TensorParity(difference=d, limit=5e-5, where="phantom at t = 7")
            for name, d in (("encode.eps", 2e-4), ("guided.x_next", 1e-3), ("size.size", 1e-6))
        }
        return found, "here"

    monkeypatch.setattr(make, "write_graphs", written)
    monkeypatch.setattr(make, "measure", off)
    with pytest.raises(EngineError, match=r"guided\.x_next .*0\.001 .*t = 7.* 5e-05"):
        make.make_bundle([least_runs], tmp_path / "bundle", ExportSettings(), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_stopped_export_goes_on_where_it_was(
    least_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TIMES", 2)
    compared: list[str] = []
    differences = parity._differences

    def counted(engine: object, reference: object, part: parity.Inputs, t: int) -> dict[str, float]:
        compared.append(f"{part.name} {t}")
        if len(compared) == 3:
            raise KeyboardInterrupt
        return differences(engine, reference, part, t)

    monkeypatch.setattr(parity, "_differences", counted)
    out, settings = tmp_path / "bundle", ExportSettings(max_batch=8)
    with pytest.raises(KeyboardInterrupt):
        make.make_bundle([least_runs], out, settings, None)
    assert [path.name for path in tmp_path.iterdir()] == [".bundle.partial"]
    monkeypatch.setattr(export, "_trace", lambda *_: pytest.fail("nothing is traced twice"))
    manifest = make.make_bundle([least_runs], out, settings, None)
    assert compared == ["phantom 0", "phantom 299", "random 0", "random 0", "random 299"]
    assert read_manifest(out) == manifest
    assert {path.name for path in out.iterdir()} == {"manifest.json", *manifest.sha256}
    networks = make.networks_of([least_runs])
    assert export._written(networks, settings, out) is None  # with its parity it is more than what is written first
    bare = manifest.model_copy(update={"parity": {}, "checked_with": ""})
    export.write_manifest(out, bare)
    assert export._written(networks, settings, out) == bare
    assert export._written(networks, ExportSettings(max_batch=4), out) is None
    (out / "size.onnx").write_bytes(b"damaged")
    assert export._written(networks, settings, out) is None


def test_with_other_settings_nothing_of_a_stopped_export_counts(
    volume_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its comparisons, which were of other graphs, nor a graph that the new bundle lacks."""
    comparisons = tmp_path / make.COMPARISONS_FILE
    comparisons.write_text("{}")
    (tmp_path / Graph.GUIDED.file).write_bytes(b"of other networks")
    networks = make.networks_of([volume_run])
    bundle = export.write_graphs(networks, tmp_path, ExportSettings())
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", *bundle.manifest.sha256}
    comparisons.write_text("{}")
    export.write_graphs(networks, tmp_path, ExportSettings())
    assert comparisons.exists()  # the same again

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_trace", stopped)
    with pytest.raises(KeyboardInterrupt):
        export.write_graphs(networks, tmp_path, ExportSettings(max_batch=4))
    assert not comparisons.exists()


@pytest.mark.parametrize("content", ['{"phantom at t = 0: 1": {"size.si', "[]", '{"a": 1}', "\xff"])
def test_damaged_comparisons_are_made_anew(content: str, tmp_path: Path) -> None:
    path = tmp_path / make.COMPARISONS_FILE
    path.write_bytes(content.encode("latin-1"))
    kept = make.KeptComparisons(path)
    assert kept.known == {}
    kept.keep("phantom", {"size.size": float("inf")})
    assert make.KeptComparisons(path).known == {"phantom": {"size.size": float("inf")}}


def test_two_exports_to_one_place_do_not_meet(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with whole_folder(out) as folder:
        (folder / "a").touch()
        with pytest.raises(UsageError, match="another export is making it"), whole_folder(out):
            pytest.fail("the block must not run")
    assert [path.name for path in out.iterdir()] == ["a"]


def test_a_folder_that_is_taken_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(UsageError, match="exists already"), whole_folder(tmp_path):
        pytest.fail("the block must not run")
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    with pytest.raises(StorageError, match="cannot be written"), whole_folder(tmp_path / "note" / "bundle"):
        pytest.fail("the block must not run")


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    with whole_folder(out) as folder:
        (folder / "a").touch()
        assert list(out.iterdir()) == []
    assert [path.name for path in out.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_manifest_tells_what_is_in_the_bundle(shaken_bundle: Path) -> None:
    manifest = read_manifest(shaken_bundle)
    wanted = {"denoiser", "regressor", "segmenter"} | ({"progression"} if shaken_bundle.name == "pool" else set())
    assert manifest.networks.keys() == wanted
    assert (Graph.PROGRESS in manifest.graphs) == ("progression" in wanted)
    assert manifest.size_reader is NetworkKind.SEGMENTER
    assert manifest.sha256.keys() == {"weights.safetensors", *(graph.file for graph in manifest.graphs)}
    assert manifest.checked_with == f"onnxruntime {ort.__version__}, cpu"
    assert {name.split(".")[0] for name in manifest.parity} == set(manifest.graphs) == manifest.activation_bytes.keys()
    assert all(0 < part.difference <= part.limit for part in manifest.parity.values())
    assert min(manifest.activation_bytes.values()) > 4 * 32 * 32 * 32  # a feature map of 32 channels at least


@pytest.mark.slow
def test_fp16_runs_on_a_cpu_and_is_as_near_as_its_limit(least_runs: Path, tmp_path: Path) -> None:
    settings, model = ExportSettings(Precision.FP16), load_model_set([least_runs])
    lowered = lower(model, settings.precision)
    store = WeightStore.write(tmp_path / "weights.safetensors", {"denoiser": lowered.denoiser})
    proto = store.externalised(export._trace(*export._exported(lowered, 8)[Graph.ENCODE], settings))
    onnx.save(proto, tmp_path / "encode.onnx")
    types = {constant.name: constant.data_type for constant in proto.graph.initializer}
    assert {types[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"} == {TensorProto.FLOAT16}
    half = GraphAlone(ort.InferenceSession(tmp_path / "encode.onnx", providers=["CPUExecutionProvider"]))
    x = np.random.default_rng(0).standard_normal((2, 2, 32, 32)).astype(np.float32)
    for t, abar in ((0, 0.9999), (250, 0.5)):
        step = Step(t, abar, 0.5 * abar, clip=False)
        ours, theirs = (engine.encode_step(x, step, np.zeros_like(x)) for engine in (half, TorchEngine(model)))
        for found, wanted in zip(ours, theirs, strict=True):
            assert 1e-5 < np.abs(found - wanted).max() / np.abs(wanted).max() < parity.DENOISED[Precision.FP16]


class GraphAlone(GraphEngine):
    """One graph's session as an engine."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session

    def run(self, loop: GraphLoop) -> list[Array]:
        return list(self.session.run(loop.answers, loop.first(slice(None))))


@pytest.mark.slow
def test_bf16_is_compared_in_torch_and_the_manifest_says_so(
    least_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(model: object, out: Path, settings: ExportSettings, report: object) -> Bundle:
        return Bundle(out, manifest)

    networks = {
        name: export.NetworkEntry(kind=i.kind, architecture=i.architecture, noise_levels=300, provenance={})
        for name, i in load_model_set([least_runs]).entries.items()
    }
    manifest = export.Manifest(
        contrasts=("t1n", "t1c"),
        networks=networks,
        size_reader=NetworkKind.SEGMENTER,
        precision=Precision.BF16,
        opset=22,
        max_batch=8,
        sha256={"weights.safetensors": "", **{graph.file: "" for graph in Graph}},
        activation_bytes={},
        versions={},
    )
    monkeypatch.setattr(make, "write_graphs", written)
    monkeypatch.setattr(parity, "TIMES", 3)
    monkeypatch.setattr(make, "bundle_networks", lambda _: pytest.fail("no comparison on the CPU must begin"))
    made = make.make_bundle([least_runs], tmp_path / "bundle", ExportSettings(Precision.BF16), None)
    assert made.checked_with.startswith(f"torch {torch.__version__}, cpu: onnxruntime's CPU provider has no bfloat16")
    assert 1e-3 < made.parity["encode.eps"].difference < made.parity["encode.eps"].limit
    assert made.parity["encode.x_next"].limit == parity.DENOISED[Precision.BF16]
    assert max(made.parity[name].difference for name in ("size.size", "progress.probability")) < 1e-5
    monkeypatch.setattr(make.Bundle, "open", lambda folder: Bundle(folder, made))
    with pytest.raises(EngineError, match=r"bfloat16.*--provider cuda"):
        make.check_bundle(tmp_path / "bundle", None, make.Provider.CPU)
