"""From trained networks to a bundle: graphs traced by torch.export, weights stored once, and both checked.

The graphs are ordinary ONNX without custom operators; their large constants lie in weights.safetensors, to which they
refer as ONNX external data, so that encode and guided share the denoiser's.
"""

import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
import onnx_ir.passes.common as ir_passes
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from tumorcast.arrival.crop import LEAST_SIDES, SIDES_OF
from tumorcast.durable import held, sha256_of
from tumorcast.engines.bundle import WEIGHTS_FILE, Bundle, Graph, Manifest, NetworkEntry, read_manifest, write_manifest
from tumorcast.engines.graphs import BoxGraph, VolumeGraph, graph_modules, lower, outputs_of
from tumorcast.engines.model import ModelSet, Networks
from tumorcast.engines.weights import TensorPlace, tensor_places
from tumorcast.errors import InputError, UsageError
from tumorcast.provenance import commit
from tumorcast.settings import Architecture, Precision
from tumorcast.training.networks import TrainedNetwork
from tumorcast.training.run_info import RunInfo
from tumorcast.version import VERSION

log = logging.getLogger(__name__)

OPSETS = {Precision.FP32: 20, Precision.FP16: 20, Precision.BF16: 22}  # convolutions know bfloat16 from 22 on
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
TRACED_ROWS = 2
EMBEDDED_UP_TO = 1024  # bytes of a constant that stays in the graph
VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"}  # nodes that share their input's memory
FILES = {WEIGHTS_FILE, *(graph.file for graph in Graph)}
AXES = ((2, "Z"), (3, "Y"), (4, "X"))
LOCK_FILE = ".lock"  # of the folder that a bundle is made in
LARGEST_SIDE = 512  # voxels, of a volume
LARGEST_REPEATED = 1 << 20  # elements of a constant that is stored once: each group norm brings its plane of ones


@dataclass(frozen=True)
class ExportSettings:
    """How a bundle is made. max_batch: the largest batch that the graphs declare. boxes: with graphs for boxes."""

    precision: Precision = Precision.FP32
    max_batch: int = 64
    boxes: bool = False


def write_graphs(
    networks: Networks, out: Path, settings: ExportSettings, report: Callable[[int, int], None] = lambda *_: None
) -> Bundle:
    """Write weights, graphs and a manifest without parity into `out`.

    Where `out` holds the same already, nothing is traced again; else all files in it are removed first.
    """
    out.mkdir(parents=True, exist_ok=True)
    if networks.images is not None:
        networks = replace(networks, images=lower(networks.images, settings.precision))
    store = WeightStore.write(out / WEIGHTS_FILE, networks.modules)
    if (written := _written(networks, settings, out)) is not None:
        return Bundle(out, written)
    for stale in out.iterdir():  # of other networks or settings, or damaged; comparisons were made of them
        if stale.name not in (WEIGHTS_FILE, LOCK_FILE):
            stale.unlink()
    traced: dict[Graph, Traced] = {}
    if networks.images is not None:
        traced |= _exported(networks.images, settings.max_batch)
    if networks.volume is not None:
        traced[Graph.PROGRESS] = _exported_volume(networks.volume, settings.max_batch)
    needs = {}
    for done, (graph, (module, example, dynamic)) in enumerate(traced.items()):
        report(done, len(traced))
        proto = store.externalised(_trace(module, example, dynamic, settings))
        onnx.save(proto, out / graph.file)
        onnx.checker.check_model(str(out / graph.file))
        needs[graph.value] = activation_bytes(proto, {name: part.shape[1:] for name, part in example.items()})
    manifest = _manifest(networks, settings, out, needs)
    write_manifest(out, manifest)
    return Bundle(out, manifest)


def _written(networks: Networks, settings: ExportSettings, out: Path) -> Manifest | None:
    """The manifest of `out`, if it and the files there are those of these networks and settings."""
    try:
        found = read_manifest(out)
        expected = _manifest(networks, settings, out, found.activation_bytes)
    except (InputError, ValidationError):  # not there, or of a part of the files
        return None
    return found if found == expected and found.computes_in_boxes == settings.boxes else None


Example = dict[str, Tensor]
Dynamic = dict[str, dict[int, torch.export.Dim]]
Traced = tuple[nn.Module, Example, Dynamic]


def _batch(max_batch: int) -> torch.export.Dim:
    """torch.export takes a dimension of one for a constant: graphs are traced with two rows, and take one as well."""
    return torch.export.Dim("N", min=1, max=max(TRACED_ROWS, max_batch))


