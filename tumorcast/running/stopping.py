"""When to stop before the end: at a signal, or since the job's time is over before another unit could end."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from tumorcast.errors import StoppedError, UsageError
from tumorcast.running.ranks import Ranks

END_VARIABLE, GRACE_VARIABLE = "TUMORCAST_END_TIME", "TUMORCAST_GRACE_SECONDS"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
GRACE_SECONDS = 30.0
CLOSING_SECONDS = 5.0  # to write what is in hand and end
UNIT_MARGIN = 1.25  # units are not all as long as the longest so far


@dataclass
class Stopping:
    """Whether this rank shall stop. end: when the process must have ended, in seconds since 1970; None: never.

    A unit in hand has `grace_seconds` after the first signal to come to its end; then it is dropped, and at once after
    a second Ctrl-C.
    """

    end: float | None = None
    grace_seconds: float = GRACE_SECONDS
    requested: bool = False
    _in_hand: bool = field(default=False, repr=False)

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR1 and SIGINT are requests to stop within the block. Only in the main thread."""
        before = {number: signal.signal(number, self._request) for number in SIGNALS}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._drop)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def unit_in_hand(self) -> Iterator[None]:
        """What is done in the block may be dropped when the grace is over, by a StoppedError."""
        self._in_hand = True
        try:
            yield
        finally:
            self._in_hand = False

    def may_begin(self, unit_seconds: float) -> bool:
        """Whether a unit can be begun that takes about so long; when not, the run stops."""
        if self.end is not None and time.time() + UNIT_MARGIN * unit_seconds + CLOSING_SECONDS > self.end:
            self.requested = True
        return not self.requested

    def _request(self, number: int, frame: FrameType | None) -> None:
        impatient = self.requested and number == signal.SIGINT  # a second Ctrl-C
        if impatient or not self.requested:
            self.requested = True
            signal.setitimer(signal.ITIMER_REAL, max(0.0 if impatient else self.grace_seconds, 1e-3))

    def _drop(self, number: int, frame: FrameType | None) -> None:
        if self._in_hand:
            raise StoppedError("the unit in hand was dropped: the grace after the signal to stop is over")


def stopping_of_job(ranks: Ranks) -> Stopping:
    """As the environment says: rank 0 asks when the job ends. Every rank must call it."""
    end = ranks.from_root(job_end(os.environ) if ranks.is_root else None)
    return Stopping(end, grace_seconds(os.environ))


def grace_seconds(variables: Mapping[str, str]) -> float:
    """How long a unit in hand may take after the signal. Raises UsageError for what is no such number."""
    return _number(variables, GRACE_VARIABLE, GRACE_SECONDS)


def job_end(variables: Mapping[str, str]) -> float | None:
    """When this job must have ended, in seconds since 1970, as far as that is known.

    >>> job_end({"TUMORCAST_END_TIME": "1.8e9"}), job_end({})
    (1800000000.0, None)
    """
    for name in (END_VARIABLE, "SLURM_JOB_END_TIME"):
        if variables.get(name):
            return _number(variables, name, 0.0)
    left = _seconds_left(variables["SLURM_JOB_ID"]) if "SLURM_JOB_ID" in variables else None
    return None if left is None else time.time() + left


def _number(variables: Mapping[str, str], name: str, default: float) -> float:
    text = variables.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{name}={text}: give seconds, as 30, or leave it out")
    return value


def _seconds_left(job_id: str) -> float | None:
    command = ["squeue", "--noheader", "--jobs", job_id, "--format", "%L"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return seconds_of(answer.strip())


def seconds_of(duration: str) -> float | None:
    """SLURM's [days-][[hours:]minutes:]seconds in seconds; None for what it says where there is no limit.

    >>> seconds_of("1-02:03:04"), seconds_of("59:30"), seconds_of("UNLIMITED")
    (93784.0, 3570.0, None)
    """
    days, _, clock = duration.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, days or "0"]):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return float(seconds + 86_400 * int(days or 0))
