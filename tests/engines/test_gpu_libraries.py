"""What a GPU provider needs of the machine, asked without a GPU: the loader's words here are its own."""

import os
import sys
from types import SimpleNamespace

import pytest

from tumorcast.engines import gpu_libraries
from tumorcast.engines.gpu_libraries import (
    SETTINGS,
    apply_settings,
    check_libraries,
    cuda_of_build,
    driver_fault,
    make_loadable,
    provider_libraries,
)
from tumorcast.errors import EngineError
from tumorcast.settings import Provider


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that it comes back as it was
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("library", "remedy"),
    [
        ("libcublasLt.so.99", r"tumorcast\[gpu\].*LD_LIBRARY_PATH; or use --provider cpu"),
        ("libnvinfer.so.99", r"--extra-index-url https://pypi.nvidia.com .*\[tensorrt\].*; or use --provider cuda"),
        ("libcuda.so.1.99", r"driver, which this machine lacks.*--gres=gpu:1.*; or use --provider cpu"),
    ],
)
def test_the_missing_library_is_named_by_the_loader(library: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_libraries, "provider_libraries", lambda _: [library])
    words = rf"provider tensorrt: {library}: cannot open shared object file.*; .*{remedy}"
    with pytest.raises(EngineError, match=words):
        check_libraries(Provider.TENSORRT)


def test_all_that_a_provider_is_made_of_is_tried() -> None:
    """And cuDNN, which ONNX Runtime loads late."""
    names = [path.name for path in provider_libraries(Provider.TENSORRT)]
    assert names == ["libonnxruntime_providers_tensorrt.so", "libonnxruntime_providers_cuda.so"]
    assert len(provider_libraries(Provider.CUDA)) == 1


def test_an_old_driver_is_told_before_any_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_libraries, "loader_fault", lambda _: None)
    monkeypatch.setattr(gpu_libraries, "cuda_of_build", lambda: "13.0")
    monkeypatch.setattr(gpu_libraries, "cuda_of_driver", lambda: (12, 8))
    with pytest.raises(EngineError, match=r"knows CUDA 12\.8 .* built for 13\.0; .*driver 580 or newer, .*1\.26"):
        check_libraries(Provider.CUDA)
    monkeypatch.setattr(gpu_libraries, "cuda_of_driver", lambda: (13, 0))
    check_libraries(Provider.CUDA)


def test_a_build_without_cuda_has_no_version() -> None:
    assert cuda_of_build() is None  # that of the tests
    assert driver_fault(None, (12, 8)) is None


def test_libraries_of_packages_are_loaded_without_a_word(
    no_settings: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """preload_dlls prints to stdout, where the one line of --json must be."""
    loaded: list[str] = []

    def preload() -> None:
        loaded.append(os.environ["NVIDIA_TF32_OVERRIDE"])
        print("Failed to load libcublasLt.so.13")

    monkeypatch.setattr(gpu_libraries, "onnxruntime", lambda: SimpleNamespace(preload_dlls=preload))
    monkeypatch.setitem(sys.modules, "tensorrt_libs", None)
    make_loadable(Provider.CUDA)
    assert (loaded, capsys.readouterr().out) == (["0"], "")


def test_libraries_of_tensorrt_are_loaded_by_their_package(monkeypatch: pytest.MonkeyPatch, no_settings: None) -> None:
    imported: list[str] = []
    monkeypatch.setattr(gpu_libraries, "onnxruntime", SimpleNamespace)
    monkeypatch.setattr(gpu_libraries, "find_spec", lambda name: name)
    monkeypatch.setattr(gpu_libraries.importlib, "import_module", imported.append)
    make_loadable(Provider.CUDA)
    assert imported == []
    make_loadable(Provider.TENSORRT)
    assert imported == ["tensorrt_libs"]


def test_what_the_user_set_stays(no_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    apply_settings()
    assert (os.environ["CUDA_DEVICE_ORDER"], os.environ["NVIDIA_TF32_OVERRIDE"]) == ("FASTEST_FIRST", "0")
