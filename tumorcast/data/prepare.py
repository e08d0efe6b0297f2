"""From a folder of scans to a cohort file: `tumorcast prepare`. One bad scan does not stop the others."""

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from tumorcast.counted import counted
from tumorcast.data.brain import BRAIN_MASK, rooted
from tumorcast.data.cohort import DATED, SLICE_AREAS, Cohort, write_cohort
from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.registration_qc import quality_rows, write_quality
from tumorcast.data.patient_space import REGISTRATION, PatientSpace
from tumorcast.data.readers.layouts import Layout
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.data.readers.volumes import LABELS
from tumorcast.data.session import prepare_session
from tumorcast.data.settings import PrepareSettings, Register, SliceChoice, TumourPart
from tumorcast.data.survey import SourceBalance, Survey, survey
from tumorcast.durable import sha256_of
from tumorcast.errors import InputError, StorageError, TumorcastError, UsageError
from tumorcast.processes import in_processes
from tumorcast.provenance import is_made_already
from tumorcast.records import Contrast, Session, Status

QUALITY_TABLE = "qc.csv"
__all__ = [
    "CohortPlan",
    "CohortReport",
    "NothingUsableError",
    "PrepareSettings",
    "Register",
    "SessionOutcome",
    "SliceChoice",
    "Status",
    "TumourPart",
    "plan_cohort",
    "prepare_cohort",
    "prepare_session",
    "write_plan",
]
LOG = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class SessionOutcome:
    """What became of one scan; `reason` says why it failed or was skipped, `notes` what the user should know.

    flags: those of the notes that put its registration in doubt.
    """

    patient_id: str
    session_id: str
    status: Status
    n_slices: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class CohortReport:
    """What became of a cohort: one outcome a scan, in the order of patients and days; warnings about the whole."""

    contrasts: tuple[Contrast, ...]
    outcomes: tuple[SessionOutcome, ...]
    warnings: tuple[str, ...]
    balance: SourceBalance

    def count(self, status: Status) -> int:
        """Scans that ended so."""
        return sum(outcome.status is status for outcome in self.outcomes)

    @property
    def flagged(self) -> int:
        """Scans whose registration is in doubt."""
        return sum(bool(outcome.flags) for outcome in self.outcomes)


class NothingUsableError(InputError):
    """No scan at all could be used; `balance` says what became of each."""

    def __init__(self, message: str, balance: SourceBalance) -> None:
        super().__init__(message)
        self.balance = balance


@dataclass(frozen=True)
class CohortPlan:
    """What is to be prepared. recorded: the settings as the cohort file keeps them, with the layout and the source."""

    survey: Survey
    task: Task
    recorded: dict[str, Any]

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The channels of the cohort's images."""
        return self.survey.contrasts

    @property
    def pieces(self) -> list[Piece]:
        """The work in pieces, patient by patient: the scans that are tried."""
        dated = self.survey.dated
        return self.task.pieces([scan for scan in dated.sessions if dated.reason(scan) is None])


def prepare_cohort(
    source: Path,
    out: Path,
    settings: PrepareSettings,
    *,
    layout: Layout = Layout.AUTO,
    clinical: Path | None = None,
    quality: Path | None = None,
    allow_unmatched: bool = False,
    jobs: int = 1,
    on_outcome: Callable[[SessionOutcome], None] | None = None,
) -> CohortReport:
    """Prepare every scan below `source` into the cohort file `out`, in `jobs` processes.

    A scan that cannot be used is recorded and the others go on; `on_outcome` is told of each as it ends. quality: a
    folder for the table and the pictures of the registrations. Raises UsageError for what does not go together, and if
    `out` is of other settings; InputError if `out` cannot be written, rows of tables fit no scan (unless that is
    allowed), nothing is found or no scan at all could be used (then no file is written), EngineError if a process is
    killed or a tool is missing.
    """
    plan = plan_cohort(
        source, settings, layout=layout, clinical=clinical, quality=quality, allow_unmatched=allow_unmatched
    )
    return write_plan(plan, out, partial(over_processes, jobs=jobs), on_outcome=on_outcome)


