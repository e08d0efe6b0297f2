"""From trained networks to a bundle: graphs traced by torch.export, weights stored once, and both checked.

The graphs are ordinary ONNX without custom operators; their large constants lie in weights.safetensors, to which they
refer as ONNX external data, so that encode and guided share the denoiser's.
"""

import json
import logging
import math
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
import onnx_ir.passes.common as ir_passes
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference
from safetensors.torch import save
from torch import Tensor, nn

from tumorcast.durable import sha256_of
from tumorcast.engines.bundle import WEIGHTS_FILE, Bundle, Graph, Manifest, NetworkEntry, write_manifest
from tumorcast.engines.graphs import graph_modules, lower
from tumorcast.engines.model import ModelSet
from tumorcast.errors import InputError, UsageError
from tumorcast.provenance import commit
from tumorcast.settings import Precision
from tumorcast.training.run_info import RunInfo
from tumorcast.version import VERSION

log = logging.getLogger(__name__)

OPSETS = {Precision.FP32: 20, Precision.FP16: 20, Precision.BF16: 22}  # convolutions know bfloat16 from 22 on
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
TRACED_ROWS = 2
EMBEDDED_UP_TO = 1024  # bytes of a constant that stays in the graph
VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"}  # nodes that share their input's memory
LARGEST_REPEATED = 1 << 20  # elements of a constant that is stored once: each group norm brings its plane of ones


@dataclass(frozen=True)
class ExportSettings:
    """How a bundle is made. max_batch: the largest batch that the graphs declare."""

    precision: Precision = Precision.FP32
    max_batch: int = 64


def write_graphs(
    model: ModelSet, out: Path, settings: ExportSettings, report: Callable[[str], None] = lambda _: None
) -> Bundle:
    """Write weights, graphs and a manifest without parity into `out`, which must not exist or be empty."""
    out.mkdir(parents=True, exist_ok=True)
    lowered = lower(model, settings.precision)
    store = WeightStore.write(out / WEIGHTS_FILE, lowered.networks)
    needs = {}
    for graph, (module, example, dynamic) in _exported(lowered, settings.max_batch).items():
        report(graph)
        proto = store.externalised(_trace(module, example, dynamic, settings))
        onnx.save(proto, out / graph.file)
        onnx.checker.check_model(str(out / graph.file))
        needs[graph.value] = activation_bytes(proto)
    manifest = _manifest(model, settings, out, needs)
    write_manifest(out, manifest)
    return Bundle(out, manifest)


Example = dict[str, Tensor]
Dynamic = dict[str, dict[int, torch.export.Dim]]


def _exported(model: ModelSet, max_batch: int) -> dict[Graph, tuple[nn.Module, Example, Dynamic]]:
    """Each graph's module, example inputs, and which of their dimensions are the batch; `model` as lowered."""
    arch = model.denoiser.arch
    # torch.export takes a dimension of one for a constant: the graphs are traced with two rows, and take one as well.
    side, batch = arch.image_size, torch.export.Dim("N", min=1, max=max(TRACED_ROWS, max_batch))
    rows = {name: torch.zeros(TRACED_ROWS, arch.in_channels, side, side) for name in ("x", "last")}
    maps = {name: torch.ones(TRACED_ROWS, side, side) for name in ("brain", "window")}
    numbers = torch.zeros(TRACED_ROWS)
    levels = ("t", "signal", "noise", "signal_next", "noise_next", "blend")
    scalars = {name: torch.tensor(0.5) for name in (*levels, "bound", "gain", "scale")}
    steps = {name: scalars[name] for name in levels}
    laws = {name: scalars[name] for name in ("gain", "scale")}

    examples: dict[Graph, Example] = {
        Graph.ENCODE: rows | steps | {"bound": scalars["bound"]},
        Graph.GUIDED: rows | {"target": numbers} | maps | steps | laws,
        Graph.SIZE: {"x": rows["x"], "t": scalars["t"], "brain": maps["brain"]},
        Graph.SEGMENT: {"image": rows["x"]},
        Graph.PROGRESS: {"images": rows["x"], "outline": maps["brain"], "log_ratio": numbers},
    }
    return {
        graph: (module, examples[graph], {name: {0: batch} if p.ndim else {} for name, p in examples[graph].items()})
        for graph, module in graph_modules(model).items()
    }


def _trace(module: nn.Module, example: Example, dynamic: Dynamic, settings: ExportSettings) -> ModelProto:
    """The graph with its constants inside, without the traces of this machine that the exporter leaves."""
    with _quiet():
        program = torch.onnx.export(
            module,
            kwargs=example,
            dynamo=True,
            opset_version=OPSETS[settings.precision],
            dynamic_shapes=dynamic,
            input_names=list(example),
            output_names=list(module.OUTPUTS),  # type: ignore[arg-type]
            external_data=False,
            verbose=False,
        )
    assert program is not None
    ir_passes.ClearMetadataAndDocStringPass()(program.model)
    ir_passes.DeduplicateInitializersPass(size_limit=LARGEST_REPEATED)(program.model)
    proto: ModelProto = program.model_proto
    proto.producer_name, proto.producer_version = "tumorcast", VERSION
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own deprecations and remarks on packages that are not used are no news to a user."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)


