"""Forecast the last scan of real patients from the one before, each with a model that has learned from the others.

    benchmarks/real_longitudinal.py ../shared/data/brain_tumor_progression --out DIR [--members 2] [--rows DIR]

DATA is a folder that `tumorcast prepare` reads, with dates and a mask at each. The networks of --model (one contrast,
simulated patients) make the images; where the tumour goes is learned from all other patients of DATA, by
tumorcast/forecasting/pixel_model.py, never from the one forecast. The growth map is that front alone (seen_weight = 0):
the segmenter of a model that has seen no real scan is no judge of one. Two sizes are aimed at: the true one (an upper
bound), and one drawn from the shipped population forecast. Baselines, figures and pages are those of `tumorcast
evaluate`.

DIR gets README.md (every patient), truth/ and population/ (pages, JSON and CSV of the patients that are not tiny),
tiny/ (the same for those that are) and real_longitudinal.json. Finished patients stay in --rows (by default DIR.rows):
started again, it goes on. For research, not a medical device.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from tumorcast.data.cohort import Cohort
from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.prepare import PrepareSettings, SliceChoice, prepare_cohort
from tumorcast.durable import written_whole
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.protocol import check_same_images
from tumorcast.errors import InputError, TumorcastError
from tumorcast.evaluation.archive_output import write_evaluation
from tumorcast.evaluation.archive_summary import values_of
from tumorcast.evaluation.card import markdown_table
from tumorcast.evaluation.evaluate import Evaluation, EvaluationSettings
from tumorcast.evaluation.followed import Aim, LeavePatientOut
from tumorcast.evaluation.growth_metrics import THRESHOLDS
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.methods import Method
from tumorcast.evaluation.paired import difference, mean_of
from tumorcast.evaluation.rows import RowStore
from tumorcast.evaluation.run import plain
from tumorcast.growth.model import GrowthModel, fixed
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.provenance import commit
from tumorcast.records import Forecaster, PatientOutcome, Status
from tumorcast.settings import ForecastSettings, SamplerSettings
from tumorcast.version import VERSION

MODEL = Path("t1c128")
TINY_MM3 = 3000.0
STEPS, ENCODINGS = 8, 2  # fewer than a forecast takes, since two cores need half a minute for a slice as it is
SHOWN = (Method.PRODUCT, Method.DILATION, Method.FISHER_KOLMOGOROV, Method.SEGMENTER_DISTANCE, Method.UNGUIDED_CHANGE)
COMPARED = ("ap", "dice", "hd95_mm")


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
    values: dict[str, object] = {
        "relative_change": 0,
        "members": options.members,
        "batch": options.batch,
        "block": options.members,
    }
    fixed: dict[str, object] = {"steps": STEPS, "encodings": ENCODINGS, "seen_weight": 0.0}
    sampler = SamplerSettings.of(fixed | given, "--set")
    return ForecastSettings.of(values | {"keep_members": True, "sampler": sampler}, "real_longitudinal.py")


def measure(options: argparse.Namespace, rows: Path) -> tuple[list[Figures], list[PatientOutcome], dict[str, Any]]:
    """Every patient's figures by aim, how each fared, and what they were made of."""
    engine, settings = open_engine(EngineChoice((options.model,))), settings_of(options)
    growth = GrowthModel(FitSettings(), Forecaster.POOLED, fixed(shipped_prior()))
    path = prepared(options, rows, engine.info.image_size)
    with Cohort.open(path) as cohort:
        check_same_images(cohort, engine.info.images)
        record = record_of(options, cohort, engine.info.sha256, settings)
        store = RowStore.open(rows, {name: record[name] for name in ("model", "truth", "settings", "version")})
        judged = EvaluationSettings()
        limits = (options.max_slices, options.paper_members)
        study = LeavePatientOut(cohort, engine, growth, settings, judged, *limits)
        names, outcomes = cohort.patient_ids(), []
        for done, name in enumerate(names, start=1):
            outcomes.append(tried(study, store, name, paper=done <= options.paper_patients))
            print(f"{done} of {len(names)} patients", file=sys.stderr, flush=True)
    return [store.rows[name] for name in names if name in store.rows], outcomes, record


def tried(study: LeavePatientOut, store: RowStore, name: str, *, paper: bool) -> PatientOutcome:
    """Measure a patient that has no row yet; one that cannot be measured never stops the others."""
    if name not in store.rows:
        try:
            volume = float(study.cohort.sessions(name)[-2].volume_mm3)
            store.add({"patient_id": name, "first_mm3": volume} | study.patient(name, paper=paper), None)
        except (InputError, IndexError) as fault:
            return PatientOutcome(name, Status.FAILED, str(fault))
    return PatientOutcome(name, Status.OK)


def record_of(
    options: argparse.Namespace, cohort: Cohort, model_sha256: str, settings: ForecastSettings
) -> dict[str, Any]:
    """What the figures are made of."""
    told = settings.model_dump(mode="json", exclude={"horizon_days", "relative_change"})
    return {
        "archive": {"name": f"{options.data.name}, leave-patient-out"},
        "model": {"name": options.model.name, "sha256": model_sha256},
        "truth": {"name": options.data.name, "sha256": cohort.sha256, "brain": str(options.brain)},
        "settings": {"forecast": told, "max_slices": options.max_slices, "paper_members": options.paper_members},
        "version": VERSION,
        "commit": commit(),
        "thresholds": list(THRESHOLDS),
    }