def plan_cohort(
    source: Path,
    settings: PrepareSettings,
    *,
    layout: Layout = Layout.AUTO,
    clinical: Path | None = None,
    quality: Path | None = None,
    allow_unmatched: bool = False,
) -> CohortPlan:
    """Find and date the scans, and settle the contrasts; see prepare_cohort. Warnings are logged."""
    if quality is not None and settings.register is Register.NONE:
        raise UsageError("--qc: shows registrations; give --register rigid too")
    if quality is not None:
        _make_folder(quality)
    kept, settings = settings, rooted(settings, source)
    surveyed = survey(source, layout=layout, clinical=clinical, contrasts=settings.contrasts, labels=settings.labels)
    if not allow_unmatched:
        surveyed.refuse_unmatched()
    if not surveyed.contrasts:
        raise InputError(f"{source}: no contrast that every scan has; name the ones to use (--contrasts t1c,t2f)")
    for warning in surveyed.warnings():
        LOG.warning(warning)
    recorded = {
        "settings": replace(kept, contrasts=surveyed.contrasts).recorded(),
        "layout": str(layout),
        "source": source.resolve().name,
        "clinical_sha256": None if clinical is None else sha256_of(clinical),
        DATED: not surveyed.dated.undated,
    }
    return CohortPlan(surveyed, Task(replace(settings, contrasts=surveyed.contrasts), quality), recorded)


def refuse_other_cohort(out: Path, plan: CohortPlan) -> None:
    """Raise UsageError if `out` is no cohort file, or one of other settings: it would be overwritten."""
    is_made_already(out, partial(_settings_of, names=tuple(plan.recorded)), plan.recorded)


def _settings_of(out: Path, names: tuple[str, ...]) -> dict[str, Any]:
    with Cohort.open(out) as cohort:
        return {name: cohort.config.get(name) for name in names}


def write_plan(
    plan: CohortPlan, out: Path, share: Share, *, on_outcome: Callable[[SessionOutcome], None] | None = None
) -> CohortReport:
    """Write what `share` makes of the pieces of the plan; see prepare_cohort."""
    refuse_other_cohort(out, plan)
    run = _CohortRun(plan, on_outcome)
    image_size = plan.task.settings.image_size
    write_cohort(
        out,
        run.sessions(share),
        plan.survey.dated.treatments,
        image_size=image_size,
        contrasts=plan.contrasts,
        config=lambda: plan.recorded | {"balance": run.balance().kept()},
    )
    if plan.task.figures is not None:
        write_quality(plan.task.figures / QUALITY_TABLE, run.quality)
    return CohortReport(plan.contrasts, tuple(run.outcomes), tuple(plan.survey.warnings()), run.balance())


def _make_folder(quality: Path) -> None:
    try:
        quality.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise StorageError(f"{quality}: cannot be made ({fault.strerror}); give --qc a folder to write to") from None


