"""From the shards of a run to its archive, as the last step of the run or later."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tumorcast.archive.integrity import VOLUME
from tumorcast.archive.maps import read_volume
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.packing import Packing
from tumorcast.archive.shard import ShardKey, header, open_shard
from tumorcast.counted import counted
from tumorcast.errors import InputError
from tumorcast.forecasting.plan import PatientPlan, RunPlan, Unit
from tumorcast.forecasting.volume_reach import notes_of
from tumorcast.provenance import commit
from tumorcast.records import PatientOutcome, Status
from tumorcast.running.ledger import Ledger, read_events
from tumorcast.running.outcomes import status_table_of, write_outcomes

NO_TUMOUR = "the last scan has no slice with a tumour mask"
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Accounts:
    """A run's plan against what stands: how each patient fared, why units failed, and those that are not done."""

    outcomes: list[PatientOutcome]
    reasons: dict[str, str]
    missing: list[Unit]


def merge_run(
    run: Path, out: Path | None = None, packing: Packing = Packing.BLOSC2, report: Report = lambda done, total: None
) -> list[PatientOutcome]:
    """Merge the shards of a run into its archive, or into `out`; returns how each patient fared.

    run: its archive, or the folder of its shards. Raises InputError if units are missing.
    """
    ledger = Ledger.standing(run)
    with ledger.held():
        plan, left_out = ledger.read_plan()
        accounts = account(ledger, plan, left_out)
        if accounts.missing:
            raise InputError(
                f"{ledger.folder}: {len(accounts.missing)} of {counted(len(plan), 'unit')} missing, as "
                f"{accounts.missing[0].key}; start the forecast again, which does them alone"
            )
        return write_archive(ledger, plan, accounts.outcomes, out or ledger.archive, packing=packing, report=report)


def verify_run(run: Path) -> list[str]:
    """The faults of a run's shards, a line each: damaged, missing and foreign ones. Raises InputError without a run."""
    ledger = Ledger.standing(run)
    plan, _ = ledger.read_plan()
    faults = []
    for unit in plan:
        path = ledger.shard(unit)
        if not path.exists():
            reason = ledger.reason_of_failure(unit)
            faults.append(f"{path}: unit {unit.key} is missing" + (f": {reason}" if reason else ""))
        elif not ledger.is_done(unit):
            faults.append(f"{path}: damaged, or of another run or unit; start the forecast again, which makes it anew")
    ours = {ledger.shard(unit) for unit in plan}
    return faults + [f"{path}: of no unit of this run" for path in ledger.shards() if path not in ours]


def account(ledger: Ledger, plan: RunPlan, left_out: dict[str, str]) -> Accounts:
    """How each patient fared, in the order of the plan. Shards are counted by their headers, not read."""
    accounts = Accounts([], {}, [])
    for number, patient in enumerate(plan.patients):
        failed = left_out.get(patient.patient_id)
        for unit in plan.units_of(number):
            if stands(ledger, unit):
                continue
            reason = ledger.reason_of_failure(unit)
            if reason is None:
                accounts.missing.append(unit)
            else:
                accounts.reasons[unit.key] = reason
            failed = failed or reason
        accounts.outcomes.append(_outcome(patient, failed))
    return accounts


def stands(ledger: Ledger, unit: Unit) -> bool:
    """Whether a shard of this unit and run stands, by its header alone."""
    shard = header(ledger.shard(unit))
    return shard is not None and (shard.run, shard.unit) == (ledger.run_sha256, unit.key)


def _outcome(patient: PatientPlan, reason: str | None) -> PatientOutcome:
    if reason is not None:
        return PatientOutcome(patient.patient_id, Status.FAILED, reason)
    if patient.is_empty:
        return PatientOutcome(patient.patient_id, Status.SKIPPED, NO_TUMOUR)
    return PatientOutcome(patient.patient_id, Status.OK)


def write_archive(
    ledger: Ledger,
    plan: RunPlan,
    outcomes: list[PatientOutcome],
    out: Path,
    *,
    packing: Packing,
    report: Report = lambda done, total: None,
) -> list[PatientOutcome]:
    """Write the archive, with its table of outcomes beside it; returns them, with what to know of the maps' sizes.

    The shards go once their own archive stands; they stay while a patient has failed, so that `--retry-failed` does
    those patients alone.
    """
    opened = (event for _, event in read_events(ledger.events) if event.get("event") == "opened")
    devices = sorted({event["device"] for event in opened})
    provenance = ledger.provenance | {"commit": commit(), "devices": devices}
    outcomes = _with_notes(ledger, plan, outcomes)
    merge(out, _shards(ledger, plan, outcomes), provenance, outcomes, packing=packing, report=report)
    write_outcomes(status_table_of(out), outcomes)
    if out == ledger.archive and not any(outcome.status is Status.FAILED for outcome in outcomes):
        ledger.remove_shards()
    return outcomes


def _with_notes(ledger: Ledger, plan: RunPlan, outcomes: list[PatientOutcome]) -> list[PatientOutcome]:
    """The outcomes; where a growth map in three dimensions is not of the sizes wanted, that is the reason told."""
    noted = list(outcomes)
    for number, outcome in enumerate(outcomes):
        if outcome.status is Status.OK and plan.patients[number].volume:
            unit = next(plan.units_of(number))
            with open_shard(ledger.shard(unit), ledger.key(unit)) as file:
                noted[number] = replace(outcome, reason="; ".join(notes_of(read_volume(file[VOLUME]))))
    return noted


def _shards(ledger: Ledger, plan: RunPlan, outcomes: list[PatientOutcome]) -> Iterator[PatientShards]:
    """The shards of every patient that is done: a slice's units come by their blocks."""
    for number, outcome in enumerate(outcomes):
        if outcome.status is Status.OK:
            slices: dict[str, list[tuple[Path, ShardKey]]] = {}
            volume = None
            for unit in plan.units_of(number):
                shard = ledger.shard(unit), ledger.key(unit)
                volume = volume if unit.slices else shard
                for part in unit.slices:
                    slices.setdefault(part.name, []).append(shard)
            yield PatientShards(outcome.patient_id, slices, volume)
