"""Tiny volumes of which something in the image leads the tumour: what is learned from them can be told beforehand."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tumorcast.arrival.pairs import VolumePair
from tumorcast.data.cohort import write_cohort
from tumorcast.records import Contrast, Session, SessionVolume

SHAPE, MM = (24, 32, 32), 4.0
AFFINE = np.diag([-MM, -MM, MM, 1.0])
T1C = (Contrast.T1C,)


def ellipsoid(centre: tuple[float, float, float], sides: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    """Voxels within half axes round a centre, all in voxels."""
    parts = zip(np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]], centre, sides, strict=True)
    away = sum(((axis - middle) / side) ** 2 for axis, middle, side in parts)
    return np.asarray(away < 1)


def led_volume(tumour: npt.NDArray[np.bool_], lead: npt.NDArray[np.bool_]) -> SessionVolume:
    """A scan whose brain is brighter where the tumour is to go."""
    brain = ellipsoid((12, 16, 16), (11, 15, 15))
    image = np.where(tumour, 230, np.where(brain & lead, 160, np.where(brain, 100, 0))).astype(np.uint8)
    return SessionVolume(image[None], np.where(tumour, 3, 0).astype(np.uint8), brain, AFFINE, MM)


def led_pair(number: int) -> VolumePair:
    """A ball of patient `number` that goes three voxels up the rows where that is bright, or three down."""
    sign = 1 if number % 2 else -1
    centre = (12.0, 16.0, 13.0 + number % 4)
    now = ellipsoid(centre, (4, 4, 4))
    middle = (centre[0], centre[1] + sign * 1.5, centre[2])
    later = now | ellipsoid(middle, (4, 5.5, 4))
    rows = np.arange(SHAPE[1])[None, :, None]
    lead = np.broadcast_to((rows - centre[1]) * sign > 0, SHAPE)
    return VolumePair(led_volume(now, lead), led_volume(later, lead))


def session_of(patient_id: str, number: int, volume: SessionVolume) -> Session:
    """A scan with one slice, through the middle, and its volume."""
    pad = ((16, 16), (16, 16))
    labels, brain = (np.pad(one[12], pad) for one in (volume.labels, volume.brain))
    image = np.pad(volume.images[0, 12] / 127.5 - 1, pad, constant_values=-1).astype(np.float32)
    return Session(
        patient_id=patient_id,
        session_id=f"{number:03d}",
        day=60.0 * number,
        contrasts=T1C,
        images=image[None, None],
        labels=labels[None],
        brain=brain[None],
        area_mm2=np.array([labels.astype(bool).sum() * 16.0]),
        brain_mm2=np.array([brain.sum() * 16.0]),
        source_slice=np.array([12]),
        affine=AFFINE,
        volume_mm3=volume.volume_mm3,
        source={"grid": {"size": [32, 32, 24]}},
        volume=volume,
    )


def write_led_cohort(path: Path, patients: int, *, alone: int = 0) -> Path:
    """A cohort file of patients L0, L1 … with two scans, and so many more with one."""
    sessions = []
    for number in range(patients + alone):
        pair = led_pair(number)
        volumes = [pair.present, pair.later] if number < patients else [pair.present]
        sessions += [session_of(f"L{number}", k, volume) for k, volume in enumerate(volumes)]
    write_cohort(path, sessions, {}, image_size=64, contrasts=T1C, config={})
    return path
