"""What a model set does on patients it has not seen, beside everything that needs less; writes pages and their figures.

    benchmarks/model_card.py TEST_COHORT.h5 --model BUNDLE --out docs/model-card [--members 16] [--set gain=0.5 …]

Each patient's last scan is forecast from the scans before it, aimed at the true size and at a forecast one, and judged
by `tumorcast evaluate`, whose pages go into --out/truth and --out/aimed; README.md and figures.json beside them tell
the goals, and what the networks do by themselves. Finished patients are kept in --rows (by default OUT.rows): if
started again, it goes on with the next. The machine that the page names is the one that ended it.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from last_scans import LastScans, OtherMaps, evaluated, folder_of, largest_slices
from machine import describe
from regressor import r_squared, regressor_sizes

from tumorcast.archive.maps import MapArchive
from tumorcast.data.cohort import Cohort
from tumorcast.durable import written_whole
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.protocol import Engine, check_same_images
from tumorcast.errors import TumorcastError
from tumorcast.evaluation.aggregate import Summaries
from tumorcast.evaluation.baselines import Method, unguided
from tumorcast.evaluation.experiments.base import spread_evenly
from tumorcast.evaluation.failure_flags import reach_of
from tumorcast.evaluation.followup import FollowUp, TargetSize, followed_patients
from tumorcast.evaluation.metrics import AP, HD95, SSIM, Metric, ssim
from tumorcast.evaluation.score import members_of, outside_tumour, reconstruction
from tumorcast.evaluation.statistics import Estimate, mean_of, median_of, patient_mean
from tumorcast.evaluation.tables import jsonable, markdown_table, write_evaluation
from tumorcast.evaluation.targets import TargetSource
from tumorcast.settings import ForecastSettings, Provider, SamplerSettings
from tumorcast.version import VERSION

LEAST_PATIENTS = 30
NETWORKS = (
    Metric("r2_clean", "R², clean slices", 3, True, (-np.inf, 1.0), r_squared),
    Metric("r2_noisy", "R², noise of t = 200", 3, True, (-np.inf, 1.0), r_squared),
    Metric("r2_clean_tumour", "R², clean slices with tumour", 3, True, (-np.inf, 1.0), r_squared),
    Metric("r2_noisy_tumour", "R², noise of t = 200, slices with tumour", 3, True, (-np.inf, 1.0), r_squared),
    SSIM.called("ssim_unguided", "SSIM to the input, unguided encode and decode, brain"),
    SSIM.called("ssim_outside", "SSIM to the present scan, guided, outside the tumour"),
    Metric("size_error", "error of the size reached, over the size aimed at (median)", 3, False, (0.0, np.inf), abs),
    Metric("reach", "reach (gained / wanted, median)", 2, None, (-np.inf, np.inf), reach_of),
)


def whole(least: int) -> Callable[[str], int]:
    """Of argparse: a whole number, not below `least`."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: at least {least}")
        return int(text)

    return number


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="a bundle, or RUN folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument("--rows", type=Path, help="folder of finished patients")
    parser.add_argument("--provider", type=Provider, choices=list(Provider))
    parser.add_argument("--device")
    parser.add_argument("--members", type=whole(1), default=16)
    parser.add_argument("--batch", type=whole(1), default=16)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--max-slices", type=whole(1), default=1, help="of a patient, those with most tumour")
    parser.add_argument(
        "--paper-members", type=whole(0), default=2, help="398 evaluations each; 0 leaves the paper out"
    )
    parser.add_argument("--paper-patients", type=whole(0), default=10)
    parser.add_argument("--regressor-slices", type=whole(1), default=60, help="of a patient, for R²")
    parser.add_argument("--set", nargs="*", default=[], help="sampler settings, key=value")
    return parser.parse_args()


def settings_of(options: argparse.Namespace) -> ForecastSettings:
    """What the options ask for."""
    given = {key: value for key, _, value in (item.partition("=") for item in options.set)}
    base = SamplerSettings.paper().model_dump() if given.get("preset") == "paper" else {}
    values = {key: None if value == "none" else value for key, value in given.items()}
    return ForecastSettings.of(
        {
            "relative_change": 0,
            "members": options.members,
            "batch": options.batch,
            "block": options.members,
            "seed": options.seed,
            "keep_members": True,
            "sampler": SamplerSettings.of(base | values, "--set"),
        },
        "model_card.py",
    )


