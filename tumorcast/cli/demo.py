"""The command demo: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.options import Json, print_result, stoppable


def demo(
    out: Annotated[Path, typer.Option("--out", help="A folder, made anew.")] = Path("demo-out"),
    patients: Annotated[int, typer.Option(min=1, help="Simulated patients.")] = 3,
    members: Annotated[int, typer.Option(min=1, help="Members of each ensemble.")] = 8,
    voxel_mm: Annotated[float, typer.Option(help="Voxel side of the simulated scans.")] = 2.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler each way.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a small cohort, prepare it, fit its growth, forecast 90 and 180 days ahead, report: minutes."""
    from tumorcast.running.demo import DemoSettings, run_demo

    with stoppable(f"{out} is not whole; start the demo again"):
        run_demo(out, DemoSettings(patients, members, voxel_mm, steps), lambda line: typer.echo(line, err=True))
    print_result(
        as_json, {"pictures": str(out / "pictures"), "growth": str(out / "growth"), "report": str(out / "report")}
    )
    typer.echo("For research, not a medical device.", err=True)
