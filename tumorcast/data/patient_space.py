"""A patient's scans in one space: the contrasts of a scan registered to its reference, that to the first scan's.

Each volume is read once, through the composed transform, on the grid of the first scan that can be used.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from tumorcast.data.imaging.deformation import deformation_between
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.registration import RegistrationImage, one_thread, rigid_between
from tumorcast.data.imaging.registration_qc import (
    Alignment,
    DeformationQuality,
    judge_alignment,
    judge_deformation,
    volume_flags,
)
from tumorcast.data.imaging.transforms import IDENTITY, Affine, Displacement, resample, resample_mask
from tumorcast.data.native import NATIVE, NativeImage, native_record
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.data.readers.volumes import Scan
from tumorcast.data.settings import PrepareSettings
from tumorcast.errors import InputError
from tumorcast.records import Contrast

REGISTRATION = "registration"  # in a session's `source`


@dataclass(frozen=True)
class _Baseline:
    """The scan whose reference the others are registered to. grid: its file's own; image: with its tumour."""

    session_id: str
    grid: Grid
    image: RegistrationImage


@dataclass(frozen=True)
class _Registration:
    """How a scan gets into its patient's space.

    reference: the contrast that the others are registered to; images: all of them, without the tumour.
    within: where points of the reference lie in each contrast; contrasts: how well (not of the reference itself).
    between: where points of the space lie in the reference; session: how well (not of the baseline).
    """

    reference: Contrast
    images: dict[Contrast, RegistrationImage]
    within: dict[Contrast, Affine]
    contrasts: dict[Contrast, Alignment]
    between: Affine = IDENTITY
    session: Alignment | None = None
    displacement: Displacement | None = None
    deformation: DeformationQuality | None = None
    flags: tuple[str, ...] = ()

    @property
    def alignments(self) -> list[Alignment]:
        """All registrations, in the order in which points go through them backwards."""
        return [*self.contrasts.values(), *([] if self.session is None else [self.session])]

    def native(self, contrast: Contrast, grid: Grid) -> NativeImage:
        """Where points of the space lie in a contrast that was acquired on this grid."""
        return NativeImage(grid, self.within[contrast] @ self.between, self.displacement)


class PatientSpace:
    """The space of one patient, made by the first of the scans that are placed in it.

    figures: the folder of a figure a scan; None draws none.
    """

    def __init__(self, settings: PrepareSettings, figures: Path | None = None) -> None:
        self._settings = settings
        self._figures = figures
        self._baseline: _Baseline | None = None

    def place(self, source: SourceSession, scan: Scan) -> Scan:
        """A scan in the patient's space. Raises InputError for one that cannot be registered to the others."""
        with one_thread():
            registration = _register_contrasts(source, scan)
            image = self._with_tumour(scan, registration)
            baseline = self._baseline or _Baseline(source.session_id, scan.grid, image)
            if self._baseline is not None:
                registration = self._register_to(baseline, source, registration, image)
            placed = _resampled(scan, registration, baseline, self._settings.tumour.labels)
            self._baseline = baseline
            if self._figures is not None:
                _draw(self._figures, source, registration, baseline)
        return placed

    def _with_tumour(self, scan: Scan, registration: _Registration) -> RegistrationImage:
        """The reference with its tumour; where the brain was given, that alone: jaw and neck move by themselves."""
        image = registration.images[scan.reference]
        if scan.labels is not None:
            own, transform = scan.voxels(scan.mask_on), registration.within[scan.mask_on]
            image = replace(image, tumour=resample_mask(scan.labels > 0, own, image.grid, transform) > 0)
        if not self._settings.brain_is_given:
            return image
        brain = scan.brains[scan.reference]
        return replace(image, image=sitk.Mask(image.image, image.grid.image(brain.astype(np.uint8))), brain=brain)

    def _register_to(
        self, baseline: _Baseline, source: SourceSession, registration: _Registration, image: RegistrationImage
    ) -> _Registration:
        fixed = baseline.image
        alignment, between = _aligned(source, fixed, image, (source.session_id, baseline.session_id))
        registration = replace(registration, between=between, session=alignment)
        if not self._settings.deformable:
            return registration
        if fixed.tumour is None or image.tumour is None:
            return replace(registration, flags=("not bent, as not both scans have a tumour mask to keep out of it",))
        displacement = deformation_between(fixed, image, between)
        quality = judge_deformation(fixed, image, between, displacement)
        return replace(registration, displacement=displacement if quality.kept else None, deformation=quality)


def _register_contrasts(source: SourceSession, scan: Scan) -> _Registration:
    """Where points of the reference lie in each contrast, and how well."""
    reference = scan.reference
    images = {c: RegistrationImage(scan.image(c), outline) for c, outline in scan.outlines.items()}
    within, alignments = {reference: IDENTITY}, {}
    for contrast, moving in images.items():
        if contrast is not reference:
            names = (str(contrast), str(reference))
            alignments[contrast], within[contrast] = _aligned(source, images[reference], moving, names)
    return _Registration(reference, images, within, alignments)


