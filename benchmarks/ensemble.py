"""A 32-member ensemble of one slice: the paper's loop against the default, in time and in maps; writes JSON.

    OMP_NUM_THREADS=2 benchmarks/ensemble.py COHORT.h5 --model BUNDLE [--patients ID …] [--references FOLDER]
                                             [--members 32] [--out result.json]

The default decodes in boxes where the bundle was exported with --boxes; whole slices stand beside it.
Members have target changes of area from -20 % to +100 %. The reference is the default guidance with each of the
199 + 199 steps, first order, and each member encoded by itself; run with two seeds, which tells how far maps differ by
chance. They take most of the time: in --references they are kept, and found again; --times-alone compares nothing.
The paper's loop (eager torch, batch 1) is timed on `--paper-members` and multiplied: its members are independent.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guided_sizes import achieved_fraction
from machine import describe
from paper_step import as_the_paper
from scipy.ndimage import binary_erosion, distance_transform_edt

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort
from tumorcast.durable import sha256_of
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.protocol import Engine
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.inputs import slices_of
from tumorcast.forecasting.plan import RunPlan, Unit, plan_patient
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import Decoding, ForecastSettings, Provider, SamplerSettings

Map = np.ndarray[Any, Any]
CHANGES = (-0.2, 1.0)
REFERENCE = SamplerSettings(decoding=Decoding.SLICE, steps=None, order=1, encodings=None)


def ensemble(
    unit: Unit,
    cohort: Cohort,
    engine: Engine,
    sampler: SamplerSettings,
    members: int,
    *,
    seed: int = 0,
    batch: int = 16,
) -> tuple[SliceForecast, float]:
    """The forecast and its seconds."""
    settings = ForecastSettings(relative_change=0, members=members, seed=seed, sampler=sampler, batch=batch)
    targets = PatientTargets(1 + np.linspace(*CHANGES, members))
    started = time.perf_counter()
    unit, slices = replace(unit, last=members), slices_of(unit, cohort)
    (forecast,) = forecast_unit(unit, slices, targets, engine, settings).values()
    return forecast, time.perf_counter() - started


def agreement(first: SliceForecast, second: SliceForecast) -> dict[str, float]:
    """Of two maps: mean absolute difference in the brain, and Dice and HD95 (pixels) where they exceed a half."""
    a, b = first.tumour > 0.5, second.tumour > 0.5
    return {
        "mean_absolute_difference": float(np.abs(first.tumour - second.tumour)[first.brain].mean()),
        "dice": float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1)),
        "hd95_pixels": hd95(a, b),
    }


def hd95(a: Map, b: Map) -> float:
    """The larger of both directed 95th percentiles of the distance between outlines."""
    first, second = (mask & ~binary_erosion(mask) for mask in (a, b))
    directed = [(first, second), (second, first)]
    return float(max(np.percentile(distance_transform_edt(~to)[of], 95) for of, to in directed))


def sizes(forecast: SliceForecast) -> dict[str, float]:
    """How near the members came to their targets, by the segmenter."""
    moved = np.abs(forecast.aimed_mm2 - forecast.present_mm2) > 0.1 * forecast.present_mm2
    return {
        "median_size_error": float(np.median(np.abs(forecast.reached_mm2 / forecast.aimed_mm2 - 1))),
        "reach": float(np.median(achieved_fraction(forecast)[moved])),
    }


def reference(
    unit: Unit, cohort: Cohort, engine: Engine, options: argparse.Namespace, seed: int
) -> tuple[SliceForecast, float]:
    """The reference's forecast and its seconds: those kept, or made and kept now."""
    if options.references is None:
        return ensemble(unit, cohort, engine, REFERENCE, options.members, seed=seed)
    weights = sha256_of(options.model / "weights.safetensors")[:12]
    made_of = f"{weights}-{unit.patient_id}-{unit.slices[0].name}-{options.members}-{seed}"
    kept = options.references / f"{made_of}.npz"
    if not kept.is_file():
        forecast, seconds = ensemble(unit, cohort, engine, REFERENCE, options.members, seed=seed)
        kept.parent.mkdir(parents=True, exist_ok=True)
        given = {field.name: getattr(forecast, field.name) for field in fields(forecast)}
        np.savez(kept, seconds=seconds, **{name: value for name, value in given.items() if value is not None})
    with np.load(kept) as stored:
        found = {name: part if part.ndim else part.item() for name, part in stored.items()}
    seconds = found.pop("seconds")
    return SliceForecast(**found), seconds


