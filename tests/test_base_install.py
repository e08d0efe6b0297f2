"""What a base installation does: numpy, onnxruntime and the rest of install_requires, and no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXTRAS = ("torch", "onnx", "onnxscript", "safetensors", "mpi4py", "nilearn", "skimage", "sklearn", "tensorrt_rtx")
WITHOUT_EXTRAS = f"""
from importlib.machinery import PathFinder

found = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {EXTRAS!r} else found(name, path, target)

PathFinder.find_spec = find_spec  # None in sys.modules would not do: scipy takes what is there for a module
from tumorcast.cli.main import main
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_EXTRAS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_bundle_is_forecast_without_torch(random_bundle: Path, blob_cohort: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps.h5"
    asked = ("--relative-change", "0.25", "--members", "2", "--steps", "2", "--max-slices", "1")
    done = run("forecast", str(blob_cohort), "--model", str(random_bundle), *asked, "--out", str(maps))
    assert (done.returncode, maps.is_file()) == (0, True), done.stderr
    shown = run("show", str(maps), "--out", str(tmp_path / "pictures"))
    assert shown.returncode == 0, shown.stderr
    assert list((tmp_path / "pictures").glob("*.png"))


def test_what_needs_torch_says_so(tiny_model: Path, blob_cohort: Path, tmp_path: Path) -> None:
    asked = ("--relative-change", "0.25", "--out", str(tmp_path / "maps.h5"))
    done = run("forecast", str(blob_cohort), "--model", str(tiny_model), *asked)
    assert done.returncode == 4
    assert "torch is not installed, which RUN folders need" in done.stderr
    assert "bin/setup full" in done.stderr and "tumorcast[train]" in done.stderr
    done = run("forecast", str(blob_cohort), "--model", "demo182", *asked)
    assert (done.returncode, "demo182: no such file or folder; " in done.stderr) == (3, True), done.stderr


def test_what_measures_is_an_extra_and_says_so(tmp_path: Path) -> None:
    done = run("evaluate", "maps.h5", "--truth", "cohort.h5", "--out", str(tmp_path))
    assert done.returncode == 4
    assert "scikit-image is not installed" in done.stderr
    assert "bin/setup full" in done.stderr and "tumorcast[evaluate]" in done.stderr
