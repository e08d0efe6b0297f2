"""The command line: parse, call, print. No science. Heavy imports happen in the command that needs them."""

import logging
import os
import sys
import tempfile
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tumorcast.cli.archive import archive
from tumorcast.cli.commands import Commands
from tumorcast.cli.demo import demo
from tumorcast.cli.doctor import doctor
from tumorcast.cli.evaluate import evaluate
from tumorcast.cli.experiment import experiment
from tumorcast.cli.export import export
from tumorcast.cli.export_maps import export_maps
from tumorcast.cli.fit import fit, fit_prior
from tumorcast.cli.forecast import forecast, plan, status
from tumorcast.cli.import_adm import import_adm
from tumorcast.cli.options import (
    Jobs,
    Json,
    Out,
    print_result,
    progress,
    span,
)
from tumorcast.cli.prepare import prepare
from tumorcast.cli.reader_study import reader_study
from tumorcast.cli.report import report
from tumorcast.cli.select import select
from tumorcast.cli.train import train
from tumorcast.errors import EngineError, InputError, StorageError, TumorcastError
from tumorcast.version import VERSION

app = Commands(
    name="tumorcast",
    help="Forecast where a brain tumour will be on the next MRI. For research, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

OWN_FAULT = 70


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "numba", "h5py", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    patients: Annotated[int, typer.Option(help="How many patients.")] = 10,
    seed: Annotated[int, typer.Option(help="Patient k depends on this and on k alone.")] = 0,
    sessions: Annotated[str, typer.Option(help="Scans a patient: a number, or FEWEST-MOST.")] = "3-5",
    voxel_mm: Annotated[float, typer.Option(help="Voxel side; 1 gives 240 x 240 x 155 voxels.")] = 1.0,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Write a simulated longitudinal cohort in BraTS layout, with clinical.csv and its truth."""
    from tumorcast.simulation.cohort import simulate_cohort

    with progress("patients", f"{out} is not whole; remove it and start again") as tell:
        simulate_cohort(
            out,
            patients=patients,
            seed=seed,
            sessions=span("--sessions", sessions),
            voxel_mm=voxel_mm,
            jobs=jobs,
            progress=tell,
        )
    print_result(as_json, {"out": str(out), "patients": patients, "seed": seed})


app.command()(prepare)
app.command()(fit)
app.command()(fit_prior)


app.command()(train)
app.command()(import_adm)
app.command()(export)
app.command()(doctor)
app.command()(demo)


app.command()(plan)
app.command()(forecast)
app.command()(select)
app.command()(status)
app.command()(evaluate)
app.command()(report)
app.command()(export_maps)
app.add_typer(archive, name="archive")
app.add_typer(experiment, name="experiment")
app.add_typer(reader_study, name="reader-study")


@app.command()
def show(
    maps: Annotated[Path, typer.Argument(help="maps.h5 of `tumorcast forecast`.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Draw every slice of an archive: scan, forecast, maps over the scan, and growth curve."""
    from tumorcast.archive.maps import MapArchive
    from tumorcast.report.figures import show_archive, slice_figures

    with MapArchive.open(maps) as archive:
        _make_folder(out)
        paths = show_archive(archive, out)
        figures = {"slices": slice_figures(archive)} if as_json else {}
    print_result(as_json, {"out": str(out), "pictures": len(paths)} | figures)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"{out}: cannot be made ({fault.strerror}); give --out a folder that can be written") from None


def export_main() -> None:
    """`tumorcast-export …` is `tumorcast export …`."""
    sys.argv[1:1] = ["export"]
    main()


def main() -> None:
    """Run a command; whatever goes wrong becomes one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except TumorcastError as fault:
        _end(f"error: {fault}", fault.exit_code)
    except ModuleNotFoundError as fault:
        remedy = "install tumorcast[train,simulate] (in a checkout: bin/setup full)"
        _end(f"error: {fault.name} is not installed; {remedy}", EngineError.exit_code)
    except Exception as fault:  # a fault of ours: told as such, with the way to see more
        if not _has_temporary_folder():
            told = f"no folder for temporary files can be written (TMPDIR={os.environ.get('TMPDIR', '')}, /tmp)"
            _end(f"error: {told}; set TMPDIR to one that can", StorageError.exit_code)
        _end(f"fault in tumorcast: {type(fault).__name__}: {fault}; `tumorcast --debug …` shows where", OWN_FAULT)


def _has_temporary_folder() -> bool:
    """False is what matplotlib, and all else that needs such a folder, fails by in words of its own."""
    try:
        return bool(tempfile.gettempdir())
    except FileNotFoundError:
        return False


def _end(message: str, code: int) -> NoReturn:
    if "--debug" in sys.argv[1:]:
        raise  # noqa: PLE0704 - called while an exception is handled
    typer.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
