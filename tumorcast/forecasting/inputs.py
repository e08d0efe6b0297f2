"""The inputs of a unit, from the files: its slices, the target sizes of its members, and the record of its patient."""

from dataclasses import dataclass, field

from tumorcast.archive.growth_file import GrowthFile
from tumorcast.archive.maps import PatientForecast
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.data.native import grid_record
from tumorcast.errors import InputError
from tumorcast.forecasting.plan import CUT_OUT, PlannedSlice, Unit
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.forecasting.volume_slices import slice_through
from tumorcast.records import SessionVolume
from tumorcast.settings import ForecastSettings

NOT_FITTED = "{}: not in the growth file; fit this cohort, or give --relative-change"
PATIENTS_KEPT = 4  # units of a patient come one after the other, so few are needed at a time


@dataclass(frozen=True)
class UnitInputs:
    """A unit with all that is read for it. volume: None where the cohort keeps none, or nothing is to be made of it."""

    unit: Unit
    slices: list[CohortSlice]
    targets: PatientTargets
    patient: PatientForecast
    volume: SessionVolume | None = None


@dataclass
class UnitReader:
    """Reads units; growth is needed where a horizon is asked for. volumes: whether volumes are read too."""

    cohort: Cohort
    growth: GrowthFile | None
    settings: ForecastSettings
    volumes: bool = False
    _targets: dict[str, PatientTargets] = field(default_factory=dict, repr=False)

    def read(self, unit: Unit) -> UnitInputs:
        """Everything a unit needs. Raises InputError if the patient has no fit, or one of other dates."""
        last = self.cohort.sessions(unit.patient_id)[-1]
        targets = self.targets_of(unit.patient_id, last.day)
        horizon = self.settings.horizon_days
        patient = PatientForecast(
            patient_id=unit.patient_id,
            session_id=last.id,
            day=last.day,
            target_day=None if horizon is None else last.day + horizon,
            size_name=targets.size_name,
            curve=targets.curve,
            source_grid=grid_record(
                self.cohort.source(unit.patient_id, last.id), deformed=self.cohort.is_deformed(unit.patient_id, last.id)
            ),
        )
        volume = self.cohort.volume(unit.patient_id, unit.session_id) if self.volumes else None
        return UnitInputs(unit, slices_of(unit, self.cohort, volume), targets, patient, volume)

    def targets_of(self, patient_id: str, day: float) -> PatientTargets:
        """What the patient's members aim at, from a last scan of this day. Raises InputError as `read` does."""
        if patient_id not in self._targets:
            while len(self._targets) >= PATIENTS_KEPT:
                del self._targets[next(iter(self._targets))]
            self._targets[patient_id] = self._draw(patient_id, day)
        return self._targets[patient_id]

    def _draw(self, patient_id: str, day: float) -> PatientTargets:
        if self.settings.horizon_days is None:
            return PatientTargets.fixed(self.settings)
        if self.growth is None or patient_id not in self.growth:
            raise InputError(NOT_FITTED.format(patient_id))
        return PatientTargets.drawn(self.growth.forecast(patient_id), day, self.settings)


def slices_of(unit: Unit, cohort: Cohort, volume: SessionVolume | None = None) -> list[CohortSlice]:
    """The unit's slices, from the cohort file, or cut out of the volume."""
    return [_slice_of(planned, unit, cohort, volume) for planned in unit.slices]


def _slice_of(planned: PlannedSlice, unit: Unit, cohort: Cohort, volume: SessionVolume | None) -> CohortSlice:
    if planned.index != CUT_OUT:
        return cohort.slice(unit.patient_id, unit.session_id, planned.index)
    assert volume is not None, "else no slice were cut out"
    affine, _ = cohort.slice_grid(unit.patient_id, unit.session_id)
    return slice_through(volume, affine, planned.source_slice, cohort.image_size)
