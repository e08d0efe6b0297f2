"""One unit: an ensemble of follow-ups of one slice, reduced to its maps."""

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from tumorcast.archive.maps import SliceForecast
from tumorcast.config import ForecastSettings
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.diffusion.sampler import StepEngine, sample
from tumorcast.forecasting.plan import Unit, member_noise
from tumorcast.forecasting.targets import PatientTargets

Array = npt.NDArray[np.float32]


class Engine(StepEngine, Protocol):
    """A step engine that can also segment the images it made."""

    def segment(self, images: Array) -> Array:
        """(N, H, W) probability of tumour in clean images (N, C, H, W)."""


def forecast_unit(
    unit: Unit, cohort: Cohort, targets: PatientTargets, engine: Engine, settings: ForecastSettings
) -> SliceForecast:
    """Sample every member of a slice and reduce them."""
    present = cohort.slice(unit.patient_id, unit.session_id, unit.index)
    change = targets.change_of(present.brain_fraction)
    members = _sample_members(unit, present, change, engine, settings)
    return _reduce(present, members, change, engine, settings)


def _sample_members(
    unit: Unit, present: CohortSlice, change: npt.NDArray[np.float64], engine: Engine, settings: ForecastSettings
) -> Array:
    """(M, C, H, W), in batches of a fixed size."""
    brain = present.brain.astype(np.float32)
    window = guidance_window(
        present.labels > 0, settings.sampler.window_mm, float(np.linalg.norm(present.affine[:3, 0]))
    )
    batches = []
    for start in range(0, settings.members, settings.batch):
        block = range(start, min(start + settings.batch, settings.members))
        noise = np.stack([member_noise(unit, m, settings.seed, present.image.shape) for m in block])
        batches.append(
            sample(
                engine,
                present.image,
                noise,
                present=present.brain_fraction,
                change=change[block.start : block.stop].astype(np.float32),
                brain=brain,
                window=window,
                settings=settings.sampler,
            )
        )
    return np.concatenate(batches)


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
