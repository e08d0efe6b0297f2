"""Providers, GPUs and caches, as far as they can be told without a GPU."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tumorcast.engines import providers
from tumorcast.engines.bundle import Bundle, Graph
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.onnxruntime_package import onnxruntime
from tumorcast.engines.providers import (
    GPU_LISTING,
    Gpu,
    SessionTarget,
    check_precision,
    engine_cache,
    gpus,
    parse_gpus,
    provider_list,
)
from tumorcast.errors import EngineError
from tumorcast.settings import Precision, Provider

SMI = """NVIDIA H100 80GB HBM3, 9.0, 570.86.15, 81559, 81000, GPU-1f
NVIDIA A100-SXM4-40GB, 8.0, 570.86.15, 40960, 39000, GPU-2e
NVIDIA GH200, odd, 9.0, 570.86.15, [N/A], [N/A], GPU-3d
"""


@pytest.fixture
def bundle(dense_bundle: Path) -> Bundle:
    return Bundle.open(dense_bundle)


@pytest.fixture
def tensorrt(gpu_target: SessionTarget, monkeypatch: pytest.MonkeyPatch) -> SessionTarget:
    monkeypatch.setattr(providers, "version", lambda package: {"tensorrt": "10.14.1"}[package])
    return replace(gpu_target, provider=Provider.TENSORRT)


@pytest.mark.parametrize("provider", [Provider.CUDA, Provider.TENSORRT])
def test_a_provider_that_is_not_built_in_is_an_error(bundle: Bundle, provider: Provider) -> None:
    with pytest.raises(EngineError, match=rf"{provider}: .*tumorcast\[gpu\] .*provider cpu$"):
        OnnxEngine(bundle, provider)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "check_offered", lambda _: None)
    monkeypatch.setattr(providers, "gpus", list)
    with pytest.raises(EngineError, match=r"cuda: GPU 0 .*--gres=gpu:1"):
        SessionTarget.find(Provider.CUDA, 0, 8)
    monkeypatch.setattr(providers, "gpus", lambda: parse_gpus(SMI))
    asked: list[Provider] = []
    monkeypatch.setattr(providers, "make_loadable", asked.append)
    monkeypatch.setattr(providers, "check_libraries", asked.append)
    with pytest.raises(EngineError, match=r"GPU 3 .*HBM3, .*cuda:0 to cuda:"):
        SessionTarget.find(Provider.CUDA, 3, 8)
    target = SessionTarget.find(Provider.CUDA, 1, 8)
    assert (target.device, target.rows) == ("cuda:1 NVIDIA A100-SXM4-40GB", 8)
    assert asked == [Provider.CUDA] * 2


def test_without_onnxruntime_the_remedy_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"tumorcast\[cpu\], .*tumorcast\[gpu"):
        OnnxEngine(bundle)
    with pytest.raises(EngineError, match="onnxruntime "):
        onnxruntime()


def test_providers_of_a_session(bundle: Bundle, gpu_target: SessionTarget, tmp_path: Path) -> None:
    cpu = ("CPUExecutionProvider", {})
    assert provider_list(SessionTarget(Provider.CPU, None, 8), bundle, Graph.ENCODE, tmp_path) == [cpu]
    options = {"device_id": 1, "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
    cuda = ("CUDAExecutionProvider", options)
    assert provider_list(gpu_target, bundle, Graph.ENCODE, tmp_path) == [cuda]  # no node is left to the CPU
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_takes_a_static_batch_and_a_folder_of_its_own(
    bundle: Bundle, tensorrt: SessionTarget, tmp_path: Path
) -> None:
    (name, options), cuda = provider_list(tensorrt, bundle, Graph.GUIDED, tmp_path)
    folder = tmp_path / f"{bundle.info.sha256[:16]}-trt10.14.1-sm90-b4-fp32"
    shapes = "x:4x2x32x32,last:4x2x32x32,target:4,brain:4x32x32,window:4x32x32"
    assert [name, cuda[0]] == [f"{p}ExecutionProvider" for p in ("Tensorrt", "CUDA")]
    assert options == {
        "device_id": 1,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_engine_cache_prefix": "guided",
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": shapes,
        "trt_profile_opt_shapes": shapes,
        "trt_profile_max_shapes": shapes,
        "trt_cuda_graph_enable": True,
    }
    assert folder.is_dir()


def test_engines_are_kept_apart_by_all_that_they_depend_on(
    bundle: Bundle, pool_bundle: Path, tensorrt: SessionTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tensorrt.gpu is not None
    older = replace(tensorrt, gpu=replace(tensorrt.gpu, architecture="sm80"))
    twin = replace(tensorrt, gpu=replace(tensorrt.gpu, index=0, free=1))
    folder = engine_cache(tensorrt, bundle, tmp_path)
    assert engine_cache(twin, bundle, tmp_path) == folder
    others = [
        engine_cache(older, bundle, tmp_path),
        engine_cache(replace(tensorrt, rows=8), bundle, tmp_path),
        engine_cache(tensorrt, Bundle.open(pool_bundle), tmp_path),
    ]
    with monkeypatch.context() as rounded:
        rounded.setenv("NVIDIA_TF32_OVERRIDE", "1")
        others.append(engine_cache(tensorrt, bundle, tmp_path))
    monkeypatch.setattr(providers, "version", lambda _: "10.16")
    others.append(engine_cache(tensorrt, bundle, tmp_path))
    assert len({folder, *others}) == 6


def test_half_precision_is_refused_for_tensorrt_alone(bundle: Bundle) -> None:
    half = Bundle(bundle.folder, bundle.manifest.model_copy(update={"precision": Precision.FP16}))
    check_precision(half, Provider.CUDA)
    check_precision(bundle, Provider.TENSORRT)
    with pytest.raises(EngineError, match=r"is in fp16, .*--provider cuda, .*--precision fp32"):
        OnnxEngine(half, Provider.TENSORRT)


PARTS = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1f)
  MIG 1g.10gb     Device  0: (UUID: MIG-7a01)
  MIG 3g.40gb     Device  1: (UUID: MIG-9b02)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-2e)
"""


