"""The job scripts on a real SLURM cluster, over real commands and real MPI: from scans to maps, interrupted or not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tumorcast.archive.digest import digest
from tumorcast.archive.growth_file import read_growth, write_growth
from tumorcast.archive.maps import MapArchive

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster

SLURM = Path(__file__).parents[2] / "slurm"
ONE_RANK = ("--nodes=1", "--gres=gpu:1", "--cpus-per-task=1")
SETTINGS = {
    "TUMORCAST_PROVIDER": "cpu",
    "TUMORCAST_HORIZON_DAYS": "60",
    "TUMORCAST_FIT_OPTIONS": "--replicates 10",
    "TUMORCAST_FORECAST_OPTIONS": "--steps 10 --noise-level 50 --max-slices 1 --block 1",
}
LONG = "48"  # members: on one core some 75 s for the three patients, more than the half minute that must pass


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scans of three patients."""
    folder = tmp_path_factory.mktemp("simulated") / "scans"
    tumorcast("simulate", folder, "--patients", 3, "--seed", 1, "--sessions", 3, "--voxel-mm", 4)
    return folder


def tumorcast(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "tumorcast", *map(str, arguments)], check=True, capture_output=True)


def submit(
    cluster: "Cluster", at: Path, source: Path, model: Path, *resources: str, members: str = LONG, **variables: str
) -> str:
    """Submit the job from the folder `at`, where its results will be in `out`."""
    at.mkdir(exist_ok=True)
    command = [*resources, SLURM / "forecast_cohort.sh", source, "--out", "out", "--model", model, "--members", members]
    if source.is_dir():
        command += ["--clinical", source / "clinical.csv"]
    return cluster.submit(*command, at=at, variables=SETTINGS | variables)


def log_of(job: str, at: Path) -> str:
    return (at / f"tumorcast-{job}.out").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def limited(
    cluster: "Cluster", scans: Path, random_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A job of more work than its limit of a minute, submitted first, as it takes longest; and where it was.

    SLURM looks at limits every half a minute, so the signal comes within the first: forecast is the only step.
    """
    at = tmp_path_factory.mktemp("limited")
    cohort, growth = at / "cohort.h5", at / "out" / "growth.h5"
    tumorcast("prepare", scans, "--clinical", scans / "clinical.csv", "--out", cohort)
    tumorcast("fit", cohort, "--out", growth, "--size-column", "area_mm2", "--replicates", 10)
    return submit(cluster, at, cohort, random_bundle, *ONE_RANK, "--time=1", "--signal=B:USR1@30"), at


@pytest.fixture(scope="module")
def uninterrupted(
    cluster: "Cluster",
    limited: tuple[str, Path],
    scans: Path,
    random_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The results of a job on three nodes with two GPUs each, submitted from a folder that is not the project's."""
    at = tmp_path_factory.mktemp("elsewhere")
    job = submit(cluster, at, scans, random_bundle, "--nodes=3", "--gres=gpu:2", "--cpus-per-task=2")
    assert cluster.ended(job, 300).code == 0, log_of(job, at)
    return at / "out"


def test_a_job_from_another_folder_finishes_over_all_its_gpus(uninterrupted: Path) -> None:
    with MapArchive.open(uninterrupted / "maps.h5") as maps:
        assert list(maps.patient_ids()) == ["SIM-00001", "SIM-00002", "SIM-00003"]
    opened = [
        json.loads(path.read_text().splitlines()[0]) for path in sorted((uninterrupted / "maps.events").iterdir())
    ]
    assert [(event["ranks"], event["local_rank"]) for event in opened] == [(6, 0), (6, 1)] * 3
    assert [len(event["visible_gpus"].split(",")) for event in opened] == [2] * 6
    assert not (uninterrupted / "maps.h5.parts").exists()


def test_a_cancelled_job_leaves_a_run_that_the_next_job_goes_on_with(
    cluster: "Cluster", uninterrupted: Path, scans: Path, random_bundle: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "out" / "maps.h5.parts" / "shards"
    first = submit(cluster, tmp_path, scans, random_bundle, *ONE_RANK)
    cluster.await_that(lambda: len(list(shards.glob("*/*.h5"))) > 3, 120)
    cluster.ask("scancel", first)
    assert cluster.ended(first, 60).state == "CANCELLED"
    kept = {path: path.stat().st_mtime_ns for path in shards.glob("*/*.h5")}
    second = submit(cluster, tmp_path, scans, random_bundle, "--nodes=2", "--gres=gpu:1", "--cpus-per-task=1")
    cluster.await_that(lambda: len(list(shards.glob("*/*.h5"))) > len(kept), 120)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert cluster.ended(second, 300).code == 0, log_of(second, tmp_path)
    assert digest(tmp_path / "out" / "maps.h5") == digest(uninterrupted / "maps.h5")


def test_a_patient_that_fails_gives_exit_1_and_the_others_their_maps(
    cluster: "Cluster", uninterrupted: Path, random_bundle: Path, tmp_path: Path
) -> None:
    """Growth was fitted for two of the three, and the model is RUN folders, which the job exports."""
    growth = read_growth(uninterrupted / "growth.h5")
    (tmp_path / "out").mkdir()
    write_growth(tmp_path / "out" / "growth.h5", [growth[name] for name in ("SIM-00001", "SIM-00003")], {})
    cohort, runs = uninterrupted / "cohort.h5", random_bundle.parent / "runs"
    job = submit(cluster, tmp_path, cohort, runs, *ONE_RANK, members="1")
    assert cluster.ended(job, 300).code == 1, log_of(job, tmp_path)
    assert "SIM-00002: failed: SIM-00002: not in the growth file" in log_of(job, tmp_path)
    with MapArchive.open(tmp_path / "out" / "maps.h5") as maps:
        assert list(maps.patient_ids()) == ["SIM-00001", "SIM-00003"]


def test_a_job_that_hits_its_limit_requeues_itself_and_gives_the_same_maps(
    cluster: "Cluster", limited: tuple[str, Path], uninterrupted: Path
) -> None:
    job, at = limited
    ended = cluster.ended(job, 300)
    assert (ended.code, ended.restarts >= 1) == (0, True), log_of(job, at)
    assert "forecast: stopped; the job is requeued" in log_of(job, at)
    assert digest(at / "out" / "maps.h5") == digest(uninterrupted / "maps.h5")
