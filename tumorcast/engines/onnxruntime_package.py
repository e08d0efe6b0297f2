"""The package onnxruntime, or what to install."""

import importlib
from types import ModuleType

from tumorcast.errors import EngineError


def onnxruntime() -> ModuleType:
    """The package. Raises EngineError if it is not installed, or broken."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as fault:
        raise EngineError(
            f"onnxruntime cannot be used ({fault}); install tumorcast[cpu], or tumorcast[gpu] on a "
            "machine with an NVIDIA GPU (`pip install 'tumorcast[cpu]'`; in a checkout bin/setup)"
        ) from None