class WeightStore:
    """weights.safetensors, and where in it each tensor lies. What half precision holds exactly is so stored."""

    def __init__(self, entries: dict[str, tuple[str, int, int]]) -> None:
        self.entries = entries

    @classmethod
    def write(cls, path: Path, networks: dict[str, nn.Module]) -> "WeightStore":
        """Write the parameters of `networks`, named "network.parameter"."""
        tensors = {
            f"{name}.{key}": compact(value.detach())
            for name, network in networks.items()
            for key, value in network.state_dict().items()
        }
        path.write_bytes(save(tensors))
        return cls(_places(path))

    def externalised(self, proto: ModelProto) -> ModelProto:
        """The graph with every stored constant referring to the file; half-precision ones are widened by a Cast."""
        casts = []
        for constant in proto.graph.initializer:
            if constant.name not in self.entries or len(constant.raw_data) <= EMBEDDED_UP_TO:
                continue
            stored, offset, length = self.entries[constant.name]
            if stored == "F16" and constant.data_type == TensorProto.FLOAT:
                name, constant.name = constant.name, f"{constant.name}.half"
                constant.data_type = TensorProto.FLOAT16
                casts.append(onnx.helper.make_node("Cast", [constant.name], [name], to=TensorProto.FLOAT))
            constant.ClearField("raw_data")
            constant.data_location = TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS_FILE), ("offset", offset), ("length", length)):
                constant.external_data.add(key=key, value=str(value))
        nodes = [*casts, *proto.graph.node]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        return proto


def compact(value: Tensor) -> Tensor:
    """`value` in half precision where that loses nothing.

    >>> compact(torch.tensor([0.5])).dtype, compact(torch.tensor([0.1])).dtype
    (torch.float16, torch.float32)
    """
    value = value.contiguous()
    half = value.half()
    return half if value.dtype == torch.float32 and torch.equal(half.float(), value) else value.clone()


def _places(path: Path) -> dict[str, tuple[str, int, int]]:
    """Each tensor's type, offset in the file and length in bytes, from the header of a safetensors file."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    start = 8 + size
    return {
        name: (entry["dtype"], start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _manifest(model: ModelSet, settings: ExportSettings, out: Path, needs: dict[str, int]) -> Manifest:
    return Manifest(
        contrasts=model.info.contrasts,
        networks={name: _entry(info) for name, info in model.entries.items()},
        size_reader=model.info.size_reader,
        precision=settings.precision,
        opset=OPSETS[settings.precision],
        max_batch=settings.max_batch,
        sha256={path.name: sha256_of(path) for path in sorted(out.iterdir())},
        activation_bytes=needs,
        versions={"tumorcast": VERSION} | {name: _installed(name) for name in PACKAGES},
        commit=commit(),
    )


def _entry(info: RunInfo) -> NetworkEntry:
    return NetworkEntry(
        kind=info.kind,
        architecture=info.architecture,
        noise_levels=info.noise_levels,
        provenance=info.provenance,
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def activation_bytes(proto: ModelProto) -> int:
    """Bytes alive at the worst node, for a batch of one: a lower bound of what a runtime takes an image."""
    inferred = shape_inference.infer_shapes(proto).graph
    sizes = {info.name: _bytes(info) for info in (*inferred.value_info, *inferred.input, *inferred.output)}
    nodes = _computed(inferred)
    owner: dict[str, str] = {}
    for node in nodes:
        if node.op_type in VIEWS:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    last: dict[str, int] = {}
    for position, node in enumerate(nodes):
        last.update({owner.get(name, name): position for name in node.input})
    alive, most = {info.name: sizes[info.name] for info in inferred.input}, 0
    for position, node in enumerate(nodes):
        alive.update({name: sizes.get(name, 0) for name in node.output if name not in owner})
        most = max(most, sum(alive.values()))
        for name in [name for name in alive if last.get(name, len(nodes)) <= position]:
            del alive[name]
    return most


def _computed(graph: GraphProto) -> list[NodeProto]:
    """The nodes that depend on an input; a runtime folds the others into constants."""
    known = {constant.name for constant in graph.initializer} | {""}
    nodes = []
    for node in graph.node:
        if all(name in known for name in node.input):
            known.update(node.output)
        else:
            nodes.append(node)
    return nodes


def _bytes(info: ValueInfoProto) -> int:
    kind = info.type.tensor_type
    item = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type or TensorProto.FLOAT)
    sides: list[int] = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in kind.shape.dim]
    return int(item.itemsize) * math.prod(sides)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A sibling folder to write to, which becomes `out` when the block ends without an error and else is removed.

    Raises UsageError if `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already; give --out a new folder")
    sibling = out.with_name(f".{out.name}.partial")
    shutil.rmtree(sibling, ignore_errors=True)
    try:
        sibling.mkdir(parents=True)
        yield sibling
        if out.is_dir():
            out.rmdir()
        sibling.rename(out)
    except OSError as fault:
        raise InputError(f"{out}: not written ({fault}); give an output in a writable folder") from None
    finally:
        shutil.rmtree(sibling, ignore_errors=True)