class _CohortRun:
    """One pass over the scans of a plan; `outcomes`, and the rows of `quality`, fill as `sessions` is read."""

    def __init__(self, plan: CohortPlan, on_outcome: Callable[[SessionOutcome], None] | None) -> None:
        self.outcomes: list[SessionOutcome] = []
        self.quality: list[dict[str, Any]] = []
        self._labels: list[dict[str, Any]] = []
        self._brains: list[str] = []
        self._grids: dict[tuple[str, str], Grid] = {}
        self._plan = plan
        self._on_outcome = on_outcome

    def balance(self) -> SourceBalance:
        """The plan's balance with what became of the scans."""
        reasons = [(outcome.patient_id, outcome.session_id, outcome.reason or None) for outcome in self.outcomes]
        return self._plan.survey.balance().with_scans(reasons).with_reading(self._labels, self._brains, self._grids)

    def sessions(self, share: Share) -> Iterator[Session]:
        """The prepared scans, patient by patient."""
        pairs = _in_order(self._plan, share)
        for _, group in groupby(pairs, key=lambda pair: pair[0].patient_id):
            patient = list(group)
            shows_tumour = any(isinstance(result, Session) and result.images.shape[0] for _, result in patient)
            for scan, result in patient:
                outcome = self._outcome(scan, result, shows_tumour)
                self._record(outcome, result)
                if outcome.status is Status.OK and isinstance(result, Session):
                    yield result
        if all(outcome.status is not Status.OK for outcome in self.outcomes):
            reason = self.outcomes[0].reason
            raise NothingUsableError(
                f"{self._plan.survey.source}: none of {counted(len(self.outcomes), 'scan')} could be used; {reason}",
                self.balance(),
            )

    def _outcome(self, scan: SourceSession, result: Result, shows_tumour: bool) -> SessionOutcome:
        names = (scan.patient_id, scan.session_id)
        if isinstance(result, FailedScan):
            if result.trace:  # logged here, as a worker process has no handler that would show it
                LOG.debug("%s: %s", "/".join(names), result.trace)
            return SessionOutcome(*names, Status.FAILED, reason=result.reason)
        notes, flags = tuple(result.source["notes"]), tuple(result.source.get(REGISTRATION, {}).get("flags", ()))
        if result.images.shape[0]:
            return SessionOutcome(*names, Status.OK, result.images.shape[0], notes=notes, flags=flags)
        settings = self._plan.task.settings
        absent = next((note for note in notes if f"(--tumour {settings.tumour})" in note), "")
        why = absent or _why_no_slice(result, settings.min_tumour_mm2)
        if shows_tumour:  # a small or vanished tumour is a point of the growth curve of a patient who has others
            kept = f"{why}; kept for its size, without slices"
            return SessionOutcome(*names, Status.OK, notes=(*notes, kept), flags=flags)
        remedy = "" if absent else "; use --slices all or a smaller --min-tumour-mm2"
        return SessionOutcome(*names, Status.SKIPPED, reason=f"{'/'.join(names)}: {why}{remedy}", flags=flags)

    def _record(self, outcome: SessionOutcome, result: Result) -> None:
        self.outcomes.append(outcome)
        record = {} if isinstance(result, FailedScan) else result.source.get(REGISTRATION, {})
        scan = {"patient_id": outcome.patient_id, "session_id": outcome.session_id, "status": str(outcome.status)}
        scan["notes"] = (outcome.reason or "; ".join(outcome.notes)).replace(f"{self._plan.survey.source}/", "")
        self.quality += [scan | row for row in quality_rows(record)]
        if isinstance(result, Session):
            self._look_at(result)
        if self._on_outcome is not None:
            self._on_outcome(outcome)

    def _look_at(self, session: Session) -> None:
        """Keep what the balance tells of a scan that was read."""
        record = session.source
        self._labels.append(record.get(LABELS, {}))
        if self._plan.task.settings.brain is BrainMask.AUTO:  # else the user said that it be so
            self._brains.append(record[BRAIN_MASK])
        if REGISTRATION not in record:
            self._grids[session.patient_id, session.session_id] = Grid.from_dict(record["grid"])


def _why_no_slice(session: Session, least_mm2: float) -> str:
    largest = max(area or 0.0 for area in session.source[SLICE_AREAS])
    if largest >= least_mm2:
        return f"no slice with {least_mm2:g} mm² of tumour shows it, and brain, in the field of view"
    why = "the tumour mask is empty" if largest == 0 else f"the largest tumour slice has {largest:.3g} mm²"
    return f"{why}, less than {least_mm2:g} mm² in every slice"


def _in_order(plan: CohortPlan, share: Share) -> Iterator[tuple[SourceSession, Result]]:
    """Each scan with its result, in the order of the scans however the work was shared."""
    results = chain.from_iterable(share(plan.pieces, plan.task))
    for scan in plan.survey.dated.sessions:
        reason = plan.survey.dated.reason(scan)
        yield scan, next(results) if reason is None else FailedScan(reason)


def over_processes(pieces: Sequence[Piece], task: Task, jobs: int) -> Iterator[list[Result]]:
    """The results of each piece in turn, made in `jobs` processes. Raises EngineError if one is killed."""
    return in_processes(task.results, pieces, jobs, initializer=_use_one_thread)


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
