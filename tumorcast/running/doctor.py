"""What `tumorcast doctor` checks: what is installed, what machine and job give, and whether a provider computes right.

The checks of machine and job need no network and no engine. No check ends another one. No message names a host, a user
or a patient.
"""

import getpass
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Self

from tumorcast.engines import parity
from tumorcast.engines.batches import first_line
from tumorcast.engines.bundle import PROGRESSION, Bundle, TensorParity, is_bundle, read_manifest
from tumorcast.engines.gpu_libraries import (
    DRIVER,
    cuda_of_build,
    cuda_of_driver,
    driver_fault,
    loader_fault,
    make_loadable,
    remedy_for_library,
    rounds_to_tf32,
)
from tumorcast.engines.locating import MODELS, locate
from tumorcast.engines.onnx_engine import OnnxEngine, threads
from tumorcast.engines.onnxruntime_package import onnxruntime
from tumorcast.engines.opening import EngineChoice, check_precision_asked, device_index, open_engine
from tumorcast.engines.progression import open_progression
from tumorcast.engines.protocol import Engine, VolumeEngine
from tumorcast.engines.providers import ORT_NAMES, TENSORRT_PACKAGES, Gpu, gpus
from tumorcast.engines.trial import guided_step, volume_pass
from tumorcast.errors import InputError, TumorcastError
from tumorcast.extra import how_to_install
from tumorcast.running.ranks import mpi_library, open_ranks
from tumorcast.settings import CheckDepth, ForecastSettings, NetworkKind, Precision, Provider
from tumorcast.version import VERSION

log = logging.getLogger(__name__)

