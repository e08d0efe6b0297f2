"""The command prepare: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli_tools import (
    Jobs,
    Json,
    Out,
    choice,
    contrasts_of,
    exit_if_failed,
    print_result,
    stoppable,
    tell_fate,
)


def prepare(
    source: Annotated[Path, typer.Argument(help="A folder of scans, or a sessions.csv.")],
    out: Out,
    image_size: Annotated[int, typer.Option(help="Pixels a side of the 256 mm field: 64, 128 or 256.")] = 64,
    layout: Annotated[str, typer.Option(help="auto, brats, slices or table.")] = "auto",
    contrasts: Annotated[str, typer.Option(help="Some of t1n,t1c,t2w,t2f; by default those every scan has.")] = "",
    slices: Annotated[str, typer.Option(help="tumour, balanced (for training), all or largest.")] = "tumour",
    min_tumour_mm2: Annotated[float, typer.Option(help="Least tumour area of a slice chosen for it.")] = 50.0,
    brain: Annotated[str, typer.Option(help="auto, nonzero (skull-stripped) or head.")] = "auto",
    tumour: Annotated[
        str, typer.Option(help="Labels of the mask that count: whole (all), core (1 and 3) or enhancing (3).")
    ] = "whole",
    clinical: Annotated[Path | None, typer.Option(help="Table of scan days and radiotherapy dates.")] = None,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Read scans and write a cohort file of slices: one orientation, one scale, one size."""
    from tumorcast.data.brain import BrainMask
    from tumorcast.data.layouts import Layout
    from tumorcast.data.prepare import PrepareSettings, SliceChoice, TumourPart, prepare_cohort
    from tumorcast.records import Status

    settings = PrepareSettings(
        image_size=image_size,
        contrasts=contrasts_of(contrasts) or None,
        slices=choice(SliceChoice, "--slices", slices),
        min_tumour_mm2=min_tumour_mm2,
        brain=choice(BrainMask, "--brain", brain),
        tumour=choice(TumourPart, "--tumour", tumour),
    )
    with stoppable("nothing was written; start it again"):
        report = prepare_cohort(
            source,
            out,
            settings,
            layout=choice(Layout, "--layout", layout),
            clinical=clinical,
            jobs=jobs,
            on_outcome=lambda o: tell_fate(o.patient_id, o.session_id, o.status, o.reason or "; ".join(o.notes)),
        )
    counts = {str(status): report.count(status) for status in Status}
    result = {"out": str(out), "contrasts": [str(c) for c in report.contrasts], "sessions": counts}
    print_result(as_json, result)
    exit_if_failed(report.count(Status.FAILED))
