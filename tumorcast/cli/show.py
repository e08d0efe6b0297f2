"""The command show: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tumorcast.cli.options import Json, Out, exit_if_failed, print_result, tell_fate
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
    from tumorcast.records import count_by_status
    from tumorcast.report.show import show_archive

    if not 0 < contour < 1:
        raise UsageError(f"--contour {contour:g}: is no probability between 0 and 1; give one such as 0.5")
    with MapArchive.open(maps) as archive:
        _make_folder(out)
        shown = show_archive(archive, out, contour)
    for outcome in shown.outcomes:
        tell_fate(outcome.patient_id, None, outcome.status, outcome.reason)
    failed = count_by_status(shown.outcomes)["failed"]
    told: dict[str, Any] = {"pictures": sum(len(patient.pictures) for patient in shown.patients)}
    told |= {"failed": failed, "without_forecast": shown.without_forecast}
    if as_json:
        told |= {"volumes": [record for patient in shown.patients for record in patient.volumes]}
        told |= {"slices": [record for patient in shown.patients for record in patient.slices]}
    print_result(as_json, {"out": str(out)} | told)
    exit_if_failed(failed)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"{out}: cannot be made ({fault.strerror}); give --out a folder that can be written") from None
