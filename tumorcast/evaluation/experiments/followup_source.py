"""Follow-ups of a cohort and the model that forecasts them, as experiments take them: a unit is a patient."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.experiments.base import Row, spread_evenly, unit_name
from tumorcast.evaluation.followup import FollowUp, followed_patients, forecast_followups, latest_followup
from tumorcast.evaluation.metrics import Floats
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import ForecastSettings
from tumorcast.version import VERSION


def by_unit(patient_ids: Iterable[str]) -> dict[str, str]:
    """Patients by the names of their units."""
    return {unit_name(patient_id): patient_id for patient_id in patient_ids}


def followed_units(cohort: Cohort, count: int | None) -> list[str]:
    """The units of patients with two scans or more, `count` spread evenly over the file, or all."""
    return [unit_name(patient_id) for patient_id in spread_evenly(followed_patients(cohort), count)]


def check_levels(engine: Engine, levels: Iterable[int]) -> None:
    """Raises UsageError if a noise level is higher than the model was trained for."""
    known, highest = engine.info.noise_levels, max(levels)
    if highest > known:
        raise UsageError(
            f"noise_level = {highest} exceeds the {known} levels that the model was trained for; give lower ones in "
            "--config or --grid"
        )


@dataclass(frozen=True)
class LatestFollowUps:
    """The latest follow-up of each patient, and the model that forecasts it.

    Without a later scan, `relative_change` of the settings is aimed at. patients: at most so many, spread evenly; None:
    all.
    """

    cohort: Cohort
    engine: Engine
    settings: ForecastSettings
    patients: int | None = None

    def patient_ids(self) -> list[str]:
        """Those with tumour in a follow-up, or in their last scan, in the order of the cohort.

        Raises InputError if there is none, UsageError for settings with a horizon.
        """
        self._relative_change()
        names = [name for name in self.cohort.patient_ids() if latest_followup(self.cohort, name)]
        if not names:
            raise InputError(f"{self.cohort.path}: no last scan shows a tumour; prepare it from scans with masks")
        return spread_evenly(names, self.patients)

    @cached_property
    def by_unit(self) -> dict[str, str]:
        """Every patient of the cohort by the name of its unit."""
        return by_unit(self.cohort.patient_ids())

    def followup(self, patient_id: str) -> FollowUp:
        """The patient's latest. Raises InputError if there is none."""
        followup = latest_followup(self.cohort, patient_id)
        if followup is None:
            raise InputError(
                f"{self.cohort.path}: the last scan of {patient_id} shows no tumour; give scans with masks"
            )
        return followup

    def target_ratio(self, followup: FollowUp) -> float:
        """The area ratio to aim at: the true one, where the later scan is known, else that of the settings."""
        return followup.ratio if followup.is_known else 1.0 + self._relative_change()

    def row(self, followup: FollowUp) -> Row:
        """Which slice it is and what is aimed at, for a unit's row."""
        return {
            "patient_id": followup.patient_id,
            "session": followup.session_id,
            "later_session": followup.later_id if followup.is_known else None,
            "slice": followup.planned.source_slice,
            "ratio": self.target_ratio(followup),
        }

    def _relative_change(self) -> float:
        if self.settings.relative_change is None:
            raise UsageError(
                "the settings ask for a horizon, of which this experiment knows nothing; give relative_change in place "
                "of horizon_days"
            )
        return self.settings.relative_change

    def check_level(self, noise_level: int) -> None:
        """Raises UsageError if the model was not trained so far."""
        levels = self.engine.info.noise_levels
        if noise_level > levels:
            raise UsageError(
                f"noise level {noise_level} exceeds the {levels} that the model was trained for; lower --noise-level"
            )

    def provenance(self) -> dict[str, Any]:
        """All that a row depends on. The number of patients and another device of the same kind do not enter."""
        return {
            "version": VERSION,
            "settings": self.settings.model_dump(mode="json", exclude={"keep_members", "max_slices", "horizon_days"}),
            "cohort_sha256": self.cohort.sha256,
            "model_sha256": self.engine.info.sha256,
            "engine": str(self.engine.provider),
        }


def forecast_ratios(followup: FollowUp, ratios: Floats, engine: Engine, settings: ForecastSettings) -> SliceForecast:
    """Members, one an entry of `ratios` (M,), which are kept. The target of the settings is not used."""
    kept = settings.model_copy(update={"members": len(ratios), "keep_members": True})
    (forecast,) = forecast_followups([followup], PatientTargets(ratios), engine, kept)
    return forecast
