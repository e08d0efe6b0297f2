"""Scans as pieces of work that processes or ranks share. What fails costs no more than one scan."""

import multiprocessing
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import SimpleITK as sitk

from tumorcast.data.patient_space import PatientSpace
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.data.session import prepare_session
from tumorcast.data.settings import PrepareSettings, Register
from tumorcast.errors import EngineError, InputError, TumorcastError
from tumorcast.records import Session

AHEAD = 2  # pieces in flight a worker; bounds the memory of the parent


@dataclass(frozen=True)
class FailedScan:
    """Why a scan could not be prepared; `trace` is the traceback of what was not foreseen."""

    reason: str
    trace: str = ""


Piece = tuple[SourceSession, ...]  # scans that are prepared together
Result = Session | FailedScan
Share = Callable[[Sequence[Piece], "Task"], Iterator[list[Result]]]  # a list a piece, in the order of the pieces


@dataclass(frozen=True)
class Task:
    """What every scan is prepared with. figures: the folder of those of the registration, None for none."""

    settings: PrepareSettings
    figures: Path | None = None

    def pieces(self, scans: Sequence[SourceSession]) -> list[Piece]:
        """The scans, ordered by patient, as pieces: a scan each, or a patient's where they are registered."""
        if self.settings.register is Register.NONE:
            return [(scan,) for scan in scans]
        return [tuple(group) for _, group in groupby(scans, key=lambda scan: scan.patient_id)]

    def results(self, piece: Piece) -> list[Result]:
        """What becomes of each scan of a piece."""
        registers = self.settings.register is not Register.NONE
        space = PatientSpace(self.settings, self.figures) if registers else None
        return [_attempt(scan, self.settings, space) for scan in piece]


def over_processes(pieces: Sequence[Piece], task: Task, jobs: int) -> Iterator[list[Result]]:
    """The results of each piece in turn, made in `jobs` processes. Raises EngineError if one is killed."""
    if jobs == 1:
        yield from map(task.results, pieces)
        return
    try:
        yield from _pooled(pieces, task, jobs)
    except BrokenProcessPool as error:
        raise EngineError(
            "a process was killed, perhaps for want of memory; use fewer --jobs, or more memory (sbatch --mem)"
        ) from error


def _pooled(pieces: Sequence[Piece], task: Task, jobs: int) -> Iterator[list[Result]]:
    spawn = multiprocessing.get_context("spawn")  # forking would copy the parent's threads' locks
    waiting: deque[Future[list[Result]]] = deque()
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_use_one_thread) as pool:
        for piece in pieces:
            waiting.append(pool.submit(task.results, piece))
            if len(waiting) >= AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _attempt(source: SourceSession, settings: PrepareSettings, space: PatientSpace | None) -> Result:
    try:
        return prepare_session(source, settings, space)
    except InputError as error:
        return FailedScan(str(error))
    except TumorcastError:
        raise
    except Exception as error:  # whatever ITK, numpy or the disk finds wrong with one scan must not cost the others
        text = " ".join(str(error).split())  # ITK's messages have several lines
        return FailedScan(f"{type(error).__name__}: {text}", traceback.format_exc())
