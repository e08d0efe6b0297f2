"""The commands archive merge, info, layout, verify, digest, unpack and repack: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.commands import Commands
from tumorcast.cli.options import Json, Out, print_result, progress, tell_outcomes
from tumorcast.errors import InputError

archive = Commands(help="The archive of forecasts, maps.h5: merge it, look at it, check it, take it apart.")
Archive = Annotated[Path, typer.Argument(help="maps.h5 of `tumorcast forecast`.")]


@archive.command()
def merge(
    run: Annotated[Path, typer.Argument(help="The --out of a forecast, or its folder of shards.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to; by default the --out of the forecast.")] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="gzip, for readers without the plugin for Blosc2.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Merge the shards of a finished run into its archive; every sum is checked."""
    from tumorcast.archive.packing import Packing
    from tumorcast.running.merging import merge_run

    packing = Packing.PORTABLE if portable else Packing.BLOSC2
    with progress("patients", "no archive was written; start it again") as report:
        outcomes = merge_run(run, out, packing, report)
    tell_outcomes(outcomes, out or run, as_json)


@archive.command()
def info(maps: Archive, as_json: Json = False) -> None:
    """What an archive is: counts, statuses, sizes, packing, and what it was made of."""
    from tumorcast.archive.info import describe

    print_result(as_json, describe(maps))


@archive.command()
def layout(
    file: Annotated[Path, typer.Argument(help="cohort.h5, growth.h5 or maps.h5.")],
    as_json: Json = False,
) -> None:
    """What lies where in a file: paths, types, shapes, compression and attributes; what is alike is told once."""
    from tumorcast.archive.info import layout_of

    lines = layout_of(file)
    if as_json:
        print_result(as_json, {"file": str(file), "layout": lines})
    else:
        typer.echo("\n".join(lines))


@archive.command()
def verify(
    maps: Annotated[Path, typer.Argument(help="maps.h5, or the folder of shards of a run, maps.h5.parts.")],
    as_json: Json = False,
) -> None:
    """Check every byte: damage, missing and foreign patients and slices. Exit code 3 if there is a fault."""
    from tumorcast.archive.verify import verify as faults_of
    from tumorcast.running.merging import verify_run

    faults = verify_run(maps) if maps.is_dir() else faults_of(maps)
    for fault in faults:
        typer.echo(fault, err=True)
    print_result(as_json, {"archive": str(maps), "whole": not faults, "faults": faults if as_json else len(faults)})
    if faults:
        raise typer.Exit(InputError.exit_code)


@archive.command()
def digest(maps: Archive, as_json: Json = False) -> None:
    """One SHA-256 over what the archive says, the same however the run was spread, interrupted or packed."""
    from tumorcast.archive.verify import digest as digest_of

    sha256 = digest_of(maps)
    if as_json:
        print_result(as_json, {"archive": str(maps), "digest": sha256})
    else:
        typer.echo(sha256)


@archive.command()
def unpack(
    maps: Archive,
    out: Out,
    patient: Annotated[list[str] | None, typer.Option(help="This patient alone; repeat for more.")] = None,
    portable: Annotated[
        bool, typer.Option("--portable/--blosc2", help="gzip, for readers without a plugin; or as the archive.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write an archive for each patient into a folder; each is one by itself, to be passed on."""
    from tumorcast.archive.packing import Packing
    from tumorcast.archive.repack import unpack as run

    packing = Packing.PORTABLE if portable else Packing.BLOSC2
    with progress("patients", f"those in {out} are whole; start it again for the others") as report:
        paths = run(maps, out, patient, packing=packing, report=report)
    print_result(as_json, {"out": str(out), "archives": len(paths)})


@archive.command()
def repack(
    file: Annotated[Path, typer.Argument(help="maps.h5, or a cohort file.")],
    out: Out,
    portable: Annotated[
        bool, typer.Option("--portable/--blosc2", help="gzip, for readers without a plugin; or Blosc2 (maps alone).")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a copy that every HDF5 reader opens without a plugin; every sum of an archive is checked."""
    from tumorcast.archive.packing import Packing
    from tumorcast.archive.repack import repack as run

    packing = Packing.PORTABLE if portable else Packing.BLOSC2
    with progress("patients", "no copy was written; start it again") as report:
        run(file, out, packing=packing, report=report)
    print_result(as_json, {"out": str(out), "packing": str(packing), "bytes": out.stat().st_size})
