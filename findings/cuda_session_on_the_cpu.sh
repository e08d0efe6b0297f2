#!/usr/bin/env bash
# ONNX Runtime opens a session that was asked for CUDA alone on the CPU, without an exception, where a CUDA library is
# missing. enable_fallback=0, by which one would expect an exception, does not change it.
#
# providers=["CUDAExecutionProvider"] names no CPU, the package is onnxruntime-gpu, get_available_providers() lists CUDA,
# and no library of CUDA 13 is there: the missing one stands in a line of the log, and the session computes on the CPU.
# enable_fallback is about exceptions of the Python layer, and there is none. What refuses is the session option
# session.disable_cpu_ep_fallback=1 (its exception tells of nodes, not of the library), or a look at get_providers();
# what tells the library before any session is ctypes.CDLL of onnxruntime/capi/libonnxruntime_providers_cuda.so.
# Seen on Linux without a GPU and without CUDA; where CUDA 13 is on the loader's path there is nothing to see.
# Ends with 0 if it is so, with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check \
    onnxruntime-gpu==1.31.1 onnx==1.23.2 numpy==2.2.6 2>pip.log || {
    cat pip.log >&2
    exit 2
}
cat >opened.py <<'PYTHON'
import ctypes
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "g", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def opened(strict):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    asked = {"providers": ["CUDAExecutionProvider"], "enable_fallback": 0}
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, **asked)
    except Exception as fault:
        return type(fault).__name__
    session.run(None, {"x": np.zeros(2, np.float32)})
    return session.get_providers()[0]


try:
    ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    sys.exit("CUDA 13 is here: nothing to see")
except OSError as fault:
    missing = str(fault).partition(":")[0]
print("CUDAExecutionProvider" in onnxruntime.get_available_providers(), missing, opened(False), opened(True))
PYTHON
told=$(env -u LD_LIBRARY_PATH environment/bin/python opened.py 2>log) || {
    cat log >&2
    exit 2
}
echo "onnxruntime-gpu 1.31.1: CUDA offered, missing library, provider of the session, with disable_cpu_ep_fallback=1"
echo "$told"
[[ $told == "True libcublasLt.so.13 CPUExecutionProvider Fail" ]] || {
    echo "changed: expected 'True libcublasLt.so.13 CPUExecutionProvider Fail'" >&2
    exit 1
}
