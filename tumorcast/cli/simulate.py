"""The command simulate: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.options import Jobs, Json, choice, print_result, progress, span


def simulate(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    patients: Annotated[int, typer.Option(help="How many patients.")] = 10,
    seed: Annotated[int, typer.Option(help="Patient k depends on this and on k alone.")] = 0,
    sessions: Annotated[str, typer.Option(help="Scans a patient: a number, or FEWEST-MOST.")] = "3-5",
    voxel_mm: Annotated[float, typer.Option(help="Voxel side; 1 gives 240 x 240 x 155 voxels.")] = 1.0,
    spread: Annotated[
        str,
        typer.Option(
            help="Tumours run along white matter's fibres, or along the surfaces of brain, ventricles and grey matter:"
            " fibres or surfaces."
        ),
    ] = "fibres",
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Write a simulated longitudinal cohort in BraTS layout, with clinical.csv and its truth."""
    from tumorcast.simulation.cohort import simulate_cohort
    from tumorcast.simulation.tumour import SpreadLaw

    with progress("patients", f"{out} is not whole; remove it and start again") as report:
        simulate_cohort(
            out,
            patients=patients,
            seed=seed,
            sessions=span("--sessions", sessions),
            voxel_mm=voxel_mm,
            spread=choice(SpreadLaw, "--spread", spread),
            jobs=jobs,
            progress=report,
        )
    print_result(as_json, {"out": str(out), "patients": patients, "seed": seed})
