"""The commands reader-study make and reader-study score: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tumorcast.cli.commands import Commands
from tumorcast.cli.options import Json, Out, print_result, stoppable

reader_study = Commands(help="Real and generated slices for blinded readers to tell apart, and their score.")


@reader_study.command()
def make(
    maps: Annotated[Path, typer.Argument(help="maps.h5 of `tumorcast forecast`, best with --keep-members.")],
    out: Out,
    truth: Annotated[Path, typer.Option(help="A cohort file with later scans of the same patients.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the choice and the order.")],
    count: Annotated[int, typer.Option(help="Pictures, half of them real.")] = 60,
    as_json: Json = False,
) -> None:
    """Write a shuffled set of pictures, a sheet to fill in, and beside them the sealed key."""
    from tumorcast.report.reader_study import make_study

    with stoppable(f"{out} is not whole; remove it and start again"):
        made = make_study(maps, truth, out, seed=seed, count=count)
    print_result(as_json, {"out": str(out)} | made)


@reader_study.command()
def score(
    key: Annotated[Path, typer.Argument(help="key.json of the study.")],
    sheets: Annotated[list[Path], typer.Argument(help="Filled sheets, one a reader.")],
    as_json: Json = False,
) -> None:
    """Score filled sheets: accuracy with its interval, sensitivity, specificity, AUC, and agreement of readers."""
    from tumorcast.report.reader_study import score_study

    found = score_study(key, sheets)
    print_result(as_json, found if as_json else _lines(found))


def _lines(found: dict[str, Any]) -> dict[str, str]:
    lines = {"pictures": str(found["pictures"])}
    for reader in found["readers"]:
        shares = (
            f"{name} {reader[name]:.2f} ({reader[f'{name}_95'][0]:.2f} to {reader[f'{name}_95'][1]:.2f})"
            for name in ("accuracy", "sensitivity", "specificity")
        )
        lines[reader["sheet"]] = f"{', '.join(shares)}, AUC {reader['auc']:.2f}"
    agreement = found["agreement"]
    if agreement is not None:
        kappa = agreement["kappa"]
        lines[agreement["name"]] = "not defined, all answers are the same" if kappa is None else f"{kappa:.2f}"
    return lines
