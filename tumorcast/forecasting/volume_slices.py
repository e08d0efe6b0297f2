"""Slices through a growth map in three dimensions, so that the images of all slices agree with it and each other.

In each slice a member aims at the area that its tumour has there in three dimensions, and is guided to where it goes.
Slices that the tumour newly reaches are cut out of the volume.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.special import expit

from tumorcast.arrival.field import ArrivalField
from tumorcast.data.cohort import CohortSlice
from tumorcast.data.grey import from_grey
from tumorcast.forecasting.targets import Array, PatientTargets, SliceTargets
from tumorcast.forecasting.volume_maps import held
from tumorcast.records import FloatArray, SessionVolume

Map = npt.NDArray[np.float32]

NEVER = 20.0  # of a log volume
RIM = 1e-6  # voxels, of rounding
LEAST_NEW_MM2 = 50.0  # of tumour expected in a slice that the cohort has not, or without any now, for it to be made


@dataclass(frozen=True)
class SlicedField:
    """A patient's field of arrival in planes. log_volume, steepness: (Z, Y, X) of the whole volume; affine: its own.

    volume_ratio: (M,) the volume that each member of the whole ensemble aims at, over the present one.
    """

    log_volume: Map
    steepness: Map
    affine: FloatArray
    volume_ratio: Array

    @classmethod
    def of(cls, field: ArrivalField, volume: SessionVolume, targets: PatientTargets) -> Self:
        """Beyond the brain the nearest value within it, so that nothing is lost at its edge."""
        nearest = distance_transform_edt(~field.brain, return_distances=False, return_indices=True)
        parts = [part[tuple(nearest)] for part in (np.minimum(field.log_volume, NEVER), field.steepness)]
        whole = [
            field.crop.put_back(np.asarray(part, np.float32), outside)
            for part, outside in zip(parts, (NEVER, 1.0), strict=True)
        ]
        return cls(whole[0], whole[1], volume.affine, held(targets.volume_ratio[0], volume))

    def probability(self, present: CohortSlice, ratios: Array) -> Map:
        """(M, H, W) of tumour in the brain of a slice, for ratios (M,) of volumes."""
        log_volume, steepness = (
            in_plane(part, self.affine, present, outside)
            for part, outside in ((self.log_volume, NEVER), (self.steepness, 1.0))
        )
        logits = steepness * (np.log(np.maximum(ratios, 1e-6)).astype(np.float32)[:, None, None] - log_volume)
        return np.asarray(expit(logits) * present.brain, np.float32)

    def targets(self, present: CohortSlice) -> SliceTargets:
        """What the members aim at in a slice: its present area, and as much more as they differ from now."""
        pixels = self.probability(present, np.append(self.volume_ratio, 1.0)).sum(axis=(1, 2), dtype=np.float64)
        change = (pixels[:-1] - pixels[-1]) / max(int(present.brain.sum()), 1)
        return SliceTargets(present, np.maximum(change, -present.brain_fraction))


def in_plane(
    volume: npt.NDArray[Any], affine: FloatArray, plane: CohortSlice, outside: float, *, order: Literal[0, 1] = 1
) -> npt.NDArray[Any]:
    """(..., H, W) of a volume (..., Z, Y, X) of this affine on the pixels of a slice; order 1 interpolates, 0 takes the
    nearest voxel."""
    rows, columns = np.indices(plane.labels.shape)
    points = np.stack([columns, rows, np.full(rows.shape, plane.source_slice), np.ones(rows.shape)])
    to_voxel = np.linalg.inv(affine) @ plane.affine
    x, y, z = np.tensordot(to_voxel[:3], points, axes=1)
    z, y, x = (_at_the_rim(at, side) for at, side in zip((z, y, x), volume.shape[-3:], strict=True))
    whole = volume.reshape(-1, *volume.shape[-3:])
    cuts = [map_coordinates(part, np.stack([z, y, x]), order=order, cval=outside) for part in whole]
    return np.stack(cuts).reshape(*volume.shape[:-3], *plane.labels.shape)


def _at_the_rim(at: FloatArray, side: int) -> FloatArray:
    """Places within the outermost half voxel are that voxel's."""
    within = (at > -0.5 - RIM) & (at < side - 0.5 + RIM)
    return np.where(within, np.clip(at, 0, side - 1), at)


def slice_through(volume: SessionVolume, affine: FloatArray, source_slice: int, image_size: int) -> CohortSlice:
    """A slice of the volume as the cohort's own are: on the plane's grid, with no finer detail than the volume has.

    affine: (4, 4) of the session's slices.
    """
    empty = np.zeros((image_size, image_size), np.uint8)
    blank = CohortSlice(np.empty((0, *empty.shape)), empty, empty > 0, affine, 0.0, 0.0, source_slice)
    brain = in_plane(volume.brain.astype(np.float32), volume.affine, blank, 0.0) >= 0.5
    labels = in_plane(volume.labels, volume.affine, blank, 0, order=0)
    image = in_plane(from_grey(volume.images), volume.affine, blank, -1.0)
    pixel_mm2 = float(np.linalg.norm(affine[:3, 0]) * np.linalg.norm(affine[:3, 1]))
    return CohortSlice(
        image=np.where(brain, image, -1.0).astype(np.float32),
        labels=labels,
        brain=brain,
        affine=affine,
        area_mm2=float(np.count_nonzero(labels)) * pixel_mm2,
        brain_mm2=float(np.count_nonzero(brain)) * pixel_mm2,
        source_slice=source_slice,
    )


def reached_slices(volume: SessionVolume, affine: FloatArray, growth: Map, slices: int) -> list[int]:
    """The numbers of the slices, of so many, that are expected to show LEAST_NEW_MM2 or more.

    affine: (4, 4) of the slices; growth: (Z, Y, X) the growth map of the volume.
    """
    to_slice = np.linalg.inv(affine) @ volume.affine  # both have the axes of the scan's grid
    depths = np.rint((np.arange(slices) - to_slice[2, 3]) / to_slice[2, 2]).astype(np.int64)
    expected_mm2 = growth.sum(axis=(1, 2), dtype=np.float64) * volume.voxel_mm**2
    return [
        number
        for number, depth in enumerate(depths)
        if 0 <= depth < len(expected_mm2) and expected_mm2[depth] >= LEAST_NEW_MM2
    ]
