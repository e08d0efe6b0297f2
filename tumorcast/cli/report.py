"""The command report: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.options import Json, Out, exit_if_failed, print_result, progress, tell_fate

IF_STOPPED = "the report is not whole; start it again"


def report(
    maps: Annotated[Path, typer.Argument(help="maps.h5 of `tumorcast forecast`.")],
    out: Out,
    growth: Annotated[
        Path | None, typer.Option(help="The growth.h5 of the forecast: treatment, and the whole curve.")
    ] = None,
    evaluation: Annotated[Path | None, typer.Option(help="The --out of `tumorcast evaluate`.")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Most slices drawn on a page; the viewer has all.")] = 4,
    as_json: Json = False,
) -> None:
    """Write HTML pages to read and to send: one a patient with a viewer, and an index. They need no network.

    Over MPI ranks: mpirun -n 4 python -m mpi4py -m tumorcast report …
    """
    from tumorcast.records import count_by_status
    from tumorcast.report.html import INDEX, write_report
    from tumorcast.running.ranks import open_ranks

    with open_ranks() as ranks, progress("pages", IF_STOPPED, silent=not ranks.is_root) as tell:
        written = write_report(maps, out, ranks, growth=growth, evaluation=evaluation, pictures=pictures, report=tell)
    if ranks.is_root:
        for page in written.pages:
            tell_fate(page.patient_id, None, page.status, page.reason)
        counts = count_by_status(written.pages)
        told = {"pages": counts["ok"], "failed": counts["failed"], "without_forecast": written.without_forecast}
        print_result(as_json, {"out": str(out / INDEX)} | told)
        exit_if_failed(counts["failed"])
