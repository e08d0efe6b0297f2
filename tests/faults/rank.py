"""Ranks of the kill matrix, `mpirun -n 3 python -m mpi4py rank.py OUT COHORT BEHAVIOUR`; or one rank of a test.

BEHAVIOUR is JSON: `sleep_seconds` of each guided step; `rank`, `stage` and `write`: who kills itself, at which stage
of which of its shards; `fails`: by rank, what else a FailingEngine is given; `unopened`: the ranks whose engine cannot
be opened.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # a rank starts in this folder, and knows no other of the tests'

from tests.fakes import FailingEngine, SlowEngine
from tumorcast.engines.opening import EngineChoice
from tumorcast.errors import EngineError, TumorcastError
from tumorcast.running import forecast_run
from tumorcast.running.forecast_run import ForecastInputs, ForecastResult, RunOptions, forecast_cohort
from tumorcast.running.ranks import open_ranks
from tumorcast.settings import ForecastSettings, SamplerSettings

SETTINGS = ForecastSettings(relative_change=0.25, members=5, batch=4, block=2, sampler=SamplerSettings(steps=2))
STAGES = ("before", "half written", "written", "synced", "renamed", "after")


def run(
    out: Path,
    cohort: Path,
    *,
    settings: ForecastSettings = SETTINGS,
    engine: SlowEngine | EngineError | None = None,
    options: RunOptions = forecast_run.AS_USUAL,
) -> ForecastResult:
    """A run with the cheap engine, on the ranks that were launched."""

    def opened(choice: EngineChoice) -> SlowEngine:
        if isinstance(engine, EngineError):
            raise engine
        return engine or SlowEngine()

    forecast_run.open_engine = opened
    with open_ranks() as ranks:
        return forecast_cohort(ForecastInputs(cohort, EngineChoice(()), None), out, settings, options, ranks=ranks)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal takes a moment


def die_at(stage: str, write_number: int) -> None:
    """Have this process kill itself at a stage of its shard number `write_number`."""
    write, left = forecast_run.write_shard, [write_number]

    def dying(*shard: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            write(*shard)
            return
        if stage == "before":
            kill()
        _arm(stage)
        write(*shard)
        kill()

    forecast_run.write_shard = dying


def _arm(stage: str) -> None:
    """The next call of the file system that belongs to the stage is the last one."""
    write_bytes, replace = Path.write_bytes, Path.replace

    def half(path: Path, content: Any) -> None:
        write_bytes(path, bytes(content)[: len(content) // 2])
        kill()

    def renamed(path: Path, target: Path) -> None:
        replace(path, target)
        kill()

    match stage:
        case "half written":
            Path.write_bytes = half
        case "written":
            os.fsync = lambda _: kill()
        case "synced":
            Path.replace = lambda path, target: kill()
        case "renamed":
            Path.replace = renamed


def main(out: Path, cohort: Path, behaviour: dict[str, Any]) -> int:
    """What every rank does; its exit code is that of the command."""
    (out.parent / f"pid.{os.getpid()}").touch()
    if "stage" in behaviour and int(os.environ["OMPI_COMM_WORLD_RANK"]) == behaviour["rank"]:
        die_at(behaviour["stage"], behaviour["write"])
    try:
        result = run(out, cohort, engine=engine_of(behaviour))
    except TumorcastError as fault:
        print(f"error: {fault}", file=sys.stderr, flush=True)
        return fault.exit_code
    for lost in result.lost:
        print(f"lost: {lost}", file=sys.stderr, flush=True)
    return 75 if result.stopped else 0


def engine_of(behaviour: dict[str, Any]) -> SlowEngine | EngineError:
    """This rank's engine."""
    rank = next(os.environ[name] for name in ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID") if name in os.environ)
    if int(rank) in behaviour.get("unopened", ()):
        return EngineError("provider cuda: libcublasLt.so.13 is missing; install tumorcast[gpu]")
    slowly = behaviour.get("sleep_seconds", 0.0)
    if rank in behaviour.get("fails", {}):
        return FailingEngine(sleep_seconds=slowly, **behaviour["fails"][rank])
    return SlowEngine(sleep_seconds=slowly)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
