"""Whatever happens to a run, starting it again gives the archive of an undisturbed one, or is refused with the reason.

The ranks are those of rank.py: cheap forecasts, so that kills meet every stage of the writing. docs/faults.md tells the
matrix.
"""

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.fakes import SlowEngine, model_info
from tumorcast.archive.maps import MapArchive
from tumorcast.archive.verify import digest, verify
from tumorcast.data.cohort import write_cohort
from tumorcast.errors import InputError, StorageError, UsageError
from tumorcast.forecasting.inputs import UnitInputs, UnitReader
from tumorcast.forecasting.plan import Unit
from tumorcast.records import Contrast, Session, Status
from tumorcast.running.forecast_run import RunOptions
from tumorcast.running.merging import merge_run, verify_run
from tumorcast.running.status import run_status

SOURCE = Path(__file__).with_name("rank.py")
PATIENTS, TIMED = 8, 6
SLOWLY = {"sleep_seconds": 0.02}
Launch = Callable[..., list[str]]


def _rank() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_matrix_rank", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rank = _rank()


@pytest.fixture(autouse=True)
def real_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come back after each test."""
    monkeypatch.setattr("tumorcast.running.forecast_run.open_engine", None)


@pytest.fixture(scope="module")
def cohort(one_scan_cohort: Callable[[int], Path]) -> Path:
    return one_scan_cohort(PATIENTS)


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "maps.h5"
    with on_ranks(launch, 1, out, cohort, {}) as ranks:
        assert ranks.wait(timeout=60) == 0
    assert verify(out) == []
    return digest(out)


def on_ranks(launch: Launch, count: int, out: Path, cohort: Path, behaviour: dict[str, Any]) -> "subprocess.Popen[str]":
    """The ranks, started."""
    command = [*launch(count), str(SOURCE), str(out), str(cohort), json.dumps(behaviour)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def pids(folder: Path, count: int) -> list[int]:
    """Of the ranks, when all have begun."""
    deadline = time.monotonic() + 60
    while len(found := sorted(folder.glob("pid.*"))) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return [int(path.suffix[1:]) for path in found]


def wait_for_shards(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.with_name(out.name + ".parts").glob("shards/*/*.h5"))) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def resumes_to(undisturbed: str, out: Path, cohort: Path) -> None:
    """What every case ends in."""
    assert not rank.run(out, cohort).stopped
    assert verify(out) == []
    assert digest(out) == undisturbed
    assert not out.with_name(out.name + ".parts").exists()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_digest_is_the_same_on_any_number_of_ranks(
    count: int, cohort: Path, undisturbed: str, launch: Launch, tmp_path: Path
) -> None:
    out = tmp_path / "maps.h5"
    with on_ranks(launch, count, out, cohort, SLOWLY) as ranks:
        assert ranks.wait(timeout=60) == 0
    assert digest(out) == undisturbed
    worked = [path for path in (tmp_path / "maps.events").iterdir() if '"written"' in path.read_text(encoding="utf-8")]
    assert len(worked) == count  # all work, and none only manages


@pytest.mark.parametrize("moment", range(len(rank.STAGES)))
def test_one_of_three_ranks_is_killed_while_it_writes(
    moment: int, cohort: Path, undisturbed: str, launch: Launch, tmp_path: Path
) -> None:
    rng, out = random.Random(moment), tmp_path / "maps.h5"
    death = {"rank": rng.randrange(3), "stage": rank.STAGES[moment], "write": rng.randrange(4)}
    with on_ranks(launch, 3, out, cohort, SLOWLY | death) as ranks:
        assert ranks.wait(timeout=60) != 0
    assert not out.exists()
    resumes_to(undisturbed, out, cohort)


@pytest.mark.parametrize("moment", range(TIMED))
def test_one_of_three_ranks_is_killed_some_time_after_all_have_begun(
    moment: int, cohort: Path, undisturbed: str, launch: Launch, tmp_path: Path
) -> None:
    rng, out = random.Random(moment), tmp_path / "maps.h5"
    with on_ranks(launch, 3, out, cohort, SLOWLY) as ranks:
        victim = rng.choice(pids(tmp_path, 3))
        time.sleep(rng.uniform(0.0, 1.5))
        os.kill(victim, signal.SIGKILL)
        assert ranks.wait(timeout=60) != 0
    assert not out.exists()
    resumes_to(undisturbed, out, cohort)


def die(stage: str, write_number: int, out: Path, cohort: Path) -> None:
    rank.die_at(stage, write_number)
    rank.run(out, cohort)


@pytest.mark.parametrize("moment", range(len(rank.STAGES)))
def test_a_process_alone_is_killed_at_three_starts_in_a_row(
    moment: int, cohort: Path, undisturbed: str, tmp_path: Path
) -> None:
    """The process is forked, since a rank takes seconds to start. Every stage comes first, second and third."""
    rng, out = random.Random(moment), tmp_path / "maps.h5"
    for start in range(3):
        moment_of_death = (rank.STAGES[(moment + start) % len(rank.STAGES)], rng.randrange(12), out, cohort)
        process = multiprocessing.get_context("fork").Process(target=die, args=moment_of_death)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert not out.exists()
    resumes_to(undisturbed, out, cohort)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_all_ranks_in_order(
    number: signal.Signals, cohort: Path, undisturbed: str, launch: Launch, tmp_path: Path
) -> None:
    """SIGTERM as scancel sends it, to every rank; SIGUSR1 to one of them, which is enough."""
    out = tmp_path / "maps.h5"
    with on_ranks(launch, 3, out, cohort, SLOWLY) as ranks:
        wait_for_shards(out, 3)
        for pid in pids(tmp_path, 3)[: 3 if number is signal.SIGTERM else 1]:
            os.kill(pid, number)
        assert ranks.wait(timeout=60) == 75
    before = {path: path.stat().st_mtime_ns for path in out.with_name("maps.h5.parts").glob("shards/*/*.h5")}
    assert 3 <= len(before) < 3 * 3 * PATIENTS
    assert not list(out.with_name("maps.h5.parts").glob("shards/*/.*"))  # nothing half done
    status = run_status(out)
    assert (status.state, status.units, status.done, status.ranks) == ("stopped", 3 * 3 * PATIENTS, len(before), 3)
    assert sum(status.patients.values()) == PATIENTS
    assert status.patients["unfinished"] > 0
    assert status.seconds_left is None
    result = rank.run(out, cohort, options=RunOptions(merge=False))
    assert not result.stopped
    assert {path: path.stat().st_mtime_ns for path in before} == before  # none was done again
    resumes_to(undisturbed, out, cohort)


@contextmanager
def mounted(folder: Path, kibibytes: int) -> Iterator[None]:
    """A small file system of its own. Only root may; in CI it must."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must test a full disk, and a tmpfs cannot be mounted")
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(
    cohort: Path, undisturbed: str, launch: Launch, tmp_path: Path
) -> None:
    out = tmp_path / "small" / "maps.h5"
    with mounted(out.parent, 2000):
        ballast = out.parent / "ballast"
        ballast.write_bytes(bytes(1_400_000))
        with on_ranks(launch, 3, out, cohort, SLOWLY) as ranks:
            assert ranks.wait(timeout=60) == StorageError.exit_code
            assert "No space left on device" in ranks.communicate()[1]
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(out.parent)], check=True)
        resumes_to(undisturbed, out, cohort)


