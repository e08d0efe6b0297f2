"""The GPUs here, ONNX Runtime's providers, and the options that a provider is opened with. A missing one is an error.

What GPUs there are `nvidia-smi` tells; nothing else asks the driver, and no GPU package is needed.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, assert_never

from tumorcast.engines.bundle import Bundle, Graph
from tumorcast.engines.gpu_libraries import (
    GET_TENSORRT,
    apply_settings,
    check_libraries,
    make_loadable,
    rounds_to_tf32,
)
from tumorcast.engines.onnxruntime_package import onnxruntime
from tumorcast.errors import EngineError
from tumorcast.settings import Precision, Provider

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
GPU_QUERY = ("name", "compute_cap", "driver_version", "memory.total", "memory.free", "uuid")
GPU_LISTING = (f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader,nounits")
MIB = 2**20
MIG_LINE = re.compile(r"MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-\S+)\)")  # of `nvidia-smi -L`, below its GPU's
GPU_LINE = re.compile(r"GPU (\d+): ")


@dataclass(frozen=True)
class Gpu:
    """A GPU. index: as CUDA counts those that it may use. architecture: as "sm90". Memory in bytes, 0 if unknown."""

    index: int
    name: str
    architecture: str
    driver: str
    memory: int
    free: int
    uuid: str = ""


def gpus() -> list[Gpu]:
    """The GPUs that this process may use, in the order of CUDA; none where nvidia-smi is missing or fails."""
    listed, shown = parse_gpus(_nvidia_smi(*GPU_LISTING)), os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None and shown.strip().startswith("MIG-"):
        return _parts(listed, shown)
    return visible(listed, shown)


def _nvidia_smi(*options: str) -> str:
    """What it prints; nothing where it is missing or fails."""
    command = ["nvidia-smi", *options]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=30)
        return ended.stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _parts(listed: list[Gpu], shown: str) -> list[Gpu]:
    """The part of a GPU that CUDA_VISIBLE_DEVICES names first: CUDA uses no other one beside it."""
    first = shown.split(",", maxsplit=1)[0].strip()
    return [replace(part, index=0) for part in parse_parts(_nvidia_smi("-L"), listed) if part.uuid.startswith(first)][
        :1
    ]


def parse_parts(listing: str, gpus: list[Gpu]) -> list[Gpu]:
    """The parts (MIG) in what `nvidia-smi -L` prints; the memory is that of its name, where it tells.

    >>> whole = parse_gpus("NVIDIA H100, 9.0, 580.1, 81559, 81000, GPU-1f")
    >>> parse_parts("GPU 0: NVIDIA H100 (UUID: GPU-1f)\\n  MIG 1g.10gb  Device  0: (UUID: MIG-7a)", whole)[0].name
    'NVIDIA H100 MIG 1g.10gb'
    """
    by_index, parts = {gpu.index: gpu for gpu in gpus}, []
    whole: Gpu | None = None
    for line in listing.splitlines():
        head, part = GPU_LINE.match(line), MIG_LINE.search(line)
        if head is not None:
            whole = by_index.get(int(head[1]))
        if part is not None and whole is not None:
            size = re.search(r"(\d+)gb", part[1])
            memory = int(size[1]) * 10**9 if size else 0
            parts.append(replace(whole, name=f"{whole.name} MIG {part[1]}", memory=memory, free=memory, uuid=part[2]))
    return parts


def parse_gpus(listing: str) -> list[Gpu]:
    """The lines of nvidia-smi's csv; what else it prints, as that there is no device, is no GPU.

    >>> parse_gpus("NVIDIA H100 80GB HBM3, 9.0, 570.86.15, 81559, 81000, GPU-1f")[0].architecture
    'sm90'
    """
    listed = []
    rows = [[part.strip() for part in line.rsplit(",", 5)] for line in listing.splitlines()]
    for index, row in enumerate(row for row in rows if len(row) == len(GPU_QUERY)):
        name, capability, driver, total, free, uuid = row
        architecture = f"sm{capability.replace('.', '')}"
        listed.append(Gpu(index, name, architecture, driver, _bytes(total), _bytes(free), uuid))
    return listed


def _bytes(mib: str) -> int:
    return int(mib) * MIB if mib.isdecimal() else 0  # "[N/A]" where memory is shared or split


def visible(listed: list[Gpu], shown: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves, which nvidia-smi does not heed; the first unknown one ends the list.

    >>> [gpu.name for gpu in visible(parse_gpus("A, 9.0, 5, 1, 1, GPU-1f\\nB, 9.0, 5, 1, 1, GPU-2e"), "GPU-2,0,7")]
    ['B', 'A']
    """
    if shown is None:
        return listed
    chosen: list[Gpu] = []
    for word in map(str.strip, shown.split(",")):
        named = [gpu for gpu in listed if word == str(gpu.index) or (word and gpu.uuid.startswith(word))]
        if len(named) != 1:
            break
        chosen.append(replace(named[0], index=len(chosen)))
    return chosen


