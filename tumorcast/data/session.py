"""The one reader of a scan, registered or not: from its files to slices of one size and scale."""

from dataclasses import replace
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from tumorcast.data.brain import BRAIN_MASK, with_brain
from tumorcast.data.cohort import SLICE_AREAS, deformed
from tumorcast.data.imaging.bias_field import corrected
from tumorcast.data.imaging.brain_mask import BoolArray, Window, window_of
from tumorcast.data.imaging.geometry import PreparedGrid
from tumorcast.data.imaging.registration import one_thread
from tumorcast.data.imaging.shares import largest_shares
from tumorcast.data.patient_space import PatientSpace
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.data.readers.volumes import Scan, read_session
from tumorcast.data.session_volume import doubts_of, volume_of
from tumorcast.data.settings import PrepareSettings, Register, SliceChoice, TumourPart
from tumorcast.errors import InputError
from tumorcast.records import Contrast, FloatArray, Session

BIAS_FIELD = "bias_field"  # in a session's `source`: by contrast, the field's least and largest factor in the brain
OTHERS_SHARE = 0.5  # of the slices with tumour: how many others `balanced` adds
LEAST_BRAIN_SHARE = 0.1  # of the largest slice's brain: `all` leaves out the tips, where there is nothing to learn


def prepare_session(source: SourceSession, settings: PrepareSettings, space: PatientSpace | None = None) -> Session:
    """Read one scan, bring it into `space` if it is to be registered, and make its slices, if any is chosen.

    Raises InputError if a file cannot be used, or slices are to be chosen by a tumour mask that is absent.
    """
    contrasts = settings.contrasts or tuple(c for c in Contrast if c in source.images) or tuple(Contrast)
    scan = read_scan(source, contrasts, settings)
    if space is not None:
        scan = space.place(source, scan)
    scan, brain = _followed(scan, settings.tumour), scan.brain
    windows = {contrast: _window(source, contrast, scan, brain) for contrast in contrasts}
    plane = PreparedGrid.over(scan.grid, settings.image_size)
    pixel_area = float(np.prod(plane.canonical.spacing[:2]))
    brain_mm2 = brain.sum(axis=(1, 2)) * pixel_area
    area_mm2 = _areas(scan, pixel_area)
    chosen = _choose(source, settings, np.where(_in_view(scan, plane), area_mm2, 0.0), brain_mm2)
    inside = plane.sample(brain[chosen]) >= 0.5
    volume = volume_of(scan, brain, windows, settings.voxel_mm) if settings.voxel_mm and not source.slices else None
    if volume is not None:
        scan = replace(scan, notes=(*scan.notes, *doubts_of(volume)))
    session = Session(
        source.patient_id,
        source.session_id,
        source.day,
        contrasts,
        images=_images(scan=scan, brain=brain, windows=windows, plane=plane, chosen=chosen, inside=inside),
        labels=_labels(scan, plane, chosen),
        brain=inside,
        area_mm2=area_mm2[chosen],
        brain_mm2=brain_mm2[chosen],
        source_slice=scan.source_slice[chosen],
        affine=plane.affine(),
        volume_mm3=_volume_mm3(source, area_mm2, plane) if scan.tumour_mm3 is None else scan.tumour_mm3,
        source=_provenance(scan, windows, area_mm2),
        volume=volume,
    )
    return session if scan.displacement is None else deformed(session, scan.displacement)


def read_scan(source: SourceSession, contrasts: tuple[Contrast, ...], settings: PrepareSettings) -> Scan:
    """A scan with its brain, and without bias where that was asked for. Raises InputError for what cannot be used."""
    _refuse_slices(source, settings)
    scan = read_session(source, contrasts, one_grid=settings.register is Register.NONE)
    scan = with_brain(source, scan, settings)
    return _without_bias(scan) if settings.n4 else scan


def _refuse_slices(source: SourceSession, settings: PrepareSettings) -> None:
    """Raises InputError if single 2D slices are to be treated as a scan."""
    asked = {
        "--register": settings.register is not Register.NONE,
        "--n4": settings.n4,
        "--brain-mask": settings.brain_mask is not None,
        "--brain-tool": settings.brain_tool is not None,
    }
    options = [option for option, given in asked.items() if given]
    if options and source.slices:
        raise InputError(
            f"{source.patient_id}/{source.session_id}: single slices, but {options[0]} needs a volume; leave it out"
        )


def _without_bias(scan: Scan) -> Scan:
    """The scan with each contrast's bias corrected, and the range of each field in the brain in its record."""
    masks = scan.outlines or dict.fromkeys(scan.images, scan.brain)
    images, ranges = {}, {}
    with one_thread():
        for contrast, image in scan.images.items():
            images[contrast], limits = corrected(image, masks[contrast], scan.voxels(contrast))
            ranges[str(contrast)] = [round(limit, 4) for limit in limits]
    return replace(scan, images=images, record=scan.record | {BIAS_FIELD: ranges})


def _followed(scan: Scan, part: TumourPart) -> Scan:
    """The scan with the labels of this part of the tumour alone."""
    if scan.labels is None or part is TumourPart.WHOLE:
        return scan
    labels = np.where(np.isin(scan.labels, part.labels), scan.labels, 0).astype(np.uint8)
    if scan.labels.any() and not labels.any():
        note = part.absence([int(value) for value in np.unique(scan.labels) if value])
        return replace(scan, labels=labels, notes=(*scan.notes, note))
    return replace(scan, labels=labels)


