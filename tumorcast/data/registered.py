"""A patient's scans in one space: the contrasts of a scan laid on its reference, that on the reference of the first.

Each volume is read once, through the composed transform, on the grid of the first scan that can be used.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from tumorcast.data.acquired import AcquiredScan, read_acquired
from tumorcast.data.imaging.brain_mask import BoolArray
from tumorcast.data.imaging.deformation import deformation_between
from tumorcast.data.imaging.geometry import Grid, Interpolation
from tumorcast.data.imaging.registration import RegistrationImage, one_thread, rigid_between
from tumorcast.data.imaging.registration_qc import (
    Alignment,
    DeformationQuality,
    judge_alignment,
    judge_deformation,
    volume_flags,
)
from tumorcast.data.imaging.transforms import Displacement, Matrix, carried
from tumorcast.data.native import NATIVE, NativeImage, native_record
from tumorcast.data.prepare_settings import PrepareSettings
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.data.readers.volumes import SourceVolume
from tumorcast.data.ready import ReadyVolume, refuse_slices
from tumorcast.errors import InputError
from tumorcast.records import Contrast

REGISTRATION = "registration"  # in a session's `source`


@dataclass(frozen=True)
class _Anchor:
    """The scan whose reference the others are laid on. grid: its file's own; picture: with its tumour."""

    session_id: str
    grid: Grid
    picture: RegistrationImage


@dataclass(frozen=True)
class _Way:
    """How a scan gets into its patient's space.

    within: where points of its reference lie in each contrast, with how well (not of the reference itself);
    between: where points of the space lie in its reference, with how well (not of the first scan).
    """

    within: dict[Contrast, Matrix]
    contrasts: dict[Contrast, Alignment]
    between: Matrix = field(default_factory=lambda: np.eye(4))
    session: Alignment | None = None
    displacement: Displacement | None = None
    bend: DeformationQuality | None = None
    flags: tuple[str, ...] = ()

    @property
    def alignments(self) -> list[Alignment]:
        """All registrations, in the order in which points go through them backwards."""
        return [*self.contrasts.values(), *([] if self.session is None else [self.session])]

    def to(self, contrast: Contrast) -> Matrix:
        """Where points of the space, once displaced, lie in a contrast."""
        return self.within[contrast] @ self.between


class PatientSpace:
    """The space of one patient, made by the first of the scans that are placed in it.

    pictures: the folder of a picture a scan; None draws none.
    """

    def __init__(self, settings: PrepareSettings, pictures: Path | None = None) -> None:
        self._settings = settings
        self._pictures = pictures
        self._anchor: _Anchor | None = None

    def place(self, source: SourceSession, contrasts: tuple[Contrast, ...]) -> ReadyVolume:
        """A scan in the patient's space. Raises InputError for one that cannot be read or laid on the others."""
        refuse_slices(source, self._settings)
        with one_thread():
            scan = read_acquired(source, contrasts, self._settings)
            way = _lay_contrasts(source, scan)
            picture = _picture_of_reference(scan, way, self._settings)
            anchor = self._anchor or _Anchor(source.session_id, scan.grids[scan.reference], picture)
            if self._anchor is not None:
                way = self._lay_on_anchor(source, way, picture, anchor)
            ready = _placed(scan, way, anchor, self._settings)
            self._anchor = anchor
            if self._pictures is not None:
                _draw(self._pictures, source, scan, way, anchor)
        return ready

    def _lay_on_anchor(self, source: SourceSession, way: _Way, picture: RegistrationImage, anchor: _Anchor) -> _Way:
        fixed = anchor.picture
        names = (source.session_id, anchor.session_id)
        alignment, between = _aligned(source, fixed, picture, names)
        way = replace(way, between=between, session=alignment)
        if not self._settings.deformable:
            return way
        if fixed.tumour is None or picture.tumour is None:
            return replace(way, flags=("not bent, as not both scans have a tumour mask to keep out of it",))
        bent = deformation_between(fixed, picture, between)
        bend = judge_deformation(fixed, picture, between, bent)
        return replace(way, displacement=bent if bend.kept else None, bend=bend)


def _lay_contrasts(source: SourceSession, scan: AcquiredScan) -> _Way:
    """Where points of the reference lie in each contrast, and how well."""
    within, told = {scan.reference: np.eye(4)}, {}
    for contrast, moving in scan.pictures.items():
        if contrast is not scan.reference:
            names = (str(contrast), str(scan.reference))
            told[contrast], within[contrast] = _aligned(source, scan.pictures[scan.reference], moving, names)
    return _Way(within, told)


def _aligned(
    source: SourceSession, fixed: RegistrationImage, moving: RegistrationImage, names: tuple[str, str]
) -> tuple[Alignment, Matrix]:
    try:
        return judge_alignment(fixed, moving, rigid_between(fixed, moving), names)
    except (InputError, RuntimeError) as error:  # ITK's own say where no voxel of one lies in the other
        why = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{source.patient_id}/{source.session_id}: {names[0]} cannot be registered to {names[1]} ({why}); look at "
            "the files, leave one out, or use --register none"
        ) from None


