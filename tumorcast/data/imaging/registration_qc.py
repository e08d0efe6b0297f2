"""How well two volumes lie on each other: numbers before and after, what is suspicious about them, and the table.

Figures are taken on the fixed volume's grid, thinned to about 2 mm.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from tumorcast.data.imaging.brain_mask import BoolArray, window_of
from tumorcast.data.imaging.geometry import Grid, Interpolation
from tumorcast.data.imaging.registration import LEAST_VOXELS, RegistrationImage, region_of
from tumorcast.data.imaging.transforms import (
    IDENTITY,
    Affine,
    Displacement,
    Transform,
    resample,
    resample_mask,
)
from tumorcast.durable import written_whole
from tumorcast.records import FloatArray

CHECKED_MM = 2.0
BINS = 32
LEAST_DICE = 0.80  # of the brains' outlines
LEAST_IN_VIEW = 0.90  # of the fixed brain
LARGEST_ROTATION_DEGREES, LARGEST_SHIFT_MM = 30.0, 60.0
LARGEST_VOLUME_CHANGE = 0.10  # of the tumour by being read on another grid
LEAST_TUMOUR_MM3 = 200.0  # below, some voxels are a tenth of it
LEAST_JACOBIAN = 0.2  # a deformation that leaves less of a volume somewhere is none of a brain
DECIMALS = 4
COLUMNS = (
    *("patient_id", "session_id", "status", "contrast", "onto", "used", "nmi_before", "nmi_after"),
    *("dice_before", "dice_after", "translation_mm", "rotation_degrees", "brain_in_view"),
    *("kept", "nmi_deformed", "largest_displacement_mm", "least_jacobian"),
    *("tumour_native_mm3", "tumour_cohort_mm3", "notes"),
)


@dataclass(frozen=True)
class ImageSimilarity:
    """How two volumes agree. nmi: normalised mutual information, from 1 (nothing in common) to 2; dice: of the brains,
    where the moving volume was scanned; in_view: the share of the fixed brain that it covers.
    """

    nmi: float
    dice: float
    in_view: float


@dataclass(frozen=True)
class Alignment:
    """One registration as it is recorded. contrast, onto: what was laid on what; used: `found`, or `headers` where that
    is better, or the brain moves by no more than half a voxel anywhere, which is not worth a loss of sharpness.

    translation_mm: how far the brain's centre moves; rotation_degrees: about any axis. Both as found.
    """

    contrast: str
    onto: str
    used: str
    nmi_before: float
    nmi_after: float
    dice_before: float
    dice_after: float
    translation_mm: float
    rotation_degrees: float
    brain_in_view: float
    flags: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return _rounded(asdict(self) | {"flags": list(self.flags)})

    def summary(self) -> str:
        """The numbers in three lines, as a title of a picture."""
        moved = f"{self.translation_mm:.1f} mm and {self.rotation_degrees:.1f}° found"
        moved += "" if self.used == "found" else ", not used"
        alike = f"NMI {self.nmi_before:.3f} → {self.nmi_after:.3f}"
        overlap = f"Dice {self.dice_before:.2f} → {self.dice_after:.2f}"
        return f"{self.contrast} onto {self.onto}\n{alike}, {overlap}\n{moved}"


@dataclass(frozen=True)
class DeformationQuality:
    """A deformation as it is recorded. kept: whether it is used; least_jacobian: the least it leaves of a volume."""

    kept: bool
    nmi_rigid: float
    nmi_deformed: float
    largest_displacement_mm: float
    least_jacobian: float
    flags: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return _rounded(asdict(self) | {"flags": list(self.flags)})


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, DECIMALS) if isinstance(value, float) else value for key, value in record.items()}


def judge_alignment(
    fixed: RegistrationImage, moving: RegistrationImage, found: Affine, names: tuple[str, str]
) -> tuple[Alignment, Affine]:
    """What `found` is worth beside the headers, and the transform to use. names: what was laid on what."""
    pair = softened(fixed), softened(moving)
    before, after = (image_similarity(*pair, transform) for transform in (IDENTITY, found))
    points = fixed.brain_points()
    still = float(found.distances_mm(points).max()) <= min(fixed.grid.spacing) / 2
    better = after.nmi > before.nmi
    used = after if better and not still else before
    shift = float(found.distances_mm(points.mean(axis=0, keepdims=True))[0])
    turn = found.rotation_degrees
    flags = [] if better or still else ["nothing better than the headers was found"]
    alignment = Alignment(
        contrast=names[0],
        onto=names[1],
        used="found" if used is after else "headers",
        nmi_before=before.nmi,
        nmi_after=used.nmi,
        dice_before=before.dice,
        dice_after=used.dice,
        translation_mm=shift,
        rotation_degrees=turn,
        brain_in_view=used.in_view,
        flags=(*flags, *_flags(used, shift, turn)),
    )
    return alignment, found if used is after else IDENTITY


def judge_deformation(
    fixed: RegistrationImage, moving: RegistrationImage, rigid: Affine, field: Displacement
) -> DeformationQuality:
    """Whether a deformation before the rigid transform makes two scans more alike, without a fold."""
    pair = softened(fixed), softened(moving)
    before, after = (image_similarity(*pair, transform) for transform in (rigid, rigid @ field))
    jacobian = field.least_jacobian()
    flags = []
    if after.nmi <= before.nmi:
        flags.append("not bent, as that made it no more like the first scan")
    if jacobian < LEAST_JACOBIAN:
        flags.append(f"not bent, as that left {jacobian:.2f} of a volume, less than {LEAST_JACOBIAN:g}")
    return DeformationQuality(not flags, before.nmi, after.nmi, field.largest_mm(), jacobian, tuple(flags))


def _flags(used: ImageSimilarity, shift_mm: float, turn_degrees: float) -> list[str]:
    flags = []
    if used.dice < LEAST_DICE:
        flags.append(f"brains overlap by {used.dice:.2f} (Dice), less than {LEAST_DICE:g}")
    if used.in_view < LEAST_IN_VIEW:
        flags.append(f"covers {used.in_view:.0%} of the brain, less than {LEAST_IN_VIEW:.0%}")
    if turn_degrees > LARGEST_ROTATION_DEGREES:
        flags.append(f"turned by {turn_degrees:.0f} degrees, more than {LARGEST_ROTATION_DEGREES:g}")
    if shift_mm > LARGEST_SHIFT_MM:
        flags.append(f"moved by {shift_mm:.0f} mm, more than {LARGEST_SHIFT_MM:g}")
    return flags


def volume_flags(native_mm3: float, cohort_mm3: float) -> list[str]:
    """What is wrong with a tumour that is larger or smaller in the cohort's space; volumes are NaN without a mask."""
    if math.isnan(native_mm3) or native_mm3 < LEAST_TUMOUR_MM3:
        return []
    change = cohort_mm3 / native_mm3 - 1
    flag = f"the tumour has {native_mm3:.0f} mm³ in its scan and {cohort_mm3:.0f} mm³ on the cohort's grid"
    return [flag] if abs(change) > LARGEST_VOLUME_CHANGE else []


