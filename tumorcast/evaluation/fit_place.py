"""Which of several ways foretells best where the tumours of one's own patients go: measured by leaving patients out.

Each candidate forecasts every pair of scans of every patient, at the true later volume, by a model that has not learned
from that patient. The best is then fitted to all patients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.arrival.field import check_voxels
from tumorcast.arrival.pairs import VolumePair, volume_pairs
from tumorcast.arrival.voxel_model import VoxelSample, look_at
from tumorcast.counted import counted
from tumorcast.data.cohort import Cohort
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.baselines import Baseline
from tumorcast.evaluation.metrics import AP
from tumorcast.evaluation.place_fitting import FittedPlace, PlaceFitter
from tumorcast.evaluation.place_scores import COMPARED, METRICS, PlaceComparison, place_scores
from tumorcast.evaluation.tables import jsonable, markdown_table
from tumorcast.evaluation.volume_baselines import field_map, volume_baselines
from tumorcast.evaluation.volume_followup import VolumeFollowUp
from tumorcast.forecasting.place_folder import Candidate, Fold, PlaceFolder
from tumorcast.provenance import commit
from tumorcast.records import Contrast
from tumorcast.training.run_info import RUN_FILE
from tumorcast.training.volume_arrays import check_keeps_volumes
from tumorcast.version import VERSION

LEAST_PATIENTS = 3  # with a pair of scans
LEAST_TUNED_PAIRS = 50  # of the cohort, from which a network is trained unasked
MOST_FOLDS = 10
TIED_AP = 0.005
DILATION = "dilation"
RULE = f"the highest mean AP; of those within {TIED_AP:g} of it, the simplest"

Scores = dict[str, dict[str, float]]  # by method and metric
Report = Callable[[int, int], None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class FitPlaceSettings:
    """What is compared, and how. candidates: None takes those that can be had and have enough to learn from.

    folds: None leaves each patient out alone, up to MOST_FOLDS. start_from, steps, device: as PlaceFitter has them.
    """

    candidates: tuple[Candidate, ...] | None = None
    folds: int | None = None
    start_from: Path | None = None
    steps: int = 300
    device: str = "auto"


@dataclass(frozen=True)
class FitPlaceResult:
    """The figures, and the winner."""

    comparison: PlaceComparison
    winner: Candidate

    def table(self) -> str:
        """Means over patients with intervals, and differences to the front; markdown."""
        rows = []
        for method in self.comparison.values:
            means = [self.comparison.mean(method, metric).text(metric.digits) for metric in METRICS]
            less = [
                ""
                if method == Candidate.FRONT
                else self._less(method, metric).estimate.text(metric.digits, signed=True)
                for metric in COMPARED
            ]
            rows.append((method, *means, *less))
        heads = ("method", *(metric.label for metric in METRICS), *(f"{m.label}, less the front's" for m in COMPARED))
        return markdown_table(heads, rows)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self.comparison
        return {
            "winner": str(self.winner),
            "rule": RULE,
            "patients": list(found.patients),
            "pairs": list(found.pairs),
            "values": found.values,
            "means": {method: {m.name: found.mean(method, m) for m in METRICS} for method in found.values},
            "less_front": {
                method: {metric.name: self._less(method, metric) for metric in METRICS}
                for method in found.values
                if method != Candidate.FRONT
            },
        }

    def _less(self, method: str, metric: Any) -> Any:
        return self.comparison.less(method, Candidate.FRONT, metric)


def fit_place(
    source: Path, out: Path, settings: FitPlaceSettings, *, report: Report = lambda *_: None, tell: Tell = print
) -> FitPlaceResult:
    """Compare, fit the winner to all patients of the cohort file `source`, and write folder `out`.

    report: gets patients looked at and measured, of how many; tell: gets what the user should know. Raises InputError
    for a cohort that keeps no volumes or has too few patients with a pair of scans, UsageError for settings that do not
    go with it, and what training does. Trained folds are gone on with when it is started again.
    """
    with Cohort.open(source) as cohort:
        check_keeps_volumes(cohort)
        counts = {name: len(volume_pairs(cohort, name)) for name in cohort.patient_ids()}
        names = tuple(name for name, count in counts.items() if count)
        _check_enough(source, names)
        candidates = _candidates(settings, sum(counts.values()), tell)
        folds = _folds(names, settings.folds)
        contrasts = tuple(map(str, cohort.contrasts))
        samples: dict[str, list[VoxelSample]] = {}
        for done, name in enumerate(names if Candidate.VOXEL in candidates else ()):
            samples[name] = list(look_at(volume_pairs(cohort, name), contrasts))
            report(done + 1, 2 * len(names))
        fitter = PlaceFitter(source, out, contrasts, samples, settings.start_from, settings.steps, settings.device)
        scores: dict[str, list[Scores]] = {}
        fitted: list[dict[Candidate, FittedPlace]] = []
        for number, fold in enumerate(folds, start=1):
            models = {one: fitter.fitted(one, fold, f"folds/{number}") for one in candidates}
            fitted.append(models)
            for name in fold:
                scores[name] = [_scored(pair, models, cohort.contrasts) for pair in volume_pairs(cohort, name)]
                report(len(names) + len(scores), 2 * len(names))
        comparison = PlaceComparison.of({name: scores[name] for name in names})
        result = FitPlaceResult(comparison, winner_of(comparison, candidates))
        made_of = _record(cohort, settings, candidates, len(folds))
    _write(out, result, fitter, list(zip(folds, fitted, strict=True)), made_of)
    return result


def winner_of(comparison: PlaceComparison, candidates: Sequence[Candidate]) -> Candidate:
    """By RULE. Raises InputError where no patient has new tumour, and so no AP."""
    means = {one: comparison.mean(one, AP).value for one in candidates}
    best = max(means.values())
    if np.isnan(best):
        raise InputError(
            "no pair of scans shows tumour where there was none, so there is nothing to tell the candidates by; give a "
            "cohort with tumours that grew, or forecast with --place front"
        )
    return next(one for one in Candidate if one in means and means[one] >= best - TIED_AP)


def _check_enough(source: Path, names: Sequence[str]) -> None:
    if len(names) < LEAST_PATIENTS:
        raise InputError(
            f"{source}: {len(names)} of its patients have a pair of scans with tumour on one grid, and "
            f"{LEAST_PATIENTS} are the least to learn from some and measure on others; give a cohort with more, or "
            "forecast with --place front"
        )


def _candidates(settings: FitPlaceSettings, pairs: int, tell: Tell) -> tuple[Candidate, ...]:
    """Those asked for, or those that can be had; the front is always among them, for the others to be compared with."""
    start = settings.start_from
    asked = settings.candidates
    if asked is not None:
        if Candidate.NETWORK in asked and start is None:
            raise UsageError("--candidates network: which one? Give --start-from, a RUN folder or a bundle")
        if Candidate.FINE_TUNED in asked and start is not None and not _is_run(start):
            raise UsageError(
                f"--candidates fine-tuned: --start-from {start} is no RUN folder, which training goes on from"
            )
        return tuple(one for one in Candidate if one in {Candidate.FRONT, *asked})
    chosen = [Candidate.FRONT, Candidate.VOXEL]
    if start is not None:
        chosen.append(Candidate.NETWORK)
        if pairs < LEAST_TUNED_PAIRS:
            tell(
                f"fine-tuned: left out, as {counted(pairs, 'pair of scans is', 'pairs of scans are')} fewer than "
                f"{LEAST_TUNED_PAIRS}; --candidates "
                "names it all the same"
            )
        elif not _is_run(start):
            tell(f"fine-tuned: left out, as {start} is no RUN folder, which training goes on from")
        else:
            chosen.append(Candidate.FINE_TUNED)
    return tuple(chosen)


def _is_run(path: Path) -> bool:
    return (path / RUN_FILE).is_file()


def _folds(names: Sequence[str], wanted: int | None) -> list[tuple[str, ...]]:
    """Patients by turns. Raises UsageError for more folds than patients, or fewer than two."""
    count = min(len(names), MOST_FOLDS) if wanted is None else wanted
    if not 2 <= count <= len(names):
        raise UsageError(f"--folds {count}: give 2 to {len(names)}, the patients with a pair of scans")
    return [tuple(names[number::count]) for number in range(count)]


def _scored(pair: VolumePair, models: dict[Candidate, FittedPlace], contrasts: tuple[Contrast, ...]) -> Scores:
    """Every candidate, and dilation, on a pair."""
    followup, ratios = VolumeFollowUp.of(pair.present, pair.later), np.array([pair.ratio])
    found: Scores = {}
    for candidate, one in models.items():
        check_voxels(one.model, pair.present.voxel_mm)
        field = one.model.field(pair.present, contrasts)
        found[candidate] = place_scores(followup, field_map(field, followup, ratios))
    ((_, dilated),) = volume_baselines(followup, contrasts, ratios, [Baseline.DILATION])
    return {DILATION: place_scores(followup, dilated)} | found


def _record(cohort: Cohort, settings: FitPlaceSettings, candidates: Sequence[Candidate], folds: int) -> dict[str, Any]:
    """What the comparison was made of."""
    return {
        "cohort": {"name": cohort.path.name, "sha256": cohort.sha256},
        "candidates": [str(one) for one in candidates],
        "folds": folds,
        "start_from": None if settings.start_from is None else settings.start_from.name,
        "steps": settings.steps if Candidate.FINE_TUNED in candidates else None,
        "version": VERSION,
        "commit": commit(),
    }


def _write(
    out: Path,
    result: FitPlaceResult,
    fitter: PlaceFitter,
    folds: Sequence[tuple[tuple[str, ...], dict[Candidate, FittedPlace]]],
    made_of: dict[str, Any],
) -> None:
    """The models of the winner and, last, place.json."""
    winner = result.winner
    final = fitter.fitted(winner, (), "final")
    final.write(out)
    kept = []
    for patients, models in folds if winner.learns else ():
        models[winner].write(out)
        kept.append(Fold(patients, models[winner].named))
    fitted_to = result.comparison.patients if winner.learns else ()
    comparison = jsonable(result.as_dict() | {"made_of": made_of})
    PlaceFolder(final.named, fitted_to, tuple(kept), comparison).write(out)
