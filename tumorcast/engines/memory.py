"""How much memory a graph's activations need for one image: what is alive at once, from the shapes alone."""

import math

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference

VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"}  # share their input's memory


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
    for place, node in enumerate(nodes):
        last.update({owner.get(name, name): place for name in node.input})
    alive, most = {info.name: sizes[info.name] for info in inferred.input}, 0
    for place, node in enumerate(nodes):
        alive.update({name: sizes.get(name, 0) for name in node.output if name not in owner})
        most = max(most, sum(alive.values()))
        for name in [name for name in alive if last.get(name, len(nodes)) <= place]:
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