@dataclass(frozen=True)
class Goal:
    """One thing that was to be reached, and whether it was; found: in words."""

    wanted: str
    found: str
    reached: bool


def goals(summaries: Mapping[TargetSize, Summaries], networks: Mapping[str, Estimate], patients: int) -> list[Goal]:
    """Every goal of the project for its demo model, whatever came of it."""
    reach, error = networks["reach"].value, networks["size_error"].value
    found = [
        Goal(f"at least {LEAST_PATIENTS} patients", str(patients), patients >= LEAST_PATIENTS),
        _at_least("regressor's R² on clean slices", networks["r2_clean"].value, 0.97),
        _at_least("regressor's R² at t = 200", networks["r2_noisy"].value, 0.85),
        _at_least("SSIM of unguided encode and decode", networks["ssim_unguided"].value, 0.95),
        _at_least("SSIM outside the tumour, guided", networks["ssim_outside"].value, 0.93),
        Goal("size reached within 10 % (median)", f"{error:.1%}", error <= 0.10),
        Goal("reach 0.9 to 1.1 (median)", f"{reach:.2f}", 0.9 <= reach <= 1.1),
    ]
    for target, told in summaries.items():
        product = next(line for line in told.methods if line.method is Method.PRODUCT)
        found.append(_at_least(f"average precision, {target.label}", product.means[AP.name].value, 0.92))
        found += [
            _better(metric, line.method, line.differences[metric.name].estimate, target)
            for line in told.methods
            if line.method not in (Method.PRODUCT, Method.GENERATED, Method.PROGRESSION_ALONE, Method.CHANGED)
            for metric in (AP, HD95)
        ]
    return found


def _at_least(what: str, value: float, limit: float) -> Goal:
    return Goal(f"{what}: {limit:g} or more", f"{value:.3f}", value >= limit)


def _better(metric: Metric, method: Method, less: Estimate, target: TargetSize) -> Goal:
    wanted = f"{metric.label.split(',')[0]} better than {method.label}, {target.label}"
    reached = less.excludes_zero and (less.value > 0) == metric.higher_is_better
    return Goal(wanted, f"{less.text(3, signed=True)}, {less.patients} patients", reached)


def network_figures(scans: LastScans, engine: Engine, path: Path, slices: int) -> dict[str, Estimate]:
    """NETWORKS: what the networks do by themselves, and what the forecasts at the true size preserve and reach."""
    cohort, settings = scans.cohort, scans.settings
    sizes = [
        regressor_sizes(cohort, name, engine, slices=slices, batch=settings.batch, seed=settings.seed)
        for name in cohort.patient_ids()
    ]
    figures = {
        f"r2_{name}{'_tumour' if tumour_only else ''}": r_squared(sizes, name, tumour_only=tumour_only)
        for tumour_only in (False, True)
        for name in ("clean", "noisy")
    }
    with MapArchive.open(path) as archive:
        names = [patient.patient_id for patient in archive.patients()]
        values = np.array([_patient_figures(archive, scans.followups(name), engine, settings) for name in names]).T
    figures |= {"ssim_unguided": mean_of(values[0]), "ssim_outside": mean_of(values[1])}
    return figures | {"size_error": median_of(values[2]), "reach": median_of(values[3])}


def _patient_figures(
    archive: MapArchive, followups: tuple[FollowUp, ...], engine: Engine, settings: ForecastSettings
) -> list[float]:
    """Means over slices of the last four of NETWORKS."""
    found = []
    for followup in followups:
        forecast = archive.slice(followup.patient_id, followup.planned.name)
        members = members_of(forecast)
        outside = outside_tumour(followup, members, engine, settings.batch)
        similar = [ssim(image, followup.now.image, mask) for image, mask in zip(members, outside, strict=True)]
        unchanged, _ = reconstruction(followup, unguided(followup, engine, settings))
        error = float(np.median(np.abs(forecast.reached_mm2 / forecast.aimed_mm2 - 1)))
        found.append((unchanged, patient_mean(similar), error, reach_of(forecast)))
    return [patient_mean(values) for values in zip(*found, strict=True)]


