"""The job scripts over a stand-in that writes and sleeps: layout, limits, requeues, ends.

Most run by the commands of fake_slurm.py; what SLURM itself does, ranks over nodes and the limit of time, on a cluster.
"""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.slurm.conftest import STAND_IN

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster, FakeSlurm, Slurm

SLURM = Path(__file__).parents[2] / "slurm"
OPTIONS = ("--model", "run", "--horizon-days", "60")
SMALL = ("--gres=gpu:1", "--cpus-per-task=1", "--nodes=1")
TO_MAPS = ["prepare", "fit", "export", "forecast", "merge"]
FEW_CORES = {"TUMORCAST_SBATCH": "--cpus-per-task=1 --nodes=1 --gres=none"}


def cohort_job(
    slurm: "Slurm", at: Path, *resources: str, out: str = "out", script: str = "forecast_cohort", **variables: str
) -> str:
    """Submit the script over the stand-in, with sbatch's options `resources`, from the folder `at`."""
    at.mkdir(exist_ok=True)
    command = (*resources, SLURM / f"{script}.sh", "scans", "--out", out, *OPTIONS)
    return slurm.submit(*command, at=at, variables=STAND_IN | variables)


def log_of(job: str, at: Path, name: str = "tumorcast") -> str:
    return (at / f"{name}-{job}.out").read_text(encoding="utf-8")


def seen(out: Path) -> dict[str, list[list[str]]]:
    """What each rank saw, by step: rank/size, local rank, node, how many GPUs, threads, hours left."""
    found: dict[str, list[list[str]]] = {}
    for path in out.glob("*.saw"):
        for line in path.read_text(encoding="utf-8").splitlines():
            step, rank, local, node, gpus, *others = line.split(" ")
            found.setdefault(step, []).append([rank, local, node, str(len(gpus.split(","))), *others])
    return {step: sorted(lines) for step, lines in found.items()}


