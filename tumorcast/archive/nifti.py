"""A patient's slices or volume on the cohort's grid or the scan's own voxels, and written as NIfTI.

NIfTI-1 keeps a position in float32, so an affine is exact to the last bit of that. SimpleITK writes the files: it reads
the scans, so what it writes lies on the voxels that it read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, assert_never

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.archive.maps import VolumeForecast
from tumorcast.data.imaging.geometry import Grid, Interpolation, to_source_grid
from tumorcast.data.imaging.transforms import IDENTITY, Transform, resample, resample_mask
from tumorcast.data.native import NativeImage, NativeSlices
from tumorcast.durable import written_whole
from tumorcast.errors import InputError, StorageError
from tumorcast.records import FloatArray

Array = npt.NDArray[Any]


class Space(StrEnum):
    """Where a volume lies. NATIVE: the scan's own voxels; COHORT: the pixels of the forecast, or its cubic voxels."""

    NATIVE = "native"
    COHORT = "cohort"


class Place(Protocol):
    """Where the values of a forecast lie."""

    def volume(self, space: Space, values: Array, outside: float, interpolation: Interpolation) -> sitk.Image:
        """The values, (S, H, W) or (Z, Y, X), in a space; `outside` fills what they do not cover."""


def source_of(patient_id: str, source_grid: dict[str, Any]) -> Grid:
    """The grid of a scan by its record in an archive. Raises InputError if that does not tell where the voxels are."""
    try:
        return Grid.from_dict(source_grid)
    except KeyError as missing:
        raise InputError(
            f"{patient_id}: the archive does not tell the {missing.args[0]} of the scan's voxels, so its forecast "
            "has no place; prepare the scans again, and make the forecast anew"
        ) from None


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
        source = source_of(patient_id, source_grid)
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


@dataclass(frozen=True)
class CubicPlacement:
    """Where a patient's volume lies, on the cubic voxels of the cohort file.

    own: those voxels; inside: (Z, Y, X) where a value means something; native: the voxels of the scan, in the place
    that `home` leads to, or in the cohort's own where it is None.
    """

    own: Grid
    inside: npt.NDArray[np.bool_]
    native: Grid
    home: NativeImage | None = None

    @classmethod
    def of(
        cls, patient_id: str, source_grid: dict[str, Any], volume: VolumeForecast, home: NativeImage | None = None
    ) -> Self:
        """The place of a forecast of a volume. Raises InputError if nothing tells where the scan's voxels are."""
        inside = volume.brain | (volume.labels > 0)
        native = source_of(patient_id, source_grid) if home is None else home.grid
        return cls(Grid.from_affine(volume.affine, inside.shape[::-1]), inside, native, home)

    def volume(self, space: Space, values: Array, outside: float, interpolation: Interpolation) -> sitk.Image:
        """The values (Z, Y, X) in a space, `outside` where they mean nothing.

        On the scan's own voxels they are interpolated in space, each once: the mean of the eight nearest; of a mask and
        of what is inside, see resample_mask.
        """
        match space:
            case Space.COHORT:
                return self.own.image(values)
            case Space.NATIVE:
                inside = resample_mask(self.inside, self.own, self.native, self._home) > 0
                if interpolation is Interpolation.NEAREST:
                    found: Array = resample_mask(values, self.own, self.native, self._home)
                else:
                    moved = resample(self.own.image(values), self.native, self._home, outside=outside)
                    found = sitk.GetArrayFromImage(moved)
                return self.native.image(np.where(inside, found, np.asarray(outside, found.dtype)))
            case _:
                assert_never(space)

    @property
    def _home(self) -> Transform:
        """Where points of the scan's own space lie in the cohort's."""
        return IDENTITY if self.home is None else ~self.home.transform


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
