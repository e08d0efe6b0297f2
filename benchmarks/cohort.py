"""What spreading a forecast over ranks costs: efficiency, overhead of a unit, memory over many units; writes JSON.

    benchmarks/cohort.py COHORT.h5 --model BUNDLE [--patients 12] [--repeats 3] [--units 100000] [--out result.json]

Efficiency: the same real units on one rank and on two, one thread each, from the first unit begun to the last one
written; and, since two threads may share one core's memory and clock, two runs beside each other that know nothing of
each other, which is what the machine can give. Overhead: empty units on 2 and 16 ranks through the queue of rank 0, and
through a counter in an MPI window (which does not tell rank 0 what is done). Memory: a thousand units in one process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from machine import describe

from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.opening import EngineChoice
from tumorcast.engines.protocol import ModelInfo
from tumorcast.forecasting.plan import PatientPlan, PlannedSlice, RunPlan, plan_patient
from tumorcast.running import forecast_run
from tumorcast.running.forecast_run import ForecastInputs, RunOptions, forecast_cohort
from tumorcast.running.ledger import Ledger, read_events
from tumorcast.running.merging import account
from tumorcast.running.ranks import Ranks, open_ranks
from tumorcast.running.work_queue import QueueClient, RankProgress, WorkQueue
from tumorcast.settings import ForecastSettings, NetworkKind, Provider, SamplerSettings

RANKS_OF_OVERHEAD = (2, 16)
MEMORY_UNITS = 1000
LOOK_EVERY = 100
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
MPIRUN = Path(sys.executable).parent / "mpirun"


def subset(source: Path, target: Path, patients: int) -> None:
    """A cohort of the first patients' last scans."""
    with Cohort.open(source) as cohort:
        ids = cohort.patient_ids()[:patients]
        sessions = [cohort.session(patient, cohort.sessions(patient)[-1].id) for patient in ids]
        size, contrasts, config = cohort.image_size, cohort.contrasts, cohort.config
    write_cohort(target, sessions, {}, image_size=size, contrasts=contrasts, config=config)


def start(ranks: int, cohort: Path, model: Path, out: Path) -> "subprocess.Popen[bytes]":
    """The real command on so many ranks, one thread each."""
    command = [
        *(str(MPIRUN), "--oversubscribe", "--bind-to", "none", "-n", str(ranks)),
        *(sys.executable, "-m", "mpi4py", "-m", "tumorcast", "forecast", str(cohort), "--model", str(model)),
        *("--relative-change", "0.25", "--members", "4", "--max-slices", "1", "--out", str(out), "--no-merge"),
    ]
    return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stderr=subprocess.DEVNULL)


def work_seconds(out: Path) -> float:
    """From the first unit begun to the last one written."""
    times: dict[str, list[float]] = {"begun": [], "written": []}
    for _, event in read_events(out.with_name(out.name.removesuffix(".h5") + ".events")):
        if event["event"] in times:
            times[event["event"]].append(event["time"])
    return max(times["written"]) - min(times["begun"])


def efficiency(cohort: Path, model: Path, repeats: int, folder: Path) -> dict[str, Any]:
    """Medians of one rank, two ranks, and two runs beside each other."""
    one, two, beside = [], [], []
    for k in range(repeats):
        outs = [folder / f"{k}-{name}.h5" for name in ("one", "two", "left", "right")]
        for ranks, out in ((1, outs[0]), (2, outs[1])):
            assert start(ranks, cohort, model, out).wait() == 0
        both = [start(1, cohort, model, out) for out in outs[2:]]
        assert [process.wait() for process in both] == [0, 0]
        one.append(work_seconds(outs[0]))
        two.append(work_seconds(outs[1]))
        beside.append(statistics.fmean(work_seconds(out) for out in outs[2:]))
    alone, shared, apart = (statistics.median(seconds) for seconds in (one, two, beside))
    return {
        "seconds": {"one rank": one, "two ranks": two, "two runs beside each other": beside},
        "efficiency": alone / (2 * shared),
        "machine_gives": alone / apart,
        "efficiency_of_what_the_machine_gives": apart / (2 * shared),
    }


def through_the_queue(ranks: Ranks, units: int) -> None:
    """Every unit taken and reported as done."""

    def work(take: Callable[[RankProgress], Any]) -> None:
        progress = RankProgress()
        while take(progress).unit >= 0:
            progress = RankProgress(done=1)
        take(RankProgress(last=True))

    if ranks.is_root:
        with WorkQueue(np.arange(units), ranks) as queue:
            work(queue.take)
            queue.wait_for_ranks()
    else:
        work(QueueClient(ranks).take)


