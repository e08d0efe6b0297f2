"""What slices are cut from: a scan's volumes on one grid, and its brain. Here as scanned; registered.py moves them."""

from dataclasses import dataclass, field, replace
from typing import Any

from tumorcast.data.imaging.bias_field import corrected
from tumorcast.data.imaging.brain_extraction import given_brain
from tumorcast.data.imaging.brain_mask import BoolArray, brain_mask, resolve
from tumorcast.data.imaging.registration import one_thread
from tumorcast.data.imaging.transforms import Displacement
from tumorcast.data.prepare_settings import PrepareSettings, Register
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.data.readers.volumes import SourceVolume, read_session
from tumorcast.errors import InputError
from tumorcast.records import Contrast

BRAIN_MASK = "brain_mask"  # in a session's `source`: nonzero, head, inner, file or tool
LABELS = "labels"  # the same: by which scheme the mask was read (labels.TakenLabels.record)
BIAS_FIELD = "bias_field"  # the same: by contrast, the field's least and largest factor in the brain


@dataclass(frozen=True)
class ReadyVolume:
    """A scan of which slices can be cut.

    brain: (Z, Y, X). volume_mm3: the tumour's volume in the scan's own voxels; None: count those of `volume`.
    record: what its way here adds to the cohort's `source`. displacement: how it was bent, where it was.
    """

    volume: SourceVolume
    brain: BoolArray
    record: dict[str, Any] = field(default_factory=dict)
    volume_mm3: float | None = None
    displacement: Displacement | None = None


def reference_of(contrasts: tuple[Contrast, ...]) -> Contrast:
    """The contrast that the others of a scan are laid on: T1c, else the first."""
    return Contrast.T1C if Contrast.T1C in contrasts else contrasts[0]


def as_scanned(source: SourceSession, contrasts: tuple[Contrast, ...], settings: PrepareSettings) -> ReadyVolume:
    """The volumes of a scan whose contrasts lie on one grid. Raises InputError for what cannot be used."""
    volume = read_session(source, contrasts)
    brain, record = _brain_of(source, volume, contrasts, settings)
    if settings.n4:
        volume, record[BIAS_FIELD] = without_bias(volume, brain)
    if volume.label_record:
        record[LABELS] = volume.label_record
    return ReadyVolume(volume, brain, record)


def _brain_of(
    source: SourceSession, volume: SourceVolume, contrasts: tuple[Contrast, ...], settings: PrepareSettings
) -> tuple[BoolArray, dict[str, Any]]:
    refuse_slices(source, settings)
    if settings.brain_is_given:
        given = given_brain(source, volume.grid.canonical().image(volume.images[reference_of(contrasts)]), settings)
        return given.mask, given.record()
    found_by = resolve(settings.brain, volume.images)
    return brain_mask(volume.images, settings.brain), {BRAIN_MASK: str(found_by)}


def refuse_slices(source: SourceSession, settings: PrepareSettings) -> None:
    """Raises InputError if single 2D slices are to be treated as a volume."""
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


def without_bias(volume: SourceVolume, brain: BoolArray) -> tuple[SourceVolume, dict[str, list[float]]]:
    """The volume with each contrast's bias corrected, and the least and largest factor of each field in the brain."""
    grid = volume.grid.canonical()
    with one_thread():
        found = {contrast: corrected(array, brain, grid) for contrast, array in volume.images.items()}
    images = {contrast: image for contrast, (image, _) in found.items()}
    ranges = {str(contrast): [round(side, 4) for side in sides] for contrast, (_, sides) in found.items()}
    return replace(volume, images=images), ranges
