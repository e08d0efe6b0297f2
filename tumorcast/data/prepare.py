"""From a folder of scans to a cohort file: `tumorcast prepare`. One bad scan does not stop the others."""

import logging
import multiprocessing
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import SimpleITK as sitk

from tumorcast.data.clinical import ClinicalTable, DatedSessions, date_sessions, read_clinical
from tumorcast.data.cohort import DATED, SLICE_AREAS, write_cohort
from tumorcast.data.layouts import Layout, find_sessions
from tumorcast.data.session import PrepareSettings, SliceChoice, TumourPart, prepare_session
from tumorcast.errors import EngineError, InputError, TumorcastError
from tumorcast.records import Contrast, Session, SourceSession, Status

AHEAD = 2  # sessions in flight a worker; bounds the memory of the parent
__all__ = [
    "CohortReport",
    "PrepareSettings",
    "SessionOutcome",
    "SliceChoice",
    "Status",
    "TumourPart",
    "prepare_cohort",
    "prepare_session",
]
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionOutcome:
    """What became of one scan; `reason` says why it failed or was skipped, `notes` what the user should know."""

    patient_id: str
    session_id: str
    status: Status
    n_slices: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CohortReport:
    """What became of a cohort: one outcome a scan, in the order of patients and days; warnings about the whole."""

    contrasts: tuple[Contrast, ...]
    outcomes: tuple[SessionOutcome, ...]
    warnings: tuple[str, ...]

    def count(self, status: Status) -> int:
        """Scans that ended so."""
        return sum(outcome.status is status for outcome in self.outcomes)


def prepare_cohort(
    source: Path,
    out: Path,
    settings: PrepareSettings,
    *,
    layout: Layout = Layout.AUTO,
    clinical: Path | None = None,
    jobs: int = 1,
    on_outcome: Callable[[SessionOutcome], None] | None = None,
) -> CohortReport:
    """Prepare every scan below `source` into the cohort file `out`, in `jobs` processes.

    A scan that cannot be used is recorded and the others go on; `on_outcome` is told of each as it ends. Raises
    InputError if `out` cannot be written, nothing is found or no scan at all could be used (then no file is written),
    EngineError if a process is killed.
    """
    sessions = find_sessions(source, layout)
    table = None if clinical is None else read_clinical(clinical)
    dated = date_sessions(sessions, table)
    contrasts, warnings = _common_contrasts(source, sessions, settings)
    warnings += _table_warnings(source, dated, table)
    for warning in warnings:
        LOG.warning(warning)
    settings = replace(settings, contrasts=contrasts)
    run = _CohortRun(dated, settings, jobs, on_outcome)
    config = {
        "settings": asdict(settings),
        "layout": str(layout),
        "source": source.resolve().name,
        DATED: not dated.undated,
    }
    treatments = {} if table is None else table.treatments
    write_cohort(
        out, run.sessions(source), treatments, image_size=settings.image_size, contrasts=contrasts, config=config
    )
    return CohortReport(contrasts, tuple(run.outcomes), tuple(warnings))


def _common_contrasts(
    source: Path, sessions: list[SourceSession], settings: PrepareSettings
) -> tuple[tuple[Contrast, ...], list[str]]:
    """The contrasts of the cohort, and a warning if some were left out because not every scan has them."""
    if settings.contrasts is not None:
        return settings.contrasts, []
    having = [set(session.images) for session in sessions if session.images]
    common = tuple(c for c in Contrast if having and all(c in images for images in having))
    if not common:
        raise InputError(f"{source}: no contrast that every scan has; name the ones to use (--contrasts t1c,t2f)")
    partial = [c for c in Contrast if c not in common and any(c in images for images in having)]
    asked = ",".join(c for c in Contrast if c in common or c in partial)
    left = f"{source}: {', '.join(partial)} left out, as not every scan has it; --contrasts {asked} keeps it instead"
    return common, [left] if partial else []


def _table_warnings(source: Path, dated: DatedSessions, table: ClinicalTable | None) -> list[str]:
    warnings = []
    if table is None and (source / "clinical.csv").is_file():
        warnings.append(f"{source / 'clinical.csv'} was not used; name it with --clinical")
    if dated.undated:
        warnings.append(f"{source}: time points without dates count as day 0, 1, 2 …; date them with --clinical FILE")
    strangers = (table.patient_ids if table else frozenset()) - {session.patient_id for session in dated.sessions}
    if table and strangers:
        warnings.append(f"{table.path}: {len(strangers)} patients of the table have no scan")
    return warnings


@dataclass(frozen=True)
class _Failure:
    """Why a scan could not be prepared; `trace` is the traceback of what was not foreseen."""

    reason: str
    trace: str = ""