def page(record: Mapping[str, Any], reached: list[Goal], networks: Mapping[str, Estimate]) -> str:
    """README.md."""
    model, cohort, machine, engine = (record[name] for name in ("model", "cohort", "machine", "engine"))
    lines = [(one.wanted, one.found, "reached" if one.reached else "**not reached**") for one in reached]
    return (
        f"# {model['name']} against what needs less\n\n"
        "Written by `benchmarks/model_card.py`; every figure and setting stands in [figures.json](figures.json). "
        "**For research; not a medical device.**\n\n"
        f"Model SHA-256 {model['sha256'][:12]}, cohort {cohort['name']} ({cohort['sha256'][:12]}): each patient's last "
        f"scan, forecast from the scans before it by {record['settings']['forecast']['members']} members. "
        f"{engine['provider']} on {engine['device']}, {machine['processor']}, {machine['date']}, "
        f"commit {machine['commit']}.\n\n"
        "Methods beside each other: [aimed at the true size](truth/evaluation.md), [aimed at the growth "
        "forecast](aimed/evaluation.md). What diffusion adds to the map is the difference to the progression network "
        "alone, a row of both; that network is a part of the growth map and no baseline. The paper's map is aimed at "
        "the true size in both.\n\n"
        f"## Goals\n\n{markdown_table(('goal', 'found', ''), lines)}\n"
        "## Networks and images\n\n"
        + markdown_table(
            ("at the true size", "found [95 %]"),
            [(metric.label, networks[metric.name].text(metric.digits)) for metric in NETWORKS],
        )
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Forecast, judge, write, and return what is printed."""
    machine = describe(threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    settings = settings_of(options)
    engine = open_engine(EngineChoice(tuple(options.model), options.provider, options.device))
    rows = options.rows or options.out.with_name(options.out.name + ".rows")
    with Cohort.open(options.cohort) as cohort:
        check_same_images(cohort, engine.info.images)
        record = record_of(options, cohort, engine, settings)
        scans = LastScans(cohort, lambda patient_id: engine, settings, options.max_slices)
        papered = largest_slices(scans, spread_evenly(followed_patients(cohort), options.paper_patients))
        maps = OtherMaps(engine, settings, rows, papered, options.paper_members)
        summaries = {}
        for target in TargetSize:
            path = scans.archive(rows / f"{folder_of(target)}.h5", TargetSource.shipped(target), record)
            evaluation = evaluated(path, scans, target, maps)
            summaries[target] = write_evaluation(options.out / folder_of(target), evaluation)
        networks = network_figures(scans, engine, rows / f"{folder_of(TargetSize.TRUE)}.h5", options.regressor_slices)
    reached = goals(summaries, networks, len(evaluation.patients))
    told = record | {"machine": machine, "goals": reached, "networks": networks}
    with written_whole(options.out / "figures.json") as temporary:
        temporary.write_text(json.dumps(jsonable(told), indent=1) + "\n", encoding="utf-8")
    with written_whole(options.out / "README.md") as temporary:
        temporary.write_text(page(told, reached, networks), encoding="utf-8")
    return {"out": str(options.out), "reached": sum(goal.reached for goal in reached), "goals": len(reached)}


def record_of(
    options: argparse.Namespace, cohort: Cohort, engine: Engine, settings: ForecastSettings
) -> dict[str, Any]:
    """What the figures are made of."""
    forecast = settings.model_dump(mode="json", exclude={"horizon_days", "relative_change"})
    return {
        "model": {"name": " ".join(path.name for path in options.model), "sha256": engine.info.sha256},
        "model_sha256": engine.info.sha256,
        "contrasts": list(engine.info.contrasts),
        "cohort": {"name": options.cohort.name, "sha256": cohort.sha256, "config": cohort.config},
        "engine": {"provider": str(engine.provider), "device": engine.device, "version": VERSION},
        "settings": {"forecast": forecast, "max_slices": options.max_slices},
    }


if __name__ == "__main__":
    try:
        print(json.dumps(run(arguments())))
    except TumorcastError as error:
        print(f"model_card.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
