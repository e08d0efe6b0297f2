"""The house rules that no tool checks: short functions, one name for a class, a quick --help, nothing unfit."""

import argparse
import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 60
NAMED_PATH = re.compile(r"(?<![\w./{-])((?:[\w-]+/)+[\w-]+\.py)\b")
SOURCES = sorted(path for folder in ("tumorcast", "kernels", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
HEAVY = ("torch", "onnxruntime", "SimpleITK", "mpi4py", "matplotlib", "numba", "scipy", "h5py", "nilearn")


def test_no_function_is_over_60_lines() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST
    }
    assert found == {}


def test_no_class_name_is_given_twice() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        if not path.is_relative_to(ROOT / "benchmarks"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_help_imports_nothing_heavy() -> None:
    """This is what keeps --help quick; the time itself is measured by no test."""
    script = f"import sys, tumorcast.cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_nothing_unpickles() -> None:
    """One module reads files of torch, by one call, that takes tensors and no code."""
    calls = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text
        if path == ROOT / "tumorcast" / "training" / "import_adm.py":
            calls += [node for node in ast.walk(ast.parse(text)) if ast.unparse(node).startswith("torch.load(")]
        else:
            assert "torch.load" not in text
    (call,) = (node for node in calls if isinstance(node, ast.Call))
    assert "weights_only=True" in [ast.unparse(keyword) for keyword in call.keywords]


def test_paths_in_prose_are_there() -> None:
    """A module that moves takes the sentences along that name it: documents, docstrings and comments."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = listed.stdout.split()
    missing = [
        (name, path)
        for name in tracked
        if name.endswith((".py", ".md", ".toml", ".cfg", ".sh", ".bash"))
        for path in NAMED_PATH.findall((ROOT / name).read_text(encoding="utf-8"))
        if not any(f"/{there}".endswith(f"/{path}") for there in tracked)
    ]
    assert missing == []


def test_package_list_is_complete() -> None:
    """setup.cfg names every package; a forgotten one would be missing from an installation."""
    named = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for init in (ROOT / "tumorcast").rglob("__init__.py"):
        assert f"    {'.'.join(init.parent.relative_to(ROOT).parts)}\n" in named


def test_one_process_runs_the_tests_of_a_file_and_one_those_on_the_cluster(pytestconfig: pytest.Config) -> None:
    """pytest-xdist's own groups were lost by an update without a word, and a run took twice as long."""
    groups = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    asked = argparse.Namespace(getvalue={"dist": "loadgroup", "tx": ["popen"]}.__getitem__)
    scheduler = groups.pytest_xdist_make_scheduler(asked, None)
    found = {scheduler._split_scope(f"tests/test_tables.py::test_b[{case}]") for case in ("1", "x::y", "z@c")}
    assert found == {"tests/test_tables.py"}
    assert {scheduler._split_scope(name) for name in groups.ON_THE_CLUSTER} == {"cluster"}
    assert scheduler._split_scope("tests/slurm/test_jobs.py::test_a_step_that_fails") == "tests/slurm/test_jobs.py"
    files = [name.partition("::")[0] for name in groups.ON_THE_CLUSTER] + [f"tests/{name}" for name in groups.FIRST]
    assert [name for name in files if not (ROOT / name.replace("tests/tests", "tests")).is_file()] == []
