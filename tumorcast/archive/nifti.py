"""A patient's slices put back into their volume, on the cohort's grid or the scan's own voxels, and written as NIfTI.

NIfTI-1 keeps a position in float32, so an affine is exact to the last bit of that. SimpleITK writes the files: it reads
the scans, so what it writes lies on the voxels that it read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Self, assert_never

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.data.imaging.geometry import Grid, Interpolation, to_source_grid
from tumorcast.data.native import NativeImage, NativeSlices
from tumorcast.durable import written_whole
from tumorcast.errors import InputError, StorageError
from tumorcast.records import FloatArray

Array = npt.NDArray[Any]


class Space(StrEnum):
    """Where a volume lies. NATIVE: the scan's own voxels; COHORT: the cohort's pixels, every source slice."""

    NATIVE = "native"
    COHORT = "cohort"


@dataclass(frozen=True)
class Placement:
    """Where a patient's slices lie in their volume.

    source: the grid that was prepared; source_slice: (S,) index of each slice along its third LPS axis; affine: (4, 4)
    (column, row, source_slice) of the prepared grid to world, RAS mm. home: None where `source` is the scan's own grid.
    """

    source: Grid
    source_slice: npt.NDArray[np.int64]
    affine: FloatArray
    home: NativeImage | None = None

    @classmethod
    def of(
        cls, patient_id: str, source_grid: dict[str, Any], slices: Sequence[Any], home: NativeImage | None = None
    ) -> Self:
        """The place of forecasts of slices. Raises InputError if nothing tells where their voxels are."""
        try:
            source = Grid.from_dict(source_grid)
        except KeyError as missing:
            raise InputError(
                f"{patient_id}: the archive does not tell the {missing.args[0]} of the scan's voxels, so its slices "
                "have no place; prepare the scans again, and make the forecast anew"
            ) from None
        return cls(source, np.array([forecast.source_slice for forecast in slices]), slices[0].affine, home)

    def volume(self, space: Space, stack: Array, outside: float, interpolation: Interpolation) -> sitk.Image:
        """The slices (S, H, W) in their volume in a space; `outside` fills what no slice covers.

        On the cohort's grid values are those of the slices. On the scan's own they are too where its pixels are those
        of the cohort (1 mm at 256 pixels, 2 mm at 128); else they are interpolated in the plane, and those of a scan
        that was registered in space.
        """
        match space:
            case Space.COHORT:
                return self._cohort_volume(stack, outside)
            case Space.NATIVE:
                return self._native_volume(stack, outside, interpolation)
            case _:
                assert_never(space)

    def _native_volume(self, stack: Array, outside: float, interpolation: Interpolation) -> sitk.Image:
        said: dict[str, Any] = {"interpolation": interpolation, "outside": outside}
        if self._slices_home is None:
            return to_source_grid(stack, self.source_slice, self.source, **said)
        return self._slices_home.image(stack, **said)

    @cached_property
    def _slices_home(self) -> NativeSlices | None:
        return None if self.home is None else NativeSlices(self.source_slice, self.source, self.home)

    def _cohort_volume(self, stack: Array, outside: float) -> sitk.Image:
        _, height, width = stack.shape
        depth = self.source.canonical().size[2]
        volume = np.full((depth, height, width), outside, stack.dtype)
        volume[self.source_slice] = stack
        return Grid.from_affine(self.affine, (width, height, depth)).image(volume)


def write_nifti(path: Path, image: sitk.Image) -> None:
    """Write an image as .nii.gz, whole or not at all. Raises StorageError if it cannot be written."""
    with written_whole(path) as temporary:
        named = temporary.with_name(f"{temporary.name}.nii.gz")  # ITK knows the format by the name alone
        try:
            sitk.WriteImage(image, str(named), useCompression=True)
            named.replace(temporary)
        except RuntimeError as fault:
            reason = str(fault).strip().splitlines()[-1]
            raise StorageError(
                f"{path}: cannot be written ({reason}); free some space, or give another folder"
            ) from None
        finally:
            named.unlink(missing_ok=True)
