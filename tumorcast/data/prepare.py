"""From the files of a scan to slices of one size, and from a folder of scans to a cohort file."""

import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data.brain import BoolArray, BrainMask, Window, brain_mask, resolve, window_of
from tumorcast.data.clinical import ClinicalTable, DatedSessions, date_sessions, read_clinical
from tumorcast.data.cohort import SLICE_AREAS, require_writable, write_cohort
from tumorcast.data.geometry import IMAGE_SIZES, PreparedGrid
from tumorcast.data.layouts import Layout, find_sessions, ordinal_days_used
from tumorcast.data.volumes import SourceVolume, read_session
from tumorcast.errors import InputError, UsageError
from tumorcast.records import Contrast, FloatArray, Session, SourceSession

LEAST_BRAIN_SHARE = 0.1  # of the largest slice's brain: `all` leaves out the tips, where there is nothing to learn
AHEAD = 2  # sessions in flight a worker; bounds the memory of the parent
LOG = logging.getLogger(__name__)


class SliceChoice(StrEnum):
    """Which slices are kept: those with enough tumour, all with enough brain, or the one with the most tumour."""

    TUMOUR = "tumour"
    ALL = "all"
    LARGEST = "largest"


@dataclass(frozen=True)
class PrepareSettings:
    """How scans become slices.

    contrasts: None takes those that every scan has. min_tumour_mm2: the least tumour area of a slice chosen for it.
    """

    image_size: int = 64
    contrasts: tuple[Contrast, ...] | None = None
    slices: SliceChoice = SliceChoice.TUMOUR
    min_tumour_mm2: float = 50.0
    brain: BrainMask = BrainMask.AUTO

    def __post_init__(self) -> None:
        """Raises UsageError for a value that is not allowed; puts contrasts into their one order."""
        if self.image_size not in IMAGE_SIZES:
            raise UsageError(f"--image-size {self.image_size}: allowed are {', '.join(map(str, IMAGE_SIZES))}")
        if not self.min_tumour_mm2 > 0:
            raise UsageError(f"--min-tumour-mm2 {self.min_tumour_mm2:g}: must be greater than 0")
        if self.contrasts is not None:
            if not self.contrasts:
                raise UsageError(f"--contrasts is empty; give some of {','.join(Contrast)}")
            object.__setattr__(self, "contrasts", tuple(c for c in Contrast if c in self.contrasts))


class Status(StrEnum):
    """How a scan ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


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


def prepare_session(source: SourceSession, settings: PrepareSettings) -> Session:
    """Read one scan and make its slices; a scan in which no slice is chosen has none.

    Raises InputError if a file cannot be used, or slices are to be chosen by a tumour mask that is absent.
    """
    contrasts = settings.contrasts or tuple(c for c in Contrast if c in source.images) or tuple(Contrast)
    volume = read_session(source, contrasts)
    brain = brain_mask(volume.images, settings.brain)
    windows = {contrast: _window(source, contrast, volume, brain) for contrast in contrasts}
    plane = PreparedGrid.over(volume.grid, settings.image_size)
    pixel_area = float(np.prod(plane.canonical.spacing[:2]))
    brain_mm2 = brain.sum(axis=(1, 2)) * pixel_area
    area_mm2 = _areas(volume, pixel_area)
    chosen = _choose(source, settings, area_mm2, brain_mm2)
    inside = plane.sample(brain[chosen]) >= 0.5
    return Session(
        source.patient_id,
        source.session_id,
        source.day,
        contrasts,
        images=_images(volume, brain, windows, plane, chosen, inside),
        labels=_labels(volume, plane, chosen),
        brain=inside,
        area_mm2=area_mm2[chosen],
        brain_mm2=brain_mm2[chosen],
        source_slice=volume.source_slice[chosen],
        affine=plane.affine(),
        volume_mm3=float(area_mm2.sum() * plane.canonical.spacing[2]),
        source=_provenance(volume, windows, area_mm2, str(resolve(settings.brain, volume.images))),
    )


def _window(source: SourceSession, contrast: Contrast, volume: SourceVolume, brain: BoolArray) -> Window:
    window = window_of(volume.images[contrast], brain)
    if window is None:
        raise InputError(f"{source.images[contrast]}: one value in the whole brain; export the volume again")
    return window


def _areas(volume: SourceVolume, pixel_area: float) -> FloatArray:
    """(Z,) tumour area in mm²; NaN without a mask."""
    if volume.labels is None:
        return np.full(volume.source_slice.size, np.nan)
    return np.asarray((volume.labels > 0).sum(axis=(1, 2)) * pixel_area)


def _choose(
    source: SourceSession, settings: PrepareSettings, area_mm2: FloatArray, brain_mm2: FloatArray
) -> npt.NDArray[np.int64]:
    """Indices of the slices to keep."""
    if settings.slices is not SliceChoice.ALL and source.mask is None:
        raise InputError(
            f"{source.patient_id}/{source.session_id}: no tumour mask (seg), which --slices {settings.slices} needs; "
            "add it, or use --slices all"
        )
    match settings.slices:
        case SliceChoice.ALL:
            return np.flatnonzero(brain_mm2 >= LEAST_BRAIN_SHARE * brain_mm2.max())
        case SliceChoice.TUMOUR:
            return np.flatnonzero((area_mm2 >= settings.min_tumour_mm2) & (brain_mm2 > 0))
        case SliceChoice.LARGEST:
            best = int(np.argmax(area_mm2))
            return np.array([best] if area_mm2[best] >= settings.min_tumour_mm2 else [], np.int64)
        case _:
            assert_never(settings.slices)


def _images(
    volume: SourceVolume,
    brain: BoolArray,
    windows: dict[Contrast, Window],
    plane: PreparedGrid,
    chosen: npt.NDArray[np.int64],
    inside: BoolArray,
) -> FloatArray:
    """(S, C, H, W) float32 in [-1, 1]; air is -1."""
    channels = []
    for contrast, window in windows.items():
        scaled = window.scale(volume.images[contrast][chosen], brain[chosen])
        # Air must be 0 while sampling, so that what lies beyond the source is air too.
        channels.append(np.where(inside, plane.sample(scaled + 1.0) - 1.0, np.float32(-1.0)))
    return np.clip(np.stack(channels, axis=1), -1.0, 1.0).astype(np.float32)


def _labels(volume: SourceVolume, plane: PreparedGrid, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """(S, H, W) labels: tumour where it covers at least half a pixel, and there its most frequent label."""
    if volume.labels is None:
        return np.zeros((chosen.size, plane.rows.image_size, plane.columns.image_size), np.uint8)
    shares = np.stack([plane.sample(volume.labels[chosen] == label) for label in (1, 2, 3)])
    return np.where(shares.sum(axis=0) >= 0.5, shares.argmax(axis=0) + 1, 0).astype(np.uint8)


def _provenance(
    volume: SourceVolume, windows: dict[Contrast, Window], area_mm2: FloatArray, mask: str
) -> dict[str, Any]:
    every: list[float | None] = [None] * (int(volume.source_slice[-1]) + 1)
    for number, area in zip(volume.source_slice, area_mm2, strict=True):
        every[number] = None if np.isnan(area) else float(area)
    return {
        "files": volume.sha256,
        "grid": volume.grid.as_dict(),
        "windows": {str(contrast): [window.low, window.high] for contrast, window in windows.items()},
        "brain_mask": mask,
        SLICE_AREAS: every,
        "notes": list(volume.notes),
    }


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
    UsageError if `out` cannot be written, InputError if nothing is found or no scan at all could be used (then no file
    is written).
    """
    require_writable(out)
    sessions = find_sessions(source, layout)
    table = None if clinical is None else read_clinical(clinical)
    dated = date_sessions(sessions, table)
    contrasts, warnings = _common_contrasts(source, sessions, settings)
    warnings += _table_warnings(source, dated.sessions, table)
    for warning in warnings:
        LOG.warning(warning)
    settings = PrepareSettings(**{**asdict(settings), "contrasts": contrasts})
    run = _CohortRun(dated, settings, jobs, on_outcome)
    config = {"settings": asdict(settings), "layout": str(layout), "source": source.resolve().name}
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


