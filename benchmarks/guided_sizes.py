"""Size reached against target size, -20 % to +100 %, under both guidance laws; writes JSON.

    OMP_NUM_THREADS=2 benchmarks/guided_sizes.py COHORT.h5 … --model BUNDLE [--slices 8] [--set gain=0.5 …]

Sizes are read by the bundle's segmenter, trained apart from the regressor that guides. `error`: |reached / target - 1|,
the target being the mask's area times one plus the change. `reach`: size gained over the target gain, from what the
segmenter sees in the present scan. Slices: of each patient's last scan the one with most tumour.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.protocol import Engine
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.inputs import slices_of
from tumorcast.forecasting.plan import RunPlan, plan_patient
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import ForecastSettings, SamplerSettings

Figures = np.ndarray[Any, Any]
CHANGES = np.array([-0.2, -0.1, 0.1, 0.25, 0.4, 0.6, 0.8, 1.0])


def errors_and_achieved(path: Path, engine: Engine, sampler: SamplerSettings, count: int) -> tuple[Figures, Figures]:
    """(slices, changes) errors and achieved fractions of a cohort."""
    settings = ForecastSettings(relative_change=0, members=len(CHANGES), sampler=sampler)
    targets = PatientTargets(1 + CHANGES)
    errors, achieved = [], []
    with Cohort.open(path) as cohort:
        plan = RunPlan.of(tuple(plan_patient(cohort, p, 1) for p in cohort.patient_ids()[:count]), settings)
        for unit in plan:
            (forecast,) = forecast_unit(unit, slices_of(unit, cohort), targets, engine, settings).values()
            errors.append(np.abs(forecast.reached_mm2 / forecast.aimed_mm2 - 1))
            achieved.append(achieved_fraction(forecast))
    return np.stack(errors), np.stack(achieved)


def achieved_fraction(forecast: SliceForecast) -> Figures:
    """(M,) of the target change of area, the share that each member came by; by the segmenter."""
    gained = forecast.reached_mm2 - forecast.present_segmented_mm2
    return np.asarray(gained / (forecast.aimed_mm2 - forecast.present_mm2))


def summary(parts: list[tuple[Figures, Figures]]) -> dict[str, Any]:
    """Medians over all, and by change."""
    errors, achieved = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {
        "slices": len(errors),
        "median_error": float(np.median(errors)),
        "median_reach": float(np.median(achieved)),
        "quartiles_of_reach": np.quantile(achieved, [0.25, 0.75]).round(3).tolist(),
        "by_change": {
            f"{change:+.0%}": {
                "median_error": round(float(np.median(errors[:, k])), 3),
                "median_reach": round(float(np.median(achieved[:, k])), 3),
            }
            for k, change in enumerate(CHANGES)
        },
    }


def main() -> None:
    """Parse, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", type=Path, nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--slices", type=int, default=8, help="patients of each cohort")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the normalised sampler, key=value")
    parser.add_argument("--skip-paper", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    machine = describe(threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    given = {key: None if value == "none" else value for key, value in (item.split("=", 1) for item in options.set)}
    laws = {"normalised": SamplerSettings.model_validate(given)}
    if not options.skip_paper:
        laws["paper"] = SamplerSettings.paper()
    engine = open_engine(EngineChoice((options.model,)))
    figures = {
        name: summary([errors_and_achieved(path, engine, sampler, options.slices) for path in options.cohorts])
        for name, sampler in laws.items()
    }
    result = {"machine": machine, "settings": laws["normalised"].model_dump(mode="json")} | figures
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
