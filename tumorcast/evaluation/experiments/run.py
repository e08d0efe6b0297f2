"""Run an experiment on any number of ranks: each unit's row is written when measured, and rank 0 reports on them all.

The report is the same on any number of ranks, however often the run was stopped and started again.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.errors import InputError, StoppedError
from tumorcast.evaluation.experiments.base import Experiment, Findings, Row, check_unit_names
from tumorcast.evaluation.experiments.result_folder import ResultFolder, write_report
from tumorcast.records import PatientOutcome
from tumorcast.running.outcomes import attempt
from tumorcast.running.ranks import Ranks
from tumorcast.running.stopping import Stopping, grace_seconds, job_end
from tumorcast.running.work_queue import STOPPED, UNITS_OF_PATIENCE, Counter, Desk, News, Tally, Tickets
from tumorcast.version import VERSION

log = logging.getLogger(__name__)

LONGEST_UNIT_SECONDS = 4 * 3600.0  # that rank 0 waits for without news, once it has nothing left to do itself
SHOWN_REASONS = 3

Report = Callable[[Tally], None]
ALONE = Ranks()


@dataclass(frozen=True)
class ExperimentResult:
    """The result of a run; of ranks other than 0, `stopped` alone.

    findings: None where it was stopped before its end, and is resumed by starting it again. failed: reasons by unit.
    """

    stopped: bool
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    findings: Findings | None = None


def run_experiment(
    experiment: Experiment, out: Path, ranks: Ranks = ALONE, report: Report = lambda _: None
) -> ExperimentResult:
    """Measure every unit that has no row, then write the report to `out`. Every rank must call it.

    Raises UsageError if `out` has another provenance or another run writes there, InputError if no unit could be
    measured.
    """
    folder = ResultFolder(out)
    with ExitStack() as until_the_end:
        units, left = ranks.from_root(_begin(experiment, folder, until_the_end) if ranks.is_root else None)
        end = ranks.from_root(job_end(os.environ) if ranks.is_root else None)
        stopping = Stopping(end, grace_seconds(os.environ))
        worker = partial(_Worker, experiment, folder, units, stopping)
        with stopping.heeded():
            if not ranks.is_root:
                return ExperimentResult(worker(Counter(ranks)).work())
            patience_ms = round(1000 * LONGEST_UNIT_SECONDS / UNITS_OF_PATIENCE)
            with Desk(np.array(left, np.int64), ranks, report, longest_ms=patience_ms) as desk:
                stopped = worker(desk).work()
                desk.wait_for_the_others()
        return _settled(experiment, folder, units, stopped=stopped or desk.stopping)


def report_so_far(experiment: Experiment, out: Path) -> ExperimentResult:
    """Measure nothing: report to `out`/so-far on the units that are done, also while a run is at work on the others.

    Raises UsageError if `out` has another provenance, InputError if nothing was begun or no unit is done.
    """
    folder = ResultFolder(out)
    if not folder.record.exists():
        raise InputError(f"{out}: no experiment was begun there; leave out --so-far")
    folder.open(_provenance_of(experiment))
    results = _UnitResults.of(folder, experiment.units())
    if not results.rows:
        raise InputError(
            f"{out}: none of {len(results.units)} units is done yet; wait, or start again without --so-far"
        )
    return _reported(experiment, folder, results, folder.so_far)


def _begin(experiment: Experiment, folder: ResultFolder, until_the_end: ExitStack) -> tuple[list[str], list[int]]:
    """Hold the folder for all ranks. Returns every unit, and the numbers of those that are left to do."""
    units = list(experiment.units())
    check_unit_names(units)
    until_the_end.enter_context(folder.held())
    folder.open(_provenance_of(experiment))
    folder.forget_failures()
    return units, [number for number, unit in enumerate(units) if folder.row(unit) is None]


@dataclass
class _Worker:
    """One rank at work."""

    experiment: Experiment
    folder: ResultFolder
    units: Sequence[str]
    stopping: Stopping
    tickets: Tickets

    def work(self) -> bool:
        """Units until none is left, or until it shall stop; returns whether it was stopped."""
        news, longest, unit = News(), 0.0, 0
        try:
            while self.stopping.may_begin(longest):
                unit = self.tickets.take(news).unit
                news = News()
                if unit < 0:
                    break
                began = time.monotonic()
                failed = self._measure(self.units[unit])
                longest = max(longest, time.monotonic() - began)
                stop = self.stopping.requested
                news = News(int(not failed), int(failed), round(1000 * longest), stopping=stop)
        except StoppedError as dropped:
            log.debug("%s", dropped)
        requested = self.stopping.requested
        self.tickets.take(replace(news, stopping=requested, last=True))
        return requested or unit == STOPPED

    def _measure(self, unit: str) -> bool:
        """Measure a unit and write its row, or why it failed; returns whether it failed."""
        with self.stopping.unit_in_hand():
            row = attempt(unit, partial(self._row, unit))
        if isinstance(row, PatientOutcome):
            self.folder.write_failure(unit, row.reason)
            return True
        self.folder.write_row(unit, row)
        return False

    def _row(self, unit: str) -> str:
        with self.folder.pictures(unit) as pictures:
            return json.dumps(self.experiment.measure(unit, pictures))


def _provenance_of(experiment: Experiment) -> dict[str, Any]:
    return {"experiment": experiment.name, "version": VERSION} | experiment.provenance()


@dataclass(frozen=True)
class _UnitResults:
    """By unit, the rows that were measured, and why others failed."""

    units: Sequence[str]
    rows: dict[str, Row]
    failed: dict[str, str]

    @classmethod
    def of(cls, folder: ResultFolder, units: Sequence[str]) -> "_UnitResults":
        rows = {unit: row for unit in units if (row := folder.row(unit)) is not None}
        failed = {unit: why for unit in units if (why := folder.reason_of_failure(unit)) is not None}
        return cls(units, rows, failed)

    @property
    def missing(self) -> int:
        return len(self.units) - len(self.rows) - len(self.failed)


def _settled(experiment: Experiment, folder: ResultFolder, units: Sequence[str], *, stopped: bool) -> ExperimentResult:
    """The result of all units, and the report if they are all through. Raises InputError if none could be measured."""
    results = _UnitResults.of(folder, units)
    if stopped or results.missing > 0:
        return ExperimentResult(True, len(results.rows), results.failed)
    if not results.rows:
        shown = "; ".join(f"{unit}: {results.failed[unit]}" for unit in list(results.failed)[:SHOWN_REASONS])
        raise InputError(
            f"{folder.out}: none of {len(units)} units could be measured; {shown or 'give other patients'}"
        )
    return _reported(experiment, folder, results, folder.out)


def _reported(experiment: Experiment, folder: ResultFolder, results: _UnitResults, out: Path) -> ExperimentResult:
    """Write the report of what there is to `out`."""
    findings = experiment.report(results.rows, folder.rows)
    write_report(out, experiment, findings, results.rows, results.failed, missing=results.missing)
    return ExperimentResult(False, len(results.rows), results.failed, findings)
