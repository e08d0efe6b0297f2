"""Pairs of scans on one grid, from which growth in three dimensions is learned."""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tumorcast.records import SessionVolume

if TYPE_CHECKING:
    from tumorcast.data.cohort import Cohort  # its readers are not on every machine that trains

LEAST_VOXELS = 8  # of a tumour that is learned from
LEAST_RATIO, LARGEST_RATIO = 0.5, 8.0  # of volumes, later over earlier


@dataclass(frozen=True)
class VolumePair:
    """A scan with tumour, and a later one on the same grid with tumour too."""

    present: SessionVolume
    later: SessionVolume

    @property
    def ratio(self) -> float:
        """Later volume over present volume."""
        return float(np.count_nonzero(self.later.labels) / np.count_nonzero(self.present.labels))


def is_pair(earlier: SessionVolume, later: SessionVolume) -> bool:
    """Whether growth is learned from the two: on one grid, and neither nearly nothing nor beyond all measure."""
    if earlier.labels.shape != later.labels.shape or not np.allclose(earlier.affine, later.affine, atol=1e-2):
        return False
    before = int(earlier.tumour.sum())
    return before >= LEAST_VOXELS and LEAST_RATIO <= int(later.tumour.sum()) / before <= LARGEST_RATIO


def volume_pairs(cohort: "Cohort", patient_id: str) -> list[VolumePair]:
    """Every pair of a patient's scans, in the order of the earlier one; none where there is none."""
    volumes = [cohort.volume(patient_id, info.id) for info in cohort.sessions(patient_id)]
    known = [volume for volume in volumes if volume is not None]
    return [VolumePair(*two) for two in combinations(known, 2) if is_pair(*two)]