class _CohortRun:
    """One pass over the scans of a cohort; `outcomes` fills as `sessions` is read."""

    def __init__(
        self,
        dated: DatedSessions,
        settings: PrepareSettings,
        jobs: int,
        on_outcome: Callable[[SessionOutcome], None] | None,
    ) -> None:
        self.outcomes: list[SessionOutcome] = []
        self._dated = dated
        self._settings = settings
        self._jobs = jobs
        self._on_outcome = on_outcome

    def sessions(self, source: Path) -> Iterator[Session]:
        """The prepared scans, patient by patient."""
        pairs = _in_order(self._dated, self._settings, self._jobs)
        for _, group in groupby(pairs, key=lambda pair: pair[0].patient_id):
            patient = list(group)
            shows_tumour = any(isinstance(result, Session) and result.images.shape[0] for _, result in patient)
            for scan, result in patient:
                outcome = self._outcome(scan, result, shows_tumour)
                self._record(outcome)
                if outcome.status is Status.OK and isinstance(result, Session):
                    yield result
        if all(outcome.status is not Status.OK for outcome in self.outcomes):
            raise InputError(f"{source}: none of {len(self.outcomes)} scans could be used; {self.outcomes[0].reason}")

    def _outcome(self, scan: SourceSession, result: Session | _Failure, shows_tumour: bool) -> SessionOutcome:
        names = (scan.patient_id, scan.session_id)
        if isinstance(result, _Failure):
            if result.trace:  # logged here, as a worker process has no handler that would show it
                LOG.debug("%s: %s", "/".join(names), result.trace)
            return SessionOutcome(*names, Status.FAILED, reason=result.reason)
        notes = tuple(result.source["notes"])
        if result.images.shape[0]:
            return SessionOutcome(*names, Status.OK, result.images.shape[0], notes=notes)
        reason = f"{'/'.join(names)}: {_why_no_slice(result, self._settings.min_tumour_mm2)}"
        if shows_tumour:  # a small or vanished tumour is a point of the growth curve of a patient who has others
            return SessionOutcome(*names, Status.OK, notes=(*notes, f"{reason}; kept for its size, without slices"))
        return SessionOutcome(
            *names, Status.SKIPPED, reason=f"{reason}; use --slices all or a smaller --min-tumour-mm2"
        )

    def _record(self, outcome: SessionOutcome) -> None:
        self.outcomes.append(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)


def _why_no_slice(session: Session, least_mm2: float) -> str:
    largest = max(area or 0.0 for area in session.source[SLICE_AREAS])
    if largest >= least_mm2:
        return f"no slice with {least_mm2:g} mm² of tumour shows it, and brain, in the field of view"
    why = "the tumour mask is empty" if largest == 0 else f"the largest tumour slice has {largest:.3g} mm²"
    return f"{why}, less than {least_mm2:g} mm² in every slice"


def _in_order(
    dated: DatedSessions, settings: PrepareSettings, jobs: int
) -> Iterator[tuple[SourceSession, Session | _Failure]]:
    """Each scan with its result, in the order of the scans however the work was shared."""
    try:
        yield from _results(dated, settings, jobs)
    except BrokenProcessPool as error:
        raise EngineError("a process was killed, perhaps for want of memory; use fewer --jobs") from error


def _results(
    dated: DatedSessions, settings: PrepareSettings, jobs: int
) -> Iterator[tuple[SourceSession, Session | _Failure]]:
    refused = {key: _Failure(reason) for key, reason in dated.refused.items()}
    if jobs == 1:
        for scan in dated.sessions:
            yield scan, refused.get((scan.patient_id, scan.session_id)) or _attempt(scan, settings)
        return
    spawn = multiprocessing.get_context("spawn")  # forking would copy the parent's threads' locks
    waiting: deque[tuple[SourceSession, Future[Session | _Failure] | _Failure]] = deque()
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_use_one_thread) as pool:
        for scan in dated.sessions:
            failure = refused.get((scan.patient_id, scan.session_id))
            waiting.append((scan, failure or pool.submit(_attempt, scan, settings)))
            if len(waiting) >= AHEAD * jobs:
                yield _take(waiting)
        while waiting:
            yield _take(waiting)


def _take(
    waiting: deque[tuple[SourceSession, Future[Session | _Failure] | _Failure]],
) -> tuple[SourceSession, Session | _Failure]:
    scan, pending = waiting.popleft()
    return scan, pending if isinstance(pending, _Failure) else pending.result()


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _attempt(source: SourceSession, settings: PrepareSettings) -> Session | _Failure:
    try:
        return prepare_session(source, settings)
    except InputError as error:
        return _Failure(str(error))
    except TumorcastError:
        raise
    except Exception as error:  # whatever ITK, numpy or the disk finds wrong with one scan must not cost the others
        text = " ".join(str(error).split())  # ITK's messages have several lines
        return _Failure(f"{type(error).__name__}: {text}", traceback.format_exc())
