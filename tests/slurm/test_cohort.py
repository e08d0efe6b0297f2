"""The job scripts over real commands: from scans to a report by real SLURM and real MPI; interrupted, by fake SLURM."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fakes import write_growth
from tumorcast.archive.growth_file import read_growth
from tumorcast.archive.maps import MapArchive
from tumorcast.archive.verify import digest
from tumorcast.data.prepare import PrepareSettings, SliceChoice, prepare_cohort
from tumorcast.simulation.cohort import simulate_cohort

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster, FakeSlurm, Slurm

SLURM = Path(__file__).parents[2] / "slurm"
ONE_RANK = ("--nodes=1", "--gres=gpu:1", "--cpus-per-task=1")
LATER = "002"  # the session that the forecast does not know
SETTINGS = {
    "TUMORCAST_PROVIDER": "cpu",
    "TUMORCAST_HORIZON_DAYS": "60",
    "TUMORCAST_FIT_OPTIONS": "--replicates 10",
    "TUMORCAST_FORECAST_OPTIONS": "--steps 10 --noise-level 50 --max-slices 1 --block 1",
}
MEMBERS = "8"  # on one core some 10 s for the two patients, in which a job is told to stop after a few shards
PATIENTS = ["SIM-00001", "SIM-00002"]


def submit(
    slurm: "Slurm", at: Path, source: Path, model: Path, *resources: str, members: str = MEMBERS, **variables: str
) -> str:
    """Submit the job from the folder `at`, where its results will be in `out`."""
    at.mkdir(exist_ok=True)
    command = [*resources, SLURM / "forecast_cohort.sh", source, "--out", "out", "--model", model, "--members", members]
    if source.is_dir():
        command += ["--clinical", source / "clinical.csv"]
    return slurm.submit(*command, at=at, variables=SETTINGS | variables)


def log_of(job: str, at: Path) -> str:
    return (at / f"tumorcast-{job}.out").read_text(encoding="utf-8")


def shards_of(at: Path) -> list[Path]:
    return list((at / "out" / "maps.h5.parts" / "shards").glob("*/*.h5"))


@pytest.fixture(scope="module")
def uninterrupted(
    cluster: "Cluster", limited: tuple[str, Path], random_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results of a job on two nodes with two GPUs each, submitted from a folder that is not the project's.

    There are scans of two patients, and a cohort file with a later scan of each, which is the truth.
    """
    scans, at = tmp_path_factory.mktemp("simulated") / "scans", tmp_path_factory.mktemp("elsewhere")
    simulate_cohort(scans, patients=len(PATIENTS), seed=1, sessions=3, voxel_mm=4.0)
    later, settings = scans.with_name("later.h5"), PrepareSettings(image_size=64, slices=SliceChoice.ALL)
    prepare_cohort(scans, later, settings, clinical=scans / "clinical.csv")
    for scan in scans.glob(f"*-{LATER}"):
        shutil.rmtree(scan)
    wanted = {
        "TUMORCAST_TRUTH": str(later),
        "TUMORCAST_EVALUATE_OPTIONS": "--baselines no_change",
        "TUMORCAST_PREPARE_OPTIONS": "--allow-unmatched",  # the clinical table has the later scans, which were removed
        "TUMORCAST_REPORT": "1",
        "TUMORCAST_REPORT_RANKS_PER_NODE": "1",
    }
    job = submit(cluster, at, scans, random_bundle, "--nodes=2", "--gres=gpu:2", "--cpus-per-task=2", **wanted)
    assert cluster.ended(job, 300).code == 0, log_of(job, at)
    return at / "out"


def test_a_job_from_another_folder_finishes_over_all_its_gpus(uninterrupted: Path) -> None:
    with MapArchive.open(uninterrupted / "maps.h5") as maps:
        assert list(maps.patient_ids()) == PATIENTS
    opened = [
        json.loads(path.read_text().splitlines()[0]) for path in sorted((uninterrupted / "maps.events").iterdir())
    ]
    assert [(event["ranks"], event["local_rank"]) for event in opened] == [(4, 0), (4, 1)] * 2
    assert [len(event["visible_gpus"].split(",")) for event in opened] == [2] * 4
    assert not (uninterrupted / "maps.h5.parts").exists()


