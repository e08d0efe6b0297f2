"""Signals, the grace of a unit in hand, and the end of the job's time."""

import os
import signal
import time

import pytest

from tumorcast.errors import StoppedError, UsageError
from tumorcast.running import stopping
from tumorcast.running.stopping import Stopping, grace_seconds, job_end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_a_request_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = {name: signal.getsignal(name) for name in (*stopping.SIGNALS, signal.SIGALRM)}
    stop = Stopping(grace_seconds=60)
    with stop.handle_signals():
        assert stop.may_begin(1e9)
        os.kill(os.getpid(), number)
        assert stop.requested
        assert not stop.may_begin(0)
    assert {name: signal.getsignal(name) for name in before} == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_unit_in_hand_is_dropped_when_the_grace_is_over() -> None:
    stop = Stopping(grace_seconds=0.05)
    began = time.monotonic()
    with stop.handle_signals(), pytest.raises(StoppedError, match="dropped"), stop.unit_in_hand():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert time.monotonic() - began < 20


def test_a_second_ctrl_c_drops_the_unit_at_once() -> None:
    stop = Stopping(grace_seconds=3600)
    began = time.monotonic()
    with stop.handle_signals(), pytest.raises(StoppedError, match="dropped"), stop.unit_in_hand():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    assert time.monotonic() - began < 20


def test_what_is_no_unit_is_not_dropped() -> None:
    stop = Stopping(grace_seconds=0.01)
    with stop.handle_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
    assert stop.requested


def test_no_unit_is_begun_that_cannot_end_in_time() -> None:
    stop = Stopping(end=time.time() + 60)
    assert stop.may_begin(10)
    assert not stop.may_begin(58)
    assert not stop.may_begin(10)  # it stays so


def test_the_jobs_end_is_what_the_environment_or_slurm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_end({"TUMORCAST_END_TIME": "100", "SLURM_JOB_END_TIME": "200"}) == 100
    assert job_end({"SLURM_JOB_END_TIME": "200"}) == 200
    monkeypatch.setattr(stopping, "_seconds_left", lambda job: 50.0 if job == "7" else None)
    left = job_end({"SLURM_JOB_ID": "7"})
    assert left is not None and 40 < left - time.time() <= 50
    assert job_end({"SLURM_JOB_ID": "8"}) is None


def test_a_job_that_squeue_does_not_know_has_no_known_end() -> None:
    assert job_end({"SLURM_JOB_ID": "no such job"}) is None


@pytest.mark.parametrize("seconds", ["soon", "-3", "inf", "nan"])
def test_a_grace_that_is_no_time_is_refused(seconds: str) -> None:
    with pytest.raises(UsageError, match=f"TUMORCAST_GRACE_SECONDS={seconds}:"):
        grace_seconds({"TUMORCAST_GRACE_SECONDS": seconds})
