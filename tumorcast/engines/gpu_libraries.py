"""What a GPU provider of ONNX Runtime needs of the machine: settings of CUDA, libraries that load, a driver new enough.

Everything here is asked without a GPU, and before the first session, so that what is missing is named.
"""

import contextlib
import ctypes
import importlib
import io
import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tumorcast.engines.onnxruntime_package import onnxruntime
from tumorcast.errors import EngineError
from tumorcast.settings import Provider

log = logging.getLogger(__name__)

# TF32 keeps 10 bits, which is more than parity allows, and TensorRT has no option against it. CUDA counts GPUs by their
# speed if it is not told to count as nvidia-smi does.
SETTINGS = {"NVIDIA_TF32_OVERRIDE": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
DRIVER = "libcuda.so.1"
CUDNN = "libcudnn.so.9"  # which ONNX Runtime loads at the first convolution
OLDEST_DRIVERS = {12: "525", 13: "580"}  # by the major version of CUDA
TENSORRT_INDEX = "https://pypi.nvidia.com"
GET_CUDA = (
    "`pip install 'tumorcast[gpu]'` (in a checkout `TUMORCAST_RUNTIME=gpu bin/setup`) brings CUDA and cuDNN of the "
    "version that onnxruntime-gpu was built for; or name the folder of the site's in LD_LIBRARY_PATH"
)
GET_TENSORRT = f"`pip install --extra-index-url {TENSORRT_INDEX} 'tumorcast[tensorrt]'` brings it"
OF_TENSORRT = ("libnvinfer", "libnvonnxparser")  # how the names of its libraries begin
REMEDIES = dict.fromkeys(OF_TENSORRT, GET_TENSORRT) | {  # by how the name of the missing library begins
    DRIVER: "it is of NVIDIA's driver, which this machine lacks: ask the scheduler for one with a GPU (--gres=gpu:1)",
}


def apply_settings() -> None:
    """Set CUDA up for this process, where the user has not. To be called before CUDA is."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def rounds_to_tf32(variables: Mapping[str, str]) -> bool:
    """Whether the user had CUDA's libraries round to TF32.

    >>> rounds_to_tf32({"NVIDIA_TF32_OVERRIDE": "0"}), rounds_to_tf32({"NVIDIA_TF32_OVERRIDE": "1"})
    (False, True)
    """
    return variables.get("NVIDIA_TF32_OVERRIDE", "0") != "0"


def make_loadable(provider: Provider) -> None:
    """Load what NVIDIA's packages bring: a provider's library, which looks in no such place itself, then finds it."""
    apply_settings()
    preload = getattr(onnxruntime(), "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()) as told:  # of what is missing `loader_fault` tells
            preload()
        log.debug("preload_dlls: %s", told.getvalue())
    if provider is Provider.TENSORRT and find_spec("tensorrt_libs") is not None:
        importlib.import_module("tensorrt_libs")


def check_libraries(provider: Provider) -> None:
    """Raises EngineError if the provider's library, or one that it needs, does not load, or the driver is too old."""
    fault = loader_fault(provider)
    if fault is not None:
        other = Provider.CUDA if fault.startswith(OF_TENSORRT) else Provider.CPU
        raise EngineError(f"provider {provider}: {fault}; {remedy_for_library(fault)}; or use --provider {other}")
    fault = driver_fault(cuda_of_build(), cuda_of_driver())
    if fault is not None:
        raise EngineError(f"provider {provider}: {fault}, or use --provider cpu")


def loader_fault(provider: Provider) -> str | None:
    """In the loader's words, why a library of the provider cannot be loaded; None if all can.

    ONNX Runtime, once imported, has loaded what these libraries ask for when they are.
    """
    for library in (*provider_libraries(provider), CUDNN):
        try:
            ctypes.CDLL(str(library))
        except OSError as fault:
            return str(fault)
    return None


def provider_libraries(provider: Provider) -> list[Path]:
    """The shared libraries of ONNX Runtime that are the provider; TensorRT leaves to CUDA what it does not take."""
    folder = Path(str(onnxruntime().__file__)).parent / "capi"
    return [folder / f"libonnxruntime_providers_{name}.so" for name in dict.fromkeys((provider, Provider.CUDA))]


def remedy_for_library(loader_words: str) -> str:
    """What to do where a library is missing.

    >>> remedy_for_library("libnvinfer.so.10: cannot open shared object file: No such file or directory")[:52]
    '`pip install --extra-index-url https://pypi.nvidia.c'
    """
    return next((remedy for name, remedy in REMEDIES.items() if loader_words.startswith(name)), GET_CUDA)


def cuda_of_build() -> str | None:
    """The CUDA that the installed ONNX Runtime was built with, as "13.0"; None where it was built without."""
    try:
        package = importlib.import_module("onnxruntime.capi.build_and_package_info")
    except ImportError:
        return None
    return getattr(package, "cuda_version", None) or None


def cuda_of_driver() -> tuple[int, int] | None:
    """The newest CUDA that the driver knows, as (13, 0); None where there is no driver."""
    number = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL(DRIVER).cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return None if failed or not number.value else (number.value // 1000, number.value % 1000 // 10)


def driver_fault(build: str | None, driver: tuple[int, int] | None) -> str | None:
    """Why this driver cannot run this build, with the remedy; None if it can, or one of them is not known.

    >>> driver_fault("13.0", (13, 1)) is None, driver_fault("13.0", (12, 8))[:42]
    (True, 'the driver knows CUDA 12.8 and ONNX Runtim')
    """
    if build is None or driver is None or driver[0] >= int(build.partition(".")[0]):
        return None
    major = int(build.partition(".")[0])
    return (
        f"the driver knows CUDA {driver[0]}.{driver[1]} and ONNX Runtime was built for {build}; ask the site for "
        f"driver {OLDEST_DRIVERS.get(major, 'of CUDA ' + build)} or newer, or install an onnxruntime-gpu for CUDA "
        f"{driver[0]} (up to 1.26 for CUDA 12)"
    )
