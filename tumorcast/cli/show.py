"""The command show: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.options import Json, Out, print_result
from tumorcast.errors import InputError


def show(
    maps: Annotated[Path, typer.Argument(help="maps.h5 of `tumorcast forecast`.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Draw every slice of an archive: scan, forecast, maps over the scan, and growth curve."""
    from tumorcast.archive.maps import MapArchive
    from tumorcast.report.plots import show_archive, slice_records

    with MapArchive.open(maps) as archive:
        _make_folder(out)
        paths = show_archive(archive, out)
        slices = {"slices": slice_records(archive)} if as_json else {}
    print_result(as_json, {"out": str(out), "pictures": len(paths)} | slices)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"{out}: cannot be made ({fault.strerror}); give --out a folder that can be written") from None