def visible_count(variables: Mapping[str, str]) -> int:
    """How many GPUs CUDA would see: what CUDA_VISIBLE_DEVICES lists, else what `nvidia-smi` does.

    >>> visible_count({"CUDA_VISIBLE_DEVICES": "2,3"}), visible_count({"CUDA_VISIBLE_DEVICES": ""})
    (2, 0)
    """
    listed = variables.get("CUDA_VISIBLE_DEVICES")
    return len(gpus()) if listed is None else len([word for word in listed.split(",") if word.strip()])


def has_granted_gpus(variables: Mapping[str, str]) -> bool:
    """Whether SLURM has granted this job a GPU.

    >>> has_granted_gpus({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "0,1"}), has_granted_gpus({"SLURM_JOB_ID": "7"})
    (True, False)
    """
    return any(variables.get(name) for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"))


def check_offered(provider: Provider) -> None:
    """Raises EngineError if the onnxruntime installed here was built without this provider."""
    offered = onnxruntime().get_available_providers()
    if ORT_NAMES[provider] not in offered:
        raise EngineError(
            f"provider {provider}: the onnxruntime installed here offers {', '.join(offered)}; {GET_GPU}; "
            "or use --provider cpu"
        )


@dataclass(frozen=True)
class SessionTarget:
    """What sessions are opened for: a provider, a GPU where it is one, and the batch that the graphs will see."""

    provider: Provider
    gpu: Gpu | None
    rows: int

    @classmethod
    def find(cls, provider: Provider, device: int, rows: int) -> "SessionTarget":
        """The target, its libraries loaded. Raises EngineError if the provider, its GPU or a library is not here."""
        check_offered(provider)
        if provider is Provider.CPU:
            return cls(provider, None, rows)
        apply_settings()
        listed = gpus()
        if device >= len(listed):
            names = ", ".join(gpu.name for gpu in listed) or "none"
            remedy = (
                f"give --device cuda:0 to cuda:{len(listed) - 1}"
                if listed
                else "ask the scheduler for one (--gres=gpu:1)"
            )
            raise EngineError(
                f"provider {provider}: GPU {device} asked for, found: {names} (nvidia-smi); {remedy}, "
                "or use --provider cpu"
            )
        make_loadable(provider)
        check_libraries(provider)
        return cls(provider, listed[device], rows)

    @property
    def device(self) -> str:
        """The device in words, for the record.

        >>> SessionTarget(Provider.CPU, None, 8).device
        'cpu'
        """
        return "cpu" if self.gpu is None else f"cuda:{self.gpu.index} {self.gpu.name}"


def provider_list(target: SessionTarget, bundle: Bundle, graph: Graph, cache: Path) -> list[tuple[str, dict[str, Any]]]:
    """What InferenceSession takes as `providers`, the wanted one first.

    On a GPU the CPU is none of them: a node that is left to it would be slow without a word. The graph of volumes,
    whose sides are not known, does arithmetic with them there.
    """
    cpu: list[tuple[str, dict[str, Any]]] = [(ORT_NAMES[Provider.CPU], {})]
    if target.gpu is None:
        return cpu
    exact = {"use_tf32": "0"}  # its 10 bits would be off by more than parity allows
    memory = {"device_id": target.gpu.index, "arena_extend_strategy": "kSameAsRequested"}
    cuda = (ORT_NAMES[Provider.CUDA], memory | exact)
    spare = [] if has_fixed_shapes(bundle, graph) else cpu
    match target.provider:
        case Provider.CUDA:
            return [cuda, *spare]
        case Provider.TENSORRT:
            folder = engine_cache(target, bundle, cache)
            folder.mkdir(parents=True, exist_ok=True)
            options = tensorrt_options(target, bundle, graph, folder)
            return [(ORT_NAMES[Provider.TENSORRT], options), cuda, *spare]
        case Provider.CPU | Provider.TORCH:
            raise AssertionError(f"{target.provider} has no GPU session")
        case _:
            assert_never(target.provider)


def tensorrt_options(target: SessionTarget, bundle: Bundle, graph: Graph, folder: Path) -> dict[str, Any]:
    """A static batch, an engine and a timing cache on disk, and CUDA graphs. Types are those of the graph.

    Volumes have other sides from call to call: TensorRT builds for those that it meets, without CUDA graphs.
    """
    assert target.gpu is not None
    caching = {
        "device_id": target.gpu.index,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_engine_cache_prefix": str(graph),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
    }
    if not has_fixed_shapes(bundle, graph):
        return caching
    shapes = ",".join(
        f"{name}:{'x'.join(map(str, (target.rows, *shape)))}" for name, shape in row_shapes(bundle, graph).items()
    )
    return caching | {
        "trt_profile_min_shapes": shapes,
        "trt_profile_opt_shapes": shapes,
        "trt_profile_max_shapes": shapes,
        "trt_cuda_graph_enable": True,
    }


def has_fixed_shapes(bundle: Bundle, graph: Graph) -> bool:
    """Whether a graph's shapes are known once the batch is: boxes and volumes have many sides."""
    return graph in bundle.manifest.slice_graphs and graph is not Graph.BOX


def check_precision(bundle: Bundle, provider: Provider) -> None:
    """Raises EngineError for half precision in TensorRT: what comes out of it has not been measured."""
    precision = bundle.manifest.precision
    if provider is Provider.TENSORRT and precision is not Precision.FP32:
        raise EngineError(
            f"{bundle.folder}: is in {precision}, which nobody has measured in TensorRT; use --provider cuda, or a "
            "bundle that is exported with --precision fp32"
        )


def row_shapes(bundle: Bundle, graph: Graph) -> dict[str, tuple[int, ...]]:
    """The inputs of a graph that takes slices which have a row an image, and the shape of a row."""
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
        case Graph.SURVEY:
            return {"x": image, "last": image, "outside": plane}
        case Graph.BOX:
            raise AssertionError("boxes have many sides")
        case Graph.PROGRESS:
            return {"images": image, "outline": plane, "log_ratio": ()}
        case _:
            assert_never(graph)


def engine_cache(target: SessionTarget, bundle: Bundle, cache: Path) -> Path:
    """Where TensorRT's engines lie: a folder for each model, TensorRT version, GPU architecture, batch and rounding."""
    assert target.gpu is not None
    rounding = "tf32" if rounds_to_tf32(os.environ) else "fp32"
    key = f"{bundle.sha256[:16]}-trt{tensorrt_version()}-{target.gpu.architecture}-b{target.rows}-{rounding}"
    return cache / key


def tensorrt_version() -> str:
    """The installed TensorRT. Raises EngineError if there is none."""
    for package in TENSORRT_PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise EngineError(f"provider tensorrt: TensorRT is not installed; {GET_TENSORRT}; or use --provider cuda")
