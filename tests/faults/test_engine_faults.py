"""An engine that fails is no patient's failure: the unit is done by another rank, or again, and nothing is lost.

The ranks are those of rank.py, with engines that fail; real MPI, and SLURM in tests/slurm/test_engine_faults.py.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FailingEngine, SlowEngine
from tests.faults import rank
from tumorcast.archive.verify import digest
from tumorcast.data.cohort import Cohort
from tumorcast.errors import EngineError
from tumorcast.records import Status
from tumorcast.running import forecast_run
from tumorcast.running.status import run_status

PATIENTS = 4
CUDA_FAULT = "CUDA failure 719: unspecified launch failure"
Launch = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def real_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come back after each test."""
    monkeypatch.setattr(forecast_run, "open_engine", None)


@pytest.fixture(scope="module")
def cohort(one_scan_cohort: Callable[[int], Path]) -> Path:
    return one_scan_cohort(PATIENTS)


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run whose engine is well."""
    out = tmp_path_factory.mktemp("undisturbed") / "maps.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast_run, "open_engine", None)
        assert not rank.run(out, cohort).stopped
    return digest(out)


@pytest.fixture(scope="module")
def on_ranks(launch: Launch, cohort: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Three ranks that behave as told, after they ended by themselves: one that hangs fails the test."""

    def ran(out: Path, **behaviour: Any) -> "subprocess.CompletedProcess[str]":
        words = [*launch(3), rank.__file__, str(out), str(cohort), json.dumps({"sleep_seconds": 0.02} | behaviour)]
        return subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)

    return ran


def marked_as_failed(out: Path) -> list[Path]:
    return list(out.with_name(out.name + ".parts").glob("shards/*/*.failed"))


@pytest.mark.parametrize("sick", [1, 0], ids=["a rank", "the one that hands out units"])
def test_a_rank_whose_engine_fails_leaves_and_the_others_do_its_units(
    sick: int, on_ranks: Callable[..., Any], undisturbed: str, tmp_path: Path
) -> None:
    out = tmp_path / "maps.h5"
    ended = on_ranks(out, fails={str(sick): {"fails_at": 3}})
    assert ended.returncode == 0, ended.stderr
    (lost,) = (line for line in ended.stderr.splitlines() if line.startswith("lost: "))
    assert lost.startswith(f"lost: rank {sick} on ") and CUDA_FAULT in lost
    assert digest(out) == undisturbed
    assert run_status(out).patients == {"ok": PATIENTS, "failed": 0, "skipped": 0}
    events = (tmp_path / "maps.events" / f"rank-000{sick}.jsonl").read_text(encoding="utf-8")
    assert '"event": "left"' in events and '"event": "failed"' not in events


def test_the_last_unit_is_done_though_the_others_had_nothing_left(
    on_ranks: Callable[..., Any], undisturbed: str, tmp_path: Path
) -> None:
    """Two ranks fail at their first unit, and all is done by the third, whoever waits meanwhile."""
    ended = on_ranks(tmp_path / "maps.h5", fails={"0": {"fails_at": 1}, "2": {"fails_at": 1}})
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("lost: rank ") == 2
    assert digest(tmp_path / "maps.h5") == undisturbed


def test_where_no_rank_is_left_it_is_4_and_nobody_has_failed(
    on_ranks: Callable[..., Any], cohort: Path, undisturbed: str, tmp_path: Path
) -> None:
    out = tmp_path / "maps.h5"
    ended = on_ranks(out, fails={str(each): {"fails_at": 4 + each} for each in range(3)})
    assert ended.returncode == EngineError.exit_code, ended.stderr
    (told,) = (line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert all(f"rank {each} on " in told for each in range(3)) and CUDA_FAULT in told
    assert not out.exists()
    assert marked_as_failed(out) == []
    status = run_status(out)
    assert (status.state, status.failed, len(status.lost)) == ("stopped", 0, 3)
    assert status.lost[1].startswith("rank 1 on ") and CUDA_FAULT in status.lost[1]
    assert 0 < status.done < status.units
    assert not rank.run(out, cohort).stopped
    assert digest(out) == undisturbed


def test_a_rank_that_cannot_open_its_engine_leaves_before_it_takes_a_unit(
    on_ranks: Callable[..., Any], undisturbed: str, tmp_path: Path
) -> None:
    ended = on_ranks(tmp_path / "maps.h5", unopened=[2])
    assert ended.returncode == 0, ended.stderr
    assert "lost: rank 2 on " in ended.stderr and "libcublasLt.so.13" in ended.stderr
    assert digest(tmp_path / "maps.h5") == undisturbed


def test_where_none_can_be_opened_nothing_is_begun(on_ranks: Callable[..., Any], tmp_path: Path) -> None:
    ended = on_ranks(tmp_path / "maps.h5", unopened=[0, 1, 2])
    assert ended.returncode == EngineError.exit_code, ended.stderr
    assert ended.stderr.count("error: rank 0 on ") == 1
    assert list(tmp_path.glob("maps*")) == []


def test_alone_a_failing_engine_ends_the_run_which_goes_on_when_it_is_mended(
    cohort: Path, undisturbed: str, tmp_path: Path
) -> None:
    out = tmp_path / "maps.h5"
    with pytest.raises(EngineError, match=rf"rank 0 on .*{CUDA_FAULT}.* not done"):
        rank.run(out, cohort, engine=FailingEngine(fails_at=7))
    assert marked_as_failed(out) == []
    assert not rank.run(out, cohort).stopped
    assert digest(out) == undisturbed


def test_an_engine_that_works_again_does_the_unit_again(cohort: Path, undisturbed: str, tmp_path: Path) -> None:
    out = tmp_path / "maps.h5"
    result = rank.run(out, cohort, engine=FailingEngine(fails_at=5, once=True))
    assert {outcome.status for outcome in result.outcomes} == {Status.OK}
    assert result.lost == ()
    assert digest(out) == undisturbed
    events = (tmp_path / "maps.events" / "rank-0000.jsonl").read_text(encoding="utf-8")
    assert events.count('"event": "tried out"') == 1


def test_what_a_sound_engine_fails_at_twice_is_the_patients_fault(cohort: Path, tmp_path: Path) -> None:
    """Of one patient: the engine is asked for a phantom between, and computes it."""
    with Cohort.open(cohort) as opened:
        part = opened.slice("P3", "000", 1)
    engine = FailingEngine(sick_of=0.25 * (part.labels > 0).sum() / part.brain.sum())
    outcomes = rank.run(tmp_path / "maps.h5", cohort, engine=engine).outcomes
    assert [outcome.patient_id for outcome in outcomes if outcome.status is Status.FAILED] == ["P3"]
    assert "an odd slice" in outcomes[3].reason
    again = rank.run(
        tmp_path / "maps.h5", cohort, engine=SlowEngine(), options=forecast_run.RunOptions(retry_failed=True)
    )
    assert {outcome.status for outcome in again.outcomes} == {Status.OK}
