"""The command fit-place: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tumorcast.cli.options import Json, Out, choice, print_result, progress
from tumorcast.errors import UsageError


def fit_place(
    cohort: Annotated[Path, typer.Argument(help="A cohort file with two scans or more a patient.")],
    out: Out,
    candidates: Annotated[
        str,
        typer.Option(
            help="Some of front,voxel,network,fine-tuned. Default: front,voxel; with --start-from network too, and of "
            "50 pairs of scans or more fine-tuned.",
            show_default=False,
        ),
    ] = "",
    start_from: Annotated[
        Path | None, typer.Option(help="A progression network on volumes: a RUN folder, or a bundle to be measured.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Groups of patients left out in turn. Default: each patient, or ten groups.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of fine-tuning.")] = 300,
    device: Annotated[str, typer.Option(help="auto (cuda where torch sees one), cpu or cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """Learn from one's own patients where their tumours go: the best of several ways, measured by leaving patients out.

    The folder is for `tumorcast forecast --place`. Starting again goes on with networks that are trained.
    """
    from tumorcast.extra import check_extra

    check_extra()
    from tumorcast.evaluation.fit_place import FitPlaceSettings
    from tumorcast.evaluation.fit_place import fit_place as run

    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: allowed are auto, cpu, cuda")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    settings = FitPlaceSettings(_named(candidates), folds, start_from, steps, device)
    with progress("patients, looked at and measured", "networks that are trained stay; start it again") as report:
        result = run(cohort, out, settings, report=report, tell=lambda text: typer.echo(text, err=True))
    typer.echo(result.table(), err=as_json)
    found = result.as_dict()
    means = {method: {name: one.value for name, one in figures.items()} for method, figures in found["means"].items()}
    counts = {"patients": len(found["patients"]), "pairs": sum(found["pairs"])}
    shown = {"methods": _finite(means)} if as_json else {}
    print_result(as_json, {"out": str(out), "winner": found["winner"], "rule": found["rule"]} | counts | shown)


def _named(text: str) -> Any:
    """The candidates that --candidates names; None where it names none."""
    from tumorcast.forecasting.place_folder import Candidate

    names = [name.strip() for name in text.split(",") if name.strip()]
    return tuple(choice(Candidate, "--candidates", name) for name in names) or None


def _finite(values: Any) -> Any:
    from tumorcast.evaluation.tables import jsonable

    return jsonable(values)
