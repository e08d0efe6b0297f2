"""What README.md tells a newcomer to type works, its links lead somewhere, and the pages of commands are current.

The commands are run in their order, in a folder that looks like the checkout, on the demo's scans. Forecasts are made
small by options of their own (SHORTER); TUMORCAST_README=whole runs them as they stand, for minutes.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {  # in place of what README gives these options
    "demo": "--patients 1 --members 1 --voxel-mm 4 --steps 2",
    "fit": "--replicates 20",
    "forecast": "--members 1 --steps 2 --max-slices 1",
    "forecast --maps-only": "--members 1",
}
ELSEWHERE = {"bin/test": "runs this test", "bin/test --fast": "runs the tests beside it"}
SIZES = "patient_id,day,enhancing_mm3\nA,0,900\nA,60,1200\nA,120,1500\n"


def commands() -> list[str]:
    """The lines of README's blocks, without comments, and the commands with arguments in its text."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:bin/\w+|tumorcast|sbatch) [^`]+)`", text)
    return [line for line in [*lines, *inline] if line and not line.startswith("#")]


def typed(command: str) -> list[str]:
    """The words to run: those of README, with what makes them short; a job is not submitted but told of."""
    words = command.split()
    if words[0] == "sbatch":
        return ["bash", *words[1:], "--dry-run"]
    if words[0] == "tumorcast":
        words[0] = "bin/tumorcast"
    name = words[1] if words[0] == "bin/tumorcast" else Path(words[0]).name
    name = f"{name} --maps-only" if "--maps-only" in words else name
    short = [] if os.environ.get("TUMORCAST_README") == "whole" else SHORTER.get(name, "").split()
    for option in short[::2]:
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return [*words, *short]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the launchers of the checkout. Of them setup does nothing: they use this environment."""
    (tmp_path / "bin").mkdir()
    for launcher in (ROOT / "bin").iterdir():
        shutil.copy(launcher, tmp_path / "bin")
    (tmp_path / "bin" / "setup").write_text("#!/bin/sh\n")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name in ("tumorcast", "slurm", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "SCANS").symlink_to("demo-out/scans")
    (tmp_path / "clinical.csv").symlink_to("demo-out/scans/clinical.csv")
    (tmp_path / "BUNDLE").symlink_to("tumorcast/models/demo128")
    (tmp_path / "sizes.csv").write_text(SIZES)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_readme_run(checkout: Path) -> None:
    found = commands()
    assert {"bin/demo", "bin/test"} <= set(found)
    assert {"prepare", "fit", "forecast"} <= {command.split()[1] for command in found if " " in command}
    for command in found:
        if command in ELSEWHERE:
            assert os.access(ROOT / command.split()[0], os.X_OK)
            continue
        done = subprocess.run(typed(command), cwd=checkout, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert list((checkout / "demo-out" / "pictures").glob("*.png"))


def test_the_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_pages_of_the_commands_are_current() -> None:
    """A command that has changed: run docs/commands/generate.py."""
    check = [sys.executable, str(ROOT / "docs" / "commands" / "generate.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "")