def softened(volume: RegistrationImage) -> RegistrationImage:
    """The image smoothed by a voxel, so that what is read between voxels is no smoother than what is read on them.

    Else two scans on one grid would look more alike unmoved than well moved.
    """
    image = volume.image
    for axis, side in enumerate(image.GetSize()):
        if side >= LEAST_VOXELS:
            image = sitk.RecursiveGaussian(image, image.GetSpacing()[axis], direction=axis)
    return replace(volume, image=image)


def image_similarity(fixed: RegistrationImage, moving: RegistrationImage, transform: Transform) -> ImageSimilarity:
    """How `moving`, read through the transform, agrees with `fixed`."""
    grid = checked_grid(fixed.cropped().grid)
    region = resample(region_of(fixed), grid, interpolation=Interpolation.NEAREST)
    brain = resample_mask(fixed.brain, fixed.grid, grid) > 0
    in_view = resample_mask(np.ones_like(moving.brain), moving.grid, grid, transform) > 0
    moved_brain = resample_mask(moving.brain, moving.grid, grid, transform) > 0
    moved = sitk.GetArrayFromImage(resample(moving.image, grid, transform))
    still = sitk.GetArrayFromImage(resample(fixed.image, grid))
    counted = (sitk.GetArrayFromImage(region) > 0) & in_view
    return ImageSimilarity(
        nmi=normalised_mutual_information(still[counted], moved[counted]),
        dice=dice(brain & in_view, moved_brain),
        in_view=float(in_view[brain].mean()) if brain.any() else 0.0,
    )


def checked_grid(grid: Grid) -> Grid:
    """The grid with voxels of about CHECKED_MM, where they are finer."""
    factors = [max(1, min(side, round(CHECKED_MM / step))) for side, step in zip(grid.size, grid.spacing, strict=True)]
    return Grid.of(sitk.Shrink(grid.image(np.zeros(grid.size[::-1], np.uint8)), factors))


def normalised_mutual_information(first: FloatArray, second: FloatArray) -> float:
    """Studholme's (1999) (H(A) + H(B)) / H(A, B) of two samples (N,), each in 32 bins of its robust window.

    >>> ramp = np.arange(32_000.0)
    >>> bool(abs(normalised_mutual_information(ramp, -ramp) - 2) < 1e-3), normalised_mutual_information(ramp, 0 * ramp)
    (True, 1.0)
    """
    samples, everywhere = (first, second), np.ones(first.shape, bool)
    windows = [window_of(values, everywhere) for values in samples]
    if windows[0] is None or windows[1] is None:
        return 1.0
    scaled = [window.scale(values, everywhere) for window, values in zip(windows, samples, strict=True) if window]
    counts, _, _ = np.histogram2d(scaled[0], scaled[1], BINS, [[-1, 1], [-1, 1]])
    joint = _entropy(counts)
    return (_entropy(counts.sum(axis=0)) + _entropy(counts.sum(axis=1))) / joint if joint > 0 else 1.0


def _entropy(counts: FloatArray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def dice(first: BoolArray, second: BoolArray) -> float:
    """Twice the overlap over the sum; 0 for two empty masks."""
    total = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / total if total else 0.0


def quality_rows(registration: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one scan in the table, from a session's `source["registration"]`; the first has what is the scan's.

    A deformation stands in the row of the registration that it goes on from, which is the last.
    """
    rows = [dict(alignment) for alignment in registration.get("alignments", ())] or [{}]
    rows[-1] |= registration.get("deformation", {})
    rows[0] |= {name: value for name, value in registration.items() if name.startswith("tumour_")}
    return [{name: row[name] for name in COLUMNS if name in row} for row in rows]


def write_quality(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The table of all scans."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
