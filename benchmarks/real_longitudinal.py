"""Forecast the last scan of real patients from the one before, each with a model that has learned from the others.

    benchmarks/real_longitudinal.py ../shared/data/brain_tumor_progression --out DIR [--members 2] [--rows DIR]

DATA is a folder that `tumorcast prepare` reads, with dates and a mask at each. The networks of --model (one contrast,
simulated patients) make the images; where the tumour goes is learned from all other patients of DATA, by
tumorcast/forecasting/pixel_model.py, never from the one forecast. The growth map is that pixel model alone (seen_weight
= 0): the segmenter of a model that has seen no real scan is no judge of one. Two sizes are aimed at: the true one (an
upper bound), and one drawn from the shipped population forecast. Judged by `tumorcast evaluate`.

DIR gets README.md (every patient), truth/ and aimed/ (pages, JSON and CSV), and real_longitudinal.json. Finished
patients stay in --rows (by default DIR.rows): started again, it goes on. For research, not a medical device.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from last_scans import LastScans, OtherMaps, evaluated, folder_of, largest_slices
from machine import describe

from tumorcast.data.cohort import Cohort
from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.prepare import PrepareSettings, SliceChoice, prepare_cohort
from tumorcast.durable import written_whole
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.protocol import Engine, check_same_images
from tumorcast.errors import TumorcastError
from tumorcast.evaluation.aggregate import PatientSizes, PatientValues, long_table
from tumorcast.evaluation.baselines import Method
from tumorcast.evaluation.evaluate import Evaluation, PatientScores
from tumorcast.evaluation.followup import TargetSize, followed_patients
from tumorcast.evaluation.metrics import AP, DICE, HD95, INTERVAL
from tumorcast.evaluation.statistics import mean_of
from tumorcast.evaluation.tables import jsonable, labels, markdown_table, write_evaluation
from tumorcast.evaluation.targets import TargetSource
from tumorcast.forecasting.pixel_model import LEAST_PIXELS, PixelModel, PixelModelEngine, slice_pairs
from tumorcast.settings import ForecastSettings, SamplerSettings
from tumorcast.version import VERSION

MODEL = Path("t1c128")
TINY_MM3 = 3000.0
LEAST_FORECAST = LEAST_PIXELS // 2  # pixels of a present outline that is forecast: below, a mask is a speck
STEPS, ENCODINGS = 8, 2  # fewer than a forecast takes, since two cores need half a minute for a slice as it is
SHOWN = (Method.PRODUCT, Method.DILATION, Method.FISHER_KOLMOGOROV, Method.SEGMENTER_DISTANCE, Method.UNGUIDED_CHANGE)
COMPARED = (AP, DICE, HD95)
INTERVAL_DRAWS = 400


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pages")
    parser.add_argument("--rows", type=Path, help="folder of finished patients; by default OUT.rows")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="a shipped model, a bundle or RUN folders, for one contrast"
    )
    parser.add_argument("--brain", choices=list(BrainMask), type=BrainMask, default=BrainMask.INNER)
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--max-slices", type=int, default=5, help="of a patient, those with most tumour")
    parser.add_argument("--paper-members", type=int, default=1, help="398 evaluations each, in one slice")
    parser.add_argument(
        "--paper-patients", type=int, default=1, help="for how many, the first, the paper's map is made"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tiny-mm3", type=float, default=TINY_MM3, help="smaller first tumours are told apart")
    parser.add_argument("--set", nargs="*", default=[], help="sampler settings, key=value")
    return parser.parse_args()


def prepared(options: argparse.Namespace, rows: Path, size: int) -> Path:
    """The cohort file of all slices, made once."""
    path = rows / "cohort.h5"
    if not path.exists():
        rows.mkdir(parents=True, exist_ok=True)
        settings = PrepareSettings(image_size=size, slices=SliceChoice.ALL, brain=options.brain)
        prepare_cohort(options.data, path, settings)
    return path


def settings_of(options: argparse.Namespace) -> ForecastSettings:
    """What the options ask for."""
    given = dict(item.split("=", 1) for item in options.set)
    values = {"relative_change": 0, "members": options.members, "batch": options.batch, "block": options.members}
    fixed: dict[str, object] = {"steps": STEPS, "encodings": ENCODINGS, "seen_weight": 0.0}
    sampler = SamplerSettings.of(fixed | given, "--set")
    return ForecastSettings.of(values | {"keep_members": True, "sampler": sampler}, "real_longitudinal.py")


@dataclass(frozen=True)
class LeavePatientOut:
    """An engine a patient, whose pixel model has learned from all other patients with two scans."""

    cohort: Cohort
    engine: Engine

    def engine_for(self, patient_id: str) -> Engine:
        """As it is where there are no others."""
        others = [list(slice_pairs(self.cohort, name)) for name in self.cohort.patient_ids() if name != patient_id]
        known = [pairs for pairs in others if pairs]
        return PixelModelEngine(self.engine, PixelModel.fit(known, self.engine)) if known else self.engine


@dataclass(frozen=True)
class Study:
    """What was measured. first_mm3: by patient, the tumour that is forecast from; intervals: of the area's ratio, the 5
    and 95 % quantiles of INTERVAL_DRAWS forecast sizes, of which the members are few.
    """

    evaluations: dict[TargetSize, Evaluation]
    first_mm3: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def measure(options: argparse.Namespace, rows: Path) -> Study:
    """Forecast and judge every patient, by target size."""
    engine, settings = open_engine(EngineChoice((options.model,))), settings_of(options)
    with Cohort.open(prepared(options, rows, engine.info.image_size)) as cohort:
        check_same_images(cohort, engine.info.images)
        engine_for = cache(LeavePatientOut(cohort, engine).engine_for)
        scans = LastScans(cohort, engine_for, settings, options.max_slices, LEAST_FORECAST)
        names = followed_patients(cohort)
        papered = largest_slices(scans, names[: options.paper_patients])
        maps = OtherMaps(engine, settings, rows, papered, options.paper_members)
        evaluations = {}
        for target in TargetSize:
            record = record_of(options, cohort, engine, settings)
            path = scans.archive(rows / f"{folder_of(target)}.h5", TargetSource.shipped(target), record)
            evaluations[target] = evaluated(path, scans, target, maps)
        first_mm3 = {name: float(cohort.sessions(name)[-2].volume_mm3) for name in names}
        judged = [patient.patient_id for patient in evaluations[TargetSize.FORECAST].patients]
        return Study(evaluations, first_mm3, {name: interval(scans, name) for name in judged})


def interval(scans: LastScans, patient_id: str) -> tuple[float, float]:
    """See Study.intervals."""
    source = TargetSource.shipped(TargetSize.FORECAST)
    targets = source.of(scans.cohort, scans.followups(patient_id), scans.settings)
    drawn = targets.draw(targets.settings.model_copy(update={"members": INTERVAL_DRAWS}))
    low, high = np.quantile(drawn.target_ratio, INTERVAL).tolist()
    return low, high


def record_of(
    options: argparse.Namespace, cohort: Cohort, engine: Engine, settings: ForecastSettings
) -> dict[str, Any]:
    """What the forecasts are made of."""
    return {
        "model": options.model.name,
        "model_sha256": engine.info.sha256,
        "contrasts": list(engine.info.contrasts),
        "cohort_sha256": cohort.sha256,
        "brain": str(options.brain),
        "settings": settings.model_dump(mode="json"),
        "max_slices": options.max_slices,
        "version": VERSION,
    }


def line(patient: PatientScores, values: PatientValues, aimed_90: tuple[float, float] | None) -> tuple[str, ...]:
    """A patient in the table of all. aimed_90: of Study.intervals, where sizes were forecast."""
    sizes = PatientSizes.of([patient])
    size = f"{np.median(sizes.aimed[0]) / sizes.present[0]:.2f}"
    size += "" if aimed_90 is None else f" [{aimed_90[0]:.2f}, {aimed_90[1]:.2f}]"
    column = list(values.means.columns).index(patient.patient_id)
    found = [values.of_metric(method, metric)[column] for metric in (AP, DICE) for method in SHOWN]
    figures = [f"{value:.3f}" if np.isfinite(value) else "–" for value in found]
    ratio = f"{sizes.truth[0] / sizes.present[0]:.2f}"
    return (patient.patient_id, f"{patient.days:g}", str(len(patient.slices)), ratio, size, *figures)


def page(options: argparse.Namespace, study: Study) -> str:
    """README.md: every patient, tiny ones last, and the means of the others with intervals."""
    of_methods = (f"{metric.label} {method.value}" for metric in (AP, DICE) for method in SHOWN)
    heads = ("patient", "days", "slices", "true area ×", "aimed at ×", *of_methods)
    record = study.evaluations[TargetSize.TRUE].record
    parts = [
        f"# {options.data.name}: the last scan, forecast from the one before\n",
        f"`benchmarks/real_longitudinal.py`, tumorcast {record['version']}, commit {record['commit'] or 'unknown'}. "
        "Leave-patient-out: where a tumour goes was learned from all other patients here. **For research; not a "
        f"medical device.** Tumours below {options.tiny_mm3:g} mm³ at the first date stand apart. A patient's figure "
        "is the mean over its slices. What each figure is: docs/evaluation.md.\n",
    ]
    for target, evaluation in study.evaluations.items():
        values = PatientValues.of(long_table(evaluation.patients))
        large, tiny = split(evaluation.patients, study.first_mm3, options.tiny_mm3)
        is_true = target is TargetSize.TRUE
        aimed_90 = {} if is_true else study.intervals
        title = "The true size is aimed at (an upper bound)" if is_true else "The size is a population forecast"
        lines, tiny_lines = (
            [line(patient, values, aimed_90.get(patient.patient_id)) for patient in patients]
            for patients in (large, tiny)
        )
        parts += [f"## {title}\n", markdown_table(heads, lines)]
        parts.append(means_table(PatientValues.of(long_table(large or evaluation.patients))))
        if tiny_lines:
            parts += ["Tiny:\n", markdown_table(heads, tiny_lines)]
    return "\n".join(parts)


def means_table(values: PatientValues) -> str:
    """Means over patients with intervals, and differences to the growth map."""
    rows = []
    for method in values.methods():
        means = [found.text(3) for found in values.mean_estimates(method, COMPARED).values()]
        less = values.differences(Method.PRODUCT, method, COMPARED).values()
        rows.append((method.label, *means, *([found.estimate.text(3, signed=True) for found in less] or [""] * 3)))
    return markdown_table(("method", *labels(COMPARED), "growth map's AP less", "Dice less", "HD95 less"), rows)


def split(
    patients: Sequence[PatientScores], first_mm3: Mapping[str, float], tiny_mm3: float
) -> tuple[list[PatientScores], list[PatientScores]]:
    """Those whose first tumour is not tiny, and those whose is."""
    tiny = [patient for patient in patients if first_mm3[patient.patient_id] < tiny_mm3]
    return [patient for patient in patients if patient not in tiny], tiny


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, write, and return what is printed."""
    machine = describe(threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    study = measure(options, options.rows or options.out.with_name(options.out.name + ".rows"))
    means: dict[str, float] = {}
    for target, evaluation in study.evaluations.items():
        write_evaluation(options.out / folder_of(target), evaluation)
        large, _ = split(evaluation.patients, study.first_mm3, options.tiny_mm3)
        values = PatientValues.of(long_table(large or evaluation.patients))
        means |= {
            f"{folder_of(target)}_{metric.name}_{method}": mean_of(values.of_metric(method, metric)).value
            for metric in COMPARED
            for method in SHOWN
        }
    with written_whole(options.out / "README.md") as temporary:
        temporary.write_text(page(options, study), encoding="utf-8")
    true = study.evaluations[TargetSize.TRUE]
    record = true.record | {"machine": machine, "means": means, "first_mm3": study.first_mm3}
    with written_whole(options.out / "real_longitudinal.json") as temporary:
        temporary.write_text(json.dumps(jsonable(record), indent=1) + "\n", encoding="utf-8")
    return {"out": str(options.out), "patients": len(true.patients), **jsonable(means)}


if __name__ == "__main__":
    try:
        print(json.dumps(run(arguments())))
    except TumorcastError as error:
        print(f"real_longitudinal.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