def _table_warnings(source: Path, sessions: Iterable[SourceSession], table: ClinicalTable | None) -> list[str]:
    warnings = []
    if table is None and (source / "clinical.csv").is_file():
        warnings.append(f"{source / 'clinical.csv'} was not used; name it with --clinical")
    if ordinal_days_used(sessions):
        warnings.append(f"{source}: time points without dates count as day 0, 1, 2 …; date them with --clinical FILE")
    strangers = set(table.treatments if table else ()) - {session.patient_id for session in sessions}
    if table and strangers:
        warnings.append(f"{table.path}: {len(strangers)} patients of the table have no scan")
    return warnings


@dataclass(frozen=True)
class _Failure:
    """Why a scan could not be prepared."""

    reason: str


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
            return SessionOutcome(*names, Status.FAILED, reason=result.reason)
        notes = tuple(result.source["notes"])
        if result.images.shape[0]:
            return SessionOutcome(*names, Status.OK, result.images.shape[0], notes=notes)
        largest = max(area or 0.0 for area in result.source[SLICE_AREAS])
        why = "the tumour mask is empty" if largest == 0 else f"the largest tumour slice has {largest:.3g} mm²"
        reason = f"{'/'.join(names)}: {why}, less than {self._settings.min_tumour_mm2:g} mm² in every slice"
        if shows_tumour:  # a small or vanished tumour is a point of the growth curve of a patient who has others
            return SessionOutcome(*names, Status.OK, notes=(*notes, f"{reason}; kept for its size, without slices"))
        return SessionOutcome(*names, Status.SKIPPED, reason=f"{reason}; use --slices all or a smaller --min-tumour-mm2")

    def _record(self, outcome: SessionOutcome) -> None:
        self.outcomes.append(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)


def _in_order(
    dated: DatedSessions, settings: PrepareSettings, jobs: int
) -> Iterator[tuple[SourceSession, Session | _Failure]]:
    """Each scan with its result, in the order of the scans however the work was shared."""
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
    try:
        return scan, pending if isinstance(pending, _Failure) else pending.result()
    except BrokenProcessPool:
        raise UsageError("a worker process was killed, most likely for want of memory; use fewer --jobs") from None


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _attempt(source: SourceSession, settings: PrepareSettings) -> Session | _Failure:
    try:
        return prepare_session(source, settings)
    except InputError as error:
        return _Failure(str(error))
