"""What there is to do: one unit a slice, with its own randomness."""

from dataclasses import dataclass

import numpy as np

from tumorcast.config import ForecastSettings
from tumorcast.data.cohort import Cohort, SessionInfo
from tumorcast.keys import patient_key


@dataclass(frozen=True)
class Unit:
    """One slice of one patient's last scan. `index` is its place in the session, `source_slice` in the volume."""

    patient_id: str
    session_id: str
    index: int
    source_slice: int

    @property
    def name(self) -> str:
        """The slice's name in the archive; names sort as slices do.

        >>> Unit("P1", "000", 2, 71).name
        '0071'
        """
        return f"{self.source_slice:04d}"


def member_noise(
    unit: Unit, member: int, seed: int, shape: tuple[int, ...]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Standard normal noise of one member, from its key alone: no rank, batch or order enters."""
    key = (patient_key(unit.patient_id), unit.source_slice, member)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)).standard_normal(shape, dtype=np.float32)


def plan_units(cohort: Cohort, patient_id: str, settings: ForecastSettings) -> list[Unit]:
    """The slices with tumour of the patient's last scan, the largest first if `max_slices` cuts the list."""
    last: SessionInfo = cohort.sessions(patient_id)[-1]
    order = [int(i) for i in np.argsort(-last.area_mm2, kind="stable") if last.area_mm2[i] > 0]
    bearing = [i for i in order if cohort.slice(patient_id, last.id, i).labels.any()]
    chosen = sorted(bearing[: settings.max_slices])
    return [Unit(patient_id, last.id, i, int(last.source_slice[i])) for i in chosen]
