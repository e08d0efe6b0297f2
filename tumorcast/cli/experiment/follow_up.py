"""Options and files of the experiments that hide each patient's last scan: hindsight, finetune and contrasts."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorcast.cli.experiment.launch import cohort_and_engine
from tumorcast.cli.options import choice

if TYPE_CHECKING:
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.opening import EngineChoice
    from tumorcast.engines.protocol import Engine
    from tumorcast.evaluation.targets import TargetSource
    from tumorcast.running.ranks import Ranks

TARGETS = "the true later size (truth), or one forecast from the scans before it (ode)."
Slices = Annotated[
    int, typer.Option("--slices", min=1, help="The so many slices with most tumour of the last known scan.")
]
TrueTarget = Annotated[str, typer.Option("--target", help=f"What is aimed at: {TARGETS}")]


def target_source(target: str) -> "TargetSource":
    """Where target sizes come from, by --target."""
    from tumorcast.evaluation.followup import TargetSize
    from tumorcast.evaluation.targets import TargetSource

    return TargetSource.shipped(choice(TargetSize, "--target", target))


def open_followed(
    cohort: Path, wanted: "EngineChoice", targets: "TargetSource", ranks: "Ranks", stack: ExitStack
) -> "tuple[Cohort, Engine]":
    """A cohort with follow-ups, closed with the stack, and the model for it.

    Raises InputError if they do not go together, or no patient has two scans.
    """
    from tumorcast.evaluation.followup import followed_patients

    opened, engine = stack.enter_context(cohort_and_engine(cohort, wanted, ranks))
    followed_patients(opened)
    targets.check(opened)
    return opened, engine
