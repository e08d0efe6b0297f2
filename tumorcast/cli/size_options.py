"""The options that the commands of tumour size share, and the sizes of patients that they name."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.options import choice, tell_fate
from tumorcast.errors import InputError, UsageError

if TYPE_CHECKING:
    from tumorcast.growth.size_table import SizeBalance, SizeColumns, SizeTable
    from tumorcast.records import PatientOutcome


def option(text: str, *names: str) -> Any:
    """An option with its help; its names, where they are not those of the parameter."""
    return typer.Option(*names, help=text)


Source = Annotated[Path, typer.Argument(help="A cohort file, or a CSV table with a row a scan.")]
Companion = Annotated[
    str | None, option("Of a table: another compartment's size; by default the prior's, where it is there; or none.")
]
Law = Annotated[str | None, option("exponential (the paper's), logistic or gompertz.")]
Replicates = Annotated[int | None, option("Bootstrap replicates.")]
Seed = Annotated[int | None, option("A patient's numbers depend on it and the patient alone.")]
Prior = Annotated[str | None, option("A file of fit-prior, shipped, none, or leave-one-out (with --held-out).")]
Resection = Annotated[str, option("Of a table: the day of a resection.")]


@dataclass(frozen=True)
class RadiotherapyColumnOptions:
    """Names of a table's columns: patient, day and radiotherapy."""

    id_column: Annotated[str, option("Of a table: the patient.")] = "patient_id"
    day_column: Annotated[str, option("Of a table: the day of the scan, from any zero.")] = "day"
    rt_start_column: Annotated[str, option("Of a table: first day of radiotherapy.")] = "rt_start_day"
    rt_end_column: Annotated[str, option("Of a table: last day of radiotherapy.")] = "rt_end_day"
    rt_dose_column: Annotated[str, option("Of a table: its dose, in Gy.")] = "dose"
    rt_fractions_column: Annotated[str, option("Of a table: its fractions.")] = "fractions"

    def of_size(self, size: str, companion: str = "") -> "SizeColumns":
        """With the column of sizes and that of another compartment, empty for none: all columns that are read."""
        from tumorcast.growth.size_table import SizeColumns

        names = {COLUMNS[field.name]: getattr(self, field.name) for field in fields(self)}
        return SizeColumns(size=size, companion=companion, **names)


@dataclass(frozen=True)
class ColumnOptions(RadiotherapyColumnOptions):
    """And those of chemotherapy and resections."""

    chemo_start_column: Annotated[str, option("Of a table: first day of chemotherapy.")] = "chemo_start_day"
    chemo_end_column: Annotated[str, option("Of a table: its last day.")] = "chemo_end_day"
    resection_column: Resection = "resection_day"


COLUMNS = {  # option: the field of SizeColumns
    "size_column": "size",
    "id_column": "patient_id",
    "day_column": "day",
    "rt_start_column": "rt_start_day",
    "rt_end_column": "rt_end_day",
    "rt_dose_column": "rt_dose",
    "rt_fractions_column": "rt_fractions",
    "chemo_start_column": "chemo_start_day",
    "chemo_end_column": "chemo_end_day",
    "resection_column": "resection_day",
}


def is_table(source: Path) -> bool:
    """Whether a source of sizes is a table, and no cohort file."""
    return source.suffix.lower() in (".csv", ".tsv")


def read_size_source(source: Path, columns: "SizeColumns", *, before_last_scan: bool = False) -> "SizeTable":
    """The sizes of every patient that has some, and why the others have none.

    before_last_scan: of a cohort file, as if each patient's last scan had not been taken yet.
    """
    from tumorcast.growth.size_table import read_sizes

    if is_table(source):
        if before_last_scan:
            raise UsageError(f"--before-last-scan is for a cohort file; leave the rows of last scans out of {source}")
        return read_sizes(source, columns)
    table = _sizes_of_cohort(source, columns.size, before_last_scan=before_last_scan)
    if not table.series:
        raise InputError(
            f"{source}: no patient with a known {columns.size}; give scans with masks, or another --size-column"
        )
    return table


def _sizes_of_cohort(source: Path, size: str, *, before_last_scan: bool) -> "SizeTable":
    from tumorcast.data.cohort import Cohort, SizeMeasure
    from tumorcast.growth.size_table import PatientScans, SizeTable
    from tumorcast.records import PatientOutcome, Status

    measure = choice(SizeMeasure, "--size-column", size)
    series, left_out, counts = [], [], {}
    with Cohort.open(source) as file:
        cohort = file.before_last_scan() if before_last_scan else file
        for patient_id in cohort.patient_ids():
            counts[patient_id] = PatientScans(None, 0, 0)
            try:
                scans = len(cohort.sessions(patient_id))
                counts[patient_id] = PatientScans(None, scans, scans)
                sizes = cohort.size_series(patient_id, measure)
            except InputError as fault:
                left_out.append(PatientOutcome(patient_id, Status.FAILED, str(fault)))
                continue
            counts[patient_id] = PatientScans(None, scans, scans - sizes.days.size)
            if sizes.days.size:
                series.append(sizes)
            else:
                left_out.append(PatientOutcome(patient_id, Status.SKIPPED, "no scan with a tumour mask"))
    return SizeTable(tuple(series), tuple(left_out), counts)


def hints_of(table: "SizeTable", columns: "SizeColumns", options: RadiotherapyColumnOptions) -> list[str]:
    """Columns of the table that are not read and look as if they should be. options: those of the command."""
    from tumorcast.column_hints import hints

    named = ["size_column", *(field.name for field in fields(options))]
    option_of = {getattr(columns, COLUMNS[name]): f"--{name.replace('_', '-')}" for name in named}
    return hints(table.header, [*columns.required(), *columns.of_treatment()], option_of)


def tell_hints(source: Path, hints: Sequence[str]) -> None:
    """A line on stderr for each."""
    for hint in hints:
        typer.echo(f"warning: {source}: {hint}", err=True)


def tell_patients(source: Path, outcomes: "Sequence[PatientOutcome]", balance: "SizeBalance") -> None:
    """How patients fared that did not end well, and what became of the scans, on stderr."""
    for outcome in outcomes:
        tell_fate(outcome.patient_id, None, outcome.status, outcome.reason)
    tell_balance(source, balance)


def tell_balance(source: Path, balance: "SizeBalance") -> None:
    """What became of the scans, on stderr."""
    for line in balance.lines():
        typer.echo(f"{source}: {line}", err=True)
