"""Run an experiment on any number of ranks: each unit's row is written when measured, and rank 0 reports on them all.

The report is the same on any number of ranks, however often the run was stopped and started again.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.counted import counted
from tumorcast.errors import InputError
from tumorcast.evaluation.experiments.base import Experiment, Findings, Row, check_unit_names
from tumorcast.evaluation.experiments.result_folder import ResultFolder, write_report
from tumorcast.running.ranks import Ranks
from tumorcast.running.stopping import stopping_of_job
from tumorcast.running.work_queue import UNITS_OF_PATIENCE, Tally
from tumorcast.running.worker import work_on_ranks
from tumorcast.version import VERSION

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
        stopping = stopping_of_job(ranks)
        with stopping.handle_signals():
            job = MeasureJob(experiment, folder, units)
            patience_ms = round(1000 * LONGEST_UNIT_SECONDS / UNITS_OF_PATIENCE)
            order = np.array(left, np.int64)
            end = work_on_ranks(order, job, ranks, stopping, report=report, longest_ms=patience_ms)
        return (
            _settled(experiment, folder, units, stopped=end.stopped) if ranks.is_root else ExperimentResult(end.stopped)
        )


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
            f"{out}: none of {counted(len(results.units), 'unit')} is done yet; wait, or start again without --so-far"
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


@dataclass(frozen=True)
class MeasureJob:
    """A unit of an experiment, as a `UnitJob`: measured, and kept as its row."""

    experiment: Experiment
    folder: ResultFolder
    units: Sequence[str]

    def name(self, unit: int) -> str:
        """The unit's own name."""
        return self.units[unit]

    def read(self, unit: int) -> str:
        """Its name: an experiment reads what it needs itself."""
        return self.units[unit]

    def compute(self, inputs: str) -> str:
        """The unit's row as JSON; its pictures are in their folder."""
        with self.folder.pictures(inputs) as pictures:
            return json.dumps(self.experiment.measure(inputs, pictures))

    def try_out(self) -> None:
        """Nothing: an experiment's engine is its own, so a unit that an engine fails at is done twice, then failed."""

    def write(self, inputs: str, product: str) -> None:
        """Keep the row."""
        self.folder.write_row(inputs, product)

    def write_failure(self, unit: int, reason: str) -> None:
        """Keep why the unit failed."""
        self.folder.write_failure(self.units[unit], reason)


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
            f"{folder.out}: none of {counted(len(units), 'unit')} could be measured; {shown or 'give other patients'}"
        )
    return _reported(experiment, folder, results, folder.out)


def _reported(experiment: Experiment, folder: ResultFolder, results: _UnitResults, out: Path) -> ExperimentResult:
    """Write the report of what there is to `out`."""
    findings = experiment.report(results.rows, folder.rows)
    write_report(out, experiment, findings, results.rows, results.failed, missing=results.missing)
    return ExperimentResult(False, len(results.rows), results.failed, findings)
