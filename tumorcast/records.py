"""The nouns of the project as frozen dataclasses. They hold data and check nothing that a reader already checked.

Patient ─< Session ─< Slice;  Patient ─ Treatment;  Patient ─ GrowthFit
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


class Contrast(StrEnum):
    """The four MRI contrasts of BraTS, in the channel order of every image in the project."""

    T1N = "t1n"
    T1C = "t1c"
    T2W = "t2w"
    T2F = "t2f"


@dataclass(frozen=True)
class RadiotherapyCourse:
    """One course of radiotherapy, in days on the patient's own clock."""

    start_days: float
    end_days: float


@dataclass(frozen=True)
class Treatment:
    """What was done to the patient: courses in the order of their start; empty when none is known."""

    radiotherapy: tuple[RadiotherapyCourse, ...] = ()


@dataclass(frozen=True)
class SourceSession:
    """The files of one scan of one patient, as a reader found them (nothing has been opened yet).

    day: days on the patient's own clock; mask: the tumour labels, None where the source has none.
    """

    patient_id: str
    session_id: str
    day: float
    images: dict[Contrast, Path]
    mask: Path | None


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
    source: where it came from: file names without folders, SHA-256 sums, grid (size, spacing, origin, direction in
        SimpleITK's LPS convention), intensity windows.
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


class Status(StrEnum):
    """How a scan or a patient fared. One that failed never stops the others."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


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
    """

    patient_id: str
    size_name: str
    days: FloatArray
    sizes: FloatArray
    treatment: Treatment = Treatment()


@dataclass(frozen=True)
class GrowthFit:
    """A growth law fitted to one patient, with its bootstrap.

    parameters: (P,) best fit, replicates: (B, P) one row a bootstrap replicate, both in the order of `parameter_names`.
    loss: the sum of squared residuals of the best fit, of sizes over the first positive size.
    """

    series: SizeSeries
    law: str
    parameter_names: tuple[str, ...]
    parameters: FloatArray
    replicates: FloatArray
    replicate_status: tuple[FitStatus, ...]
    loss: float
    status: FitStatus
