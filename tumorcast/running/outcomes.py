"""Outcomes of patients in a run over a cohort: the guard round a patient's work, their table, and the run's paths."""

import logging
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tumorcast.durable import write_text
from tumorcast.errors import EngineError, StoppedError, StorageError, TumorcastError
from tumorcast.records import PatientOutcome, Status

log = logging.getLogger(__name__)
Result = TypeVar("Result")
HEADER = "patient_id\tstatus\treason\n"


def status_table_of(archive: Path) -> Path:
    """The table of outcomes beside an archive, or beside the shard of one rank.

    >>> status_table_of(Path("run/maps.h5")).as_posix()
    'run/maps.status.tsv'
    """
    return archive.with_name(archive.name.removesuffix(".h5") + ".status.tsv")


def attempt(patient_id: str, work: Callable[[], Result]) -> Result | PatientOutcome:
    """What `work` returns, or why the patient failed.

    What is no fault of the patient is raised: a full disk, a stop, and a device or a package that is not there.
    """
    try:
        return work()
    except (StorageError, StoppedError, EngineError):
        raise
    except TumorcastError as fault:
        reason = str(fault)
    except Exception as fault:  # whatever it was: it is reported, counted, and the others go on
        log.debug("%s", traceback.format_exc())
        reason = f"{type(fault).__name__}: {fault}"
    return PatientOutcome(patient_id, Status.FAILED, one_line(reason))


def write_outcomes(path: Path, outcomes: Iterable[PatientOutcome]) -> None:
    """Write the table of outcomes, whole or not at all."""
    rows = [f"{outcome.patient_id}\t{outcome.status}\t{one_line(outcome.reason)}\n" for outcome in outcomes]
    write_text(path, HEADER + "".join(rows))


def read_outcomes(path: Path) -> list[PatientOutcome]:
    """The rows of a table of outcomes."""
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    return [PatientOutcome(pid, Status(status), why) for pid, status, why in (r.split("\t") for r in rows)]


def one_line(text: str) -> str:
    """The words of a text, a blank between two."""
    return " ".join(text.split())