def test_a_folder_that_cannot_be_written_is_refused(cohort: Path, undisturbed: str, tmp_path: Path) -> None:
    out = tmp_path / "small" / "maps.h5"
    with mounted(out.parent, 64_000):
        subprocess.run(["mount", "-o", "remount,ro", str(out.parent)], check=True)
        with pytest.raises(StorageError, match="Read-only file system"):
            rank.run(out, cohort)
        subprocess.run(["mount", "-o", "remount,rw", str(out.parent)], check=True)
        resumes_to(undisturbed, out, cohort)


@pytest.fixture
def unmerged(cohort: Path, tmp_path: Path) -> Path:
    """A run whose shards all stand."""
    assert not rank.run(tmp_path / "maps.h5", cohort, options=RunOptions(merge=False)).stopped
    assert verify_run(tmp_path / "maps.h5") == []
    assert run_status(tmp_path / "maps.h5").state == "complete"
    return tmp_path / "maps.h5"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    path.write_bytes(next(other for other in sorted(path.parent.glob("*.h5")) if other != path).read_bytes())


@pytest.mark.parametrize("harm", [cut, flip, swap, Path.unlink, Path.touch])
def test_a_shard_that_is_harmed_is_found_and_made_again(
    harm: Callable[[Path], None], cohort: Path, undisturbed: str, unmerged: Path
) -> None:
    shard = sorted(unmerged.with_name("maps.h5.parts").glob("shards/*/*.h5"))[5]
    if harm is Path.touch:
        shard.write_bytes(b"")
    harm(shard)
    (fault,) = verify_run(unmerged)
    assert fault.startswith(str(shard))
    with pytest.raises(InputError, match="start the forecast again"):
        merge_run(unmerged)
    assert not unmerged.exists()
    resumes_to(undisturbed, unmerged, cohort)


