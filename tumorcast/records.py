"""The nouns of the project as frozen dataclasses. They hold data and check nothing that a reader already checked.

Patient ─< Session ─< Slice;  Patient ─ Treatment;  Patient ─ GrowthFit
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Sizes = npt.NDArray[np.float64]


class Contrast(StrEnum):
    """The four MRI contrasts of BraTS, in the channel order of every image in the project."""

    T1N = "t1n"
    T1C = "t1c"
    T2W = "t2w"
    T2F = "t2f"


@dataclass(frozen=True)
class RadiotherapyCourse:
    """One course of radiotherapy, in days on the patient's own clock; dose and fractions are None where unknown."""

    start_days: float
    end_days: float
    dose_gy: float | None = None
    fractions: int | None = None


@dataclass(frozen=True)
class ChemotherapyCourse:
    """One course of chemotherapy, in days on the patient's own clock; end_days is infinite while it goes on."""

    start_days: float
    end_days: float


@dataclass(frozen=True)
class Treatment:
    """What was done to the patient, each kind in order of time; empty where none is known.

    resection_days: operations after the first scan's clock began, which reset the tumour's size.
    """

    radiotherapy: tuple[RadiotherapyCourse, ...] = ()
    chemotherapy: tuple[ChemotherapyCourse, ...] = ()
    resection_days: tuple[float, ...] = ()