@pytest.mark.parametrize(
    ("shown", "name", "memory"),
    [("MIG-9b02", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 40 * 10**9), ("MIG-7a01,MIG-9b02", "1g.10gb", 10**10)],
)
def test_a_part_of_a_gpu_is_found(shown: str, name: str, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {GPU_LISTING: SMI, ("-L",): PARTS}
    monkeypatch.setattr(providers, "_nvidia_smi", lambda *options: told[options])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    (part,) = gpus()
    assert part.name.endswith(name)
    assert (part.index, part.memory, part.architecture) == (0, memory, "sm90")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-none")
    assert gpus() == []


def test_without_tensorrt_the_remedy_is_told(bundle: Bundle, gpu_target: SessionTarget, tmp_path: Path) -> None:
    target = replace(gpu_target, provider=Provider.TENSORRT)
    with pytest.raises(EngineError, match=r"tensorrt: .*tumorcast\[tensorrt\].*--provider cuda"):
        provider_list(target, bundle, Graph.SIZE, tmp_path)


def test_gpus_are_read_from_nvidia_smi() -> None:
    first, _, third = parse_gpus(SMI)
    mib = 2**20
    assert first == Gpu(0, "NVIDIA H100 80GB HBM3", "sm90", "570.86.15", 81559 * mib, 81000 * mib, "GPU-1f")
    assert (third.index, third.name, third.memory, third.free) == (2, "NVIDIA GH200, odd", 0, 0)
    assert parse_gpus("") == []


@pytest.mark.parametrize(
    ("wanted", "names"),
    [(None, "HAG"), ("1", "A"), ("2,0", "GH"), ("GPU-2e", "A"), ("", ""), ("-1", ""), ("0,9,1", "H"), ("GPU", "")],
)
def test_gpus_are_those_that_cuda_shows(wanted: str | None, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA counts what CUDA_VISIBLE_DEVICES leaves; nvidia-smi does not heed it."""
    told = subprocess.CompletedProcess([], 0, SMI.replace("NVIDIA ", ""))
    monkeypatch.setattr(providers.subprocess, "run", lambda *_, **__: told)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if wanted is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    found = gpus()
    assert "".join(gpu.name[0] for gpu in found) == names
    assert [gpu.index for gpu in found] == list(range(len(names)))


@pytest.mark.parametrize("printed", [b"No devices were found", b"\xff\xfe\n,\n", b""])
def test_what_is_no_list_of_gpus_is_none(printed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions end with 0 all the same."""
    (tmp_path / "printed").write_bytes(printed)
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat '{tmp_path}/printed'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert providers.gpus() == []


@pytest.mark.parametrize("fault", [FileNotFoundError(), subprocess.CalledProcessError(9, "nvidia-smi")])
def test_without_nvidia_smi_there_are_none(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(providers.subprocess, "run", run)
    assert gpus() == []
