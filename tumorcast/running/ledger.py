"""The record of a forecast run: where each shard stands, what made it, and how each patient fared.

A unit is finished when its shard stands under its final name with the provenance of this run. So a run that was
stopped is resumed by starting it again, and one with another configuration, cohort or model is refused.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorcast.archive.maps import archive_provenance, shard_provenance
from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.forecasting.plan import Unit
from tumorcast.provenance import difference, refuse_other
from tumorcast.records import PatientOutcome, Status
from tumorcast.running.outcomes import parts_of, read_outcomes, status_table_of, write_outcomes


@dataclass(frozen=True)
class Ledger:
    """Every path of a run that writes `archive`, and what the run is made of."""

    archive: Path
    provenance: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where the shards of an unfinished run stand."""
        return parts_of(self.archive)

    @property
    def status_path(self) -> Path:
        """The table of outcomes."""
        return status_table_of(self.archive)

    def shard(self, unit: Unit) -> Path:
        """Where the shard of this unit stands."""
        return self.folder / unit.patient_id / f"{unit.name}.h5"

    def completed(self) -> list[PatientOutcome] | None:
        """How each patient fared, if the archive of this very run stands and no patient is left to do."""
        found = archive_provenance(self.archive)
        if found is None or not self.status_path.exists() or difference(found, self.provenance) is not None:
            return None
        outcomes = read_outcomes(self.status_path)
        return None if any(outcome.status is Status.FAILED for outcome in outcomes) else outcomes

    def open(self) -> None:
        """Begin the run, or go on with it. Raises UsageError if another run's results or shards stand there."""
        if self.archive.exists():
            refuse_other(self.archive, archive_provenance(self.archive) or {}, self.provenance)
        path = self.folder / "run.json"
        if not path.exists():
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(self.provenance, indent=2, sort_keys=True), encoding="utf-8")
            return
        try:
            refuse_other(self.folder, json.loads(path.read_text(encoding="utf-8")), self.provenance)
        except ValueError:
            raise InputError(f"{path}: not the record of a run; remove {self.folder}, or give another --out") from None

    def is_done(self, unit: Unit) -> bool:
        """Whether the unit's shard stands, whole, and was made by this run."""
        return shard_provenance(self.shard(unit)) == self.provenance

    def close(self, outcomes: Iterable[PatientOutcome]) -> None:
        """Write the table of outcomes."""
        write_outcomes(self.status_path, outcomes)

    def remove_shards(self) -> None:
        """Remove this run's shards once they are merged; a file that is not ours stays, with its folder."""
        for pattern in ("*/*.h5", "*/.*.partial", ".*.partial", "run.json"):
            for path in self.folder.glob(pattern):
                path.unlink()
        for folder in [*self.folder.iterdir(), self.folder]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
