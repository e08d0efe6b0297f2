"""The command status: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.options import Json, print_result
from tumorcast.counted import counted


def status(
    run: Annotated[Path, typer.Argument(help="The --out of a forecast, running or dead, or its folder of shards.")],
    as_json: Json = False,
) -> None:
    """How far a forecast is: units done and failed, with reasons, rate, time left. It may be running or dead."""
    from tumorcast.running.status import run_status

    state = run_status(run)
    print_result(as_json, state.figures())
    for rank in state.lost:
        typer.echo(f"{rank}: it left the run", err=True)
    for reason, count in state.reasons.items():
        typer.echo(f"{counted(count, 'unit')} failed: {reason}", err=True)