def slice_figures(unit: Unit, cohort: Cohort, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one slice."""
    fast = open_engine(EngineChoice((options.model,)))
    times = _times(unit, cohort, fast, options)
    if options.times_alone:
        return times[0]
    references = [reference(unit, cohort, fast, options, seed) for seed in (0, 1)]
    curve = {}
    for steps in options.steps:
        for order in (1, 2):
            sampler = SamplerSettings(decoding=Decoding.SLICE, steps=steps, order=order)
            forecast, seconds = ensemble(unit, cohort, fast, sampler, options.members)
            agreed = agreement(forecast, references[0][0])
            curve[f"{steps} steps, order {order}"] = agreed | sizes(forecast) | {"seconds": seconds}
    figures, default, slices = times
    return figures | {
        "reference_seconds": references[0][1],
        "whole_slices_agree": agreement(slices, references[0][0]),
        "whole_slices_agree_with_other_seed": agreement(slices, references[1][0]),
        "seeds_agree": agreement(references[0][0], references[1][0]),
        "default_agrees": agreement(default, references[0][0]),
        "default_agrees_with_other_seed": agreement(default, references[1][0]),
        "reference_sizes": sizes(references[0][0]),
        "default_sizes": sizes(default),
        "whole_slices_sizes": sizes(slices),
        "curve": curve,
    }


def _times(
    unit: Unit, cohort: Cohort, fast: Engine, options: argparse.Namespace
) -> tuple[dict[str, Any], SliceForecast, SliceForecast]:
    """Seconds of the default, of whole slices and of the paper's loop; and the first two's forecasts.

    The first two are made several times, by turns after one of each, and the median counts.
    """
    samplers = {"default": SamplerSettings(), "whole_slices": SamplerSettings(decoding=Decoding.SLICE)}
    forecasts = {name: ensemble(unit, cohort, fast, sampler, options.members)[0] for name, sampler in samplers.items()}
    taken: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(options.repeats):
        for name, sampler in samplers.items():
            taken[name].append(ensemble(unit, cohort, fast, sampler, options.members)[1])
    eager = open_engine(EngineChoice((options.model,), Provider.TORCH))
    with as_the_paper():
        _, paper = ensemble(unit, cohort, eager, SamplerSettings.paper(), options.paper_members, batch=1)
    paper_seconds = paper / options.paper_members * options.members
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    figures = {
        "patient": unit.patient_id,
        "slice": unit.slices[0].name,
        "in_boxes": fast.info.box_multiple is not None,
        "paper_seconds": paper_seconds,
        "paper_members_timed": options.paper_members,
        "default_seconds": seconds["default"],
        "whole_slices_seconds": seconds["whole_slices"],
        "all_seconds": taken,
        "times_the_paper": paper_seconds / seconds["default"],
        "times_whole_slices": seconds["whole_slices"] / seconds["default"],
    }
    return figures, forecasts["default"], forecasts["whole_slices"]


def main() -> None:
    """Parse, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--patients", nargs="+", metavar="ID", help="default: the first")
    parser.add_argument("--references", type=Path, metavar="FOLDER")
    parser.add_argument("--times-alone", action="store_true", help="no references, nothing compared")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--paper-members", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="*", default=[8, 12, 16, 25, 50], help="of the curve")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    torch.set_num_threads(threads)
    machine = describe(threads=threads)
    largest = ForecastSettings(relative_change=0)
    with Cohort.open(options.cohort) as cohort:
        patients = options.patients or cohort.patient_ids()[:1]
        plan = RunPlan.of(tuple(plan_patient(cohort, patient, 1) for patient in patients), largest)
        units = list(plan)
        slices = [slice_figures(unit, cohort, options) for unit in units]
    result = {"machine": machine, "members": options.members, "slices": slices}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