@dataclass(frozen=True)
class SessionVolume:
    """The whole of a scan on cubic voxels, (Z, Y, X) in the order LPS, as growth maps in three dimensions are made of.

    images: (C, Z, Y, X) uint8, 0 … 255 for the slices' -1 … 1; air is 0. labels: uint8, BraTS 2023; brain: bool.
    affine: (4, 4) float64, voxel (x, y, z) to world, RAS mm.
    coarsest_mm: the largest spacing of the source's voxels, which tells thick slices.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    brain: npt.NDArray[np.bool_]
    affine: FloatArray
    coarsest_mm: float

    @property
    def voxel_mm(self) -> float:
        """Side of a voxel."""
        return float(np.linalg.norm(self.affine[:3, 0]))

    @property
    def tumour(self) -> npt.NDArray[np.bool_]:
        """(Z, Y, X) where any label is."""
        return self.labels > 0

    @property
    def volume_mm3(self) -> float:
        """Volume of the tumour, in these voxels."""
        return float(np.count_nonzero(self.labels)) * self.voxel_mm**3


@dataclass(frozen=True)
class Session:
    """One prepared scan: slices of one size, with the way back to the source's voxels.

    images: (S, C, H, W) float32 in [-1, 1]; air is -1.
    labels: (S, H, W) uint8, BraTS 2023 labels (0 none, 1 necrotic core, 2 oedema, 3 enhancing).
    brain: (S, H, W) bool.
    area_mm2, brain_mm2: (S,) float64, tumour and brain area of the slice in the source's own pixels.
    source_slice: (S,) int64, index along the third axis of the canonically oriented (LPS) volume.
    affine: (4, 4) float64, voxel (column, row, source_slice) of the prepared grid to world, RAS mm, as in NIfTI.
    volume_mm3: tumour volume of the whole source, not of the chosen slices alone; NaN without a mask or for 2D slices.
    source: where it came from, as JSON can hold it (docs/formats.md): the SHA-256 of each file by what it is (`t1c`,
        `seg`; no file names), grid (size, spacing, origin, direction in SimpleITK's LPS convention), intensity windows,
        where the brain is from, tumour area of every slice, notes; of a registered scan the way to its own voxels.
    volume: the scan on cubic voxels; None of single slices, and where none is to be kept.
    """

    patient_id: str
    session_id: str
    day: float
    contrasts: tuple[Contrast, ...]
    images: FloatArray
    labels: npt.NDArray[np.uint8]
    brain: npt.NDArray[np.bool_]
    area_mm2: FloatArray
    brain_mm2: FloatArray
    source_slice: npt.NDArray[np.int64]
    affine: FloatArray
    volume_mm3: float
    source: dict[str, Any] = field(default_factory=dict)
    volume: SessionVolume | None = None


class Status(StrEnum):
    """How a scan or a patient fared. One that failed never stops the others."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class PatientOutcome:
    """How a patient fared, and why."""

    patient_id: str
    status: Status
    reason: str = ""


def count_by_status(outcomes: Iterable[PatientOutcome]) -> dict[str, int]:
    """How many patients fared how, every status named."""
    counted = Counter(outcome.status for outcome in outcomes)
    return {str(status): counted[status] for status in Status}


class LawName(StrEnum):
    """How tumour cells grow where nothing is done to them."""

    EXPONENTIAL = "exponential"
    LOGISTIC = "logistic"
    GOMPERTZ = "gompertz"


class Forecaster(StrEnum):
    """Who forecasts sizes.

    COMBINED: the state-space mixture and the pool. STATE_SPACE: that mixture alone. POOLED: models that share
    information, and the law where that was measured to help. MECHANISTIC: the growth law. PERSISTENCE: the last size.
    """

    COMBINED = "combined"
    STATE_SPACE = "state-space"
    POOLED = "pooled"
    MECHANISTIC = "mechanistic"
    PERSISTENCE = "persistence"


class FitStatus(StrEnum):
    """How a growth fit ended."""

    CONVERGED = "converged"
    AT_BOUND = "at_bound"
    NOT_CONVERGED = "not_converged"
    TOO_FEW_POINTS = "too_few_points"


@dataclass(frozen=True)
class SizeSeries:
    """The measured sizes of one patient over time, in days on the patient's own clock.

    days: (T,) increasing; sizes: (T,) non-negative, in the unit that ends `size_name` (`area_mm2`, `volume_mm3`).
    companion: (T,) sizes of another compartment of the tumour on the same days, NaN where it was not measured.
    """

    patient_id: str
    size_name: str
    days: Sizes
    sizes: Sizes
    treatment: Treatment = Treatment()
    companion: Sizes | None = None

    def part(self, first: int, stop: int) -> "SizeSeries":
        """The scans from `first` until before `stop`, as if there were no others."""
        companion = None if self.companion is None else self.companion[first:stop]
        return replace(self, days=self.days[first:stop], sizes=self.sizes[first:stop], companion=companion)


@dataclass(frozen=True)
class ErrorModel:
    """How measured log sizes depart from a growth law.

    departure_sd: of a departure that falls to 1/e in departure_days; measurement_sd: of the error of one measurement.
    """

    measurement_sd: float
    departure_sd: float
    departure_days: float


@dataclass(frozen=True)
class GrowthFit:
    """A growth law fitted to one patient, with its bootstrap.

    series: the sizes, with the resections that were inferred from sudden drops among its treatment.
    parameters: (P,) best fit, replicates: (B, P) one row a bootstrap replicate, both in the order of `parameter_names`.
    replicate_status: (B,) uint8, each its code, the index of its status in FitStatus.
    loss: of the best fit, in the units of `loss_name` (docs/commands/fit.md).
    origin_day: the day whose size is the parameter initial_size.
    doses: whether a course's dose weighs its effect (laws.dose_weight).
    deviations: (B,) standard normal, where each replicate lies in what `errors` leave open; zeros without errors.
    errors: how sizes depart from the law, where a population has shown it; None for a patient fitted alone.
    notes: what a reader of the forecast should know, as a drop taken for a resection.
    intervals: by parameter, its (2.5 %, 97.5 %) confidence limits, where the method gives them (lmfit).
    inferred_resections: those of the series' resections that were inferred.
    """

    series: SizeSeries
    law: LawName
    parameter_names: tuple[str, ...]
    parameters: Sizes
    replicates: Sizes
    replicate_status: npt.NDArray[np.uint8]
    loss: float
    loss_name: str
    status: FitStatus
    origin_day: float
    deviations: Sizes
    doses: bool = True
    errors: ErrorModel | None = None
    notes: tuple[str, ...] = ()
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    inferred_resections: tuple[float, ...] = ()

    @property
    def told(self) -> SizeSeries:
        """The series with the resections alone that the source tells of."""
        treatment = self.series.treatment
        days = tuple(day for day in treatment.resection_days if day not in self.inferred_resections)
        return replace(self.series, treatment=replace(treatment, resection_days=days))
