"""Growth maps in three dimensions on patients not seen, beside all that needs less; writes a page and its figures.

    benchmarks/volume_card.py fibres=A.h5 surfaces=B.h5 --place MODEL --out docs/model-card/volumes [--members 16]
        [--segmenter demo128]

Of each patient one pair of scans: every third patient's that grew most, the others' drawn by --seed, of those that grew
by 10 % or more, up to eightfold. A forecast is made at the true volume, and at sizes forecast from the scans so far.
Cohorts are prepared with volumes; their names stand for how the tumours spread. With --segmenter, a model of images
whose pixels are as large as the voxels, segmenter and distance stand among the baselines.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from tumorcast.arrival.field import ArrivalField, ArrivalModel
from tumorcast.data.cohort import Cohort, SizeMeasure
from tumorcast.durable import write_text
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.protocol import Engine
from tumorcast.errors import TumorcastError, UsageError
from tumorcast.evaluation.aggregate import CALIBRATION
from tumorcast.evaluation.baselines import Baseline, Method
from tumorcast.evaluation.followup import TargetSize
from tumorcast.evaluation.metrics import AP, DICE, HD95, SURFACE, Metric
from tumorcast.evaluation.statistics import difference, mean_of
from tumorcast.evaluation.tables import jsonable, markdown_table
from tumorcast.evaluation.targets import TargetSource, targets_from_past
from tumorcast.evaluation.volume_baselines import PlaneSegmenter, VolumeMap
from tumorcast.evaluation.volume_score import AP_NEW, AP_SEEN, judge_volumes
from tumorcast.forecasting.place import open_place
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.forecasting.volume_maps import held
from tumorcast.records import Contrast, SessionVolume
from tumorcast.settings import ForecastSettings
from tumorcast.version import VERSION

LEAST_GROWTH, LARGEST_GROWTH, MUCH = 1.1, 8.0, 1.5
LARGEST_OF = 3  # of so many patients, one's pair is the one that grew most
BASELINES = (Baseline.NO_CHANGE, Baseline.DILATION, Baseline.FISHER_KOLMOGOROV, Baseline.SEGMENTER_DISTANCE)
PLANES = 16  # that the segmenter sees at a time
TOLD = (AP, AP_SEEN, AP_NEW, HD95, SURFACE, DICE, *CALIBRATION)
COMPARED = (AP, HD95, SURFACE)


@dataclass(frozen=True)
class Pair:
    """Two scans of a patient."""

    cohort: str
    patient_id: str
    number: int
    day: float
    later_day: float
    present: SessionVolume
    later: SessionVolume

    @property
    def ratio(self) -> float:
        """Later over present volume, in voxels."""
        return int(self.later.tumour.sum()) / int(self.present.tumour.sum())


def pairs_of(name: str, cohort: Cohort, seed: int) -> Iterator[Pair]:
    """One of each patient that has any, in the order of the file."""
    rng = np.random.default_rng(seed)
    for number, patient_id in enumerate(cohort.patient_ids()):
        infos = cohort.sessions(patient_id)
        volumes = [cohort.volume(patient_id, info.id) for info in infos]
        found = [
            Pair(name, patient_id, number, infos[i].day, infos[j].day, before, after)
            for i, before in enumerate(volumes)
            for j, after in enumerate(volumes)
            if i < j and before is not None and after is not None and before.tumour.any()
        ]
        grown = [pair for pair in found if LEAST_GROWTH <= pair.ratio <= LARGEST_GROWTH]
        choice = rng.random()  # of every patient, so that one without a pair changes no other
        if grown:
            largest = max(grown, key=lambda pair: pair.ratio)
            yield largest if number % LARGEST_OF == 0 else grown[int(choice * len(grown))]


def ratios_of(pair: Pair, cohort: Cohort, target: TargetSize, source: TargetSource, members: int) -> Any:
    """(M,) what the members aim at, over the present volume."""
    if target is TargetSize.TRUE:
        return np.array([pair.ratio])
    series = cohort.size_series(pair.patient_id, SizeMeasure.VOLUME_MM3)
    settings = ForecastSettings(horizon_days=1.0, members=members)
    targets: PatientTargets = targets_from_past(source.growth, series, settings, day=pair.day, later_day=pair.later_day)
    return held(targets.volume_ratio[0], pair.present)


@dataclass(frozen=True)
class Row:
    """One pair's figures. values: by target, method and metric. seconds: of field and map of all members."""

    cohort: str
    patient_id: str
    ratio: float
    present_ml: float
    seconds: float
    values: dict[str, dict[str, dict[str, float]]]


def segmenter_for(engine: Engine | None, cohort: Cohort) -> PlaneSegmenter | None:
    """What sees the volumes of a cohort. Raises UsageError if it cannot."""
    if engine is None:
        return None
    segmenter = PlaneSegmenter(engine, PLANES)
    why = segmenter.why_not(cohort.contrasts, cohort.voxel_mm or float("nan"))
    if why is not None:
        raise UsageError(f"--segmenter: {why}; give one of the cohort's contrasts and voxels, or leave it out")
    return segmenter


