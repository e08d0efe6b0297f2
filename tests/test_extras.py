"""What the extras ask for and what bin/setup installs agree; that pip resolves them was tried by hand."""

from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def extra(name: str) -> dict[str, Requirement]:
    """Of setup.cfg."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"][name].split()
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def pinned() -> dict[str, str]:
    """Of bin/constraints.txt."""
    lines = (ROOT / "bin" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_onnxruntime_that_is_installed_is_one_that_is_asked_for(name: str) -> None:
    ((package, requirement),) = extra(name).items()
    assert requirement.specifier.contains(pinned()[package])


def test_cuda_and_cudnn_come_with_the_gpu_extra_and_tensorrt_is_one_of_its_own() -> None:
    """PyPI's tensorrt is 11; onnxruntime-gpu 1.31 loads libnvinfer.so.10, and was built for CUDA 13."""
    (gpu,) = extra("gpu").values()
    assert (gpu.name, gpu.extras) == ("onnxruntime-gpu", {"cuda", "cudnn"})
    (tensorrt,) = extra("tensorrt").values()
    assert tensorrt.name == "tensorrt-cu13"
    versions = ("10.13.3.9", "10.14.1", "10.16.1.11", "11.0.0.114")
    assert [tensorrt.specifier.contains(version) for version in versions] == [False, True, True, False]
