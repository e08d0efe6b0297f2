"""What became of every scan of a source of sizes, and of how many patients the treatments are known."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from tumorcast.growth.table import SizeTable
from tumorcast.records import PatientOutcome, Status

NO_SIZE = "no size"
PATIENTS_NAMED = 5  # in a line; the record names all


@dataclass(frozen=True)
class Balance:
    """Scans and patients of a source, and those that were used.

    rows: of the table; None of a cohort file. left_out: by reason and patient, how many scans. known: by treatment, how
    many of the patients used. hints: columns that are not read and look as if they should be.
    """

    rows: int | None
    patients: int
    patients_used: int
    scans: int
    scans_used: int
    left_out: Mapping[str, Mapping[str, int]]
    known: Mapping[str, int]
    hints: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: SizeTable, outcomes: Sequence[PatientOutcome], hints: Sequence[str] = ()) -> Self:
        """The balance of a table whose patients fared so; those who are not told of were used."""
        fates = {outcome.patient_id: outcome.status for outcome in outcomes}
        left_out: dict[str, dict[str, int]] = {}
        for patient_id, counts in table.counts.items():
            fate = fates.get(patient_id, Status.OK)
            reason, lost = (NO_SIZE, counts.unmeasured) if fate is Status.OK else (f"patient {fate}", counts.scans)
            if lost:
                left_out.setdefault(reason, {})[patient_id] = lost
        used = [one.treatment for one in table.series if fates.get(one.patient_id, Status.OK) is Status.OK]
        scans = sum(counts.scans for counts in table.counts.values())
        rows = [counts.rows for counts in table.counts.values() if counts.rows is not None]
        return cls(
            rows=sum(rows) if rows else None,
            patients=len(table.counts),
            patients_used=len(used),
            scans=scans,
            scans_used=scans - sum(sum(lost.values()) for lost in left_out.values()),
            left_out=left_out,
            known={
                "radiotherapy": sum(bool(one.radiotherapy) for one in used),
                "chemotherapy": sum(bool(one.chemotherapy) for one in used),
                "resection": sum(bool(one.resection_days) for one in used),
            },
            hints=tuple(hints),
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        rows = "" if self.rows is None else f"{self.rows} rows read: "
        first = (
            f"{rows}{self.scans} scans of {self.patients} patients; "
            f"{self.scans_used} scans of {self.patients_used} patients used"
        )
        lost = [f"{sum(of.values())} scans left out, {reason}: {_named(of)}" for reason, of in self.left_out.items()]
        patients = f"of {self.patients_used} patients"
        known = (f"{treatment} known for {count} {patients}" for treatment, count in self.known.items())
        return [first, *lost, ", ".join(known)]


def _named(counts: Mapping[str, int]) -> str:
    """Patients with their scans.

    >>> _named({"P1": 2, "P2": 1})
    'P1 (2), P2 (1)'
    """
    named = [f"{patient_id} ({count})" for patient_id, count in counts.items()]
    more = [f"and {len(named) - PATIENTS_NAMED} more patients"] if len(named) > PATIENTS_NAMED else []
    return ", ".join(named[:PATIENTS_NAMED] + more)
