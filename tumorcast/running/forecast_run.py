"""Forecast a cohort: unit after unit, each written as it is finished; one patient's failure never stops the others."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tumorcast.archive.growth_file import GrowthFile, read_growth
from tumorcast.archive.maps import PatientForecast, merge, write_shard
from tumorcast.config import ForecastSettings
from tumorcast.data.cohort import Cohort
from tumorcast.durable import sha256_of
from tumorcast.engines.engine import Engine, ModelInfo
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.errors import InputError, UsageError
from tumorcast.forecasting.ensemble import forecast_units, units_together
from tumorcast.forecasting.plan import Unit, plan_units
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.provenance import commit
from tumorcast.records import PatientOutcome, Status
from tumorcast.running.ledger import Ledger
from tumorcast.running.outcomes import attempt
from tumorcast.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForecastInputs:
    """The files a forecast is made from; growth is needed where a horizon is asked for."""

    cohort: Path
    engine: EngineChoice
    growth: Path | None


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
    engine = open_engine(inputs.engine)
    growth = read_growth(inputs.growth) if inputs.growth else None
    with Cohort.open(inputs.cohort) as cohort:
        _check_fit_for(cohort, engine.info, settings, inputs)
        ledger = Ledger(out, _provenance(inputs, cohort, engine, settings))
        before = ledger.completed()
        if before is not None:
            log.warning("%s: already complete with these settings and inputs; nothing to do", out)
            return before
        ledger.open()
        run = _Run(cohort, engine, growth, settings, ledger, report)
        outcomes = run.all_patients()
        merge(out, run.finished, ledger.provenance | {"commit": commit()})
    ledger.close(outcomes)
    if not any(outcome.status is Status.FAILED for outcome in outcomes):
        ledger.remove_shards()  # they stay while a patient has failed, so that the next start does that one alone
    return outcomes


def _check_fit_for(cohort: Cohort, model: ModelInfo, settings: ForecastSettings, inputs: ForecastInputs) -> None:
    contrasts = tuple(str(contrast) for contrast in cohort.contrasts)
    if (cohort.image_size, contrasts) != (model.image_size, model.contrasts):
        raise InputError(
            f"{inputs.cohort}: {', '.join(contrasts)} at {cohort.image_size} px, but the model was trained on "
            f"{', '.join(model.contrasts)} at {model.image_size} px; "
            "prepare the cohort to match, or train a model for it"
        )
    if settings.sampler.noise_level > model.noise_levels:
        raise UsageError(
            f"noise_level = {settings.sampler.noise_level} exceeds the {model.noise_levels} levels that denoiser and "
            "regressor were trained for; lower --noise-level"
        )
    if settings.horizon_days is None:
        return
    if inputs.growth is None:
        raise UsageError("--horizon-days needs --growth growth.h5 (`tumorcast fit`); or give --relative-change")
    if not cohort.dated:
        raise InputError(
            f"{inputs.cohort}: its scans have no dates, so {settings.horizon_days:g} days ahead means nothing; "
            "prepare it with --clinical, or give --relative-change"
        )


def _provenance(inputs: ForecastInputs, cohort: Cohort, engine: Engine, settings: ForecastSettings) -> dict[str, Any]:
    return {
        "version": VERSION,
        "settings": settings.model_dump(mode="json"),
        "cohort_sha256": cohort.sha256,
        "growth_sha256": sha256_of(inputs.growth) if inputs.growth else None,
        "model_sha256": engine.info.sha256,
        "contrasts": list(engine.info.contrasts),
        "engine": str(engine.provider),
        "judge": str(engine.info.judge),
        "device": engine.device,
    }


@dataclass
class _Run:
    """The state of one run over a cohort; `finished` collects what goes into the archive."""

    cohort: Cohort
    engine: Engine
    growth: GrowthFile | None
    settings: ForecastSettings
    ledger: Ledger
    report: Callable[[UnitsDone], None]

    def __post_init__(self) -> None:
        """Nothing is done yet."""
        self.finished: list[tuple[PatientForecast, dict[str, Path]]] = []
        self.done, self.total = 0, 0

    def all_patients(self) -> list[PatientOutcome]:
        """Forecast every patient; a patient never stops a cohort, but a full disk does."""
        plans = {
            patient_id: attempt(patient_id, partial(plan_units, self.cohort, patient_id, self.settings))
            for patient_id in self.cohort.patient_ids()
        }
        self.total = sum(len(units) for units in plans.values() if isinstance(units, list))
        return [
            units
            if isinstance(units, PatientOutcome)
            else attempt(patient_id, partial(self._patient, patient_id, units))
            for patient_id, units in plans.items()
        ]

    def _patient(self, patient_id: str, units: list[Unit]) -> PatientOutcome:
        if not units:
            return PatientOutcome(patient_id, Status.SKIPPED, "the last scan has no slice with a tumour mask")
        last = self.cohort.sessions(patient_id)[-1]
        targets = self._targets(patient_id, last.day)
        for together in units_together(units, self.settings):
            self._units(together, targets)
            self.done += len(together)
            self.report(UnitsDone(self.done, self.total))
        horizon = self.settings.horizon_days
        summary = PatientForecast(
            patient_id=patient_id,
            session_id=last.id,
            day=last.day,
            target_day=None if horizon is None else last.day + horizon,
            size_name=targets.size_name,
            curve=targets.curve,
            source_grid=self.cohort.source(patient_id, last.id)["grid"],
        )
        self.finished.append((summary, {unit.name: self.ledger.shard(unit) for unit in units}))
        return PatientOutcome(patient_id, Status.OK)

    def _targets(self, patient_id: str, day: float) -> PatientTargets:
        if self.settings.horizon_days is None:
            return PatientTargets.fixed(self.settings)
        if self.growth is None or patient_id not in self.growth:
            raise InputError(f"{patient_id}: not in the growth file; fit this cohort, or give --relative-change")
        return PatientTargets.drawn(self.growth.forecast(patient_id), day, self.settings)

    def _units(self, units: list[Unit], targets: PatientTargets) -> None:
        """Forecast slices that share their batches; all of them again if one is missing, so that batches stay alike."""
        if all(self.ledger.is_done(unit) for unit in units):
            return
        forecasts = forecast_units(units, self.cohort, targets, self.engine, self.settings)
        for unit, forecast in zip(units, forecasts, strict=True):
            if not self.ledger.is_done(unit):
                write_shard(self.ledger.shard(unit), forecast, self.ledger.provenance)
