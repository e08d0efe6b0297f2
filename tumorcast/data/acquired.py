"""A scan whose volumes need not lie on one grid, as it was acquired: each upright on its own grid, with its outline."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.data.imaging.brain_extraction import given_brain
from tumorcast.data.imaging.brain_mask import BoolArray, BrainMask, brain_mask, resolve
from tumorcast.data.imaging.geometry import AxisOrder, Grid
from tumorcast.data.imaging.registration import RegistrationImage
from tumorcast.data.prepare_settings import PrepareSettings
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.data.readers.volumes import SourceVolume, read_image, read_session
from tumorcast.data.ready import BIAS_FIELD, BRAIN_MASK, LABELS, reference_of, without_bias
from tumorcast.errors import InputError
from tumorcast.records import Contrast

Volumes = dict[Contrast, SourceVolume]


@dataclass(frozen=True)
class Mask:
    """The tumour's labels (Z, Y, X) uint8, on the upright grid of the contrast that they were drawn on."""

    labels: npt.NDArray[np.uint8]
    drawn_on: Contrast


@dataclass(frozen=True)
class AcquiredScan:
    """The volumes of a scan, by contrast, upright.

    pictures: their `brain` is what is not air, their tumour unknown. grids: of the files. brains: masks on the grids
    of their contrasts, which together are the brain. record: how brain and bias were found, for the cohort file.
    """

    reference: Contrast
    pictures: dict[Contrast, RegistrationImage]
    grids: dict[Contrast, Grid]
    mask: Mask | None
    brains: dict[Contrast, BoolArray]
    sha256: dict[str, str]
    notes: tuple[str, ...]
    record: dict[str, Any]


def read_acquired(source: SourceSession, contrasts: tuple[Contrast, ...], settings: PrepareSettings) -> AcquiredScan:
    """Read a scan. Raises InputError naming the file that cannot be used."""
    reference, unmasked = reference_of(contrasts), replace(source, mask=None)
    volumes = {contrast: read_session(unmasked, (contrast,)) for contrast in contrasts}
    sums = {name: value for volume in volumes.values() for name, value in volume.sha256.items()}
    notes = [note for volume in volumes.values() for note in volume.notes]
    outlines, brains, record = _brains(source, volumes, settings)
    mask: Mask | None = None
    if source.mask is not None:
        drawn_on = _drawn_on(source, volumes, reference)
        masked = read_session(source, (drawn_on,))
        assert masked.labels is not None
        mask, sums = Mask(masked.labels, drawn_on), sums | masked.sha256
        notes += masked.notes
        record[LABELS] = masked.label_record
    if settings.n4:
        volumes, told = _without_bias(volumes, outlines)
        record |= told
    pictures = {
        contrast: RegistrationImage(volume.grid.canonical().image(volume.images[contrast]), outlines[contrast])
        for contrast, volume in volumes.items()
    }
    grids = {contrast: volume.grid for contrast, volume in volumes.items()}
    return AcquiredScan(reference, pictures, grids, mask, brains, sums, tuple(dict.fromkeys(notes)), record)


def _drawn_on(source: SourceSession, volumes: Volumes, reference: Contrast) -> Contrast:
    """The contrast on whose grid the mask lies, the reference before others."""
    assert source.mask is not None
    grid = Grid.of(read_image(source.mask).image)
    for contrast in (reference, *volumes):
        other = volumes[contrast].grid.canonical()
        if AxisOrder.between(grid, other).grid(grid).is_of_the_voxels_of(other):
            return contrast
    raise InputError(
        f"{source.mask}: its grid is that of none of {', '.join(volumes)}, so what it was drawn on is not known; "
        "resample it onto that contrast's voxels"
    )


def _brains(
    source: SourceSession, volumes: Volumes, settings: PrepareSettings
) -> tuple[dict[Contrast, BoolArray], dict[Contrast, BoolArray], dict[str, Any]]:
    """What is not air in each contrast, the masks that are the brain, and the record of how they were found."""
    images = {contrast: volume.images[contrast] for contrast, volume in volumes.items()}
    found_by = resolve(settings.brain, images)
    stripped = found_by is BrainMask.NONZERO
    kind = BrainMask.NONZERO if stripped else BrainMask.HEAD
    outlines = {contrast: brain_mask({contrast: image}, kind) for contrast, image in images.items()}
    if settings.brain_is_given:
        reference = reference_of(tuple(volumes))
        image = volumes[reference].grid.canonical().image(images[reference])
        given = given_brain(source, image, settings)
        return outlines, {reference: given.mask}, given.record()
    first = next(iter(volumes))
    brains = outlines if stripped else {first: brain_mask({first: images[first]}, found_by)}
    return outlines, brains, {BRAIN_MASK: str(found_by)}


def _without_bias(volumes: Volumes, outlines: dict[Contrast, BoolArray]) -> tuple[Volumes, dict[str, Any]]:
    found: Volumes = {}
    ranges: dict[str, list[float]] = {}
    for contrast, volume in volumes.items():
        found[contrast], told = without_bias(volume, outlines[contrast])
        ranges |= told
    return found, {BIAS_FIELD: ranges}
