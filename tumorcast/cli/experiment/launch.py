"""Run an experiment as a command: common options, settings, cohort and model, ranks, what is printed, and exit codes.

A command ends in `launch` or `launch_opened`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.forecast_options import (
    A_MODEL,
    Batch,
    Device,
    EngineCache,
    ProviderName,
    Steps,
    engine_choice,
    forecast_settings,
)
from tumorcast.cli.options import ConfigFile, exit_if_failed, print_result, stoppable, tell_fate
from tumorcast.cli.progress import CohortProgress
from tumorcast.errors import StoppedError, UsageError

if TYPE_CHECKING:
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.opening import EngineChoice
    from tumorcast.engines.protocol import Engine
    from tumorcast.evaluation.experiments.base import Experiment
    from tumorcast.evaluation.experiments.followup_source import LatestFollowUps
    from tumorcast.running.ranks import Ranks

    Opened = Callable[[Ranks], AbstractContextManager[Experiment]]

CHANGE = 0.25
GO_ON = "finished units are kept; start the same command again to go on"

CohortFile = Annotated[Path, typer.Argument(help="A cohort file.")]
Model = Annotated[list[Path], typer.Option("--model", help=A_MODEL)]
Change = Annotated[
    float | None, typer.Option("--relative-change", help=f"Aimed at where no later scan tells ({CHANGE:g}).")
]
Members = Annotated[int | None, typer.Option("--members", min=1, help="Members of the ensemble.")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Of the members' noise, and of what the experiment draws.")
]
NoiseLevel = Annotated[int | None, typer.Option("--noise-level", help="NL: the diffusion time encoded up to.")]
Patients = Annotated[
    int | None, typer.Option("--patients", min=1, help="At most so many, spread evenly over the cohort.")
]

SoFar = Annotated[
    bool, typer.Option("--so-far", help="Measure nothing more: report on the units that are done, in OUT/so-far.")
]


@dataclass(frozen=True)
class SamplingOptions:
    """The sampler, and what computes; `of_followups` and `experiment_settings` read them from the context."""

    steps: Steps = None
    batch: Batch = None
    provider: ProviderName = ""
    device: Device = None
    engine_cache: EngineCache = None
    config: ConfigFile = None

    def engine_choice(self, model_paths: list[Path], rows: int) -> "EngineChoice":
        """The engine asked for, for batches of so many rows."""
        return engine_choice(model_paths, self.provider, self.device, cache=self.engine_cache, rows=rows)


def launch(experiment: "Experiment", out: Path, as_json: bool, *, so_far: bool) -> None:
    """Run an experiment of sizes alone, without an engine; print the result, end with 1 where units failed."""
    _launch(lambda _: nullcontext(experiment), out, as_json, so_far)


def launch_opened(opened: "Opened", out: Path, as_json: bool, *, so_far: bool) -> None:
    """The same of one that is made on each rank, once it keeps to its own cores: engines count them when they open.

    opened: gets the ranks, and gives the experiment as a context, at whose end its files are closed.
    Raises EngineError where a base installation lacks what measures images and maps.
    """
    from tumorcast.extra import check_extra

    check_extra()
    _launch(opened, out, as_json, so_far)


def _launch(opened: "Opened", out: Path, as_json: bool, so_far: bool) -> None:
    from tumorcast.evaluation.experiments.result_folder import ResultFolder
    from tumorcast.evaluation.experiments.run import ExperimentResult, report_so_far, run_experiment
    from tumorcast.running.ranks import open_ranks, pin_threads

    with open_ranks() as ranks, stoppable(GO_ON):
        pin_threads(ranks)
        with opened(ranks) as experiment, CohortProgress("units", silent=not ranks.is_root) as progress:
            name = experiment.name
            if so_far:
                result = report_so_far(experiment, out) if ranks.is_root else ExperimentResult(stopped=False)
            else:
                result = run_experiment(experiment, out, ranks, progress.tell)
    if result.stopped and not ranks.is_root:  # rank 0 says why
        raise typer.Exit(StoppedError.exit_code)
    if result.stopped:
        raise StoppedError(f"stopped: {GO_ON}")
    if ranks.is_root:
        for unit, reason in result.failed.items():
            tell_fate(unit, None, "failed", reason)
        counts = {"ok": result.done, "failed": len(result.failed)}
        answer = result.findings.answer if result.findings else ""
        written = ResultFolder(out).so_far if so_far else out
        print_result(as_json, {"out": str(written), "experiment": name, "units": counts, "answer": answer})
        exit_if_failed(len(result.failed))


@contextmanager
def cohort_and_engine(cohort: Path, wanted: "EngineChoice", ranks: "Ranks") -> Iterator[tuple["Cohort", "Engine"]]:
    """A cohort and the model for it, on this rank's own GPU. Raises InputError if they are for different images."""
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.opening import open_engine
    from tumorcast.engines.protocol import check_same_images
    from tumorcast.running.forecast_run import own_gpu

    engine = open_engine(own_gpu(wanted, ranks))
    with Cohort.open(cohort) as opened:
        check_same_images(opened, engine.info.images)
        yield opened, engine


def of_followups(options: dict[str, Any], made: "Callable[[LatestFollowUps], Experiment]") -> "Opened":
    """An experiment on the latest follow-ups of a cohort, by the common options."""
    settings = experiment_settings(options)
    chosen = options["model"], options["provider"], options["device"]
    wanted = engine_choice(*chosen, cache=options["engine_cache"], rows=settings.batch)

    @contextmanager
    def opened(ranks: "Ranks") -> "Iterator[Experiment]":
        from tumorcast.evaluation.experiments.followup_source import LatestFollowUps

        with cohort_and_engine(options["cohort"], wanted, ranks) as (cohort, engine):
            yield made(LatestFollowUps(cohort, engine, settings, options["patients"]))

    return opened


def experiment_settings(options: dict[str, Any]) -> Any:
    """Settings as of `forecast`; without a change of size given, that of CHANGE.

    Raises UsageError for a horizon: the later scan, where there is one, tells how far ahead is looked.
    """
    from tumorcast.settings import read_toml

    config, given = options["config"], options.get("relative_change")
    fixed = read_toml(config) if config else {}
    if "horizon_days" in fixed:
        raise UsageError(
            f"{config}: horizon_days = {fixed['horizon_days']} is for `tumorcast forecast`: an experiment looks ahead "
            "to each patient's later scan; leave it out"
        )
    if given is None and "relative_change" not in fixed:
        given = CHANGE
    return forecast_settings(options | {"relative_change": given})
