"""The command show: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.options import Json, Out, print_result
from tumorcast.errors import InputError, UsageError


def show(
    maps: Annotated[Path, typer.Argument(help="maps.h5 of `tumorcast forecast`.")],
    out: Out,
    contour: Annotated[
        float, typer.Option(help="The probability that is outlined on growth maps in three dimensions.")
    ] = 0.5,
    as_json: Json = False,
) -> None:
    """Draw an archive: whole tumours in three planes with their volumes, and slices with scan, forecast and maps."""
    from tumorcast.archive.maps import MapArchive
    from tumorcast.report.plots import show_archive, slice_records
    from tumorcast.report.volume_plots import show_volumes, volume_records

    if not 0 < contour < 1:
        raise UsageError(f"--contour {contour:g}: is no probability between 0 and 1; give one such as 0.5")
    with MapArchive.open(maps) as archive:
        _make_folder(out)
        paths = [*show_volumes(archive, out, contour), *show_archive(archive, out)]
        records = {"volumes": volume_records(archive, contour), "slices": slice_records(archive)} if as_json else {}
    print_result(as_json, {"out": str(out), "pictures": len(paths)} | records)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"{out}: cannot be made ({fault.strerror}); give --out a folder that can be written") from None
