"""Forecast a cohort: unit after unit, each written as it is finished; one patient's failure never stops the others."""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorcast.archive.growth_file import read_growth
from tumorcast.archive.maps import PatientForecast, merge, write_shard
from tumorcast.config import ForecastSettings
from tumorcast.data.cohort import Cohort
from tumorcast.durable import sha256_of
from tumorcast.engines.model import ModelSet, load_model_set
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import InputError
from tumorcast.forecasting.ensemble import Engine, forecast_unit
from tumorcast.forecasting.plan import Unit, plan_units
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.records import GrowthFit
from tumorcast.running.ledger import Ledger, PatientOutcome, PatientStatus
from tumorcast.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForecastInputs:
    """The files a forecast is made from; growth is needed where a horizon is asked for."""

    cohort: Path
    models: list[Path]
    growth: Path | None
    device: str = "cpu"


@dataclass(frozen=True)
class UnitsDone:
    """What is told after every unit."""

    done: int
    total: int


def forecast_cohort(
    inputs: ForecastInputs,
    out: Path,
    settings: ForecastSettings,
    report: Callable[[UnitsDone], None] = lambda _: None,
) -> list[PatientOutcome]:
    """Write the archive of forecasts to `out`, resuming what a stopped run left; returns how each patient fared."""
    model = load_model_set(inputs.models, inputs.device)
    fits = read_growth(inputs.growth) if inputs.growth else {}
    with Cohort.open(inputs.cohort) as cohort:
        _check_fit_for(cohort, model, settings, inputs)
        ledger = Ledger(out, _provenance(inputs, cohort, model, settings))
        if ledger.is_complete():
            log.warning("%s: already complete with these settings and inputs; nothing to do", out)
            return ledger.read_outcomes()
        ledger.open()
        run = _Run(cohort, TorchEngine.of(model, inputs.device), fits, settings, ledger, report)
        outcomes = run.all_patients()
        merge(out, run.finished, ledger.provenance)
    ledger.close(outcomes)
    if not any(outcome.status is PatientStatus.FAILED for outcome in outcomes):
        ledger.remove_shards()  # they stay while a patient has failed, so that the next start does that one alone
    return outcomes


def _check_fit_for(cohort: Cohort, model: ModelSet, settings: ForecastSettings, inputs: ForecastInputs) -> None:
    contrasts = tuple(str(contrast) for contrast in cohort.contrasts)
    if (cohort.image_size, contrasts) != (model.info.architecture.image_size, model.info.contrasts):
        raise InputError(
            f"{inputs.cohort}: {', '.join(contrasts)} at {cohort.image_size} px, but the model was trained on "
            f"{', '.join(model.info.contrasts)} at {model.info.architecture.image_size} px; "
            "prepare the cohort to match, or train a model for it"
        )
    if settings.sampler.noise_level > model.info.noise_levels:
        raise InputError(
            f"noise_level = {settings.sampler.noise_level} exceeds the {model.info.noise_levels} levels that the "
            "denoiser was trained for; lower --noise-level"
        )
    if settings.horizon_days is not None and inputs.growth is None:
        raise InputError("--horizon-days needs --growth growth.h5 (`tumorcast fit`); or give --relative-change")


def _provenance(inputs: ForecastInputs, cohort: Cohort, model: ModelSet, settings: ForecastSettings) -> dict[str, Any]:
    return {
        "version": VERSION,
        "settings": settings.model_dump(mode="json"),
        "cohort_sha256": cohort.sha256,
        "growth_sha256": sha256_of(inputs.growth) if inputs.growth else None,
        "model_sha256": model.sha256,
        "contrasts": list(model.info.contrasts),
        "engine": "torch",
        "device": inputs.device,
    }


@dataclass
class _Run:
    """The state of one run over a cohort; `finished` collects what goes into the archive."""

    cohort: Cohort
    engine: Engine
    fits: dict[str, GrowthFit]
    settings: ForecastSettings
    ledger: Ledger
    report: Callable[[UnitsDone], None]

    def __post_init__(self) -> None:
        self.finished: list[tuple[PatientForecast, dict[str, Path]]] = []

    def all_patients(self) -> list[PatientOutcome]:
        plans = {pid: plan_units(self.cohort, pid, self.settings) for pid in self.cohort.patient_ids()}
        total, done = sum(map(len, plans.values())), 0
        outcomes = []
        for patient_id, units in plans.items():
            outcomes.append(self._patient(patient_id, units, done, total))
            done += len(units)
            self.report(UnitsDone(done, total))
        return outcomes

    def _patient(self, patient_id: str, units: list[Unit], done: int, total: int) -> PatientOutcome:
        if not units:
            return PatientOutcome(patient_id, PatientStatus.SKIPPED, "the last scan has no slice with tumour")
        try:
            last = self.cohort.sessions(patient_id)[-1]
            targets = self._targets(patient_id, last.day)
            for k, unit in enumerate(units):
                self._unit(unit, targets)
                self.report(UnitsDone(done + k + 1, total))
        except Exception as fault:  # a patient never stops a cohort: whatever failed is told and counted
            log.debug("%s", traceback.format_exc())
            return PatientOutcome(patient_id, PatientStatus.FAILED, " ".join(f"{fault}".split()))
        horizon = self.settings.horizon_days
        summary = PatientForecast(
            patient_id=patient_id,
            session_id=last.id,
            day=last.day,
            target_day=None if horizon is None else last.day + horizon,
            size_name=targets.size_name,
            curve=targets.curve,
        )
        self.finished.append((summary, {unit.name: self.ledger.shard(unit) for unit in units}))
        return PatientOutcome(patient_id, PatientStatus.OK)

    def _targets(self, patient_id: str, day: float) -> PatientTargets:
        if self.settings.horizon_days is None:
            return PatientTargets.fixed(self.settings)
        if patient_id not in self.fits:
            raise InputError(f"{patient_id}: not in the growth file; fit this cohort, or give --relative-change")
        return PatientTargets.drawn(self.fits[patient_id], day, self.settings)

    def _unit(self, unit: Unit, targets: PatientTargets) -> None:
        if not self.ledger.is_done(unit):
            forecast = forecast_unit(unit, self.cohort, targets, self.engine, self.settings)
            write_shard(self.ledger.shard(unit), forecast, self.ledger.provenance)