@pytest.mark.parametrize("kind", ["fake_slurm", pytest.param("cluster", marks=pytest.mark.cluster)])
def test_one_job_runs_every_step_over_the_ranks_it_has_room_for(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    slurm: Slurm = request.getfixturevalue(kind)
    at = tmp_path / "a folder"
    resources = ("--nodes=3", "--gres=gpu:2", "--cpus-per-task=3")
    job = cohort_job(slurm, at, *resources, out="the maps", STAND_IN_FIT="1")
    assert slurm.ended(job, 60).code == 1, log_of(job, at)  # some patients failed in fit
    ranks = seen(at / "the maps")
    nodes = ("n1", "n2", "n3")
    for step in ("prepare", "export", "archive"):
        assert ranks[step] == [["0/1", "0", "n1", "2", "3", "24"]]
    assert ranks["fit"] == [[f"{r}/9", str(r % 3), nodes[r // 3], "2", "1", "24"] for r in range(9)]
    assert ranks["forecast"] == [[f"{r}/6", str(r % 2), nodes[r // 2], "2", "1", "24"] for r in range(6)]
    assert (at / "the maps" / "maps.h5").exists()


def test_a_job_finds_the_project_by_its_own_command_whatever_the_path(fake_slurm: "FakeSlurm", tmp_path: Path) -> None:
    shutil.copytree(SLURM, tmp_path / "a project" / "slurm")
    script, at = tmp_path / "a project" / "slurm" / "fit.sh", tmp_path / "elsewhere"
    at.mkdir()
    options = ("scans", "--out", "/slurm/fit.sh of mine", *OPTIONS, "--dry-run")
    job = fake_slurm.submit("--cpus-per-task=1", script, *options, at=at)
    assert fake_slurm.ended(job, 60).code == 0, log_of(job, at, "tumorcast-fit")
    assert "a\\ project/.venv/bin/python -m mpi4py -m tumorcast fit" in log_of(job, at, "tumorcast-fit")


@pytest.mark.slow
def test_a_chain_goes_on_past_patients_that_failed_and_its_last_job_tells(
    fake_slurm: "FakeSlurm", tmp_path: Path
) -> None:
    (tmp_path / "later.h5").touch()
    wanted = {"TUMORCAST_TRUTH": "later.h5", "TUMORCAST_REPORT": "1"}
    jobs = chain(fake_slurm, tmp_path, STAND_IN_FIT="1", **wanted)
    assert list(jobs) == [*TO_MAPS, "evaluate", "report"]
    assert fake_slurm.ended(jobs["report"], 90).code == 1
    assert [fake_slurm.job(job).state for job in jobs.values()] == ["COMPLETED"] * 6 + ["FAILED"]
    submitted = [call for call in fake_slurm.calls if call.startswith("sbatch")]
    assert [re.findall(r"afterok:(\d+)", call) for call in submitted[-7:]] == [
        [],
        *([job] for job in [*jobs.values()][:-1]),
    ]
    logs = {path.name for path in (tmp_path / "out" / "logs").iterdir()}
    assert logs == {f"tumorcast-{step}-{job}.out" for step, job in jobs.items()}
    assert planned(fake_slurm, tmp_path, **wanted) == ["forecast"]  # the others stand; forecast looks for itself
    told = wanted | {"TUMORCAST_REPORT_OPTIONS": "--pictures 2"}
    assert planned(fake_slurm, tmp_path, **told) == ["forecast", "report"]  # made anew, with other options
    (tmp_path / "later.h5").touch()
    assert planned(fake_slurm, tmp_path, **wanted) == ["forecast", "evaluate", "report"]
    (tmp_path / "out" / "maps.h5").touch()
    assert planned(fake_slurm, tmp_path, TUMORCAST_REPORT="1") == ["forecast", "report"]


def test_a_step_that_fails_ends_its_chain(fake_slurm: "FakeSlurm", tmp_path: Path) -> None:
    jobs = chain(fake_slurm, tmp_path, STAND_IN_PREPARE="3")
    assert fake_slurm.ended(jobs["merge"], 60).state == "CANCELLED"
    assert fake_slurm.job(jobs["prepare"]).code == 3
    assert [fake_slurm.job(jobs[step]).state for step in ("fit", "export", "forecast")] == ["CANCELLED"] * 3


def chain(fake_slurm: "FakeSlurm", at: Path, **variables: str) -> dict[str, str]:
    """Submit a job for each step; the jobs by step."""
    command = ("bash", SLURM / "forecast_cohort.sh", "--submit", "scans", "--out", "out", *OPTIONS)
    told = fake_slurm.ask(*map(str, command), at=at, variables=STAND_IN | FEW_CORES | variables)
    return dict(line.split(": job ", 1) for line in told.splitlines())


def planned(fake_slurm: "FakeSlurm", at: Path, **variables: str) -> list[str]:
    """The steps that the same chain would submit now."""
    command = ("bash", SLURM / "forecast_cohort.sh", "--submit", "--dry-run", "scans", "--out", "out", *OPTIONS)
    told = fake_slurm.ask(*map(str, command), at=at, variables=STAND_IN | FEW_CORES | variables)
    return re.findall(r"--job-name=tumorcast-(\w+)", told)


@pytest.mark.slow
def test_a_cancelled_job_is_not_requeued_and_the_next_goes_on(fake_slurm: "FakeSlurm", tmp_path: Path) -> None:
    first = cohort_job(fake_slurm, tmp_path, *SMALL, STAND_IN_UNITS="30")
    fake_slurm.await_that((tmp_path / "out" / "maps.h5.parts" / "0-1").exists, 60)
    fake_slurm.ask("scancel", first)
    assert fake_slurm.ended(first, 60).state == "CANCELLED"
    done = {path.name for path in (tmp_path / "out" / "maps.h5.parts").iterdir()}
    assert not (tmp_path / "out" / "maps.h5").exists()
    second = cohort_job(fake_slurm, tmp_path, *SMALL, STAND_IN_UNITS=str(len(done) + 1))
    assert fake_slurm.ended(second, 60).code == 0, log_of(second, tmp_path)
    assert "prepare: what it writes stands; not done again" in log_of(second, tmp_path)
    assert len(seen(tmp_path / "out")["fit"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("most", ["0", "2"])
def test_a_job_is_requeued_so_many_times_at_most(most: str, fake_slurm: "FakeSlurm", tmp_path: Path) -> None:
    job = cohort_job(fake_slurm, tmp_path, *SMALL, TUMORCAST_MAX_REQUEUES=most, STAND_IN_FORECAST="75")
    ended = fake_slurm.ended(job, 60)
    assert (ended.code, ended.restarts) == (75, int(most)), log_of(job, tmp_path)
    assert f"it was {most} times (TUMORCAST_MAX_REQUEUES)" in log_of(job, tmp_path)


def test_a_step_that_cannot_resume_is_not_requeued_in_vain(fake_slurm: "FakeSlurm", tmp_path: Path) -> None:
    """Alone in its job fit would only begin anew; after prepare a requeue has gained what prepare did."""
    alone = cohort_job(fake_slurm, tmp_path / "alone", *SMALL, script="fit", STAND_IN_FIT_SECONDS="40")
    after = cohort_job(fake_slurm, tmp_path / "after", *SMALL, TUMORCAST_MAX_REQUEUES="1", STAND_IN_FIT_SECONDS="40")
    for at, job in ((tmp_path / "alone", alone), (tmp_path / "after", after)):
        stop_at_fit(fake_slurm, job, at)
    assert fake_slurm.ended(alone, 60) == (told := fake_slurm.job(alone))
    assert (told.code, told.restarts) == (75, 0), log_of(alone, tmp_path / "alone", "tumorcast-fit")
    assert "needs more than the job's time" in log_of(alone, tmp_path / "alone", "tumorcast-fit")
    fake_slurm.await_that(lambda: fake_slurm.job(after).restarts == 1, 30)
    fake_slurm.ask("scancel", after)


def stop_at_fit(fake_slurm: "FakeSlurm", job: str, at: Path) -> None:
    """Tell the job to stop while fit runs, as SLURM does before the limit."""
    fake_slurm.await_that((at / "out" / "growth.h5.saw").exists, 60)
    fake_slurm.ask("scancel", "--batch", "--signal=USR1", job)


@pytest.mark.slow
def test_other_options_for_a_step_that_is_done_are_refused(fake_slurm: "FakeSlurm", tmp_path: Path) -> None:
    first = cohort_job(fake_slurm, tmp_path, *SMALL)
    assert fake_slurm.ended(first, 60).code == 0, log_of(first, tmp_path)
    second = cohort_job(fake_slurm, tmp_path, *SMALL, TUMORCAST_FIT_OPTIONS="--law gompertz")
    assert fake_slurm.ended(second, 60).code == 2
    assert "fit: was done with other options" in log_of(second, tmp_path)


def test_a_job_that_hits_its_limit_requeues_itself_and_finishes(cluster: "Cluster", limited: tuple[str, Path]) -> None:
    job, at = limited
    ended = cluster.ended(job, 150)
    assert ended.restarts >= 1
    assert ended.code == 1, log_of(job, at)  # of prepare, in the first start
    starts = {path.read_text().strip() for path in (at / "out" / "maps.h5.parts").glob("0-*")}
    assert {"0", "1"} <= starts
    assert len(seen(at / "out")["prepare"]) == 1
    assert "forecast: stopped; the job is requeued" in log_of(job, at)
