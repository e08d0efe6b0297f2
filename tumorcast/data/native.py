"""The way of a registered scan's results home: what the cohort file keeps for it, and maps on the scanner's voxels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from tumorcast.data.cohort import Cohort
from tumorcast.data.geometry import Grid, Interpolation, to_source_grid
from tumorcast.data.transforms import Displacement, Matrix, returned
from tumorcast.errors import UsageError
from tumorcast.records import Contrast

NATIVE = "native"  # in a session's `source`


@dataclass(frozen=True)
class NativeImage:
    """Where a contrast of a scan was acquired: its own grid, and where points of the cohort's space lie there.

    from_cohort: (4, 4), RAS mm, rigid.
    """

    grid: Grid
    from_cohort: Matrix


def native_record(images: dict[Contrast, NativeImage], reference: Contrast) -> dict[str, Any]:
    """What a session's `source["native"]` holds; see docs/formats.md."""
    of_reference = images[reference]
    return {
        "reference": str(reference),
        "size": list(of_reference.grid.size),
        "affine": of_reference.grid.affine().tolist(),
        "from_cohort": of_reference.from_cohort.tolist(),
        "contrasts": {
            str(contrast): {"grid": image.grid.as_dict(), "from_cohort": image.from_cohort.tolist()}
            for contrast, image in images.items()
        },
    }


def native_image(source: dict[str, Any], contrast: Contrast | None = None) -> NativeImage:
    """A contrast's native grid from a session's `source`, by default the reference's; as scanned if not registered.

    Raises UsageError for a contrast that the session has not.
    """
    if NATIVE not in source:
        return NativeImage(Grid.from_dict(source["grid"]), np.eye(4))
    native = source[NATIVE]
    name = native["reference"] if contrast is None else str(contrast)
    if name not in native["contrasts"]:
        raise UsageError(f"{name}: not among the session's contrasts ({', '.join(native['contrasts'])})")
    told = native["contrasts"][name]
    return NativeImage(Grid.from_dict(told["grid"]), np.array(told["from_cohort"]))


def to_native(
    stack: np.ndarray[Any, Any],
    cohort: Cohort,
    patient_id: str,
    session_id: str,
    contrast: Contrast | None = None,
    *,
    interpolation: Interpolation = Interpolation.LINEAR,
    outside: float = 0.0,
) -> sitk.Image:
    """A map of a session's slices as an image on the voxels of one of its contrasts, by default the reference.

    stack: (S, H, W), a slice for each of the session's; `outside` fills what no slice covers. Labels need `nearest`.
    The grid is the file's own to the last bit; values are exact where the scan was not moved and the pixels are 1 mm.
    Raises InputError for a session that there is not, UsageError for such a contrast, ValueError for too few slices.
    """
    session = cohort.session(patient_id, session_id)
    if len(stack) != len(session.source_slice):
        raise ValueError(f"{len(stack)} slices given, but the session has {len(session.source_slice)}")
    shared = Grid.from_dict(session.source["grid"])
    there = to_source_grid(stack, session.source_slice, shared, interpolation=interpolation, outside=outside)
    displacement = cohort.displacement(patient_id, session_id)
    return sent_home(
        there, native_image(session.source, contrast), displacement, interpolation=interpolation, outside=outside
    )


def sent_home(
    image: sitk.Image,
    native: NativeImage,
    displacement: Displacement | None = None,
    *,
    interpolation: Interpolation = Interpolation.LINEAR,
    outside: float = 0.0,
) -> sitk.Image:
    """An image in the cohort's space on the native voxels. displacement: how the session was bent, if it was."""
    return returned(image, native.grid, native.from_cohort, displacement, interpolation=interpolation, outside=outside)
