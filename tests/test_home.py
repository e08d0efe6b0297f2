"""Nothing is sent, and nothing is left in the home folder, among temporary files or where a command was started."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tumorcast.data.cohort import write_cohort
from tumorcast.records import Contrast, Session

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FEW = ("--members", "2", "--steps", "2", "--max-slices", "1")
ORT_SAID = """
import os, sys
class Looked:
    def find_spec(name, path=None, target=None):
        if name == "onnxruntime":
            print(name, os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Looked)
"""
WAYS_TO_IT = {
    "engine": "from tumorcast.engines.onnx_engine import OnnxEngine; import onnxruntime",
    "providers": "from tumorcast.engines.onnxruntime_package import onnxruntime; onnxruntime()",
    "doctor": "from tumorcast.running.doctor import check_onnxruntime; check_onnxruntime()",
    "child": "import subprocess, tumorcast; subprocess.run([sys.executable, '-c', sys.orig_argv[-1]], check=True)",
}


@pytest.mark.parametrize("way", WAYS_TO_IT)
@pytest.mark.parametrize("value", [None, "0", ""])
def test_telemetry_is_off_before_onnx_runtime_is_imported(way: str, value: str | None, tmp_path: Path) -> None:
    """Whatever the variable said before: 1.32.0 takes `0` and nothing for leave to report."""
    child = way == "child"
    script = ORT_SAID + (WAYS_TO_IT["child"] if child else WAYS_TO_IT[way])
    words = [sys.executable, "-c", script, *([ORT_SAID + "import onnxruntime"] if child else [])]
    kept = {name: told for name, told in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    told = kept | {"HOME": str(tmp_path)} | ({} if value is None else {"ORT_DISABLE_TELEMETRY": value})
    done = subprocess.run(words, env=told, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, ["onnxruntime 1"]), done.stderr
    assert not list(tmp_path.iterdir())


class Place:
    """A home, a folder of temporary files and one to start in, all new and empty."""

    def __init__(self, root: Path) -> None:
        self.home, self.temporary, self.here = (root / name for name in ("home", "temporary", "here"))
        for folder in (self.home, self.temporary, self.here):
            folder.mkdir()

    def run(self, *words: object, before: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
        """A command as a user starts it, who has set none of what points elsewhere."""
        unset = ("XDG_", "MPL", "NUMBA_CACHE", "ORT_", "TORCH", "TMPDIR")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
        told = kept | {"HOME": str(self.home), "TMPDIR": str(self.temporary)} | variables
        command = [*before, sys.executable, "-m", "tumorcast", *map(str, words)]
        return subprocess.run(command, cwd=self.here, env=told, capture_output=True, text=True, check=False)

    def left(self) -> list[str]:
        """What lies there now, but for the folder, empty, that torch makes for compiled code (docs/privacy.md)."""
        for empty in self.temporary.glob("torchinductor_*"):
            empty.rmdir()
        found = (path for folder in (self.home, self.temporary, self.here) for path in folder.rglob("*"))
        return sorted(str(path) for path in found)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_no_command_leaves_anything_in_the_home_folder(
    place: Place, blob: Callable[..., Session], blob_cohort: Path, random_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    past = [blob("A", f"{k:03d}", 60.0 * k, 4.0 + k) for k in range(2)]  # blob_cohort has a third scan
    write_cohort(out / "past.h5", past, {}, image_size=64, contrasts=tuple(Contrast), config={})
    maps, growth, aim = out / "maps.h5", out / "growth.h5", ("--relative-change", "0.25")
    sizes = ("--size-column", "area_mm2", "--replicates", "2", "--search", "quick", "--law", "exponential")
    (out / "grid.toml").write_text("noise_level = [100]\ngain = [1.0]\nmembers = [1]\n")
    tried = ("--grid", out / "grid.toml", "--steps", "2")
    commands: list[tuple[object, ...]] = [
        ("simulate", out / "scans", "--patients", "1", "--sessions", "2", "--voxel-mm", "8"),
        ("prepare", out / "scans", "--out", out / "cohort.h5", "--image-size", "64", "--n4"),
        ("fit", blob_cohort, "--out", growth, "--plots", out / "plots", *sizes),
        ("forecast", out / "past.h5", "--model", random_bundle, *aim, *FEW, "--out", maps),
        ("plan", blob_cohort, "--engine", random_bundle, *FEW),
        ("select", blob_cohort, "--model", random_bundle, "--patient", "A", *aim, *tried, "--out", out / "selected"),
        ("archive", "verify", maps),
        ("archive", "repack", maps, "--out", out / "portable.h5"),
        ("show", maps, "--out", out / "pictures"),
        ("report", maps, "--out", out / "report"),
        ("forecast", out / "cohort.h5", "--model", random_bundle, *aim, *FEW, "--out", out / "whole.h5"),
        ("export-maps", out / "whole.h5", "--bids", out / "bids", "--space", "cohort"),
        ("evaluate", maps, "--truth", blob_cohort, "--out", out / "found"),
        ("train", "segmenter", blob_cohort, "--out", out / "run", "--steps", "1", "--batch", "1", "--cache", out / "s"),
        ("doctor", "--model", out / "none"),  # without a minute of parity and speed
    ]
    for words in commands:
        done = place.run(*words)
        assert done.returncode == (4 if words[0] == "doctor" else 0), (words[0], done.stderr)
        assert place.left() == [], words[0]


def test_no_folder_for_temporary_files_is_told(place: Place, blob_cohort: Path, random_bundle: Path) -> None:
    """A limit on what a process may write takes every folder away, root's too."""
    words = ("plan", blob_cohort, "--engine", random_bundle, *FEW)
    done = place.run(*words, before=("prlimit", "--fsize=0"))
    assert done.returncode == 3, done.stderr
    assert "set TMPDIR" in done.stderr and str(place.temporary) in done.stderr
    assert place.run(*words).returncode == 0


def test_pictures_are_drawn_where_neither_home_nor_the_installation_can_be_written(
    place: Place, blob_cohort: Path, random_bundle: Path, tmp_path: Path, read_only: Callable[..., list[str]]
) -> None:
    """As on a compute node, or in a container. matplotlib then lists the fonts anew, and says so itself."""
    site, maps = tmp_path / "site", tmp_path / "out" / "maps.h5"
    shutil.copytree(ROOT / "tumorcast", site / "tumorcast", ignore=shutil.ignore_patterns("__pycache__", "models"))
    maps.parent.mkdir()
    words = ("forecast", blob_cohort, "--model", random_bundle, "--relative-change", "0.25", *FEW, "--out", maps)
    before = tuple(read_only(place.home, *(path for path in (site, *site.rglob("*")) if path.is_dir())))
    for command in (words, ("show", maps, "--out", maps.parent / "pictures")):
        done = place.run(*command, before=before, PYTHONPATH=str(site))
        assert done.returncode == 0, done.stderr
    assert list((maps.parent / "pictures").glob("*.png"))
    assert "MPLCONFIGDIR" in done.stderr
    assert place.left() == []
