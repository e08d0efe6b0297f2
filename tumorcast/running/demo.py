"""The demo: simulate, prepare, fit, forecast, show and report on a small cohort, as a user types them."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tumorcast.durable import written_whole
from tumorcast.errors import TumorcastError, UsageError
from tumorcast.running.doctor import SHIPPED

MARK = ".tumorcast-demo"
SEED, SESSIONS, IMAGE_SIZE, HORIZON_DAYS = 5, 4, 128, "90,180"


@dataclass(frozen=True)
class DemoSettings:
    """How large the demo is. steps: of the sampler each way; None leaves the default of `tumorcast forecast`."""

    patients: int = 3
    members: int = 8
    voxel_mm: float = 2.0
    steps: int | None = None


class DemoError(TumorcastError):
    """A command of the demo ended badly; its own message stands above, and its exit code is passed on."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"`tumorcast {command}` ended with {code}; see what it says above")
        self.exit_code = code


def run_demo(out: Path, settings: DemoSettings, announce: Callable[[str], None]) -> None:
    """Run the commands into a folder, which is made anew; `announce` gets each before it starts.

    Raises UsageError if the folder is not of a demo, DemoError if a command ends badly.
    """
    _make_anew(out)
    for arguments in commands(out, settings):
        announce(f"── tumorcast {' '.join(arguments)}")
        done = subprocess.run([sys.executable, "-P", "-m", "tumorcast", *arguments], check=False)
        if done.returncode != 0:
            raise DemoError(arguments[0], done.returncode)


def commands(out: Path, settings: DemoSettings) -> list[list[str]]:
    """The commands, without the word `tumorcast`: simulate, prepare, fit, forecast, show and report."""
    scans, cohort, growth, maps = (str(out / name) for name in ("scans", "cohort.h5", "growth.h5", "maps.h5"))
    size = ["--patients", str(settings.patients), "--voxel-mm", f"{settings.voxel_mm:g}"]
    sampler = ["--members", str(settings.members), "--max-slices", "1"]
    sampler += [] if settings.steps is None else ["--steps", str(settings.steps)]
    aim = ["--growth", growth, "--horizon-days", HORIZON_DAYS]
    return [
        ["simulate", scans, *size, "--seed", str(SEED), "--sessions", str(SESSIONS)],
        ["prepare", scans, "--clinical", f"{scans}/clinical.csv", "--image-size", str(IMAGE_SIZE), "--out", cohort],
        ["fit", cohort, "--size-column", "volume_mm3", "--out", growth, "--plots", str(out / "growth")],
        ["forecast", cohort, "--model", str(SHIPPED), *aim, *sampler, "--out", maps],
        ["show", maps, "--out", str(out / "pictures")],
        ["report", maps, "--growth", growth, "--out", str(out / "report")],
    ]


def _make_anew(out: Path) -> None:
    if out.exists() and not (out / MARK).is_file():
        raise UsageError(f"{out}: exists and was not made by the demo; give another folder")
    if out.exists():
        shutil.rmtree(out)
    with written_whole(out / MARK):
        pass
