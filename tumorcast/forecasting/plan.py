"""Units of work, each with its own randomness, and the plan of a whole run."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tumorcast.data.cohort import Cohort, SessionInfo
from tumorcast.forecasting.volume_slices import reached_slices
from tumorcast.random_keys import patient_key
from tumorcast.records import SessionVolume
from tumorcast.settings import ForecastSettings

CUT_OUT = -1


@dataclass(frozen=True)
class PlannedSlice:
    """A slice of a scan: `index` is its position in the session, `source_slice` in the volume.

    One that the session has not, index CUT_OUT, is cut out of the volume.
    """

    index: int
    source_slice: int

    @property
    def name(self) -> str:
        """The slice's name in the archive; names sort as slices do.

        >>> PlannedSlice(2, 71).name
        '0071'
        """
        return f"{self.source_slice:04d}"


@dataclass(frozen=True)
class Unit:
    """Slices of one patient's last scan, and the members `first` … `last` - 1 of their ensembles: block number `block`.

    Without slices it is the patient's volume, whose growth map is made of all members at once. Its result depends on
    nothing else: not on the rank, the order, or the other units.
    """

    patient_id: str
    session_id: str
    slices: tuple[PlannedSlice, ...]
    block: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """The unit's name among those of the patient.

        >>> Unit("P1", "000", (), 0, 0, 100).name
        'volume'

        >>> Unit("P1", "000", (PlannedSlice(2, 71),), 1, 64, 100).name
        '0071.001'
        """
        return f"{self.slices[0].name}.{self.block:03d}" if self.slices else "volume"

    @property
    def key(self) -> str:
        """The unit's name in the run."""
        return f"{self.patient_id}/{self.name}"

    @property
    def images(self) -> int:
        """How many images it makes, which tells how long it takes."""
        return len(self.slices) * (self.last - self.first)


def member_noise(
    patient_id: str, source_slice: int, member: int, seed: int, shape: tuple[int, ...], *use: int
) -> npt.NDArray[np.float32]:
    """Standard normal noise of one member, from its key alone: no rank, batch or order enters.

    use: further numbers of the key, for noise of another use than the image's.
    """
    key = (patient_key(patient_id), source_slice, member, *use)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)).standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class PatientPlan:
    """What to forecast of one patient's last scan: nothing where it has no tumour, or could not be read.

    volume: whether there is a volume with tumour, and something that foretells its growth.
    """

    patient_id: str
    session_id: str
    slices: tuple[PlannedSlice, ...]
    volume: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to forecast."""
        return not (self.slices or self.volume)


def plan_patient(
    cohort: Cohort,
    patient_id: str,
    max_slices: int | None,
    *,
    images: bool = True,
    volumes: bool = False,
    grown: Callable[[SessionVolume], npt.NDArray[np.float32]] | None = None,
) -> PatientPlan:
    """What to forecast of the patient's last scan.

    images: the slices with tumour, those with the largest if `max_slices` cuts the list. volumes: the volume, where the
    cohort keeps one and it has tumour. grown: makes the growth map of a volume; where both are asked for, and the list
    is not cut, the slices that the tumour newly comes to are among the images.
    """
    last: SessionInfo = cohort.sessions(patient_id)[-1]
    volume = cohort.volume(patient_id, last.id) if volumes else None
    if volume is not None and not volume.tumour.any():
        volume = None
    slices = _slices_with_tumour(cohort, patient_id, last, max_slices) if images else ()
    if images and volume is not None and grown is not None and max_slices is None:
        affine, count = cohort.slice_grid(patient_id, last.id)
        has = {part.source_slice for part in slices}
        index = {int(number): k for k, number in enumerate(last.source_slice)}
        new = [number for number in reached_slices(volume, affine, grown(volume), count) if number not in has]
        slices += tuple(PlannedSlice(index.get(number, CUT_OUT), number) for number in new)
        slices = tuple(sorted(slices, key=lambda part: part.source_slice))
    return PatientPlan(patient_id, last.id, slices, volume is not None)


def _slices_with_tumour(
    cohort: Cohort, patient_id: str, last: SessionInfo, max_slices: int | None
) -> tuple[PlannedSlice, ...]:
    order = [int(i) for i in np.argsort(-last.area_mm2, kind="stable") if last.area_mm2[i] > 0]
    bearing = [i for i in order if cohort.slice(patient_id, last.id, i).labels.any()]
    chosen = sorted(bearing[:max_slices])
    return tuple(PlannedSlice(i, int(last.source_slice[i])) for i in chosen)


@dataclass(frozen=True)
class RunPlan:
    """Every unit of a run, by number; held as slices a patient, since there may be millions of units.

    members: of each ensemble; block: most members of a unit; together: most slices of a unit.
    """

    patients: tuple[PatientPlan, ...]
    members: int
    block: int
    together: int

    @classmethod
    def of(cls, patients: tuple[PatientPlan, ...], settings: ForecastSettings) -> Self:
        """Blocks of members as the settings say; slices go together where one's ensemble does not fill a batch."""
        return cls(patients, settings.members, settings.block, max(1, settings.batch // settings.members))

    def __len__(self) -> int:
        """How many units there are."""
        return int(self._ends[-1]) if self.patients else 0

    def __getitem__(self, number: int) -> Unit:
        """Unit `number`, counted over patients, and in each the volume, then slices and blocks."""
        position = int(np.searchsorted(self._ends, number, side="right"))
        within = number - (int(self._ends[position - 1]) if position else 0)
        patient = self.patients[position]
        if patient.volume and within == 0:
            return Unit(patient.patient_id, patient.session_id, (), 0, 0, self.members)
        group, block = divmod(within - patient.volume, self._blocks)
        slices = patient.slices[group * self.together : (group + 1) * self.together]
        first = block * self.block
        return Unit(patient.patient_id, patient.session_id, slices, block, first, min(first + self.block, self.members))

    def __iter__(self) -> Iterator[Unit]:
        """Every unit, by number."""
        return (self[number] for number in range(len(self)))

    def units_of(self, position: int) -> Iterator[Unit]:
        """The units of the patient at `position`: its volume, then by slices and by blocks."""
        first = int(self._ends[position - 1]) if position else 0
        return (self[number] for number in range(first, int(self._ends[position])))

    def longest_first(self) -> npt.NDArray[np.int64]:
        """Every number, most images first; equal ones in their order, so that a patient's units stay together.

        Volumes come last: they are the quickest.
        """
        images = np.fromiter((unit.images for unit in self), np.int64, len(self))
        return np.argsort(-images, kind="stable")

    def to_json(self) -> str:
        """The plan as text."""
        record = asdict(self) | {
            "patients": [
                [p.patient_id, p.session_id, [[s.index, s.source_slice] for s in p.slices], p.volume]
                for p in self.patients
            ]
        }
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan of `to_json`."""
        record: dict[str, Any] = json.loads(text)
        patients = tuple(
            PatientPlan(patient_id, session_id, tuple(PlannedSlice(*numbers) for numbers in slices), volume)
            for patient_id, session_id, slices, volume in record.pop("patients")
        )
        return cls(patients, **record)

    @cached_property
    def _blocks(self) -> int:
        return math.ceil(self.members / self.block)

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """(P,) the number after each patient's last unit."""
        counts = [
            int(patient.volume) + math.ceil(len(patient.slices) / self.together) * self._blocks
            for patient in self.patients
        ]
        return np.cumsum(counts, dtype=np.int64)