def write_pages(out: Path, rows: Sequence[Figures], outcomes: list[PatientOutcome], record: dict[str, Any]) -> None:
    """The pages of `tumorcast evaluate`, by aim."""
    for aim in Aim:
        size = "truth" if aim is Aim.TRUTH else "aimed"
        told = record | {"settings": record["settings"] | {"size": size}}
        notes = ["The paper's map is of few patients and their slice with most tumour, and aims at the true size."]
        write_evaluation(out / str(aim), Evaluation([row[str(aim)] for row in rows], outcomes, notes, told))


def line(row: Figures, aim: Aim) -> tuple[str, ...]:
    """A patient in the table of all."""
    one = row[str(aim)]
    low, high = one["aimed_90"]
    size = f"{one['aimed_ratio']:.2f}" + (f" [{low:.2f}, {high:.2f}]" if aim is Aim.POPULATION else "")
    figures = [
        f"{value:.3f}" if np.isfinite(value) else "–"
        for name in ("ap", "dice")
        for value in (float(values_of([one], method, name)[0]) for method in SHOWN)
    ]
    cells = (row["patient_id"], f"{one['days']:g}", str(len(one["slices"])), f"{one['true_ratio']:.2f}", size)
    return (*cells, *figures)


def page(rows: Sequence[Figures], record: dict[str, Any], tiny_mm3: float) -> str:
    """README.md: every patient, tiny ones last, and the means of the others with intervals."""
    heads: tuple[str, ...] = ("patient", "days", "slices", "true area ×", "aimed at ×")
    heads += tuple(f"{name} {method.value}" for name in ("AP", "Dice") for method in SHOWN)
    large, tiny = split(rows, tiny_mm3)
    parts = [
        f"# {record['truth']['name']}: the last scan, forecast from the one before\n",
        f"`benchmarks/real_longitudinal.py`, tumorcast {record['version']}, commit {record['commit'] or 'unknown'}. "
        "Leave-patient-out: where a tumour goes was learned from all other patients here. **For research; not a "
        f"medical device.** Tumours below {tiny_mm3:g} mm³ at the first date stand apart. A patient's figure is the "
        "mean over its slices. What each figure is: docs/evaluation.md.\n",
    ]
    for aim in Aim:
        title = (
            "The true size is aimed at (an upper bound)" if aim is Aim.TRUTH else "The size is a population forecast"
        )
        parts += [f"## {title}\n", markdown_table(heads, [line(row, aim) for row in large])]
        parts += [told_means(large, aim)]
        if tiny:
            parts += ["Tiny:\n", markdown_table(heads, [line(row, aim) for row in tiny])]
    return "\n".join(parts)


def told_means(rows: Sequence[Figures], aim: Aim) -> str:
    """Means over patients with intervals, and differences to the growth map."""
    found = [row[str(aim)] for row in rows]
    lines = []
    for method in Method:
        values = {name: values_of(found, method, name) for name in COMPARED}
        if np.isnan(values["dice"]).all():
            continue
        ours = {name: values_of(found, Method.PRODUCT, name) for name in COMPARED}
        means = [mean_of(values[name]).told(3) for name in COMPARED]
        gaps = [
            "" if method is Method.PRODUCT else difference(ours[name], values[name]).estimate.told(3, signed=True)
            for name in COMPARED
        ]
        lines.append((method.told, *means, *gaps))
    heads = ("method", "AP", "Dice", "HD95, mm", "growth map's AP less", "Dice less", "HD95 less")
    return markdown_table(heads, lines)


def split(rows: Sequence[Figures], tiny_mm3: float) -> tuple[list[Figures], list[Figures]]:
    """Those whose first tumour is not tiny, and those whose is."""
    tiny = [row for row in rows if row["first_mm3"] < tiny_mm3]
    return [row for row in rows if row not in tiny], tiny


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, write, and return what is printed."""
    machine = describe(threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    rows, outcomes, record = measure(options, options.rows or options.out.with_name(options.out.name + ".rows"))
    if not rows:
        raise InputError(f"{options.data}: no patient could be forecast; {outcomes[0].reason}")
    options.out.mkdir(parents=True, exist_ok=True)
    large, tiny = split(rows, options.tiny_mm3)
    if large:
        write_pages(options.out, large, outcomes, record)
    if tiny:
        write_pages(options.out / "tiny", tiny, [], record)
    with written_whole(options.out / "README.md") as temporary:
        temporary.write_text(page(rows, record, options.tiny_mm3), encoding="utf-8")
    told = {
        f"{aim}_{name}_{method}": mean_of(values_of([row[str(aim)] for row in large], method, name)).value
        for aim in Aim
        for name in COMPARED
        for method in SHOWN
    }
    text = json.dumps(plain(record | {"machine": machine, "means": told, "outcomes": outcomes}), indent=1)
    with written_whole(options.out / "real_longitudinal.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    means: dict[str, Any] = plain(told)
    return {"out": str(options.out), "patients": len(rows), "tiny": len(tiny)} | means


if __name__ == "__main__":
    try:
        print(json.dumps(run(arguments())))
    except TumorcastError as error:
        print(f"real_longitudinal.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