def _window(source: SourceSession, contrast: Contrast, scan: Scan, brain: BoolArray) -> Window:
    window = window_of(scan.images[contrast], brain)
    if window is None:
        raise InputError(f"{source.images[contrast]}: one value in the whole brain; export the volume again")
    return window


def _areas(scan: Scan, pixel_area: float) -> FloatArray:
    """(Z,) tumour area in mm²; NaN without a mask."""
    if scan.labels is None:
        return np.full(scan.source_slice.size, np.nan)
    return np.asarray((scan.labels > 0).sum(axis=(1, 2)) * pixel_area)


def _volume_mm3(source: SourceSession, area_mm2: FloatArray, plane: PreparedGrid) -> float:
    """NaN without a mask, and for single slices: nothing tells how thick they are and what lies between them."""
    return np.nan if source.slices else float(area_mm2.sum() * plane.canonical.spacing[2])


def _in_view(scan: Scan, plane: PreparedGrid) -> BoolArray:
    """(Z,) whether any of the slice's tumour lies in the field of view; False without a mask."""
    if scan.labels is None:
        return np.zeros(scan.source_slice.size, bool)
    return np.asarray((scan.labels[:, plane.rows.field, plane.columns.field] > 0).any(axis=(1, 2)))


def _choose(
    source: SourceSession, settings: PrepareSettings, area_mm2: FloatArray, brain_mm2: FloatArray
) -> npt.NDArray[np.int64]:
    """Indices of the slices to keep; area_mm2: (Z,), 0 where the prepared slice would show nothing of the tumour."""
    if settings.slices is not SliceChoice.ALL and source.mask is None:
        raise InputError(
            f"{source.patient_id}/{source.session_id}: no tumour mask (seg), which --slices {settings.slices} needs; "
            "add it, or use --slices all"
        )
    bearing = np.flatnonzero((area_mm2 >= settings.min_tumour_mm2) & (brain_mm2 > 0))
    whole = brain_mm2 >= LEAST_BRAIN_SHARE * brain_mm2.max()
    match settings.slices:
        case SliceChoice.ALL:
            return np.flatnonzero(whole)
        case SliceChoice.TUMOUR:
            return bearing
        case SliceChoice.BALANCED:
            others = _evenly(np.flatnonzero(whole & (area_mm2 == 0)), round(OTHERS_SHARE * len(bearing)))
            return np.sort(np.concatenate([bearing, others]))
        case SliceChoice.LARGEST:
            best = int(np.argmax(np.where(brain_mm2 > 0, area_mm2, 0.0)))
            return np.array([best] if area_mm2[best] >= settings.min_tumour_mm2 else [], np.int64)
        case _:
            assert_never(settings.slices)


def _evenly(values: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` of the values, evenly spread.

    >>> _evenly(np.arange(10), 3)
    array([1, 5, 8])
    """
    count = min(count, len(values))
    return values[((np.arange(count) + 0.5) * len(values) / max(count, 1)).astype(np.int64)]


def _images(
    *,
    scan: Scan,
    brain: BoolArray,
    windows: dict[Contrast, Window],
    plane: PreparedGrid,
    chosen: npt.NDArray[np.int64],
    inside: BoolArray,
) -> FloatArray:
    """(S, C, H, W) float32 in [-1, 1]; air is -1."""
    channels = []
    for contrast, window in windows.items():
        scaled = window.scale(scan.images[contrast][chosen], brain[chosen])
        # Air must be 0 while sampling, so that what lies beyond the source is air too.
        channels.append(np.where(inside, plane.sample(scaled + 1.0) - 1.0, np.float32(-1.0)))
    return np.asarray(np.clip(np.stack(channels, axis=1), -1.0, 1.0), np.float32)


def _labels(scan: Scan, plane: PreparedGrid, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """(S, H, W) labels: the pixels with most tumour, as many as keep its area, each with its most frequent label.

    A threshold at half a pixel would lose thin rims of enhancement, and a small tumour altogether.
    """
    if scan.labels is None:
        return np.zeros((chosen.size, plane.rows.image_size, plane.columns.image_size), np.uint8)
    shares = np.stack([plane.sample(scan.labels[chosen] == label) for label in (1, 2, 3)])
    tumour = np.array([_keeping_area(share) for share in shares.sum(axis=0)], bool).reshape(shares.shape[1:])
    return np.where(tumour, shares.argmax(axis=0) + 1, 0).astype(np.uint8)


def _keeping_area(share: FloatArray) -> BoolArray:
    """(H, W) mask of the pixels with the largest shares, as many as the shares add up to, but one at the least.

    A slice with tumour in its area and none in its labels could not be guided.
    >>> _keeping_area(np.array([[0.0, 0.4], [0.9, 0.6]])).astype(int)
    array([[0, 0],
           [1, 1]])
    >>> _keeping_area(np.array([[0.0, 0.1], [0.3, 0.0]])).astype(int)
    array([[0, 0],
           [1, 0]])
    """
    return largest_shares(share, max(round(float(share.sum())), int(share.any())))


def _provenance(scan: Scan, windows: dict[Contrast, Window], area_mm2: FloatArray) -> dict[str, Any]:
    every: list[float | None] = [None] * (int(scan.source_slice[-1]) + 1)
    for number, area in zip(scan.source_slice, area_mm2, strict=True):
        every[number] = None if np.isnan(area) else float(area)
    return {
        "files": scan.sha256,
        "grid": scan.grid.as_dict(),
        "windows": {str(contrast): [window.low, window.high] for contrast, window in windows.items()},
        BRAIN_MASK: scan.record[BRAIN_MASK],
        SLICE_AREAS: every,
        "notes": list(scan.notes),
    } | scan.record
