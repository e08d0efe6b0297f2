"""The command export-maps: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.options import Jobs, Json, choice, progress, tell_outcomes


def export_maps(
    maps: Annotated[Path, typer.Argument(help="maps.h5 of `tumorcast forecast`.")],
    bids: Annotated[Path, typer.Option("--bids", help="A new or empty folder, or that of the same export.")],
    cohort: Annotated[
        Path | None,
        typer.Option(help="The cohort file of the forecast: for sums of the scan's files, and where scans were bent."),
    ] = None,
    space: Annotated[
        str, typer.Option(help="native (the scan's own voxels), cohort (the forecast's), or both.")
    ] = "both",
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Write an archive as BIDS derivatives: growth maps, outlines and forecasts as NIfTI, in the scan's own space."""
    from tumorcast.archive.bids_export import export_bids
    from tumorcast.archive.nifti import Space

    spaces = tuple(Space) if space == "both" else (choice(Space, "--space", space),)
    with progress("patients", f"{bids} is not whole; start the same command again") as report:
        outcomes = export_bids(maps, bids, spaces=spaces, cohort=cohort, jobs=jobs, report=report)
    tell_outcomes(outcomes, bids, as_json)