def _exported_volume(network: TrainedNetwork, max_batch: int) -> Traced:
    """As _exported, of the progression network on volumes; their sides may be any multiples of SIDES_OF."""
    sides = {axis: SIDES_OF * torch.export.Dim(name, min=2, max=LARGEST_SIDE // SIDES_OF) for axis, name in AXES}
    planes = torch.zeros(TRACED_ROWS, network.info.architecture.in_channels, *LEAST_SIDES)
    return VolumeGraph(network.module).eval(), {"planes": planes}, {"planes": {0: _batch(max_batch), **sides}}


def _exported(model: ModelSet, max_batch: int) -> dict[Graph, Traced]:
    """Each graph's module, example inputs, and which of their dimensions are the batch; `model` as lowered."""
    arch = model.denoiser.arch
    side, batch = arch.image_size, _batch(max_batch)
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
        Graph.SURVEY: rows | {"outside": maps["brain"]} | steps,
    }
    traced = {}
    for graph, module in graph_modules(model).items():
        if isinstance(module, BoxGraph):
            assert model.info.box_multiple is not None
            traced[graph] = _exported_boxes(module, arch, model.info.box_multiple, batch)
        else:
            fixed = {name: {0: batch} if part.ndim else {} for name, part in examples[graph].items()}
            traced[graph] = (module, examples[graph], fixed)
    return traced


def _exported_boxes(module: BoxGraph, arch: Architecture, multiple: int, batch: torch.export.Dim) -> Traced:
    """As _exported, of boxes, whose sides may be any multiples."""
    side = multiple * torch.export.Dim("side", min=2, max=arch.image_size // multiple)
    size = 2 * multiple
    images = ("departure", "last", "path", "path_eps")
    example = {name: torch.zeros(TRACED_ROWS, arch.in_channels, size, size) for name in images}
    example |= {"norms": torch.ones(TRACED_ROWS, module.groups, 2), "target": torch.zeros(TRACED_ROWS)}
    example |= {name: torch.ones(TRACED_ROWS, size, size) for name in ("brain", "window")}
    dynamic = {
        name: {0: batch} | ({} if name in ("norms", "target") else {part.ndim - 2: side, part.ndim - 1: side})
        for name, part in example.items()
    }
    numbers = ("share", "t", "signal", "noise", "length", "blend", "gain")
    scalars = {name: torch.tensor(0.5) for name in numbers}
    return module, example | scalars, dynamic | {name: {} for name in numbers}


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
            output_names=list(outputs_of(module)),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    ir_passes.ClearMetadataAndDocStringPass()(program.model)
    ir_passes.DeduplicateInitializersPass(size_limit=LARGEST_REPEATED)(program.model)
    proto: ModelProto = program.model_proto
    proto.graph.ClearField("value_info")  # shapes in between, a third of the file; runtimes infer them
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

    def __init__(self, places: dict[str, TensorPlace]) -> None:
        self.places = places

    @classmethod
    def write(cls, path: Path, networks: dict[str, nn.Module]) -> "WeightStore":
        """Write the parameters of `networks`, named "network.parameter"."""
        tensors = {
            f"{name}.{key}": compact(value.detach())
            for name, network in networks.items()
            for key, value in network.state_dict().items()
        }
        path.write_bytes(save(tensors))
        return cls(tensor_places(path))

    def externalised(self, proto: ModelProto) -> ModelProto:
        """The graph with every stored constant referring to the file; half-precision ones are widened by a Cast."""
        casts = []
        for constant in proto.graph.initializer:
            if constant.name not in self.places or len(constant.raw_data) <= EMBEDDED_UP_TO:
                continue
            place = self.places[constant.name]
            if place.type == "F16" and constant.data_type == TensorProto.FLOAT:
                name, constant.name = constant.name, f"{constant.name}.half"
                constant.data_type = TensorProto.FLOAT16
                casts.append(onnx.helper.make_node("Cast", [constant.name], [name], to=TensorProto.FLOAT))
            constant.ClearField("raw_data")
            constant.data_location = TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS_FILE), ("offset", place.offset), ("length", place.length)):
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


def _manifest(networks: Networks, settings: ExportSettings, out: Path, needs: dict[str, int]) -> Manifest:
    contrasts = networks.contrasts
    return Manifest(
        contrasts=contrasts,
        networks={name: _entry(info, contrasts) for name, info in networks.entries.items()},
        size_reader=None if networks.images is None else networks.images.info.size_reader,
        precision=settings.precision,
        opset=OPSETS[settings.precision],
        max_batch=settings.max_batch,
        sha256={name: sha256_of(out / name) for name in sorted(FILES) if (out / name).is_file()},
        activation_bytes=needs,
        versions={"tumorcast": VERSION} | {name: _installed(name) for name in PACKAGES},
        commit=commit(),
    )


def _entry(info: RunInfo, contrasts: tuple[str, ...]) -> NetworkEntry:
    return NetworkEntry(
        kind=info.kind,
        architecture=info.architecture,
        noise_levels=info.noise_levels,
        provenance=info.provenance,
        contrasts=None if info.contrasts == contrasts else info.contrasts,
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def activation_bytes(proto: ModelProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes alive at the worst node, for a batch of one: a lower bound of what a runtime takes an image.

    shapes: of one row of each input.
    """
    inferred = shape_inference.infer_shapes(_of_one(proto, shapes), data_prop=True).graph
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


def _of_one(proto: ModelProto, shapes: dict[str, tuple[int, ...]]) -> ModelProto:
    """The graph for one row of these shapes."""
    fixed = ModelProto()
    fixed.CopyFrom(proto)
    for value in fixed.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, (1, *shapes[value.name]), strict=False):
            dim.dim_value = size
    return fixed


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
    """A sibling folder to write to, which becomes `out` when the block ends without an error.

    Where the block is stopped or the process ends, what it wrote stays there for the next; any error removes it.
    Raises UsageError if `out` exists and is not an empty folder, or another process is making it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already; give --out a new folder")
    sibling = out.with_name(f".{out.name}.partial")
    taken = f"{out}: another export is making it; wait for its end or stop it, or give another --out"
    with held(sibling / LOCK_FILE, taken):
        try:
            yield sibling
            if out.is_dir():
                out.rmdir()
            (sibling / LOCK_FILE).unlink()
            sibling.rename(out)
        except OSError as fault:
            shutil.rmtree(sibling, ignore_errors=True)
            raise InputError(f"{out}: not written ({fault}); give an output in a writable folder") from None
        except Exception:
            shutil.rmtree(sibling, ignore_errors=True)
            raise
