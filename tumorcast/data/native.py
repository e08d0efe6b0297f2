"""Maps of a scan on the voxels that it was acquired on: what the cohort file keeps for that, and the resampling."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data.cohort import Cohort
from tumorcast.data.imaging.geometry import Grid, Interpolation, to_source_grid
from tumorcast.data.imaging.transforms import Affine, Displacement, Transform, resample
from tumorcast.errors import UsageError
from tumorcast.records import Contrast

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

NATIVE = "native"  # in a session's `source`, and in an archive's record of its grid
BENT = "bent"  # in the latter: whether the scan was deformed too


@dataclass(frozen=True)
class NativeImage:
    """Where a contrast of a scan was acquired: its own grid, and where points of the cohort's space lie there.

    from_cohort: rigid; displacement: of points of the cohort's space before that, where the scan was deformed.
    """

    grid: Grid
    from_cohort: Affine
    displacement: Displacement | None = None

    @classmethod
    def from_dict(cls, record: dict[str, Any], displacement: Displacement | None = None) -> Self:
        """The image that `as_dict` wrote; the displacement is kept apart."""
        return cls(Grid.from_dict(record["grid"]), Affine(np.array(record["from_cohort"])), displacement)

    def as_dict(self) -> dict[str, Any]:
        """The image as JSON can hold it, without the displacement."""
        return {"grid": self.grid.as_dict(), "from_cohort": self.from_cohort.matrix.tolist()}

    @property
    def transform(self) -> Transform:
        """Where points of the cohort's space lie in the image."""
        return self.from_cohort if self.displacement is None else self.from_cohort @ self.displacement


def native_record(images: dict[Contrast, NativeImage], reference: Contrast) -> dict[str, Any]:
    """What a session's `source["native"]` holds; see docs/formats.md."""
    of_reference = images[reference]
    return {
        "reference": str(reference),
        "size": list(of_reference.grid.size),
        "affine": of_reference.grid.affine().tolist(),
        "from_cohort": of_reference.from_cohort.matrix.tolist(),
        "contrasts": {str(contrast): image.as_dict() for contrast, image in images.items()},
    }


def native_image(
    source: dict[str, Any], contrast: Contrast | None = None, displacement: Displacement | None = None
) -> NativeImage:
    """A contrast's native grid from a session's `source`, by default the reference's; as scanned if not registered.

    displacement: the session's, if it was deformed. Raises UsageError for a contrast that the session has not.
    """
    if NATIVE not in source:
        return NativeImage(Grid.from_dict(source["grid"]), Affine.identity())
    native = source[NATIVE]
    name = native["reference"] if contrast is None else str(contrast)
    if name not in native["contrasts"]:
        raise UsageError(f"{name}: not among the session's contrasts ({', '.join(native['contrasts'])})")
    return NativeImage.from_dict(native["contrasts"][name], displacement)


def grid_record(source: dict[str, Any], *, deformed: bool) -> dict[str, Any]:
    """What an archive of forecasts keeps of a session's `source`: its grid, and of a registered scan its native image.

    That is its reference's grid and transform, and whether it was deformed too: the field stays in the cohort file.
    """
    native = {NATIVE: native_image(source).as_dict() | {BENT: deformed}} if NATIVE in source else {}
    return dict(source["grid"]) | native


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
    native = native_image(session.source, contrast, cohort.displacement(patient_id, session_id))
    if len(stack) != len(session.source_slice):
        raise ValueError(f"{len(stack)} slices given, but the session has {len(session.source_slice)}")
    slices = NativeSlices(session.source_slice, Grid.from_dict(session.source["grid"]), native)
    return slices.image(stack, interpolation=interpolation, outside=outside)


@dataclass(frozen=True)
class NativeSlices:
    """Slices of the `shared` grid, (S,) by their index along its third axis, to be resampled onto a native image.

    covers: what they cover there, by the size of their plane, for all images of a scan.
    """

    source_slice: np.ndarray[Any, Any]
    shared: Grid
    native: NativeImage
    covers: dict[tuple[int, ...], tuple[Array, Mask]] = field(default_factory=dict)

    def image(
        self,
        stack: np.ndarray[Any, Any],
        *,
        interpolation: Interpolation = Interpolation.LINEAR,
        outside: float = 0.0,
    ) -> sitk.Image:
        """A stack (S, H, W) on the native voxels.

        A voxel has a value where the nearest point of the shared grid lies in one of the slices. Linearly, that is the
        mean of the slices beside it, by their nearness: what lies beyond the slices is unknown and weighs nothing.
        Raises ValueError for labels, which are whole numbers, without Interpolation.NEAREST.
        """
        if interpolation is Interpolation.NEAREST:
            return self._resampled(stack, interpolation, outside)
        if not np.issubdtype(stack.dtype, np.floating):
            raise ValueError(f"slices of {stack.dtype}: whole numbers go home by Interpolation.NEAREST alone")
        values = sitk.GetArrayFromImage(self._resampled(stack, interpolation, 0.0))
        weights, covered = self._cover(stack.shape)
        filled = np.full(values.shape, outside, values.dtype)
        np.divide(values, weights, out=filled, where=covered, casting="same_kind")
        return self.native.grid.image(filled)

    def _cover(self, shape: tuple[int, ...]) -> tuple[Array, Mask]:
        """Of each native voxel the share that the slices beside it have, and whether it has a value."""
        if shape not in self.covers:
            every = np.ones(shape, np.float32)
            near, nearest = (
                sitk.GetArrayFromImage(self._resampled(every, how, 0.0))
                for how in (Interpolation.LINEAR, Interpolation.NEAREST)
            )
            self.covers[shape] = near, (nearest > 0) & (near > 0)
        return self.covers[shape]

    def _resampled(self, stack: np.ndarray[Any, Any], interpolation: Interpolation, outside: float) -> sitk.Image:
        shared = to_source_grid(stack, self.source_slice, self.shared, interpolation=interpolation, outside=outside)
        transform = ~self.native.transform
        return resample(shared, self.native.grid, transform, interpolation=interpolation, outside=outside)
