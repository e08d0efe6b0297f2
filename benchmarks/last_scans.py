"""Every patient's last scan, forecast from the scans before it: an archive that the library's evaluation judges.

What model_card.py is made of. Finished patients stay as shards: started again, it goes on.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.shard import ShardKey, is_whole, write_shard
from tumorcast.data.cohort import Cohort
from tumorcast.durable import written_whole
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError
from tumorcast.evaluation.baselines import Baseline, Map, Method, MethodMap, Unguided
from tumorcast.evaluation.evaluate import SIZE_WORDS, Evaluation, EvaluationSettings, Evaluator
from tumorcast.evaluation.followup import FollowUp, TargetSize, forecast_followups, last_followups
from tumorcast.evaluation.targets import TargetSource
from tumorcast.forecasting.progression import predict_progression
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.records import PatientOutcome, Status
from tumorcast.settings import ForecastSettings, NetworkKind, SamplerSettings


@dataclass(frozen=True)
class LastScans:
    """The forecasts. engine_for: of a patient; least_pixels: of a present outline that is forecast.

    slices: most of a patient, those with most tumour; None takes all.
    """

    cohort: Cohort
    engine_for: Callable[[str], Engine]
    settings: ForecastSettings
    slices: int | None
    least_pixels: int = 1

    def followups(self, patient_id: str) -> tuple[FollowUp, ...]:
        """The slices that are forecast. Raises InputError if there is none."""
        found = last_followups(self.cohort, patient_id, None)
        large = [one for one in found if int((one.now.labels > 0).sum()) >= self.least_pixels]
        if not large:
            raise InputError(f"{self.cohort.path}: {patient_id} has no slice with {self.least_pixels} pixels of tumour")
        chosen = sorted(large, key=lambda one: -one.now.area_mm2)[: self.slices]
        return tuple(sorted(chosen, key=lambda one: one.now.source_slice))

    def archive(self, path: Path, sizes: TargetSource, provenance: dict[str, Any]) -> Path:
        """The archive at `path`, of those patients who have a last scan to forecast; its shards stand beside it."""
        record = provenance | {"sizes": sizes.as_dict()}
        run = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        patients, outcomes = [], []
        names = [name for name in self.cohort.patient_ids() if len(self.cohort.sessions(name)) > 1]
        for done, name in enumerate(names, start=1):
            shard, key = path.with_suffix(".parts") / f"{name}.h5", ShardKey(run, name)
            try:
                followups = self.followups(name)
                if not is_whole(shard, key):
                    self._forecast(shard, key, followups, sizes)
            except InputError as fault:
                outcomes.append(PatientOutcome(name, Status.FAILED, str(fault)))
            else:
                outcomes.append(PatientOutcome(name, Status.OK))
                patients.append(PatientShards(name, {one.planned.name: [(shard, key)] for one in followups}))
            print(f"{done} of {len(names)} patients, {sizes.target.label}", file=sys.stderr, flush=True)
        if not patients:
            raise InputError(f"{self.cohort.path}: no patient could be forecast; {outcomes[0].reason}")
        merge(path, patients, record, outcomes)
        return path

    def _forecast(self, shard: Path, key: ShardKey, followups: tuple[FollowUp, ...], sizes: TargetSource) -> None:
        targets = sizes.of(self.cohort, followups, self.settings)
        drawn = targets.draw(targets.settings)
        engine = self.engine_for(followups[0].patient_id)
        forecasts = forecast_followups(followups, drawn, engine, targets.settings)
        first = followups[0]
        patient = PatientForecast(
            first.patient_id, first.session_id, first.day, first.later_day, drawn.size_name, drawn.curve, {}
        )
        slices = {one.planned.name: forecast for one, forecast in zip(followups, forecasts, strict=True)}
        write_shard(shard, key, patient, slices)


@dataclass(frozen=True)
class OtherMaps:
    """Maps beside those of `tumorcast evaluate`: the progression network alone, and of some patients the paper's.

    paper: by patient the slice; members: of the paper's map, 398 evaluations each, kept in `folder`.
    """

    engine: Engine
    settings: ForecastSettings
    folder: Path
    paper: dict[str, int]
    members: int

    def __call__(self, followup: FollowUp, forecast: SliceForecast) -> dict[Method, MethodMap]:
        """Of one slice."""
        maps = {}
        if self.engine.info.progression is NetworkKind.SLICE_PROGRESSION:
            ratios = forecast.aimed_mm2 / forecast.present_mm2
            probability = predict_progression(followup.now, ratios, self.engine, self.settings.batch).mean(axis=0)
            maps[Method.PROGRESSION_ALONE] = MethodMap(probability, probability)
        if self.members and self.paper.get(followup.patient_id) == followup.planned.source_slice:
            maps[Method.PAPER] = MethodMap(*self._paper(followup))
        return maps

    def _paper(self, followup: FollowUp) -> tuple[Map, Map]:
        """Of the true size, whatever the others aim at, so that it is made once."""
        path = self.folder / f"paper-{followup.patient_id}.npz"
        if not path.exists():
            score, probability = paper_map(followup, self.members, self.engine, self.settings)
            with written_whole(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, score=score, probability=probability)
        with np.load(path) as arrays:
            return arrays["score"], arrays["probability"]


def paper_map(followup: FollowUp, members: int, engine: Engine, settings: ForecastSettings) -> tuple[Map, Map]:
    """How much members changed, and the share that did, by the paper's loop and constants at the true size.

    The score is the mean |generated - original|, summed over contrasts: the paper's map is the share of members in
    which it exceeds a threshold, and with few members such a share ranks almost nothing. That share is the probability.
    """
    paper = settings.model_copy(update={"sampler": SamplerSettings.paper(), "members": members, "keep_members": True})
    targets = PatientTargets(np.full(members, followup.ratio))
    (forecast,) = forecast_followups([followup], targets, engine, paper)
    assert forecast.members is not None
    return np.abs(forecast.members - followup.now.image).sum(axis=1).mean(axis=0), forecast.changed


def largest_slices(scans: LastScans, patients: Collection[str]) -> dict[str, int]:
    """By patient, the forecast slice with most tumour."""
    found = {}
    for name in patients:
        largest = max(scans.followups(name), key=lambda one: one.now.area_mm2)
        found[name] = largest.planned.source_slice
    return found


def evaluated(path: Path, scans: LastScans, target: TargetSize, maps: OtherMaps) -> Evaluation:
    """The archive by `tumorcast evaluate`. Unguided diffusion knows no size: it is judged once, beside the true one."""
    baselines = tuple(name for name in Baseline if target is TargetSize.TRUE or name is not Baseline.UNGUIDED)
    model = Unguided(maps.engine, scans.settings) if target is TargetSize.TRUE else None
    with MapArchive.open(path) as archive:
        evaluator = Evaluator(archive, scans.cohort, EvaluationSettings(baselines, target), model, maps)
        return evaluator.evaluate(lambda done, total: None)


def folder_of(target: TargetSize) -> str:
    """The folder of a target size's pages: truth or aimed."""
    return SIZE_WORDS[target]
