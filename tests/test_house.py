"""The house rules that no tool checks: short functions, a quick --help, and nothing unfit in the package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 60
SOURCES = sorted(path for folder in ("tumorcast", "kernels", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
HEAVY = ("torch", "onnxruntime", "SimpleITK", "mpi4py", "matplotlib", "numba", "scipy", "h5py", "nilearn")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_over_60_lines(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST, f"{path.name}:{node.lineno} {node.name} has {length} lines"


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


def test_package_list_is_complete() -> None:
    """setup.cfg names every package; a forgotten one would be missing from an installation."""
    named = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for init in (ROOT / "tumorcast").rglob("__init__.py"):
        assert f"    {'.'.join(init.parent.relative_to(ROOT).parts)}\n" in named
