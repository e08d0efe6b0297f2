"""How far a forecast is, from what its ranks have written: it may be running, stopped, dead or finished."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorcast.archive.maps import MapArchive
from tumorcast.archive.unmerged import archive_of
from tumorcast.errors import InputError
from tumorcast.forecasting.plan import PatientPlan, PlannedSlice, RunPlan
from tumorcast.records import Status, count_by_status
from tumorcast.running.ledger import Ledger, read_events
from tumorcast.running.merging import account
from tumorcast.settings import ForecastSettings

SAME_START_SECONDS = 600.0  # ranks that opened the run within this time belong to one start


@dataclass(frozen=True)
class RunStatus:
    """Units of a run, by what came of them, and how fast the ranks of its last start are.

    state: running, stopped (a job of it ended or died before the end), complete (all units, not merged) or merged.
    unheard_seconds: since a rank last wrote what it did. lost: ranks of the last start whose engine failed, with
    machine and reason.
    """

    state: str
    units: int
    done: int
    failed: int
    reasons: dict[str, int]
    patients: dict[str, int]
    ranks: int = 0
    units_a_minute: float = 0.0
    unheard_seconds: float | None = None
    lost: tuple[str, ...] = ()

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None where nothing runs or nothing is done yet."""
        if self.state != "running" or not self.units_a_minute:
            return None
        return 60 * (self.units - self.done - self.failed) / self.units_a_minute

    def figures(self) -> dict[str, Any]:
        """What is printed."""
        left, unheard = self.seconds_left, self.unheard_seconds
        return {
            "state": self.state,
            "units": self.units,
            "done": self.done,
            "failed": self.failed,
            "patients": self.patients,
            "ranks": self.ranks,
            "ranks_lost": len(self.lost),
            "units_a_minute": round(self.units_a_minute, 3),
            "seconds_left": None if left is None else round(left),
            "unheard_seconds": None if unheard is None else round(unheard),
        }


def run_status(run: Path) -> RunStatus:
    """What the ledger of a run says. Raises InputError where none was begun."""
    archive = archive_of(run)
    try:
        ledger = Ledger.standing(run)
    except InputError:
        if archive.exists():
            return _merged(archive)
        raise
    plan, left_out = ledger.read_plan()
    accounts = account(ledger, plan, left_out)
    reasons = Counter(accounts.reasons.values())
    failed, missing = len(accounts.reasons), len(accounts.missing)
    state = "running" if ledger.is_held() else "stopped" if missing else "complete"
    state = "merged" if state == "complete" and ledger.completed() is not None else state
    patients = count_by_status(accounts.outcomes)
    last_start = _last_start(ledger.events)
    unfinished = {unit.patient_id for unit in accounts.missing}
    patients["ok"] -= sum(o.patient_id in unfinished and o.status is Status.OK for o in accounts.outcomes)
    patients["unfinished"] = len(unfinished)
    return RunStatus(state, len(plan), len(plan) - missing - failed, failed, dict(reasons), patients, **last_start)


def _merged(archive: Path) -> RunStatus:
    with MapArchive.open(archive) as opened:
        patients, units = count_by_status(opened.outcomes()), len(_plan_of(opened))
    return RunStatus("merged", units, units, 0, {}, patients)


def _plan_of(archive: MapArchive) -> RunPlan:
    """The plan that a merged run had; the run's own record of it goes with its shards."""
    settings = ForecastSettings.model_construct(**archive.provenance["settings"])  # unchecked: they were checked once
    patients = (
        PatientPlan(
            patient_id,
            "",
            tuple(PlannedSlice(0, int(name)) for name in archive.slice_names(patient_id)),
            archive.has_volume(patient_id),
        )
        for patient_id in archive.patient_ids()
    )
    return RunPlan.of(tuple(patients), settings)


def _last_start(events: Path) -> dict[str, Any]:
    """Ranks, rate, silence and losses since the run was last started."""
    began: dict[int, float] = {}
    left: dict[int, str] = {}
    written: dict[int, int] = {}
    last = 0.0
    for rank, event in read_events(events):
        if event["event"] == "opened":
            began[rank], written[rank] = event["time"], 0
            left.pop(rank, None)
        elif event["event"] == "left":
            left[rank] = f"rank {rank} on {event['node']}: {event['reason']}"
        elif event["event"] == "written" and rank in written:
            written[rank] += 1
        last = max(last, event["time"])
    if not began:
        return {}
    newest = max(began.values())
    present = [rank for rank, start in began.items() if newest - start < SAME_START_SECONDS]
    minutes = max(last - min(began[rank] for rank in present), 1e-3) / 60
    return {
        "ranks": len(present),
        "units_a_minute": sum(written[rank] for rank in present) / minutes,
        "unheard_seconds": time.time() - last,
        "lost": tuple(left[rank] for rank in sorted(left) if rank in present),
    }
