"""Options and files of the experiments that hide each patient's last scan: hindsight, finetune and contrasts."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.options import choice

if TYPE_CHECKING:
    from tumorcast.engines.protocol import Engine
    from tumorcast.evaluation.experiments.later import FollowedCohort, SizeSource
    from tumorcast.running.ranks import Ranks

TARGETS = "the true later size (truth), or one forecast from the scans before it (ode)."
Slices = Annotated[
    int, typer.Option("--slices", min=1, help="The so many slices with most tumour of the last known scan.")
]
TrueTarget = Annotated[str, typer.Option("--target", help=f"What is aimed at: {TARGETS}")]


def target_sizes(target: str) -> "SizeSource":
    """What forecasts aim at, by --target."""
    from tumorcast.evaluation.comparison import TargetMode
    from tumorcast.evaluation.experiments.later import SizeSource

    return SizeSource.shipped(choice(TargetMode, "--target", target))


def open_follow_ups(
    cohort: Path, wanted: Any, sizes: "SizeSource", ranks: "Ranks", stack: ExitStack
) -> "tuple[FollowedCohort, Engine]":
    """A cohort with its last scans hidden, and the model for it. Raises InputError if they do not go together."""
    from tumorcast.engines.opening import open_engine
    from tumorcast.engines.protocol import check_same_images
    from tumorcast.evaluation.experiments.later import FollowedCohort
    from tumorcast.running.forecast_run import own_gpu

    engine, followed = open_engine(own_gpu(wanted, ranks)), FollowedCohort.open(cohort, stack)
    check_same_images(followed.truth, engine.info.images)
    sizes.check(followed.truth)
    return followed, engine