def test_a_foreign_shard_is_told_and_not_merged(cohort: Path, undisturbed: str, unmerged: Path) -> None:
    shard = sorted(unmerged.with_name("maps.h5.parts").glob("shards/*/*.h5"))[5]
    foreign = shard.with_name("9999.000.h5")
    foreign.write_bytes(shard.read_bytes())
    assert verify_run(unmerged) == [f"{foreign}: of no unit of this run"]
    assert {outcome.status for outcome in merge_run(unmerged)} == {Status.OK}
    assert digest(unmerged) == undisturbed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": rank.SETTINGS.model_copy(update={"seed": 1})}, r"settings\.seed = 0 there, but 1 now"),
        ({"engine": SlowEngine(info=model_info(sha256="another"))}, "model_sha256 = 'cheap' there, but 'another' now"),
    ],
)
def test_another_configuration_or_a_stale_engine_is_refused(
    change: dict[str, Any], message: str, cohort: Path, undisturbed: str, unmerged: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        rank.run(unmerged, cohort, **change)
    resumes_to(undisturbed, unmerged, cohort)


def test_another_cohort_is_refused(cohort: Path, blob: Callable[..., Session], unmerged: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    write_cohort(other, [blob("P0", "000", 0.0, 5.0)], {}, image_size=64, contrasts=tuple(Contrast), config={})
    with pytest.raises(UsageError, match="cohort_sha256 = "):
        rank.run(unmerged, other)


def test_a_second_job_on_the_run_is_refused(cohort: Path, undisturbed: str, launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "maps.h5"
    with on_ranks(launch, 2, out, cohort, SLOWLY) as ranks:
        wait_for_shards(out, 5)
        status = run_status(out)
        assert status.state == "running"
        assert status.done >= 5
        assert status.seconds_left is not None and status.seconds_left > 0
        with pytest.raises(UsageError, match="another job"):
            rank.run(out, cohort)
        with pytest.raises(UsageError, match="another job"):
            merge_run(out)
        assert ranks.wait(timeout=60) == 0
    assert digest(out) == undisturbed
    assert run_status(out).figures()["state"] == "merged"
    with MapArchive.open(out) as archive:
        assert archive.provenance["devices"] == ["cpu"]
    assert run_status(out).patients == {"ok": PATIENTS, "failed": 0, "skipped": 0}


def test_units_that_fail_fail_their_patient_alone_and_are_tried_again_when_asked_for(
    cohort: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, read = tmp_path / "maps.h5", UnitReader.read

    def failing(reader: UnitReader, unit: Unit) -> UnitInputs:
        if (unit.patient_id, unit.block) == ("P3", 1):
            raise OSError("a damaged chunk")
        return read(reader, unit)

    with monkeypatch.context() as damage:
        damage.setattr(UnitReader, "read", failing)
        first = rank.run(out, cohort).outcomes
    assert [outcome.status for outcome in first] == [Status.FAILED if k == 3 else Status.OK for k in range(PATIENTS)]
    assert first[3].reason == "OSError: a damaged chunk"
    status = run_status(out)
    assert (status.state, status.failed, status.reasons) == ("merged", 3, {"OSError: a damaged chunk": 3})
    assert status.patients == {"ok": PATIENTS - 1, "failed": 1, "skipped": 0, "unfinished": 0}
    assert verify(out) == []
    assert rank.run(out, cohort).outcomes == first
    again = rank.run(out, cohort, options=RunOptions(retry_failed=True))
    assert {outcome.status for outcome in again.outcomes} == {Status.OK}
    assert digest(out) == undisturbed


def test_a_run_that_was_never_begun_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run was begun there"):
        run_status(tmp_path / "maps.h5")


def test_time_that_is_up_stops_the_run_before_a_unit_that_could_not_end(
    cohort: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUMORCAST_END_TIME", str(time.time() + 2))  # less than it takes to close
    assert rank.run(tmp_path / "maps.h5", cohort).stopped
    monkeypatch.delenv("TUMORCAST_END_TIME")
    resumes_to(undisturbed, tmp_path / "maps.h5", cohort)
