"""What a model set does on simulated patients it has not seen, aimed at the true later size; writes JSON.

For each pair of successive scans whose tumour grew by at least a tenth in the slice where the later one is largest:
an ensemble aims at the true later area. Judged: the size reached (by the segmenter, which does not guide), the outline,
the map of new tumour against maps that need no diffusion, and what happened to the rest of the image.

    benchmarks/demo_model.py COHORT.h5 --model tumorcast/models/demo64 --out result.json [--set gain=0.5 …]
"""

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import average_precision_score

from tumorcast.config import ForecastSettings, SamplerSettings
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.engines.engine import Engine
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.plan import PlannedSlice, Unit
from tumorcast.forecasting.targets import PatientTargets

LEAST_GROWTH = 1.1


@dataclass(frozen=True)
class Pair:
    """The same slice of a patient at two dates."""

    patient_id: str
    session_id: str
    place: PlannedSlice
    now: CohortSlice
    later: CohortSlice


def pairs_of(cohort: Cohort) -> Iterator[Pair]:
    """Every pair of successive scans with enough growth, in the slice where the later tumour is largest."""
    for patient in cohort.patient_ids():
        sessions = [info for info in cohort.sessions(patient) if info.n_slices]
        for before, after in itertools.pairwise(sessions):
            number = after.source_slice[int(np.argmax(after.area_mm2))]
            found = np.flatnonzero(before.source_slice == number)
            if not found.size:
                continue
            place = PlannedSlice(int(found[0]), int(number))
            now = cohort.slice(patient, before.id, place.index)
            later = cohort.slice(patient, after.id, int(np.argmax(after.area_mm2)))
            if now.area_mm2 > 0 and later.area_mm2 >= LEAST_GROWTH * now.area_mm2:
                yield Pair(patient, before.id, place, now, later)


def judge(pair: Pair, engine: Engine, settings: ForecastSettings) -> dict[str, float]:
    """Figures of one pair."""
    ratio = np.full(settings.members, pair.later.area_mm2 / pair.now.area_mm2)
    unit = Unit(pair.patient_id, pair.session_id, (pair.place,), 0, 0, settings.members)
    started = time.perf_counter()
    (forecast,) = forecast_unit(unit, [pair.now], PatientTargets(ratio, None, None), engine, settings).values()
    seconds = time.perf_counter() - started
    before, after = pair.now.labels > 0, pair.later.labels > 0
    new, candidates = after & ~before, pair.now.brain & ~before
    distance = distance_transform_edt(~before)
    far = pair.now.brain & (distance_transform_edt(~(before | after)) > 3)
    dilated = before | pair.now.brain & (
        distance <= np.quantile(distance[candidates], min(1.0, new.sum() / candidates.sum()))
    )
    logit = np.log(forecast.tumour_now + 1e-3)
    wanted = pair.later.area_mm2 - pair.now.area_mm2
    return {
        "seconds_per_member": seconds / settings.members,
        "growth_wanted": float(ratio[0] - 1),
        "reach": float((np.median(forecast.reached_mm2) - forecast.present_segmented_mm2) / wanted),
        "size_error": float(abs(np.median(forecast.reached_mm2) / pair.later.area_mm2 - 1)),
        "size_error_of_segmenter_now": float(abs(forecast.present_segmented_mm2 / pair.now.area_mm2 - 1)),
        "dice": dice(forecast.tumour > 0.5, after),
        "dice_no_change": dice(before, after),
        "dice_dilation": dice(dilated, after),
        "ap": average_precision(new, forecast.tumour, candidates),
        "ap_with_distance": average_precision(new, np.log(forecast.tumour + 1e-3) - 0.7 * distance, candidates),
        "ap_paper_map": average_precision(new, forecast.changed, candidates),
        "ap_dilation": average_precision(new, -distance, candidates),
        "ap_segmenter_and_distance": average_precision(new, logit - 0.7 * distance, candidates),
        "mean_change_far_away": float(np.abs(forecast.mean - pair.now.image)[:, far].mean()),
        "member_std": float(forecast.std[:, pair.now.brain].mean()),
    }


def dice(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Overlap of two masks."""
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


def average_precision(truth: np.ndarray[Any, Any], score: np.ndarray[Any, Any], where: np.ndarray[Any, Any]) -> float:
    """Average precision of a score for new tumour among the pixels outside the present one."""
    return float(average_precision_score(truth[where], score[where])) if truth[where].any() else float("nan")


def main() -> None:
    """Parse, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="sampler settings, key=value")
    options = parser.parse_args()
    given = dict(item.split("=", 1) for item in options.set)
    base = SamplerSettings.paper().model_dump() if given.get("preset") == "paper" else {}
    values = {key: None if value == "none" else value for key, value in given.items()}
    sampler = SamplerSettings.model_validate(base | values)
    settings = ForecastSettings(relative_change=0, members=options.members, sampler=sampler)
    engine = open_engine(EngineChoice(tuple(options.model)))
    with Cohort.open(options.cohort) as cohort:
        chosen = list(pairs_of(cohort))
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, min(options.pairs, len(chosen))).astype(int)]
        rows = [judge(pair, engine, settings) for pair in chosen]
    summary = {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}
    medians = {f"median_{key}": float(np.nanmedian([row[key] for row in rows])) for key in ("reach", "size_error")}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result = {"pairs": len(rows), "sampler": sampler.model_dump(mode="json"), "machine": machine} | summary | medians
    if options.out:
        options.out.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
