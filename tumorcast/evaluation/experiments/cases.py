"""The slice of a patient that an experiment forecasts from, and the size aimed at: the true one, where it is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.methods import Ratios
from tumorcast.evaluation.pairs import Pair, pairs_of
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.plan import plan_patient
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import ForecastSettings
from tumorcast.version import VERSION

Name = TypeVar("Name")


@dataclass(frozen=True)
class Case:
    """A slice, and the area ratio aimed at. known: whether the later scan is there; else both of the pair are one."""

    pair: Pair
    ratio: float
    known: bool

    def told(self) -> dict[str, Any]:
        """What a row says of it."""
        return {
            "patient_id": self.pair.patient_id,
            "session": self.pair.session_id,
            "later_session": self.pair.later_id if self.known else None,
            "slice": self.pair.planned.source_slice,
            "ratio": self.ratio,
        }

    def forecast(self, engine: Engine, settings: ForecastSettings, ratios: Ratios) -> SliceForecast:
        """Members, one an entry of `ratios`, which are kept. The target of the settings is not used."""
        kept = settings.model_copy(update={"members": len(ratios), "keep_members": True})
        targets = PatientTargets(ratios, None, None)
        (found,) = forecast_unit(self.pair.unit(len(ratios)), [self.pair.now], targets, engine, kept).values()
        return found


def case_of(cohort: Cohort, patient_id: str, relative_change: float) -> Case | None:
    """The latest pair of successive scans between which the tumour grew by a tenth (pairs.pairs_of), and its true size.

    Without one: the last scan where its tumour is largest, and `relative_change`; None where it shows none.
    """
    sessions = cohort.sessions(patient_id)
    grown = pairs_of(cohort, patient_id, len(sessions))
    if grown:
        latest = max(grown, key=lambda pair: pair.later_day)
        return Case(latest, latest.ratio, True)
    plan = plan_patient(cohort, patient_id, 1)
    if not plan.slices:
        return None
    (place,), last = plan.slices, sessions[-1]
    now = cohort.slice(patient_id, last.id, place.index)
    days = last.day, last.day
    pair = Pair(patient_id, last.id, last.id, *days, place, now, now, cohort.pixel_mm)
    return Case(pair, 1.0 + relative_change, False)


@dataclass(frozen=True)
class CaseSource:
    """Cases of a cohort, and the model that forecasts them. patients: at most so many, spread evenly; None: all."""

    cohort: Cohort
    engine: Engine
    settings: ForecastSettings
    patients: int | None = None

    def patient_ids(self) -> list[str]:
        """Those with a case, in the order of the cohort.

        Raises InputError if there is none, UsageError for settings with a horizon.
        """
        names = [name for name in self.cohort.patient_ids() if self._case_of(name)]
        if not names:
            raise InputError(f"{self.cohort.path}: no last scan shows a tumour; prepare it from scans with masks")
        return spread_evenly(names, self.patients)

    def case(self, patient_id: str) -> Case:
        """The patient's case. Raises InputError if there is none."""
        found = self._case_of(patient_id)
        if found is None:
            raise InputError(
                f"{self.cohort.path}: the last scan of {patient_id} shows no tumour; give scans with masks"
            )
        return found

    def _case_of(self, patient_id: str) -> Case | None:
        change = self.settings.relative_change
        if change is None:
            raise UsageError(
                "the settings ask for a horizon, of which this experiment knows nothing; give relative_change in place "
                "of horizon_days"
            )
        return case_of(self.cohort, patient_id, change)

    def check_level(self, noise_level: int) -> None:
        """Raises UsageError if the model was not trained so far."""
        levels = self.engine.info.noise_levels
        if noise_level > levels:
            raise UsageError(
                f"noise level {noise_level} exceeds the {levels} that the model was trained for; lower --noise-level"
            )

    def made_of(self) -> dict[str, Any]:
        """What every row depends on. The number of patients and another device of the same kind do not enter."""
        return {
            "version": VERSION,
            "settings": self.settings.model_dump(mode="json", exclude={"keep_members", "max_slices", "horizon_days"}),
            "cohort_sha256": self.cohort.sha256,
            "model_sha256": self.engine.info.sha256,
            "engine": str(self.engine.provider),
        }


def spread_evenly(names: Sequence[Name], count: int | None) -> list[Name]:
    """`count` of them, the first and the last among them, or all.

    >>> spread_evenly("abcde", 3), spread_evenly("ab", None)
    (['a', 'c', 'e'], ['a', 'b'])
    """
    places = np.linspace(0, len(names) - 1, min(count or len(names), len(names))).astype(int)
    return [names[place] for place in places]
