"""Pairs of scans of one slice, the earlier of which is forecast from and the later one is the truth."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.forecasting.plan import PlannedSlice, Unit

LEAST_GROWTH = 1.1


@dataclass(frozen=True)
class Pair:
    """The same slice of a patient at two successive dates. session: the earlier; place: the slice in it."""

    patient_id: str
    session_id: str
    later_id: str
    day: float
    later_day: float
    place: PlannedSlice
    now: CohortSlice
    later: CohortSlice
    pixel_mm: float

    @property
    def ratio(self) -> float:
        """The later tumour's area over the present one's."""
        return self.later.area_mm2 / self.now.area_mm2

    def unit(self, members: int) -> Unit:
        """The slice as a unit of work of so many members."""
        return Unit(self.patient_id, self.session_id, (self.place,), 0, 0, members)


def pairs_of(cohort: Cohort, patient_id: str, count: int) -> list[Pair]:
    """The patient's pairs in the slice where the later tumour is largest, at most `count`, those that grew most.

    A pair counts if its tumour grew by a tenth at least, by area in the source's pixels and in the prepared ones.
    """
    grown = [pair for pair in _every_pair(cohort, patient_id) if _has_grown(pair)]
    return sorted(grown, key=lambda pair: -pair.ratio)[:count]


def _every_pair(cohort: Cohort, patient_id: str) -> Iterator[Pair]:
    sessions = [info for info in cohort.sessions(patient_id) if info.n_slices]
    for before, after in itertools.pairwise(sessions):
        largest = int(np.argmax(np.nan_to_num(after.area_mm2)))
        number = int(after.source_slice[largest])
        found = np.flatnonzero(before.source_slice == number)
        if found.size:
            place = PlannedSlice(int(found[0]), number)
            now, later = cohort.slice(patient_id, before.id, place.index), cohort.slice(patient_id, after.id, largest)
            days = before.day, after.day
            yield Pair(patient_id, before.id, after.id, *days, place, now, later, cohort.pixel_mm)


def _has_grown(pair: Pair) -> bool:
    before, after = int((pair.now.labels > 0).sum()), int((pair.later.labels > 0).sum())
    return pair.now.area_mm2 > 0 and before > 0 and pair.ratio >= LEAST_GROWTH and after >= LEAST_GROWTH * before