def through_a_window(ranks: Ranks, units: int) -> None:
    """The same from a counter that every rank adds to by itself."""
    mpi: Any = sys.modules["mpi4py.MPI"]
    window = mpi.Win.Allocate(8 if ranks.is_root else 0, 8, comm=mpi.COMM_WORLD)
    if ranks.is_root:
        window.tomemory()[:] = bytes(8)
    ranks.all_of(None)
    one, number = np.ones(1, np.int64), np.zeros(1, np.int64)
    window.Lock_all()
    while number[0] < units:
        window.Fetch_and_op(one, number, 0)
        window.Flush(0)
    window.Unlock_all()
    window.Free()


def dispatch_rank(units: int) -> None:
    """What each rank of the overhead's measurement does."""
    with open_ranks() as ranks:
        microseconds = {}
        for way in (through_the_queue, through_a_window):
            ranks.all_of(None)
            began = time.perf_counter()
            way(ranks, units)
            ranks.all_of(None)
            microseconds[way.__name__] = 1e6 * (time.perf_counter() - began) / units
        if ranks.is_root:
            print(json.dumps(microseconds))


def overhead(units: int, repeats: int) -> dict[str, Any]:
    """Microseconds a unit, by ranks and way: wall time over units."""
    medians: dict[str, Any] = {}
    for ranks in RANKS_OF_OVERHEAD:
        command = [str(MPIRUN), "--oversubscribe", "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__]
        runs = []
        for _ in range(repeats):
            line = subprocess.check_output([*command, "--dispatch", str(units)], env=os.environ | ENVIRONMENT)
            runs.append(json.loads(line))
        medians[f"{ranks} ranks"] = {way: statistics.median(run[way] for run in runs) for way in runs[0]}
    return medians


class Empty:
    """An engine that does nothing."""

    info = ModelInfo(("t1n", "t1c", "t2w", "t2f"), 64, 350, NetworkKind.SEGMENTER, "empty")
    provider = Provider.CPU
    device = "cpu"

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """What it was given."""
        return x, x

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """What it was given."""
        return x, x

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """Nothing."""
        return np.zeros(len(x), np.float32)

    def segment(self, images: Array) -> Array:
        """Something."""
        return np.asarray(images[:, 0] > 0.5, np.float32)

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """The present outline: the model has no such network."""
        return outline


def memory(cohort: Path, folder: Path) -> dict[str, Any]:
    """Megabytes of this process over a thousand units, at every hundredth."""
    with Cohort.open(cohort) as opened:
        slices = sum(int((opened.sessions(pid)[-1].area_mm2 > 0).sum()) for pid in opened.patient_ids())
    members = -(-MEMORY_UNITS // max(slices, 1)) * 2
    sampler = SamplerSettings(steps=2)
    settings = ForecastSettings(relative_change=0.25, members=members, block=2, batch=2, sampler=sampler)
    seen: dict[int, float] = {}

    def look(tally: Any) -> None:
        if tally.done % LOOK_EVERY == 0:
            seen[tally.done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    inputs = ForecastInputs(cohort, EngineChoice(()), None)
    with mock.patch.object(forecast_run, "open_engine", lambda _: Empty()):
        forecast_cohort(inputs, folder / "memory.h5", settings, RunOptions(merge=False), report=look)
    return {"peak_mb_by_units": seen}


def bookkeeping(cohort: Path, folder: Path) -> dict[str, float]:
    """Milliseconds that rank 0 spends on a patient or a unit beside the forecasts; after `memory`, on its shards."""
    ledger = Ledger.standing(folder / "memory.h5")
    plan, _ = ledger.read_plan()
    units = list(plan)
    with Cohort.open(cohort) as opened:
        ids = opened.patient_ids()
        planned = milliseconds(lambda: [plan_patient(opened, patient, None) for patient in ids], len(ids))
    slices = tuple(PlannedSlice(k, k) for k in range(10))
    many = RunPlan(tuple(PatientPlan(f"P{k:05d}", "000", slices) for k in range(10_000)), 32, 64, 1)
    return {
        "plan a patient": planned,
        "order a unit": milliseconds(many.longest_first, len(many)),
        "plan.json, bytes a patient": len(many.to_json()) / len(many.patients),
        "look at a shard at the start": milliseconds(lambda: [ledger.is_done(unit) for unit in units], len(units)),
        "count a shard at the end": milliseconds(lambda: account(ledger, plan, {}), len(units)),
    }


def milliseconds(work: Callable[[], Any], count: int) -> float:
    """Of one of `count` pieces; median of three."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds) / count


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, nargs="?")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dispatch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dispatch:
        dispatch_rank(options.dispatch)
        return
    result: dict[str, Any] = {"machine": describe(threads=1)}
    with tempfile.TemporaryDirectory() as folder:
        cohort = Path(folder) / "cohort.h5"
        subset(options.cohort, cohort, options.patients)
        result["overhead_microseconds"] = overhead(options.units, options.repeats)
        result["efficiency"] = efficiency(cohort, options.model, options.repeats, Path(folder))
        result["memory"] = memory(cohort, Path(folder))
        result["bookkeeping_milliseconds"] = bookkeeping(cohort, Path(folder))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