def _picture_of_reference(scan: AcquiredScan, way: _Way, settings: PrepareSettings) -> RegistrationImage:
    """The reference with its tumour; where the brain was given, that alone: jaw and neck move by themselves."""
    picture = replace(scan.pictures[scan.reference], tumour=_tumour_on_reference(scan, way))
    if not settings.brain_is_given:
        return picture
    brain = scan.brains[scan.reference]
    stripped = sitk.Mask(picture.image, _mask_image(scan, scan.reference, brain))
    return replace(picture, image=stripped, brain=brain)


def _tumour_on_reference(scan: AcquiredScan, way: _Way) -> BoolArray | None:
    if scan.mask is None:
        return None
    labels = _mask_image(scan, scan.mask.drawn_on, scan.mask.labels > 0)
    grid = scan.pictures[scan.reference].grid
    moved = carried(labels, grid, way.within[scan.mask.drawn_on], interpolation=Interpolation.NEAREST)
    return np.asarray(sitk.GetArrayFromImage(moved) > 0)


def _mask_image(scan: AcquiredScan, contrast: Contrast, mask: np.ndarray[Any, Any]) -> sitk.Image:
    return scan.pictures[contrast].grid.image(mask.astype(np.uint8))


def _placed(scan: AcquiredScan, way: _Way, anchor: _Anchor, settings: PrepareSettings) -> ReadyVolume:
    """Everything of the scan on the anchor's upright grid."""
    grid = anchor.picture.grid
    images = {
        contrast: sitk.GetArrayFromImage(carried(picture.image, grid, way.to(contrast), way.displacement))
        for contrast, picture in scan.pictures.items()
    }
    brains = [_read_mask(scan, way, contrast, mask, grid) for contrast, mask in scan.brains.items()]
    labels = None if scan.mask is None else _read_mask(scan, way, scan.mask.drawn_on, scan.mask.labels, grid)
    volumes_mm3 = _tumour_mm3(scan, labels, grid, settings)
    record, flags = _record(scan, way, anchor, volumes_mm3)
    volume = SourceVolume(
        images, labels, np.arange(grid.size[2], dtype=np.int64), anchor.grid, scan.sha256, (*scan.notes, *flags)
    )
    brain = np.logical_or.reduce([mask > 0 for mask in brains])
    return ReadyVolume(volume, brain, record, None if labels is None else volumes_mm3[0], way.displacement)


def _read_mask(
    scan: AcquiredScan, way: _Way, contrast: Contrast, mask: np.ndarray[Any, Any], grid: Grid
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = _mask_image(scan, contrast, mask)
    moved = carried(image, grid, way.to(contrast), way.displacement, interpolation=Interpolation.NEAREST)
    return np.asarray(sitk.GetArrayFromImage(moved), np.uint8)


def _tumour_mm3(
    scan: AcquiredScan, labels: np.ndarray[Any, Any] | None, grid: Grid, settings: PrepareSettings
) -> tuple[float, float]:
    """The volume of the part that is followed, in the scan's own voxels and in the space's; NaN without a mask."""
    if scan.mask is None or labels is None:
        return np.nan, np.nan
    own = scan.pictures[scan.mask.drawn_on].grid
    followed = settings.tumour.labels
    return (
        float(np.isin(scan.mask.labels, followed).sum() * np.prod(own.spacing)),
        float(np.isin(labels, followed).sum() * np.prod(grid.spacing)),
    )


def _record(
    scan: AcquiredScan, way: _Way, anchor: _Anchor, volumes_mm3: tuple[float, float]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the cohort file keeps of the way, and what the user should know of it."""
    told = [f"{one.contrast} onto {one.onto}: {flag}" for one in way.alignments for flag in one.flags]
    told += [*way.flags, *(way.bend.flags if way.bend else ()), *volume_flags(*volumes_mm3)]
    native = {contrast: NativeImage(grid, way.to(contrast)) for contrast, grid in scan.grids.items()}
    registration: dict[str, Any] = {
        "reference": str(scan.reference),
        "anchor": anchor.session_id,
        "alignments": [alignment.as_dict() for alignment in way.alignments],
        "flags": told,
    }
    if way.bend is not None:
        registration["deformation"] = way.bend.as_dict()
    if scan.mask is not None:
        registration |= {"tumour_native_mm3": round(volumes_mm3[0], 3), "tumour_cohort_mm3": round(volumes_mm3[1], 3)}
    return scan.record | {NATIVE: native_record(native, scan.reference), REGISTRATION: registration}, tuple(told)


def _draw(folder: Path, source: SourceSession, scan: AcquiredScan, way: _Way, anchor: _Anchor) -> None:
    """The picture of a scan; one that has nothing to be registered has none."""
    from tumorcast.data.imaging.registration_qc_figures import compared_volumes, draw_comparisons  # noqa: PLC0415 - matplotlib, only where asked for

    reference = scan.pictures[scan.reference]
    pairs = [
        compared_volumes(alignment.summary(), reference, scan.pictures[contrast], way.within[contrast])
        for contrast, alignment in way.contrasts.items()
    ]
    if way.session is not None:
        pairs.append(compared_volumes(way.session.summary(), anchor.picture, reference, way.between, way.displacement))
    if pairs:
        draw_comparisons(picture_of(folder, source), f"{source.patient_id}, session {source.session_id}", pairs)


def picture_of(folder: Path, source: SourceSession) -> Path:
    """Where the picture of a scan stands."""
    return folder / f"{source.patient_id}_{source.session_id}.png"
