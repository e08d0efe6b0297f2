"""The command `experiment grid`."""

from typing import Annotated

import typer

from tumorcast.cli.experiment.launch import (
    Change,
    CohortFile,
    Members,
    Model,
    Patients,
    SamplingOptions,
    Seed,
    SoFar,
    launch_opened,
    of_followups,
)
from tumorcast.cli.option_groups import grouped_options
from tumorcast.cli.options import Json, Out
from tumorcast.errors import UsageError


@grouped_options
def grid(
    *,
    context: typer.Context,
    cohort: CohortFile,
    model: Model,
    out: Out,
    noise_levels: Annotated[str, typer.Option("--noise-level", help="NL, as 100,200,300.")] = "100,200,300",
    scales: Annotated[
        str | None,
        typer.Option("--scale", help="s_R of the paper's guidance and sampler; default 10000,50000,100000,200000."),
    ] = None,
    gains: Annotated[
        str | None, typer.Option("--gain", help="Instead: of the normalised guidance, as 0.25,0.5,1.")
    ] = None,
    relative_change: Change = None,
    members: Members = 4,
    patients: Patients = None,
    seed: Seed = None,
    sampling: SamplingOptions,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """Noise level against strength of the guidance (the paper's Fig. 2): what changes as asked, what is preserved."""
    from tumorcast.evaluation.experiments.grid import SCALES, GridExperiment, cells_of
    from tumorcast.settings import Guidance

    if scales is not None and gains is not None:
        raise UsageError("give --scale (the paper's guidance) or --gain (the normalised one), not both")
    levels = whole_numbers_of("--noise-level", noise_levels)
    if gains is not None:
        cells = cells_of(levels, Guidance.NORMALISED, numbers_of("--gain", gains))
    else:
        cells = cells_of(levels, Guidance.PAPER, numbers_of("--scale", scales) if scales else SCALES)
    launch_opened(
        of_followups(context.params, lambda source: GridExperiment(source, cells)), out, as_json, so_far=so_far
    )


def numbers_of(option: str, text: str) -> tuple[float, ...]:
    """`0.5,1` as numbers. Raises UsageError for what are none, or are not above zero.

    >>> numbers_of("--gain", "0.5,1")
    (0.5, 1.0)
    """
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise UsageError(f"{option} {text}: give numbers above 0, as 0.5,1")
    return tuple(dict.fromkeys(numbers))


def whole_numbers_of(option: str, text: str) -> tuple[int, ...]:
    """`100,200` as whole numbers. Raises UsageError for what are none, or are not above zero."""
    numbers = numbers_of(option, text)
    if any(number != int(number) for number in numbers):
        raise UsageError(f"{option} {text}: give whole numbers, as 100,200")
    return tuple(map(int, numbers))
