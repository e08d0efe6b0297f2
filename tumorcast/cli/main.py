"""The command line: every command under one name, and what goes wrong as one line and an exit code.

A command parses, calls and prints; it holds no science, and imports what is heavy within its function.
"""

import logging
import os
import sys
import tempfile
from io import TextIOWrapper
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
from tumorcast.cli.fit import fit
from tumorcast.cli.fit_place import fit_place
from tumorcast.cli.fit_prior import fit_prior
from tumorcast.cli.forecast import forecast
from tumorcast.cli.import_adm import import_adm
from tumorcast.cli.plan import plan
from tumorcast.cli.prepare import prepare
from tumorcast.cli.reader_study import reader_study
from tumorcast.cli.report import report
from tumorcast.cli.select import select
from tumorcast.cli.show import show
from tumorcast.cli.simulate import simulate
from tumorcast.cli.status import status
from tumorcast.cli.train import train
from tumorcast.errors import EngineError, StorageError, TumorcastError
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


for command in (
    simulate,
    prepare,
    fit,
    fit_prior,
    train,
    fit_place,
    import_adm,
    export,
    doctor,
    demo,
    plan,
    forecast,
    select,
    status,
    evaluate,
    report,
    export_maps,
    show,
):
    app.command()(command)
for name, group in {"archive": archive, "experiment": experiment, "reader-study": reader_study}.items():
    app.add_typer(group, name=name)


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
    except Exception as fault:  # a fault of ours: said to be one, with the way to see more
        if not _has_temporary_folder():
            message = f"no folder for temporary files can be written (TMPDIR={os.environ.get('TMPDIR', '')}, /tmp)"
            _end(f"error: {message}; set TMPDIR to one that can", StorageError.exit_code)
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
