"""Forecasts of brain-tumour growth on MRI. For research, not a medical device."""

import os
from pathlib import Path

# What stands here must stand before other packages are imported, and every process of ours passes here first.
# ONNX Runtime's wheels report to their maker from their import on, unless told not to. No other value is heeded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# matplotlib's list of fonts goes where Python's own machine code is, not into the home folder (docs/privacy.md).
_here = Path(__file__).resolve().parent
if os.access(_here, os.W_OK):
    os.environ.setdefault("MPLCONFIGDIR", str(_here / "__pycache__" / "matplotlib"))
