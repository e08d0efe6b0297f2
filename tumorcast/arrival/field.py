"""When a tumour reaches each voxel, and how sure that is: from which a growth map follows for any size.

A voxel is tumour with probability expit(steepness (ln r - log_volume)) once the tumour has r times its present volume.
So the tumours of growing sizes lie in each other, and shrinking ones too: within the present outline log_volume is
below 0. What lies outside of the box that was looked at is never reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from tumorcast.arrival.crop import Crop, signed_distance_mm
from tumorcast.arrival.front import front_log_volume, t1_of
from tumorcast.arrival.planes import images_for, planes_of
from tumorcast.data.grey import from_grey
from tumorcast.errors import InputError
from tumorcast.records import SessionVolume

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Ratios = npt.NDArray[np.float64]

LEAST_LOG_RATIO = -12.0  # below the last voxel of any tumour
SAME_VOXELS = 0.01  # relative
SPARE_MM = 20.0
LEAST_STEEPNESS = 1.0  # where a network has none, far out, a delay would move a voxel without end
FRONT_STEEPNESS = 16.0  # per ln of the volume: how sure the front alone is taken to be of itself


@dataclass(frozen=True)
class ArrivalField:
    """Of the box `crop`: log_volume and steepness, (Z, Y, X) each, and the brain in it."""

    crop: Crop
    log_volume: Map
    steepness: Map
    brain: Mask

    def probability(self, ratios: Ratios) -> Map:
        """(Z, Y, X) of the whole volume: of tumour, mean over members of `ratios` (M,) times the present volume."""
        total = np.zeros(self.log_volume.shape, np.float32)
        sizes, counts = np.unique(np.log(np.maximum(ratios, np.exp(LEAST_LOG_RATIO))), return_counts=True)
        for size, count in zip(sizes, counts, strict=True):
            total += np.float32(count) * expit(self.steepness * (np.float32(size) - self.log_volume))
        return self.crop.put_back(np.where(self.brain, total / np.float32(len(ratios)), 0).astype(np.float32))

    def order(self) -> Map:
        """(Z, Y, X) of the whole volume: later voxels are larger; infinite where it is never reached."""
        return self.crop.put_back(np.where(self.brain, self.log_volume, np.inf).astype(np.float32), np.inf)


class ArrivalModel(Protocol):
    """What foretells where a tumour goes."""

    @property
    def name(self) -> str:
        """What it is, for the record."""

    @property
    def sha256(self) -> str:
        """A sum over all that it has learned, for the record."""

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Those that it looks at."""

    @property
    def voxel_mm(self) -> float | None:
        """Of the volumes that it takes; None where that does not matter."""

    def field(self, volume: SessionVolume, contrasts: Sequence[str]) -> ArrivalField:
        """The field of a present scan whose tumour is not empty, with these contrasts in the order of its images."""


class VolumeNetwork(Protocol):
    """The progression network on volumes, whatever runs it."""

    @property
    def sha256(self) -> str:
        """A sum over its weights."""

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The channels of its images, in order."""

    @property
    def voxel_mm(self) -> float:
        """Of the volumes that it takes."""

    def answer(self, planes: Map) -> Map:
        """(2, Z, Y, X) steepness and delay of planes (P, Z, Y, X), see tumorcast.arrival.network."""


@dataclass(frozen=True)
class NetworkArrival:
    """The front, corrected by the progression network."""

    network: VolumeNetwork
    name: str = "network"

    @property
    def sha256(self) -> str:
        """The network's."""
        return self.network.sha256

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The network's; what a scan lacks of them is told to it as absent."""
        return self.network.contrasts

    @property
    def voxel_mm(self) -> float | None:
        """The network's."""
        return self.network.voxel_mm

    def field(self, volume: SessionVolume, contrasts: Sequence[str]) -> ArrivalField:
        """See ArrivalModel. The network looks at the box that it was trained on; beyond, its edge goes on."""
        present = CroppedScan.of(volume, contrasts)
        front, spare = present.front(), present.spare
        distance = signed_distance_mm(present.tumour, volume.voxel_mm)
        images = images_for(present.images, contrasts, self.network.contrasts)
        planes = planes_of(images, present.tumour, distance, np.where(np.isfinite(front), front, np.float32(60.0)))
        box = slice(spare, -spare)
        steepness, delay = self.network.answer(np.ascontiguousarray(planes[:, box, box, box]))
        steepness = np.maximum(steepness, LEAST_STEEPNESS)
        shift, steepness = (np.pad(part, spare, mode="edge") for part in (delay / steepness, steepness))
        return ArrivalField(present.crop, front + shift, steepness, present.inside)


@dataclass(frozen=True)
class FrontArrival:
    """The Fisher-Kolmogorov front alone, which has learned nothing."""

    name: str = "front"
    sha256: str = "front"
    contrasts: tuple[str, ...] = ()
    voxel_mm: float | None = None

    def field(self, volume: SessionVolume, contrasts: Sequence[str]) -> ArrivalField:
        """See ArrivalModel."""
        present = CroppedScan.of(volume, contrasts)
        front = present.front()
        return ArrivalField(present.crop, front, np.full_like(front, FRONT_STEEPNESS), present.inside)


@dataclass(frozen=True)
class CroppedScan:
    """A scan within the box round its tumour: images (C, Z, Y, X) in [-1, 1], masks (Z, Y, X).

    The box is that of Crop.round and SPARE_MM more to every side, so that large growth has room.
    """

    crop: Crop
    contrasts: tuple[str, ...]
    images: Map
    tumour: Mask
    brain: Mask
    voxel_mm: float

    @classmethod
    def of(cls, volume: SessionVolume, contrasts: Sequence[str]) -> "CroppedScan":
        """Cut out of the whole; what lies beyond the scan is air."""
        crop = Crop.round(volume.tumour, volume.voxel_mm).widened(_spare(volume.voxel_mm))
        parts = [crop.cut(part) for part in (volume.images, volume.tumour, volume.brain)]
        return cls(crop, tuple(contrasts), from_grey(parts[0]), parts[1], parts[2], volume.voxel_mm)

    @property
    def spare(self) -> int:
        """Voxels that the box has more than Crop.round, to every side."""
        return _spare(self.voxel_mm)

    @property
    def inside(self) -> Mask:
        """Brain and tumour."""
        return self.brain | self.tumour

    def front(self) -> Map:
        """The front's ln(volume then / volume now), with the tissue of T1 where there is one."""
        channel = t1_of(self.contrasts)
        t1 = None if channel is None else self.images[channel]
        return front_log_volume(self.brain, self.tumour, t1, self.voxel_mm)


def _spare(voxel_mm: float) -> int:
    return max(round(SPARE_MM / voxel_mm), 1)


def check_voxels(model: ArrivalModel, voxel_mm: float) -> None:
    """Raises InputError if the model takes voxels of another size."""
    if model.voxel_mm is not None and abs(voxel_mm / model.voxel_mm - 1) > SAME_VOXELS:
        raise InputError(
            f"volumes of {voxel_mm:g} mm, but the model takes {model.voxel_mm:g} mm; prepare the scans "
            f"with --voxel-mm {model.voxel_mm:g}, or forecast with --place front, which takes any"
        )
