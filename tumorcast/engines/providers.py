"""ONNX Runtime's providers: whether one is here, and the options it is opened with. A missing one is an error."""

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, assert_never

from tumorcast.engines.bundle import Bundle, Graph
from tumorcast.engines.gpu import Gpu, gpus
from tumorcast.errors import EngineError
from tumorcast.settings import Provider

ORT_NAMES = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
}
GET_GPU = (
    "install tumorcast[gpu] in place of tumorcast[cpu] on a machine with an NVIDIA GPU: first `pip uninstall "
    "onnxruntime` (it and onnxruntime-gpu overwrite each other's files), then `pip install 'tumorcast[gpu]'`, or in a "
    "checkout `TUMORCAST_RUNTIME=gpu bin/setup`"
)
TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


def onnxruntime() -> ModuleType:
    """The package. Raises EngineError if it is not installed, or broken."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as fault:
        raise EngineError(
            f"onnxruntime cannot be used ({fault}); install tumorcast[cpu], or tumorcast[gpu] on a "
            "machine with an NVIDIA GPU (`pip install 'tumorcast[cpu]'`; in a checkout bin/setup)"
        ) from None


def check_offered(provider: Provider) -> None:
    """Raises EngineError if the onnxruntime installed here was built without this provider."""
    offered = onnxruntime().get_available_providers()
    if ORT_NAMES[provider] not in offered:
        raise EngineError(
            f"provider {provider}: the onnxruntime installed here offers {', '.join(offered)}; {GET_GPU}; "
            "or use --provider cpu"
        )


@dataclass(frozen=True)
class Target:
    """What sessions are opened for: a provider, a GPU where it is one, and the batch that the graphs will see."""

    provider: Provider
    gpu: Gpu | None
    rows: int

    @classmethod
    def find(cls, provider: Provider, device: int, rows: int) -> "Target":
        """The target. Raises EngineError if the provider, or its GPU, is not here."""
        check_offered(provider)
        if provider is Provider.CPU:
            return cls(provider, None, rows)
        found = gpus()
        if device >= len(found):
            names = ", ".join(gpu.name for gpu in found) or "none"
            remedy = (
                f"give --device cuda:0 to cuda:{len(found) - 1}"
                if found
                else "ask the scheduler for one (--gres=gpu:1)"
            )
            raise EngineError(
                f"provider {provider}: GPU {device} asked for, found: {names} (nvidia-smi); {remedy}, "
                "or use --provider cpu"
            )
        return cls(provider, found[device], rows)

    @property
    def device(self) -> str:
        """The device in words, for the record.

        >>> Target(Provider.CPU, None, 8).device
        'cpu'
        """
        return "cpu" if self.gpu is None else f"cuda:{self.gpu.index} {self.gpu.name}"


def provider_list(target: Target, bundle: Bundle, graph: Graph, cache: Path) -> list[tuple[str, dict[str, Any]]]:
    """What InferenceSession takes as `providers`, the wanted one first."""
    cpu: list[tuple[str, dict[str, Any]]] = [(ORT_NAMES[Provider.CPU], {})]
    if target.gpu is None:
        return cpu
    exact = {"use_tf32": "0"}  # its 10 bits would be off by more than parity allows
    memory = {"device_id": target.gpu.index, "arena_extend_strategy": "kSameAsRequested"}
    cuda = (ORT_NAMES[Provider.CUDA], memory | exact)
    match target.provider:
        case Provider.CUDA:
            return [cuda, *cpu]
        case Provider.TENSORRT:
            folder = engine_cache(target, bundle, cache)
            folder.mkdir(parents=True, exist_ok=True)
            options = tensorrt_options(target, bundle, graph, folder)
            return [(ORT_NAMES[Provider.TENSORRT], options), cuda, *cpu]
        case Provider.CPU | Provider.TORCH:
            raise AssertionError(f"{target.provider} has no GPU session")
        case _:
            assert_never(target.provider)


def tensorrt_options(target: Target, bundle: Bundle, graph: Graph, folder: Path) -> dict[str, Any]:
    """A static batch, an engine and a timing cache on disk, and CUDA graphs. Types are those of the graph."""
    assert target.gpu is not None
    shapes = ",".join(
        f"{name}:{'x'.join(map(str, (target.rows, *shape)))}" for name, shape in row_shapes(bundle, graph).items()
    )
    return {
        "device_id": target.gpu.index,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_engine_cache_prefix": str(graph),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": shapes,
        "trt_profile_opt_shapes": shapes,
        "trt_profile_max_shapes": shapes,
        "trt_cuda_graph_enable": True,
    }


def row_shapes(bundle: Bundle, graph: Graph) -> dict[str, tuple[int, ...]]:
    """The inputs of a graph that have a row an image, and the shape of a row."""
    side, channels = bundle.info.image_size, len(bundle.info.contrasts)
    image, plane = (channels, side, side), (side, side)
    match graph:
        case Graph.ENCODE:
            return {"x": image, "last": image}
        case Graph.GUIDED:
            return {"x": image, "last": image, "target": (), "brain": plane, "window": plane}
        case Graph.SIZE:
            return {"x": image, "brain": plane}
        case Graph.SEGMENT:
            return {"image": image}
        case Graph.PROGRESS:
            return {"images": image, "outline": plane, "log_ratio": ()}
        case _:
            assert_never(graph)


def engine_cache(target: Target, bundle: Bundle, cache: Path) -> Path:
    """Where TensorRT's engines lie: one folder for each model, TensorRT version, GPU architecture and batch."""
    assert target.gpu is not None
    key = f"{bundle.info.sha256[:16]}-trt{tensorrt_version()}-{target.gpu.architecture}-b{target.rows}"
    return cache / key


def tensorrt_version() -> str:
    """The installed TensorRT. Raises EngineError if there is none."""
    for package in TENSORRT_PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise EngineError(
        "provider tensorrt: TensorRT is not installed; `pip install tensorrt` (tumorcast[gpu] has it), or use "
        "--provider cuda"
    )
