"""Ensembles of follow-ups of one or more slices, reduced to their maps."""

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from tumorcast.archive.maps import SliceForecast
from tumorcast.config import ForecastSettings
from tumorcast.data.cohort import CohortSlice
from tumorcast.diffusion.sampler import Starts, sample
from tumorcast.engines.engine import Engine
from tumorcast.forecasting.plan import Unit, member_noise
from tumorcast.forecasting.targets import PatientTargets

Array = npt.NDArray[np.float32]
Changes = npt.NDArray[np.float64]


def forecast_unit(
    unit: Unit, slices: list[CohortSlice], targets: PatientTargets, engine: Engine, settings: ForecastSettings
) -> dict[str, SliceForecast]:
    """Sample the unit's members, all slices in shared batches, and reduce each slice's; by the slice's name."""
    every = [targets.change_of(present.brain_fraction) for present in slices]
    members = _sample_members(unit, slices, every, engine, settings)
    return {
        place.name: _reduce(present, own, change[unit.first : unit.last], engine, settings)
        for place, present, own, change in zip(unit.slices, slices, members, every, strict=True)
    }


def _sample_members(
    unit: Unit, slices: list[CohortSlice], every: list[Changes], engine: Engine, settings: ForecastSettings
) -> npt.NDArray[np.float32]:
    """(slices, members of the unit, C, H, W). every: the changes of all members of the ensemble, by slice.

    Member m goes from encoding m modulo their number, so it is the same in any ensemble and in any block.
    """
    wanted = np.arange(unit.first, unit.last) % encodings_of(every[0], settings)
    encodings, turns = np.unique(wanted, return_inverse=True)
    starts = _starts(unit, slices, encodings, settings)
    source = np.concatenate([k * len(encodings) + turns for k in range(len(slices))])
    change = np.concatenate([change[unit.first : unit.last] for change in every]).astype(np.float32)
    members = sample(engine, starts, source, change, settings.sampler, batch=settings.batch)
    return members.reshape(len(slices), len(wanted), *members.shape[1:])


def encodings_of(change: Changes, settings: ForecastSettings) -> int:
    """How many encodings a slice gets. Members that aim at one size differ by their noise alone: each has its own."""
    shared = settings.sampler.encodings
    return settings.members if shared is None or np.ptp(change) == 0 else min(shared, settings.members)


def _starts(
    unit: Unit, slices: list[CohortSlice], encodings: npt.NDArray[np.int64], settings: ForecastSettings
) -> Starts:
    """Each slice as often as it is encoded."""
    window_mm = settings.sampler.window_mm
    windows = [
        guidance_window(present.labels > 0, window_mm, float(np.linalg.norm(present.affine[:3, 0])))
        for present in slices
    ]
    noise = [
        member_noise(unit.patient_id, place.source_slice, int(k), settings.seed, present.image.shape)
        for place, present in zip(unit.slices, slices, strict=True)
        for k in encodings
    ]
    count = len(encodings)
    return Starts(
        image=np.repeat(np.stack([present.image for present in slices]), count, axis=0),
        noise=np.stack(noise),
        present=np.repeat(np.array([present.brain_fraction for present in slices], np.float32), count),
        brain=np.repeat(np.stack([present.brain for present in slices]).astype(np.float32), count, axis=0),
        window=np.repeat(np.stack(windows), count, axis=0),
    )


def guidance_window(tumour: npt.NDArray[np.bool_], window_mm: float | None, pixel_mm: float) -> Array:
    """(H, W) weight of the guidance: 1 in the present tumour, falling as a Gaussian of the distance to it.

    >>> guidance_window(np.array([[True, False, False]]), 1.0, 1.0).round(2)
    array([[1.  , 0.61, 0.14]], dtype=float32)
    """
    if window_mm is None or not tumour.any():
        return np.ones(tumour.shape, np.float32)
    distance_mm = distance_transform_edt(~tumour) * pixel_mm
    return np.exp(-0.5 * (distance_mm / window_mm) ** 2).astype(np.float32)


def _reduce(
    present: CohortSlice, members: Array, change: npt.NDArray[np.float64], engine: Engine, settings: ForecastSettings
) -> SliceForecast:
    blocks = math.ceil(len(members) / settings.batch)
    probability = np.concatenate([engine.segment(block) for block in np.array_split(members, blocks)])
    now = engine.segment(present.image[None])[0]
    mm2_per_pixel = present.brain_mm2 / max(present.brain.sum(), 1)
    changed = np.abs(members - present.image).sum(axis=1) > settings.change_threshold
    return SliceForecast(
        image=present.image,
        labels=present.labels,
        brain=present.brain,
        affine=present.affine,
        mean=members.mean(axis=0),
        std=members.std(axis=0),
        changed=changed.mean(axis=0, dtype=np.float32),
        tumour=probability.mean(axis=0) * present.brain,
        tumour_now=now * present.brain,
        aimed_mm2=present.area_mm2 + change * present.brain_mm2,
        reached_mm2=(probability * present.brain).sum(axis=(1, 2), dtype=np.float64) * mm2_per_pixel,
        present_mm2=present.area_mm2,
        present_segmented_mm2=float((now * present.brain).sum(dtype=np.float64) * mm2_per_pixel),
        source_slice=present.source_slice,
        members=members if settings.keep_members else None,
    )
