"""The wheel, installed into an environment of its own, far from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from numba.core.caching import _CacheLocator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("tumorcast", "kernels", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "tensorrt")
SMALL = ("--patients", "1", "--members", "1", "--voxel-mm", "4", "--steps", "2")


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def take_machine_code(installed: Path) -> None:
    """Let the installed kernels find the checkout's machine code: to compile them again takes half a minute.

    numba knows them by their folder and by the time of their files. Where it does otherwise, it compiles.
    """
    for source in (ROOT / "kernels").glob("*.py"):
        times = source.stat()
        os.utime(installed / source.name, ns=(times.st_atime_ns, times.st_mtime_ns))
    name = _CacheLocator.get_suitable_cache_subpath(str(installed / "growth.py"))
    for compiled in (ROOT / "kernels" / "__pycache__").glob("*/kernels_*"):
        shutil.copytree(compiled, installed / "__pycache__" / compiled.parent.name / name, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and the packages of this one but not its tumorcast; its bin folder.

    The wheel is built from a copy, since a build leaves files beside what it builds.
    """
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=LEFT_OUT)
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    built = ("wheel", folder / "source", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(*pip, *built, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # whose own .pth files are not read
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    take_machine_code(packages / "tumorcast" / "kernels")
    shutil.rmtree(folder / "source")
    return python.parent


def test_the_wheel_holds_what_the_checkout_has(installed: Path, tmp_path: Path) -> None:
    asked = "import tumorcast, tumorcast.kernels as k; print(tumorcast.__path__[0], k.__path__[0])"
    package, kernels = map(Path, run(installed / "python", "-c", asked, cwd=tmp_path).stdout.split())
    assert (package.is_relative_to(installed.parent), kernels) == (True, package / "kernels")

    def files(folder: Path) -> set[str]:
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {str(path) for path in found if not {"__pycache__", "tensorrt"} & set(path.parts)}

    assert files(package) == files(ROOT / "tumorcast") | {f"kernels/{name}" for name in files(ROOT / "kernels")}


def test_the_command_answers_and_completes(installed: Path, tmp_path: Path) -> None:
    command = installed / "tumorcast"
    assert "forecast" in run(command, "--help", cwd=tmp_path).stdout
    asked = {"_TUMORCAST_COMPLETE": "complete_bash", "COMP_WORDS": "tumorcast export-m", "COMP_CWORD": "1"}
    words = [f"{name}={value}" for name, value in asked.items()]
    assert run("env", *words, command, cwd=tmp_path).stdout.split() == ["export-maps"]
    assert "_TUMORCAST_COMPLETE" in run(command, "--show-completion", "bash", cwd=tmp_path).stdout


def test_shipped_models_answer_to_their_names(installed: Path, tmp_path: Path) -> None:
    asked = "from tumorcast.engines.locating import *; print(*(images_of(locate(MODELS / n)) for n in shipped_names()))"
    assert "at 128 px" in run(installed / "python", "-c", asked, cwd=tmp_path).stdout
    told = run(installed / "tumorcast", "doctor", "--model", "demo128", "--provider", "torch", cwd=tmp_path).stdout
    assert "128 px, t1n, t1c, t2w, t2f" in told


def test_the_demo_runs(installed: Path, tmp_path: Path) -> None:
    told = run(installed / "tumorcast", "demo", "--out", tmp_path / "out", *SMALL, cwd=tmp_path)
    assert [line.split()[2] for line in told.stderr.splitlines() if line.startswith("──")] == [
        "simulate",
        "prepare",
        "fit",
        "forecast",
        "show",
        "report",
    ]
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == 2  # of the volume, and of a slice
    assert list((tmp_path / "out" / "growth").glob("*.png"))
