"""Where the machine code of the kernels is kept, and that they run where it cannot be."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CALL = """
import numpy as np
from tumorcast.kernels.growth import log_cosh_and_slope
print(*log_cosh_and_slope(0.0))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The kernels alone, as an installation has them: nothing was compiled here yet."""
    package = tmp_path / "site" / "tumorcast"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "tumorcast" / "__init__.py", package)
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return package.parent


def call(site: Path, home: Path | None, *before: str, **variables: str) -> str:
    """What a process says on stderr that calls a kernel; what the kernel gives is checked."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    told = {"PYTHONPATH": str(site)} | ({} if home is None else {"HOME": str(home)}) | variables
    words = [*before, sys.executable, "-B", "-c", CALL]
    done = subprocess.run(words, env=kept | told, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0.0 0.0\n"), done.stderr
    return done.stderr


def machine_code(folder: Path) -> set[Path]:
    """Folders below one, relative to it, that hold machine code for a sum over the kernels."""
    return {path.parents[1].parent.relative_to(folder) for path in folder.rglob("*.nbc")}


def test_machine_code_lies_beside_the_kernels(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert call(installed, tmp_path / "home") == ""
    assert machine_code(tmp_path) == {Path("site/tumorcast/kernels/__pycache__")}
    assert not list((tmp_path / "home").iterdir())


def test_the_users_folder_comes_first(installed: Path, tmp_path: Path) -> None:
    assert call(installed, tmp_path / "home", NUMBA_CACHE_DIR=str(tmp_path / "mine")) == ""
    assert machine_code(tmp_path) == {Path("mine")}


def test_other_sources_have_other_machine_code(installed: Path, tmp_path: Path) -> None:
    """A kernel holds the code of those it calls, so one of another release must not be taken for it."""
    for _ in range(2):
        call(installed, tmp_path / "home", NUMBA_CACHE_DIR=str(tmp_path / "mine"))
    assert len(list((tmp_path / "mine").iterdir())) == 1
    with (installed / "tumorcast" / "kernels" / "maps.py").open("a") as file:
        file.write("# another release\n")
    call(installed, tmp_path / "home", NUMBA_CACHE_DIR=str(tmp_path / "mine"))
    assert len(list((tmp_path / "mine").iterdir())) == 2


def test_of_a_read_only_installation_it_lies_in_the_users_cache(
    installed: Path, tmp_path: Path, read_only: Callable[..., list[str]]
) -> None:
    before = read_only(installed / "tumorcast" / "kernels")
    assert call(installed, tmp_path / "home", *before) == ""
    assert machine_code(tmp_path) == {Path("home/.cache/tumorcast")}


@pytest.mark.parametrize("home", ["home", None])
def test_where_nothing_can_be_written_kernels_run_and_one_line_says_what_to_set(
    installed: Path, tmp_path: Path, read_only: Callable[..., list[str]], home: str | None
) -> None:
    closed = [installed / "tumorcast" / "kernels", tmp_path / "home"]
    closed[1].mkdir()
    told = call(installed, None if home is None else closed[1], *read_only(*closed), XDG_CACHE_HOME=str(closed[1]))
    (line,) = told.splitlines()
    assert "set NUMBA_CACHE_DIR" in line
    assert str(closed[0] / "__pycache__") in line and str(closed[1]) in line
    assert machine_code(tmp_path) == set()


def test_a_folder_of_the_user_that_cannot_be_written_is_named(
    installed: Path, tmp_path: Path, read_only: Callable[..., list[str]]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (line,) = call(installed, tmp_path, *read_only(mine), NUMBA_CACHE_DIR=str(mine)).splitlines()
    assert f"NUMBA_CACHE_DIR={mine}" in line
    assert machine_code(tmp_path) == {Path("site/tumorcast/kernels/__pycache__")}


def test_a_relative_cache_of_the_user_is_passed_over(installed: Path, read_only: Callable[..., list[str]]) -> None:
    """The rule for XDG_CACHE_HOME; and without HOME `~` leads nowhere."""
    told = call(installed, None, *read_only(installed / "tumorcast" / "kernels"), XDG_CACHE_HOME="here")
    assert "here" not in told and "set NUMBA_CACHE_DIR" in told


def test_a_place_that_takes_a_file_but_no_byte_is_no_place(installed: Path, tmp_path: Path) -> None:
    """A home over its quota; here by a limit of the process."""
    (line,) = call(installed, tmp_path, "prlimit", "--fsize=1000").splitlines()
    assert "set NUMBA_CACHE_DIR" in line


@pytest.mark.parametrize(
    ("variables", "threads"), [({"OMP_NUM_THREADS": "1"}, 1), ({"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}, 2)]
)
def test_threads_of_openmp_are_not_more_than_it_was_told(variables: dict[str, str], threads: int) -> None:
    """Unless numba is told of its own: what it starts, torch uses too."""
    script = (
        "import torch\nfrom tumorcast.kernels import compiling\nimport numba\n"
        "numba.get_num_threads(), numba.set_num_threads(1), numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)\n"
        "print(numba.config.NUMBA_NUM_THREADS, torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(threads)] * 2