def test_its_maps_are_evaluated_and_the_report_tells_of_it(uninterrupted: Path) -> None:
    told = json.loads((uninterrupted / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    assert {row["later_session"] for row in told["patients"]} == {LATER}
    pages = sorted((uninterrupted / "report" / "patients").glob("*.html"))
    assert [page.stem for page in pages] == PATIENTS
    judged = [row["patient_id"] for row in told["patients"]]
    assert [page.stem for page in pages if "Dice" in page.read_text(encoding="utf-8")] == judged


def given(slurm: "Slurm", at: Path, done: Path, model: Path, *resources: str) -> str:
    """Submit a job that has but to forecast: cohort and growth are those of the job that is done."""
    (at / "out").mkdir(parents=True, exist_ok=True)
    shutil.copy(done / "growth.h5", at / "out")
    return submit(slurm, at, done / "cohort.h5", model, *resources)


def test_a_cancelled_job_leaves_a_run_that_the_next_job_goes_on_with(
    fake_slurm: "FakeSlurm", uninterrupted: Path, random_bundle: Path, tmp_path: Path
) -> None:
    first = given(fake_slurm, tmp_path, uninterrupted, random_bundle, *ONE_RANK)
    fake_slurm.await_that(lambda: len(shards_of(tmp_path)) > 3, 120)
    fake_slurm.ask("scancel", first)
    assert fake_slurm.ended(first, 60).state == "CANCELLED"
    kept = {path: path.stat().st_mtime_ns for path in shards_of(tmp_path)}
    second = given(fake_slurm, tmp_path, uninterrupted, random_bundle, *ONE_RANK)
    fake_slurm.await_that(lambda: len(shards_of(tmp_path)) > len(kept), 120)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert fake_slurm.ended(second, 300).code == 0, log_of(second, tmp_path)
    assert digest(tmp_path / "out" / "maps.h5") == digest(uninterrupted / "maps.h5")


def test_a_job_that_is_told_to_stop_requeues_itself_and_gives_the_same_maps(
    fake_slurm: "FakeSlurm", uninterrupted: Path, random_bundle: Path, tmp_path: Path
) -> None:
    """Told as SLURM tells it before the limit; that SLURM does, test_jobs.py waits for."""
    job = given(fake_slurm, tmp_path, uninterrupted, random_bundle, *ONE_RANK)
    fake_slurm.await_that(lambda: len(shards_of(tmp_path)) > 1, 120)
    fake_slurm.ask("scancel", "--batch", "--signal=USR1", job)
    ended = fake_slurm.ended(job, 300)
    assert (ended.code, ended.restarts) == (0, 1), log_of(job, tmp_path)
    assert "forecast: stopped; the job is requeued" in log_of(job, tmp_path)
    assert digest(tmp_path / "out" / "maps.h5") == digest(uninterrupted / "maps.h5")


def test_a_patient_that_fails_gives_exit_1_and_the_others_their_maps(
    fake_slurm: "FakeSlurm", uninterrupted: Path, random_bundle: Path, tmp_path: Path
) -> None:
    """Growth was fitted for one of the two."""
    growth = read_growth(uninterrupted / "growth.h5")
    (tmp_path / "out").mkdir()
    write_growth(tmp_path / "out" / "growth.h5", [growth[PATIENTS[0]]], {})
    job = submit(fake_slurm, tmp_path, uninterrupted / "cohort.h5", random_bundle, *ONE_RANK, members="1")
    assert fake_slurm.ended(job, 300).code == 1, log_of(job, tmp_path)
    assert "SIM-00002: failed: SIM-00002: not in the growth file" in log_of(job, tmp_path)
    with MapArchive.open(tmp_path / "out" / "maps.h5") as maps:
        assert list(maps.patient_ids()) == PATIENTS[:1]