PACKAGES = ("numpy", "numba", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "mpi4py")
BOTH_REMEDY = "pip uninstall onnxruntime onnxruntime-gpu, then install tumorcast[gpu] (or tumorcast[cpu]) alone"
NO_GPU_REMEDY = "ask the scheduler for one (--gres=gpu:1), and see that `nvidia-smi` lists it in the same job"
VARIABLES = (
    *("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_CPUS_PER_TASK"),
    *("SLURM_GPUS_ON_NODE", "SLURM_STEP_GPUS", "SLURM_MEM_PER_NODE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
GB = 1e9
LEAST_DISK = 1 * GB
SHIPPED = MODELS / "demo128"
ONNX_RUNTIME = {"onnxruntime-gpu", "ORT providers", "model", "provider", "parity"}
ON_GPU = ONNX_RUNTIME | {"gpu", "driver", "libraries", "TF32"}
NEEDED = {  # and every speed
    Provider.TORCH: {"model", "provider", "parity"},
    Provider.CPU: ONNX_RUNTIME,
    Provider.CUDA: ON_GPU,
    Provider.TENSORRT: ON_GPU | {"engine cache"},
}
LOADED = {"driver", "libraries"}  # a fault of these is that of the provider
NO_TORCH = "not checked: torch is not installed"
BATCHES = {1, 8}
DEFAULT_BATCH = int(ForecastSettings.model_fields["batch"].default)
REPEATS = 5  # timed steps, after one that is not
Report = Callable[[int, int], None]


class CheckStatus(StrEnum):
    """How a check ended. ABSENT: not there or not checked, which is no fault."""

    OK = "ok"
    ABSENT = "absent"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, how it ended, what was found and, where it failed, what to do."""

    name: str
    status: CheckStatus
    message: str
    remedy: str = ""

    @classmethod
    def ok(cls, name: str, message: str) -> Self:
        """One that ended well."""
        return cls(name, CheckStatus.OK, message)

    @classmethod
    def absent(cls, name: str, message: str) -> Self:
        """Of what is not there, or was not checked."""
        return cls(name, CheckStatus.ABSENT, message)

    def record(self) -> dict[str, str]:
        """As JSON has it."""
        return {"name": self.name, "status": str(self.status), "told": self.message, "remedy": self.remedy}


def guarded(name: str, run: Callable[[], list[Check]]) -> list[Check]:
    """What `run` gives; where it raises, a failed check. The messages of tumorcast end in a remedy, after "; "."""
    try:
        return run()
    except TumorcastError as fault:
        message, _, remedy = private(str(fault).splitlines()[0]).partition("; ")
    except ModuleNotFoundError as fault:
        message, remedy = f"{fault.name} is not installed", how_to_install("train")
    except Exception as fault:  # whatever a driver or a package does is a finding
        message, remedy = private(f"{type(fault).__name__}: {first_line(fault)}"), ""
    log.debug("%s", name, exc_info=True)
    return [Check(name, CheckStatus.FAILED, message, remedy or "`tumorcast --debug doctor …` shows where")]


def private(message: str) -> str:
    """A message without the home folder, the user and the host.

    >>> private(f"{Path.home()}/model: missing")
    '~/model: missing'
    """
    message = message.replace(str(Path.home()), "~")
    try:
        user = re.escape(getpass.getuser())
    except (OSError, KeyError):  # a container whose user has no name
        user = "(?!)"
    host = re.escape(platform.node()) or "(?!)"
    message = re.sub(rf"(?<=/){user}(?![\w.-])", "USER", message)
    return re.sub(rf"(?<![\w.-]){host}(?![\w-])", "HOST", message)


def check_packages() -> list[Check]:
    """The versions of tumorcast, Python and the packages; the two onnxruntimes together are a fault."""
    versions = {name: version_of(name) for name in PACKAGES}
    versions["tensorrt"] = next(filter(None, map(version_of, TENSORRT_PACKAGES)), None)
    checks = [Check.ok("tumorcast", VERSION), Check.ok("python", platform.python_version())]
    for name, version in versions.items():
        if version is None:
            checks.append(Check.absent(name, "not installed"))
        elif name == "onnxruntime-gpu" and versions["onnxruntime"]:
            message = f"{version}, together with onnxruntime: they overwrite each other's files"
            checks.append(Check(name, CheckStatus.FAILED, message, BOTH_REMEDY))
        else:
            checks.append(Check.ok(name, version))
    return checks


def version_of(package: str) -> str | None:
    """The installed version; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_onnxruntime() -> list[Check]:
    """The providers that this ONNX Runtime was built with."""
    if importlib.util.find_spec("onnxruntime") is None:
        return [Check.absent("ORT providers", "onnxruntime is not installed")]
    return [Check.ok("ORT providers", ", ".join(onnxruntime().get_available_providers()))]


def check_gpus(*, needed: bool) -> list[Check]:
    """The GPUs, a check each; none is a fault where one is needed."""
    checks = [Check.ok(f"gpu {gpu.index}", _gpu_in_words(gpu)) for gpu in gpus()]
    if checks:
        return checks
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    message, remedy = "none found", NO_GPU_REMEDY
    if shown is not None:
        message = f"none found of CUDA_VISIBLE_DEVICES={shown}"
        remedy = "see that `nvidia-smi -L` lists it in the same job, or leave the variable to the scheduler"
    if needed:
        return [Check("gpu", CheckStatus.FAILED, message, remedy)]
    return [Check.absent("gpu", message)]


def check_driver(*, needed: bool) -> list[Check]:
    """The CUDA that the driver knows, against that of ONNX Runtime's build."""
    build, driver = cuda_of_build(), cuda_of_driver()
    built = f"ONNX Runtime built for {build}" if build else "ONNX Runtime built without CUDA"
    if driver is None:
        message = f"none ({DRIVER} does not load), {built}"
        return [
            Check("driver", CheckStatus.FAILED, message, NO_GPU_REMEDY) if needed else Check.absent("driver", message)
        ]
    fault = driver_fault(build, driver)
    if fault is not None:
        message, _, remedy = fault.partition("; ")
        return [Check("driver", CheckStatus.FAILED, message, remedy)]
    return [Check.ok("driver", f"knows CUDA {driver[0]}.{driver[1]}, {built}")]


def check_loading(provider: Provider) -> list[Check]:
    """Whether the libraries of the provider load, by loading them."""
    if provider not in (Provider.CUDA, Provider.TENSORRT):
        return [Check.absent("libraries", f"not checked: provider {provider} needs none of CUDA")]
    if ORT_NAMES[provider] not in onnxruntime().get_available_providers():
        return [Check.absent("libraries", f"not checked: this onnxruntime has no provider {provider}")]
    make_loadable(provider)
    fault = loader_fault(provider)
    if fault is not None:
        return [Check("libraries", CheckStatus.FAILED, fault, remedy_for_library(fault))]
    return [Check.ok("libraries", f"those of provider {provider} load")]


def check_rounding(variables: Mapping[str, str]) -> list[Check]:
    """Whether the user had CUDA round to TF32, whose 10 bits are more than parity allows.

    >>> check_rounding({"NVIDIA_TF32_OVERRIDE": "1"})[0].remedy
    'unset NVIDIA_TF32_OVERRIDE: it is set to 0 for every run'
    """
    if rounds_to_tf32(variables):
        message = f"NVIDIA_TF32_OVERRIDE={variables['NVIDIA_TF32_OVERRIDE']}"
        remedy = "unset NVIDIA_TF32_OVERRIDE: it is set to 0 for every run"
        return [Check("TF32", CheckStatus.FAILED, message, remedy)]
    return [Check.ok("TF32", "off (NVIDIA_TF32_OVERRIDE=0)")]


def _gpu_in_words(gpu: Gpu) -> str:
    room = f"{gpu.free / GB:.1f} of {gpu.memory / GB:.1f} GB free" if gpu.memory else "memory not told"
    return f"{gpu.name}, {gpu.architecture}, driver {gpu.driver}, {room}"


def check_cores() -> list[Check]:
    """The cores that this process may use, and the threads that ONNX Runtime is given."""
    usable, used = len(os.sched_getaffinity(0)), threads()
    message = f"{usable} usable, {used} threads used"
    if used > usable:
        return [Check("cores", CheckStatus.FAILED, message, f"set OMP_NUM_THREADS={usable}, or ask for {used} cores")]
    return [Check.ok("cores", message)]


def check_memory() -> list[Check]:
    """The machine's memory; a job may be allowed less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    free, total = (kib[key] * 1024 / GB for key in ("MemAvailable", "MemTotal"))
    return [Check.ok("memory", f"{free:.1f} of {total:.1f} GB free on the machine")]


def check_disk(name: str, folder: Path, *, must_write: bool = False) -> list[Check]:
    """The room where `folder` is, or will be made."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free, can_write = shutil.disk_usage(place).free, os.access(place, os.W_OK)
    message = f"{free / GB:.1f} GB free{'' if can_write else ', cannot be written'}"
    if free < LEAST_DISK or (must_write and not can_write):
        return [Check(name, CheckStatus.FAILED, message, f"make room for {LEAST_DISK / GB:.0f} GB where you may write")]
    return [Check.ok(name, message)]


def check_mpi() -> list[Check]:
    """The MPI and the size of its world. Raises EngineError where a launcher started what MPI does not see."""
    with open_ranks() as ranks:
        library = mpi_library()
    if library is None:
        return [Check.absent("mpi", "mpi4py or its MPI library is missing; one process needs none")]
    return [Check.ok("mpi", f"{library}, world of {ranks.size}")]


def check_scheduler(variables: Mapping[str, str]) -> list[Check]:
    """What the scheduler said of this task.

    >>> check_scheduler({"SLURM_JOB_ID": "7", "SLURM_JOB_USER": "me"})[0].message
    'SLURM_JOB_ID=7'
    """
    settings = [f"{name}={variables[name]}" for name in VARIABLES if name in variables]
    if any(name.startswith("SLURM_") for name in variables):
        return [Check.ok("slurm", ", ".join(settings))]
    return [Check.absent("slurm", ", ".join(["no job", *settings]))]


@dataclass(frozen=True)
class EngineRequest:
    """What to check: a bundle, and what is to run it. device: None is the CPU, or the first GPU.

    cache: where TensorRT's engines lie; None is a folder in the bundle. batch: that of the forecasts to come.
    precision: as in EngineChoice.
    """

    model: Path = SHIPPED
    provider: Provider = Provider.CPU
    device: str | None = None
    cache: Path | None = None
    batch: int = DEFAULT_BATCH
    precision: Precision | None = None

    def __post_init__(self) -> None:
        """Raise UsageError where provider, device and precision do not go together."""
        check_precision_asked(self.provider, self.precision)
        if self.provider is not Provider.TORCH:
            device_index(self.provider, self.device)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is to compute."""
        return self.provider in (Provider.CUDA, Provider.TENSORRT) or (self.device or "").startswith("cuda")

    def open(self, rows: int) -> Engine:
        """The engine that is asked for, for batches of `rows`; TensorRT builds for one, that of forecasts."""
        rows = self.batch if self.provider is Provider.TENSORRT else rows
        return open_engine(EngineChoice((self.model,), self.provider, self.device, rows, self.cache, self.precision))

    def open_volume(self) -> VolumeEngine:
        """The progression network on volumes, of a bundle that has one."""
        return open_progression((self.model,), self.provider, self.device, cache=self.cache)


def examine(request: EngineRequest, report: Report = lambda done, total: None) -> list[Check]:
    """Every check, in the order in which one looks for a fault. report: comparisons done, and how many there are."""
    tensorrt = request.provider is Provider.TENSORRT
    checks: dict[str, Callable[[], list[Check]]] = {
        "packages": check_packages,
        "ORT providers": check_onnxruntime,
        "gpu": partial(check_gpus, needed=request.on_gpu),
        "driver": partial(check_driver, needed=request.on_gpu),
        "libraries": partial(check_loading, request.provider),
        "TF32": partial(check_rounding, os.environ),
        "cores": check_cores,
        "memory": check_memory,
        "working folder": partial(check_disk, "working folder", Path()),
        "engine cache": partial(
            check_disk, "engine cache", request.cache or request.model / "tensorrt", must_write=tensorrt
        ),
        "mpi": check_mpi,
        "slurm": partial(check_scheduler, os.environ),
    }
    found = [check for name, run in checks.items() for check in guarded(name, run)]
    loaded = {check.name: check.status for check in found if check.name in LOADED}
    bad = [name for name, status in loaded.items() if status is CheckStatus.FAILED]
    return found + check_engine(request, report, [] if loaded["libraries"] is CheckStatus.ABSENT else bad)


def failed(checks: list[Check], provider: Provider) -> bool:
    """Whether the provider, or what it needs, failed.

    >>> no_gpu = [Check("gpu", CheckStatus.FAILED, "none found")]
    >>> failed(no_gpu, Provider.CPU), failed(no_gpu, Provider.CUDA)
    (False, True)
    """
    bad = [check.name for check in checks if check.status is CheckStatus.FAILED]
    return any(name in NEEDED[provider] or name.startswith("speed") for name in bad)


def check_engine(request: EngineRequest, report: Report, bad: Sequence[str] = ()) -> list[Check]:
    """Bundle, provider, parity and speeds. What stands after a fault of the first two is not checked.

    bad: checks that have failed already, and with which the provider would fail in the same words.
    """
    checks = guarded("model", partial(check_model, request.model))
    if bad:
        return [*checks, *(Check.absent(name, f"not checked: {bad[0]} failed") for name in ("provider", "parity"))]
    if checks[-1].status is CheckStatus.OK:
        checks += guarded("provider", partial(check_provider, request))
    if checks[-1].status is CheckStatus.FAILED:
        return [*checks, Check.absent("parity", f"not checked: {checks[-1].name} failed")]
    manifest = read_manifest(request.model)
    checks += guarded("parity", partial(check_parity, request, report))
    for batch in sorted(batches_of(request)) if manifest.for_images else ():
        checks += guarded(f"speed {batch}", partial(check_speed, request, batch))
    if manifest.progression is NetworkKind.PROGRESSION:
        checks += guarded("speed volume", partial(check_volume_speed, request))
    return checks


def batches_of(request: EngineRequest) -> set[int]:
    """The batches that are timed.

    >>> sorted(batches_of(EngineRequest(provider=Provider.CUDA, batch=32))), batches_of(EngineRequest())
    ([1, 8, 32], {8, 1})
    """
    if request.provider is Provider.TENSORRT:
        return {request.batch}
    return BATCHES | ({request.batch} if request.on_gpu else set())


def check_model(folder: Path) -> list[Check]:
    """The bundle: whole, and every file that of its sum. Raises InputError if not."""
    if not is_bundle(locate(folder)):
        raise InputError(
            f"{folder}: holds RUN folders and no engine bundle; make one (`tumorcast export {folder} --out BUNDLE`) "
            "and give --model BUNDLE"
        )
    bundle = Bundle.open(folder)
    manifest, told = bundle.manifest, []
    if manifest.for_images:
        info = bundle.info
        told = [f"{info.image_size} px", *info.contrasts, manifest.precision, f"batches to {manifest.max_batch}"]
    if manifest.progression is NetworkKind.PROGRESSION:
        network = manifest.network(PROGRESSION)
        told.append(f"volumes of {network.volume.voxel_mm:g} mm of {' '.join(network.contrasts)}")
    told += [f"graphs {', '.join(manifest.graphs)}", f"checked with {manifest.checked_with or 'nothing'}"]
    return [Check.ok("model", ", ".join(told))]


def check_provider(request: EngineRequest) -> list[Check]:
    """Whether the provider opens the graph and does a step, and how long this takes at first."""
    began = time.perf_counter()
    if read_manifest(request.model).for_images:
        opened = request.open(rows=1)
        guided_step(opened, 1)
        device, what = opened.device, "step"
    else:
        network = request.open_volume()
        volume_pass(network)
        device, what = network.device, "pass"
    seconds = time.perf_counter() - began
    return [Check.ok("provider", f"{request.provider} on {device}, {seconds:.1f} s to open and first {what}")]


def check_parity(request: EngineRequest, report: Report) -> list[Check]:
    """Whether the provider gives what torch gives; without torch, a GPU is held against the CPU.

    Raises EngineError if it differs too much.
    """
    if importlib.util.find_spec("torch") is None:
        if not request.on_gpu:
            return [Check.absent("parity", NO_TORCH)]
        worst = _worst(_with_cpu(request, Provider.CPU, report))
        return [Check.ok("parity", f"{NO_TORCH}; provider cpu instead: {worst}")]
    if request.provider is Provider.TORCH:
        if not request.on_gpu and request.precision is None:
            return [Check.ok("parity", "torch on the CPU is the reference")]
        return [Check.ok("parity", _worst(_with_cpu(request, Provider.TORCH, report)))]
    from tumorcast.engines.make import check_bundle  # noqa: PLC0415 - needs torch

    device = device_index(request.provider, request.device)
    rows = request.batch if request.provider is Provider.TENSORRT else None
    depth = CheckDepth.FULL if request.on_gpu else CheckDepth.QUICK
    differences = check_bundle(
        request.model, None, request.provider, report, device=device, cache=request.cache, rows=rows, depth=depth
    )
    return [Check.ok("parity", _worst(differences))]


def _with_cpu(request: EngineRequest, reference: Provider, report: Report) -> dict[str, TensorParity]:
    bundle, wanted = Bundle.open(request.model), EngineRequest(request.model, reference, "cpu")
    differences: dict[str, TensorParity] = {}
    if bundle.manifest.for_images:
        form = len(bundle.info.contrasts), bundle.info.image_size
        inputs = [parity.phantom(*form), parity.noise(*form)]
        rows = len(inputs[0].images)
        precision = request.precision or bundle.manifest.precision
        differences |= parity.compare(request.open(rows), wanted.open(rows), precision, inputs, report)
    if bundle.manifest.progression is NetworkKind.PROGRESSION:
        differences |= parity.compare_volumes(request.open_volume(), wanted.open_volume(), report)
    parity.check(differences, f"{request.model}, held against provider {reference} on the CPU")
    return differences


def _worst(differences: dict[str, TensorParity]) -> str:
    name, worst = max(differences.items(), key=lambda item: item[1].difference / item[1].limit)
    return f"worst {name}: {worst.difference:.1e} of its largest value, {worst.limit:.0e} allowed"


def check_speed(request: EngineRequest, batch: int) -> list[Check]:
    """Images/s: the median of several guided steps, after one."""
    opened = request.open(rows=batch)
    guided_step(opened, batch)
    seconds = statistics.median(guided_step(opened, batch) for _ in range(REPEATS))
    blocks = opened.target.rows if isinstance(opened, OnnxEngine) else batch
    cut = f", in blocks of {blocks}" if blocks < batch else ""
    message = f"{batch / seconds:.3g} images/s, guided step of {batch}{cut}: {1000 * seconds:.3g} ms"
    return [Check.ok(f"speed {batch}", message)]


def check_volume_speed(request: EngineRequest) -> list[Check]:
    """The time of a pass of the progression network on volumes: the median of several, after one."""
    network = request.open_volume()
    volume_pass(network)
    seconds = statistics.median(volume_pass(network) for _ in range(REPEATS))
    sides = " x ".join(map(str, parity.VOLUMES[0]))
    return [Check.ok("speed volume", f"{1000 * seconds:.3g} ms, progression network on {sides} voxels")]
