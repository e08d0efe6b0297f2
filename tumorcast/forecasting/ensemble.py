"""Ensembles of follow-ups of one or more slices, reduced to their maps."""

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.special import expit, logit

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import CohortSlice
from tumorcast.diffusion.sampler import Aims, Starts, sample
from tumorcast.engines.protocol import Engine
from tumorcast.forecasting.plan import Unit, member_noise
from tumorcast.forecasting.progression import SURE, Foresight, foresee
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import ForecastSettings, SamplerSettings

Array = npt.NDArray[np.float32]
Changes = npt.NDArray[np.float64]


def forecast_unit(
    unit: Unit, slices: list[CohortSlice], targets: PatientTargets, engine: Engine, settings: ForecastSettings
) -> dict[str, SliceForecast]:
    """Sample the unit's members, all slices in shared batches, and reduce each slice's; by the slice's name."""
    every = [targets.change_of(present.brain_fraction) for present in slices]
    shared, own = encodings_of(every[0], settings), range(unit.first, unit.last)
    changes = [change[unit.first : unit.last] for change in every]
    foresights = [
        foresee(unit.patient_id, present, change, own, engine=engine, settings=settings)
        for present, change in zip(slices, changes, strict=True)
    ]
    encodings, turns = np.unique(np.array(own) % shared, return_inverse=True)
    aims = Aims(
        source=np.concatenate([k * len(encodings) + turns for k in range(len(slices))]),
        change=np.concatenate(changes).astype(np.float32),
        window=np.concatenate([foresight.window for foresight in foresights]),
    )
    members = sample(engine, _starts(unit, slices, encodings, settings), aims, settings.sampler, batch=settings.batch)
    by_slice = members.reshape(len(slices), len(own), *members.shape[1:])
    return {
        place.name: _reduce(present, images, change, foresight, engine=engine, settings=settings)
        for place, present, images, change, foresight in zip(
            unit.slices, slices, by_slice, changes, foresights, strict=True
        )
    }


def encodings_of(change: Changes, settings: ForecastSettings) -> int:
    """How many encodings a slice gets; member m goes from encoding m modulo their number, in any ensemble and block.

    Members that aim at one size differ by their noise alone: each has its own.
    """
    shared = settings.sampler.encodings
    return settings.members if shared is None or np.ptp(change) == 0 else min(shared, settings.members)


def _starts(
    unit: Unit, slices: list[CohortSlice], encodings: npt.NDArray[np.int64], settings: ForecastSettings
) -> Starts:
    """Each slice as often as it is encoded."""
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
    )


def _reduce(
    present: CohortSlice,
    members: Array,
    change: Changes,
    foresight: Foresight,
    *,
    engine: Engine,
    settings: ForecastSettings,
) -> SliceForecast:
    blocks = math.ceil(len(members) / settings.batch)
    probability = np.concatenate([engine.segment(block) for block in np.array_split(members, blocks)])
    now = engine.segment(present.image[None])[0]
    mm2_per_pixel = present.brain_mm2 / max(present.brain.sum(), 1)
    foretold = foresight.probability
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
        growth=None if foretold is None else growth_map(present, foretold, probability, settings.sampler),
    )


def growth_map(present: CohortSlice, foretold: Array, seen: Array, sampler: SamplerSettings) -> Array:
    """(H, W) the growth map, from what was foretold and seen of members: (M, H, W)."""
    members = fused(foretold, seen, sampler.seen_weight)
    if sampler.nearness_per_mm > 0:
        pixel_mm = float(np.linalg.norm(present.affine[:3, 0]))
        away_mm = distance_transform_edt(present.labels == 0) * pixel_mm
        members = np.asarray(expit(_logit(members) - sampler.nearness_per_mm * away_mm), np.float32)
    return np.asarray(members.mean(axis=0) * present.brain)


def fused(foretold: Array, seen: Array, seen_weight: float) -> Array:
    """The growth probability of members: what the progression network foretold, and what the segmenter sees in them.

    A weighted mean of their logits: a logarithmic opinion pool (Genest & Zidek 1986).
    """
    logits = (1 - seen_weight) * _logit(foretold) + seen_weight * _logit(seen)
    return np.asarray(expit(logits), np.float32)


def _logit(probability: Array) -> Array:
    return np.asarray(logit(np.clip(probability, SURE, 1 - SURE)), np.float32)