def row_of(pair: Pair, cohort: Cohort, place: ArrivalModel, members: int, segmenter: PlaneSegmenter | None) -> Row:
    """Forecast and judge a pair."""
    contrasts: tuple[Contrast, ...] = cohort.contrasts
    source = TargetSource.shipped(TargetSize.FORECAST)
    began = time.perf_counter()
    field: ArrivalField = place.field(pair.present, contrasts)
    field.probability(np.geomspace(0.8, 2.0, members))
    seconds = time.perf_counter() - began
    values = {}
    for target in TargetSize:
        ratios = ratios_of(pair, cohort, target, source, members)
        product = VolumeMap.field(field, ratios)
        scans = pair.present, pair.later
        found = judge_volumes(*scans, product, ratios, contrasts, baselines=BASELINES, segmenter=segmenter)
        values[str(target)] = {str(method): dict(told) for method, told in found.values.items()}
    millilitres = pair.present.volume_mm3 / 1000
    return Row(pair.cohort, pair.patient_id, pair.ratio, millilitres, seconds, values)


def column(rows: list[Row], target: TargetSize, method: Method, metric: Metric) -> Any:
    """(P,) a figure of each pair; NaN where it has none."""
    return np.array([row.values[str(target)].get(str(method), {}).get(metric.name, np.nan) for row in rows])


def groups(rows: list[Row]) -> dict[str, list[Row]]:
    """All pairs, and parts of them."""
    parts = {"all": rows}
    parts |= {name: [row for row in rows if row.cohort == name] for name in dict.fromkeys(row.cohort for row in rows)}
    parts[f"grown {MUCH:g}-fold or more"] = [row for row in rows if row.ratio >= MUCH]
    return parts


def summary(rows: list[Row]) -> dict[str, Any]:
    """Means of every method and figure, and differences of the growth map to each baseline."""
    judged = rows[0].values[str(TargetSize.TRUE)]
    methods = [Method.PRODUCT, *(Method(str(name)) for name in BASELINES if str(name) in judged)]
    told: dict[str, Any] = {"pairs": len(rows), "ratio_median": float(np.median([row.ratio for row in rows]))}
    for target in TargetSize:
        ours = {metric: column(rows, target, Method.PRODUCT, metric) for metric in COMPARED}
        told[str(target)] = {
            "means": {
                str(method): {metric.name: mean_of(column(rows, target, method, metric)) for metric in TOLD}
                for method in methods
            },
            "differences": {
                str(method): {m.name: difference(ours[m], column(rows, target, method, m)) for m in COMPARED}
                for method in methods[1:]
            },
        }
    return told


def page(record: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> str:
    """README.md."""
    machine = record["machine"]
    blocks = [
        f"# Growth maps in three dimensions: {record['place']['name']} against what needs less\n\n"
        "Written by `benchmarks/volume_card.py`; every figure stands in [figures.json](figures.json). "
        "**For research; not a medical device.**\n\n"
        f"{machine['processor']}, {machine['date']}, commit {machine['commit']}. A patient's field and map of "
        f"{record['members']} members take {record['seconds_median']:.2f} s (median; the machine may have been shared)."
    ]
    for name, told in parts.items():
        for target in TargetSize:
            found = told[str(target)]
            rows = [
                (Method(method).label, *(means[metric.name].text(3) for metric in TOLD))
                for method, means in found["means"].items()
            ]
            less = [
                (Method(method).label, *(d[m.name].text(3, higher_is_better=m.higher_is_better) for m in COMPARED))
                for method, d in found["differences"].items()
            ]
            blocks.append(
                f"## {name}, {target.label}: {told['pairs']} pairs, median ratio {told['ratio_median']:.2f}\n\n"
                + markdown_table(("mean [95 %]", *(metric.label for metric in TOLD)), rows)
                + "\n"
                + markdown_table(("growth map less", *(metric.label for metric in COMPARED)), less)
            )
    return "\n\n".join(blocks) + "\n"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Forecast, judge, write, and return what is printed."""
    machine = describe(threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    place = open_place(options.place).model
    engine = None if options.segmenter is None else open_engine(EngineChoice((options.segmenter,)))
    rows: list[Row] = []
    sums = {}
    for named in options.cohort:
        name, _, path = named.partition("=")
        with Cohort.open(Path(path)) as cohort:
            segmenter = segmenter_for(engine, cohort)
            sums[name] = {"sha256": cohort.sha256, "patients": len(cohort.patient_ids())}
            for pair in pairs_of(name, cohort, options.seed):
                rows.append(row_of(pair, cohort, place, options.members, segmenter))
                print(f"{name} {pair.patient_id}: ratio {pair.ratio:.2f}", file=sys.stderr, flush=True)
    record = {
        "version": VERSION,
        "machine": machine,
        "place": {"name": place.name, "sha256": place.sha256},
        "segmenter": None if engine is None else engine.info.sha256,
        "cohorts": sums,
        "members": options.members,
        "seed": options.seed,
        "seconds_median": float(np.median([row.seconds for row in rows])),
    }
    parts = {name: summary(part) for name, part in groups(rows).items() if part}
    told = record | {"summaries": parts, "rows": [asdict(row) for row in rows]}
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "figures.json", json.dumps(jsonable(told), indent=1) + "\n")
    write_text(options.out / "README.md", page(record, parts))
    return {"out": str(options.out), "pairs": len(rows), "seconds_median": record["seconds_median"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", nargs="+", help="NAME=COHORT.h5")
    parser.add_argument("--place", type=Path, required=True, help="as of `tumorcast forecast`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument("--segmenter", type=Path, help="a model of images, as of `tumorcast forecast`")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    try:
        print(json.dumps(run(parser.parse_args())))
    except TumorcastError as error:
        print(f"volume_card.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
