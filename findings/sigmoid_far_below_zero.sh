#!/usr/bin/env bash
# ONNX Runtime 1.32.0's Sigmoid on a CPU is right to 1e-7 of one, not to 1e-7 of itself: at -15 it is off by about a
# fifth, and from -18 down it is exactly 0, where float32 holds the true values down to -87.
#
# One would expect what torch and numpy give: a relative error of some 1e-7 wherever the value is a normal number.
# Probabilities do not suffer, but what is made of them does: log(sigmoid(x)) becomes -inf, and the derivative
# y (1 - y), in a graph that carries its own reverse pass, is 0 where a network is sure. 1 / (1 + exp(-x)), written with
# Neg, Exp, Add and Div, is exact in the same session.
# Ends with 0 if it is so, with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check \
    numpy==2.2.6 onnx==1.22.0 onnxruntime==1.32.0 2>pip.log || {
    cat pip.log >&2
    exit 2
}
environment/bin/python - <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

operators = [
    helper.make_node("Sigmoid", ["x"], ["sigmoid"]),
    helper.make_node("Log", ["sigmoid"], ["log"]),
    helper.make_node("Neg", ["x"], ["minus"]),
    helper.make_node("Exp", ["minus"], ["power"]),
    helper.make_node("Add", ["power", "one"], ["sum"]),
    helper.make_node("Div", ["one", "sum"], ["written"]),
]
outputs = ["sigmoid", "log", "written"]
graph = helper.make_graph(
    operators,
    "sigmoid",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in outputs],
    [numpy_helper.from_array(np.array(1, np.float32), "one")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
x = np.array([-5, -10, -15, -17, -18.5, -20, -40, -80], np.float32)
found, log, written = session.run(outputs, {"x": x})
exact = 1 / (1 + np.exp(-x.astype(np.float64)))
print("onnxruntime", onnxruntime.__version__)
for row in zip(x, exact, found, log, np.abs(found / exact - 1), np.abs(written / exact - 1)):
    print("x %6.1f  exact %.3e  Sigmoid %.3e  its Log %8.3f  relative error %.1e, written out %.1e" % row)
off = np.abs(found / exact - 1)
seen = (
    off[0] < 1e-4
    and off[2] > 0.02
    and (found[4:] == 0).all()
    and np.isneginf(log[4:]).all()
    and np.abs(found - exact).max() < 2e-7
    and np.abs(written / exact - 1).max() < 1e-5
)
print("as told" if seen else "changed")
sys.exit(0 if seen else 1)
PYTHON
