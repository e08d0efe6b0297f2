"""Real MPI: `tumorcast prepare` writes the same bytes on three ranks as on one."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data.prepare import CohortPlan, PrepareSettings, Register, SliceChoice, prepare_cohort
from tumorcast.errors import UsageError
from tumorcast.running.prepare_run import prepare_over_ranks
from tumorcast.running.ranks import Ranks

Launch = Callable[..., list[str]]
OPTIONS = ("--image-size", "64", "--register", "rigid", "--slices", "all", "--json")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients of two scans of two contrasts: balls with a gradient, the second scan shifted; one is damaged."""
    folder = tmp_path_factory.mktemp("ranks") / "scans"
    z, y, x = np.meshgrid(*(np.arange(24) - 11.5,) * 3, indexing="ij")
    for number in range(3):
        for session in range(2):
            scan = f"P{number}-00{session}"
            (folder / scan).mkdir(parents=True)
            ball = x**2 + 1.4 * y**2 + (1.1 + 0.1 * number) * z**2 < 100
            for kind, values in (("t1c", 300 + 9 * x + 7 * y * z / 10), ("t2f", 300 - 9 * x + 5 * z)):
                image = sitk.GetImageFromArray(np.where(ball, values, 0).astype(np.float32))
                image.SetSpacing((6.0, 6.0, 6.0))
                image.SetOrigin((12.0 * session, 0.0, 5.0 * session))
                sitk.WriteImage(image, str(folder / scan / f"{scan}-{kind}.nii.gz"))
    (folder / "P1-001" / "P1-001-t1c.nii.gz").write_bytes(b"damaged")
    return folder


def test_the_cohort_is_the_same_on_any_number_of_ranks(launch: Launch, scans: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(image_size=64, register=Register.RIGID, slices=SliceChoice.ALL)
    report = prepare_cohort(scans, tmp_path / "alone.h5", settings)
    command = [*launch(3), "-m", "tumorcast", "prepare", str(scans), "--out", str(tmp_path / "c.h5"), *OPTIONS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stderr  # one scan is damaged
    (line,) = ended.stdout.splitlines()
    record = json.loads(line)
    assert record["sessions"] == {"ok": 5, "failed": 1, "skipped": 0}
    assert record["flagged"] == report.flagged
    assert ended.stderr.count("P1 001: failed: ") == 1
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "alone.h5").read_bytes()
    assert not (tmp_path / "c.h5.parts").exists()


def test_ranks_and_processes_do_not_go_together(tmp_path: Path) -> None:
    def no_plan() -> CohortPlan:
        raise AssertionError("nothing may be read before the options are refused")

    with pytest.raises(UsageError, match=r"--jobs 2: .*3 ranks"):
        prepare_over_ranks(no_plan, tmp_path / "c.h5", Ranks(rank=1, size=3), jobs=2)