def _aligned(
    source: SourceSession, fixed: RegistrationImage, moving: RegistrationImage, names: tuple[str, str]
) -> tuple[Alignment, Affine]:
    try:
        return judge_alignment(fixed, moving, rigid_between(fixed, moving), names)
    except (InputError, RuntimeError) as error:  # ITK's own say where no voxel of one lies in the other
        why = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{source.patient_id}/{source.session_id}: {names[0]} cannot be registered to {names[1]} ({why}); look at "
            "the files, leave one out, or use --register none"
        ) from None


def _resampled(scan: Scan, registration: _Registration, baseline: _Baseline, followed: tuple[int, ...]) -> Scan:
    """Everything of the scan on the baseline's grid. followed: the labels whose volume is compared."""
    grid = baseline.image.grid
    natives = {contrast: registration.native(contrast, own) for contrast, own in scan.grids.items()}

    def masks_moved(masks: dict[Contrast, Any]) -> list[Any]:
        return [resample_mask(mask, scan.voxels(c), grid, natives[c].transform) for c, mask in masks.items()]

    images = {c: sitk.GetArrayFromImage(resample(scan.image(c), grid, natives[c].transform)) for c in scan.images}
    labels = None if scan.labels is None else masks_moved({scan.mask_on: scan.labels})[0]
    brain = np.logical_or.reduce([mask > 0 for mask in masks_moved(scan.brains)])
    volumes_mm3 = (np.nan, np.nan)
    if scan.labels is not None:
        own = scan.voxels(scan.mask_on)
        volumes_mm3 = _volume_mm3(scan.labels, own, followed), _volume_mm3(labels, grid, followed)
    record, flags = _record(scan, registration, natives, baseline, volumes_mm3)
    return replace(
        scan,
        images=images,
        grids=dict.fromkeys(scan.images, baseline.grid),
        labels=labels,
        source_slice=np.arange(grid.size[2], dtype=np.int64),
        notes=(*scan.notes, *flags),
        record=scan.record | record,
        brains={scan.reference: brain},
        outlines={},
        tumour_mm3=None if labels is None else volumes_mm3[0],
        displacement=registration.displacement,
    )


def _volume_mm3(labels: Any, grid: Grid, followed: tuple[int, ...]) -> float:
    return float(np.isin(labels, followed).sum() * np.prod(grid.spacing))


def _record(
    scan: Scan,
    registration: _Registration,
    natives: dict[Contrast, NativeImage],
    baseline: _Baseline,
    volumes_mm3: tuple[float, float],
) -> tuple[dict[str, Any], list[str]]:
    """What the cohort file keeps of the registration, and what the user should know of it.

    volumes_mm3: of the tumour, in the scan's own voxels and in the space's; NaN without a mask.
    """
    flags = [f"{a.contrast} onto {a.onto}: {flag}" for a in registration.alignments for flag in a.flags]
    quality = registration.deformation
    flags += [*registration.flags, *(quality.flags if quality else ()), *volume_flags(*volumes_mm3)]
    record: dict[str, Any] = {
        "reference": str(scan.reference),
        "anchor": baseline.session_id,
        "alignments": [alignment.as_dict() for alignment in registration.alignments],
        "flags": flags,
    }
    if quality is not None:
        record["deformation"] = quality.as_dict()
    if scan.labels is not None:
        record |= {"tumour_native_mm3": round(volumes_mm3[0], 3), "tumour_cohort_mm3": round(volumes_mm3[1], 3)}
    return {NATIVE: native_record(natives, scan.reference), REGISTRATION: record}, flags


def _draw(folder: Path, source: SourceSession, registration: _Registration, baseline: _Baseline) -> None:
    """The figure of a scan; one that has nothing to be registered has none."""
    from tumorcast.data.imaging.registration_qc_figures import (  # noqa: PLC0415 - matplotlib, only where asked for
        compared_volumes,
        draw_comparisons,
    )

    images, reference = registration.images, registration.images[registration.reference]
    comparisons = [
        compared_volumes(alignment.summary(), reference, images[contrast], registration.within[contrast])
        for contrast, alignment in registration.contrasts.items()
    ]
    if registration.session is not None:
        field = registration.displacement
        transform = registration.between if field is None else registration.between @ field
        summary = registration.session.summary()
        comparisons.append(compared_volumes(summary, baseline.image, reference, transform))
    if comparisons:
        path = folder / f"{source.patient_id}_{source.session_id}.png"
        draw_comparisons(path, f"{source.patient_id}, session {source.session_id}", comparisons)
