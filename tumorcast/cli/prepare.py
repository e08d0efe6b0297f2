"""The command prepare: parse, call, print."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tumorcast.cli.options import (
    Jobs,
    Json,
    choice,
    contrasts_of,
    exit_if_failed,
    only_given,
    print_result,
    stoppable,
    tell_fate,
)
from tumorcast.counted import counted
from tumorcast.errors import InputError, UsageError

PLAIN_SETTINGS = ("min_tumour_mm2", "deformable", "n4", "brain_mask", "brain_tool", "voxel_mm")
RegisterName = Annotated[
    str, typer.Option("--register", help="none, or rigid: contrasts onto one, scans onto the first.")
]
Deformable = Annotated[bool, typer.Option("--deformable", help="Then bend what lies outside the tumour.")]
Bias = Annotated[bool, typer.Option("--n4", help="Correct the bias of each volume (N4).")]
BrainFiles = Annotated[str | None, typer.Option(help="Masks: '{folder}/{patient}_{session}-brain.nii.gz', or a table.")]
BrainTool = Annotated[str | None, typer.Option(help="Command that makes them: 'hd-bet -i {input} -o {output}'.")]
Labels = Annotated[
    str, typer.Option(help="What masks' labels mean: the name of a scheme (docs/formats.md), or as '1:3 2:1 4:0'.")
]
Model = Annotated[str | None, typer.Option(help="A bundle, or a shipped model: gives image size and contrasts.")]
Unmatched = Annotated[bool, typer.Option("--allow-unmatched", help="Go on without rows of tables that fit no scan.")]
Quality = Annotated[Path | None, typer.Option("--qc", help="Folder for a table and pictures of the registrations.")]


def prepare(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A folder of scans, or a sessions.csv.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where the cohort file is written.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Pixels a side of the 256 mm field: 64, 128 (default) or 256.", show_default=False),
    ] = None,
    model: Model = None,
    layout: Annotated[str, typer.Option(help="auto, or the name of one: see docs/formats.md.")] = "auto",
    derivatives: Annotated[str, typer.Option(help="BIDS: the pipeline below derivatives whose masks are taken.")] = "",
    contrasts: Annotated[str, typer.Option(help="Some of t1n,t1c,t2w,t2f; by default those every scan has.")] = "",
    voxel_mm: Annotated[float, typer.Option(help="Of the volumes for growth maps in 3-D; 0 keeps none.")] = 2.0,
    slices: Annotated[str, typer.Option(help="tumour, balanced (for training), all or largest.")] = "tumour",
    min_tumour_mm2: Annotated[float, typer.Option(help="Least tumour area of a slice chosen for it.")] = 50.0,
    brain: Annotated[str, typer.Option(help="auto, nonzero (skull-stripped), head or inner (by a rule).")] = "auto",
    tumour: Annotated[
        str, typer.Option(help="Labels of the mask that count: whole (all), core (1 and 3) or enhancing (3).")
    ] = "whole",
    labels: Labels = "",
    clinical: Annotated[Path | None, typer.Option(help="Table of scan days and radiotherapy dates.")] = None,
    allow_unmatched: Unmatched = False,
    register: RegisterName = "none",
    deformable: Deformable = False,
    n4: Bias = False,
    brain_mask: BrainFiles = None,
    brain_tool: BrainTool = None,
    qc: Quality = None,
    jobs: Jobs = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what is there and what is missing; no work.")
    ] = False,
    table: Annotated[Path | None, typer.Option(help="With --dry-run: write it as a sessions.csv to correct.")] = None,
    as_json: Json = False,
) -> None:
    """Read scans and write a cohort file of slices: one orientation, one scale, one size.

    Over MPI ranks: mpirun -n 4 python -m mpi4py -m tumorcast prepare …
    """
    from tumorcast.data.readers.layouts import Layout

    settings = _settings(context.params)
    source = source / "derivatives" / derivatives if derivatives else source
    if dry_run:
        _list_scans(source, settings, context.params | {"layout": choice(Layout, "--layout", layout)})
        return
    if out is None or table is not None:
        raise UsageError("--out FILE is missing" if out is None else "--table FILE goes with --dry-run only")
    _write(source, out, settings, context.params | {"layout": choice(Layout, "--layout", layout)})


def _settings(options: dict[str, Any]) -> Any:
    """How scans become slices, as the options say. Raises UsageError for a value that is not allowed."""
    from tumorcast.data.imaging.brain_mask import BrainMask
    from tumorcast.data.prepare import PrepareSettings, Register, SliceChoice, TumourPart
    from tumorcast.data.readers.labels import parsed

    image_size, contrasts = _images_of_model(options)
    plain = {name: options[name] for name in PLAIN_SETTINGS} | only_given({"image_size": image_size})
    return PrepareSettings(
        contrasts=contrasts,
        labels=parsed("--labels", options["labels"]) if options["labels"] else None,
        slices=choice(SliceChoice, "--slices", options["slices"]),
        brain=choice(BrainMask, "--brain", options["brain"]),
        tumour=choice(TumourPart, "--tumour", options["tumour"]),
        register=choice(Register, "--register", options["register"]),
        **plain,
    )


def _images_of_model(options: dict[str, Any]) -> tuple[int | None, Any]:
    """Image size and contrasts: of --model, or those told, or None. Raises UsageError where both are and differ."""
    asked_size, asked = options["image_size"], contrasts_of(options["contrasts"]) or None
    if options["model"] is None:
        return asked_size, asked
    from tumorcast.engines.locating import images_of, locate

    model = options["model"]
    images = images_of(locate(Path(model)))
    if asked_size not in {None, images.image_size}:
        raise UsageError(f"--image-size {asked_size}: {model} takes {images.image_size}; leave the option out")
    if asked is not None and set(asked) != set(images.contrasts):
        raise UsageError(
            f"--contrasts {options['contrasts']}: {model} takes {','.join(images.contrasts)}; leave the option out"
        )
    return images.image_size, contrasts_of(",".join(images.contrasts))


def _write(source: Path, out: Path, settings: Any, options: dict[str, Any]) -> None:
    """Prepare on all ranks; rank 0 tells how it went."""
    from tumorcast.data.prepare import NothingUsableError, Register, plan_cohort
    from tumorcast.records import Status
    from tumorcast.running.prepare_run import prepare_over_ranks
    from tumorcast.running.ranks import open_ranks

    asked = {name: options[name] for name in ("layout", "clinical", "allow_unmatched")} | {"quality": options["qc"]}
    with open_ranks() as ranks, stoppable("nothing was written; start it again"):
        try:
            report = prepare_over_ranks(
                partial(plan_cohort, source, settings, **asked),
                out,
                ranks,
                jobs=options["jobs"],
                on_outcome=lambda o: tell_fate(o.patient_id, o.session_id, o.status, o.reason or "; ".join(o.notes)),
            )
        except NothingUsableError as fault:
            _print_balance(fault.balance)
            raise
    if report is None:
        return
    _print_balance(report.balance)
    counts = {str(status): report.count(status) for status in Status}
    flagged = {} if settings.register is Register.NONE else {"flagged": report.flagged}
    result = {"out": str(out), "contrasts": [str(c) for c in report.contrasts], "sessions": counts, **flagged}
    balance = {"balance": report.balance.as_dict()} if options["as_json"] else {}
    print_result(options["as_json"], result | balance)
    exit_if_failed(report.count(Status.FAILED) + report.balance.lost)


def _print_balance(balance: Any) -> None:
    for line in balance.lines():
        typer.echo(line, err=True)


def _list_scans(source: Path, settings: Any, options: dict[str, Any]) -> None:
    """Print what there is of each patient, and write it as a table where one was named."""
    from tumorcast.data.inventory import ScanRequirements, take_inventory, write_table
    from tumorcast.data.prepare import Register, SliceChoice

    required = ScanRequirements(
        settings.contrasts,
        mask=settings.slices is not SliceChoice.ALL,
        one_grid=settings.register is Register.NONE,
        labels=settings.labels,
        least_mm2=settings.min_tumour_mm2,
        part=settings.tumour,
    )
    inventory = take_inventory(source, options["layout"], options["clinical"], required)
    if options["as_json"]:
        print_result(options["as_json"], inventory.as_dict())
    else:
        typer.echo("\n".join(inventory.lines()))
    for warning in inventory.warnings:
        typer.echo(f"WARNING {warning}", err=True)
    _print_balance(inventory.balance)
    if options["table"] is not None:
        write_table(options["table"], inventory)
    if not options["allow_unmatched"]:
        inventory.survey.refuse_unmatched()
    if not inventory.usable:
        raise InputError(f"{source}: none of {counted(len(inventory.scans), 'scan')} can be used; the list says why")
    exit_if_failed(len(inventory.scans) - inventory.usable + inventory.balance.lost)
