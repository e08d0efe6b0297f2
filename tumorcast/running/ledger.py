"""The record of a forecast run: where each shard stands, what made it, which units failed and why, and the events.

A unit is finished when its shard stands under its final name, whole and of this run. So a run that was stopped is
resumed by starting it again, and one with another configuration, cohort or model is refused.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tumorcast.archive.maps import MapArchive, archive_provenance
from tumorcast.archive.shard import ShardKey, is_whole
from tumorcast.archive.unmerged import RUN_FILE, archive_of, parts_of
from tumorcast.durable import held, lock, write_text
from tumorcast.errors import InputError, StorageError
from tumorcast.forecasting.plan import RunPlan, Unit
from tumorcast.provenance import difference, is_made_already, refuse_other
from tumorcast.records import PatientOutcome
from tumorcast.running.outcomes import read_outcomes, status_table_of

log = logging.getLogger(__name__)


def _provenance_of(archive: Path) -> dict[str, Any]:
    with MapArchive.open(archive) as opened:
        return opened.provenance


def _has_no_patient(archive: Path) -> bool:
    try:
        with MapArchive.open(archive) as opened:
            return not opened.patient_ids()
    except InputError:
        return False


@dataclass(frozen=True)
class Ledger:
    """Every path of a run that writes `archive`, and what the run is made of."""

    archive: Path
    provenance: dict[str, Any]

    @classmethod
    def standing(cls, run: Path) -> Self:
        """The ledger of a run that was begun. run: its archive, or the folder of its shards.

        Raises InputError if there is none.
        """
        archive = archive_of(run)
        path = parts_of(archive) / RUN_FILE
        try:
            return cls(archive, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise InputError(
                f"{run}: no run was begun there ({path.name} of {path.parent} cannot be read); give the --out of "
                "`tumorcast forecast`"
            ) from None

    @property
    def folder(self) -> Path:
        """Where the shards of an unfinished run stand."""
        return parts_of(self.archive)

    @property
    def status_path(self) -> Path:
        """The table of outcomes."""
        return status_table_of(self.archive)

    @property
    def events(self) -> Path:
        """The folder of what each rank did."""
        return self.archive.with_name(self.archive.name.removesuffix(".h5") + ".events")

    @property
    def plan_path(self) -> Path:
        """Where the plan stands."""
        return self.folder / "plan.json"

    def patient_folder(self, patient_id: str) -> Path:
        """Where a patient's shards stand."""
        return self.folder / "shards" / patient_id

    def shard(self, unit: Unit) -> Path:
        """Where the shard of this unit stands."""
        return self.patient_folder(unit.patient_id) / f"{unit.name}.h5"

    def shards(self) -> list[Path]:
        """Every shard that stands, of whatever run."""
        return sorted(self.folder.glob("shards/*/*.h5"))

    def failure(self, unit: Unit) -> Path:
        """Where the reason of this unit's failure stands."""
        return self.patient_folder(unit.patient_id) / f"{unit.name}.failed"

    def key(self, unit: Unit) -> ShardKey:
        """What the shard of this unit must be of."""
        return ShardKey(self.run_sha256, unit.key)

    @cached_property
    def run_sha256(self) -> str:
        """The sum over what the run is made of."""
        return hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode()).hexdigest()

    def completed(self) -> list[PatientOutcome] | None:
        """How each patient fared, if the archive of this very run stands."""
        provenance = archive_provenance(self.archive)
        if provenance is None or not self.status_path.exists() or difference(provenance, self.provenance) is not None:
            return None
        return read_outcomes(self.status_path)

    def held(self) -> AbstractContextManager[None]:
        """No other process may work on this run within the block. Raises UsageError if one does (durable.held)."""
        taken = f"{self.folder}: another job works on this run; wait for its end or stop it, or give another --out"
        return held(self.folder / "lock", taken)

    def is_held(self) -> bool:
        """Whether a process works on this run now."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            return not lock(descriptor)
        finally:
            os.close(descriptor)

    def check_archive(self) -> None:
        """Raises UsageError if what stands at `archive` is another run's result, or no archive.

        One that holds no patient, since all have failed, is no result that could be lost.
        """
        if not _has_no_patient(self.archive):
            is_made_already(self.archive, _provenance_of, self.provenance)

    def open(self) -> None:
        """Begin the run, or go on with it; one of other settings of which no unit is finished is begun anew.

        Raises UsageError if another run's shards stand there, InputError for a folder that is of no run.
        """
        path = self.folder / "run.json"
        if path.exists():
            try:
                provenance = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise InputError(
                    f"{path}: not the record of a run; remove {self.folder}, or give another --out"
                ) from None
            if self.shards():
                refuse_other(self.folder, provenance, self.provenance)
            other = difference(provenance, self.provenance)
            if other is None:
                return
            log.warning("%s: no unit is finished there, so the run is begun anew (%s)", self.folder, other)
            self._forget_all()
        write_text(path, json.dumps(self.provenance, indent=2, sort_keys=True))

    def _forget_all(self) -> None:
        """Drop what a run of other settings left that finished nothing: its plan, failures and events."""
        self.plan_path.unlink(missing_ok=True)
        self.forget_failures()
        for path in [*self.folder.glob("shards/*/.*.partial"), *self.events.glob("rank-*.jsonl")]:
            path.unlink()

    def write_plan(self, plan: RunPlan, left_out: dict[str, str]) -> None:
        """Keep what there is to do, and why patients cannot be planned."""
        write_text(self.plan_path, json.dumps({"plan": plan.to_json(), "left_out": left_out}))

    def read_plan(self) -> tuple[RunPlan, dict[str, str]]:
        """What `write_plan` kept. Raises InputError if it is not there or damaged."""
        try:
            record = json.loads(self.plan_path.read_text(encoding="utf-8"))
            return RunPlan.from_json(record["plan"]), dict(record["left_out"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{self.plan_path}: not the plan of a run; start the forecast again") from None

    def is_done(self, unit: Unit) -> bool:
        """Whether the unit's shard stands, whole, and was made by this run; every byte is looked at."""
        return is_whole(self.shard(unit), self.key(unit))

    def write_failure(self, unit: Unit, reason: str) -> None:
        """Keep why the unit failed."""
        write_text(self.failure(unit), json.dumps({"run": self.run_sha256, "reason": reason}))

    def reason_of_failure(self, unit: Unit) -> str | None:
        """Why the unit failed in this run; None if it did not."""
        try:
            record = json.loads(self.failure(unit).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return str(record["reason"]) if record.get("run") == self.run_sha256 else None

    def forget_failures(self) -> None:
        """So that what failed is tried again."""
        for path in self.folder.glob("shards/*/*.failed"):
            path.unlink()

    def remove_shards(self) -> None:
        """Remove this run's shards once they are merged; a file that is not ours stays, with its folder."""
        ours = ("*.h5", "*.failed", ".*.partial")
        for pattern in (*(f"shards/*/{name}" for name in ours), ".*.partial", "run.json", "plan.json", "lock"):
            for path in self.folder.glob(pattern):
                path.unlink()
        for folder in [*self.folder.glob("shards/*"), self.folder / "shards", self.folder]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


class EventLog:
    """What a rank did and when, as lines of JSON in a file of its own: for people, and for `tumorcast status`.

    Each line stands at once.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        path = folder / f"rank-{rank:04d}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as fault:
            raise StorageError(
                f"{path}: cannot be written ({fault.strerror}); give --out in a writable folder"
            ) from None

    def write(self, event: str, **fields: Any) -> None:
        """Append a line. A full disk is not reported here: that would hide the result's own error."""
        line = json.dumps({"time": round(time.time(), 3), "event": event} | fields)
        with suppress(OSError):
            self._file.write(line + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, after a word on what ended the work."""
        if error is not None:
            self.write("ended", reason=f"{type(error).__name__}: {error}")
        with suppress(OSError):  # what could not be written is tried again, and fails again
            self._file.close()


def read_events(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every rank's number with its events, in the order of each; a line cut short by a kill is left out."""
    for path in sorted(folder.glob("rank-*.jsonl")):
        rank = int(path.stem.removeprefix("rank-"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield rank, json.loads(line)
            except ValueError:
                continue
