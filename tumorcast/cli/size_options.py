"""Sizes of patients from a table or a cohort file, as the commands of tumour size read them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tumorcast.cli.options import choice
from tumorcast.errors import InputError

if TYPE_CHECKING:
    from tumorcast.growth.size_table import SizeBalance, SizeColumns, SizeTable

COLUMNS = {
    "size": "size_column",
    "companion": "companion_column",
    "patient_id": "id_column",
    "day": "day_column",
    "rt_start_day": "rt_start_column",
    "rt_end_day": "rt_end_column",
    "rt_dose": "rt_dose_column",
    "rt_fractions": "rt_fractions_column",
    "chemo_start_day": "chemo_start_column",
    "chemo_end_day": "chemo_end_column",
    "resection_day": "resection_column",
}


def size_columns(told: dict[str, Any]) -> "SizeColumns":
    """The columns that the options name."""
    from tumorcast.growth.size_table import SizeColumns

    return SizeColumns(**{name: told[option] for name, option in COLUMNS.items() if option in told})


def is_table(source: Path) -> bool:
    """Whether a source of sizes is a table, and no cohort file."""
    return source.suffix.lower() in (".csv", ".tsv")


def read_size_source(source: Path, columns: "SizeColumns") -> "SizeTable":
    """The sizes of every patient that has some, and why the others have none."""
    from tumorcast.growth.size_table import read_sizes

    if is_table(source):
        return read_sizes(source, columns)
    table = _of_cohort(source, columns.size)
    if not table.series:
        raise InputError(
            f"{source}: no patient with a known {columns.size}; give scans with masks, or another --size-column"
        )
    return table


def _of_cohort(source: Path, size: str) -> "SizeTable":
    from tumorcast.data.cohort import Cohort, SizeMeasure
    from tumorcast.growth.size_table import PatientScans, SizeTable
    from tumorcast.records import PatientOutcome, Status

    measure = choice(SizeMeasure, "--size-column", size)
    series, left_out, counts = [], [], {}
    with Cohort.open(source) as cohort:
        for patient_id in cohort.patient_ids():
            counts[patient_id] = PatientScans(None, 0, 0)
            try:
                scans = len(cohort.sessions(patient_id))
                counts[patient_id] = PatientScans(None, scans, scans)
                found = cohort.size_series(patient_id, measure)
            except InputError as fault:
                left_out.append(PatientOutcome(patient_id, Status.FAILED, str(fault)))
                continue
            counts[patient_id] = PatientScans(None, scans, scans - found.days.size)
            if found.days.size:
                series.append(found)
            else:
                left_out.append(PatientOutcome(patient_id, Status.SKIPPED, "no scan with a tumour mask"))
    return SizeTable(tuple(series), tuple(left_out), counts)


def hints_of(table: "SizeTable", columns: "SizeColumns", told: dict[str, Any]) -> list[str]:
    """Columns that are not read and look as if they should be. told: the options of the command, by parameter."""
    from tumorcast.column_hints import hints

    options = {
        getattr(columns, name): f"--{option.replace('_', '-')}" for name, option in COLUMNS.items() if option in told
    }
    return hints(table.header, [*columns.required(), *columns.of_treatment()], options)


def tell_hints(source: Path, found: list[str]) -> None:
    """A line on stderr for each."""
    for hint in found:
        typer.echo(f"warning: {source}: {hint}", err=True)


def tell_balance(source: Path, balance: "SizeBalance") -> None:
    """What became of the scans, on stderr."""
    for line in balance.lines():
        typer.echo(f"{source}: {line}", err=True)
