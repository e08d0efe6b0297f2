"""Ensembles of follow-ups of one or more slices, reduced to their maps."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.special import expit, logit

from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import CohortSlice
from tumorcast.data.imaging.geometry import pixel_size_mm
from tumorcast.diffusion.box import sample_in_boxes
from tumorcast.diffusion.sampler import Encodings, MemberTargets, sample
from tumorcast.engines.protocol import Engine, segment_in_batches
from tumorcast.forecasting.plan import PlannedSlice, Unit, member_noise
from tumorcast.forecasting.progression import SHARED, SURE, GuidanceKeys, ProgressionGuidance, progression_guidance
from tumorcast.forecasting.targets import PatientTargets, SliceTargets
from tumorcast.forecasting.volume_slices import SlicedField
from tumorcast.settings import ForecastSettings, SamplerSettings

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SliceTask:
    """One slice of a unit: what the unit's members of it go to, and what guides them."""

    planned: PlannedSlice
    targets: SliceTargets
    guidance: ProgressionGuidance
    keys: GuidanceKeys


def forecast_unit(
    unit: Unit,
    slices: list[CohortSlice],
    targets: PatientTargets,
    engine: Engine,
    settings: ForecastSettings,
    *,
    sliced: SlicedField | None = None,
) -> dict[str, SliceForecast]:
    """Sample the unit's members, all slices in shared batches, and reduce each slice's; by the slice's name.

    sliced: the field of arrival, of which each slice's targets and guidance are then, and a member's noise is the same
    in all slices.
    """
    tasks, everyone, members = [], [], slice(unit.first, unit.last)
    for planned, present in zip(unit.slices, slices, strict=True):
        every = targets.of_slice(present) if sliced is None else sliced.targets(present)
        predicted = None if sliced is None else sliced.probability(present, sliced.volume_ratio[members])
        keys = GuidanceKeys(unit.patient_id, planned.source_slice if sliced is None else SHARED, unit.first)
        guidance = progression_guidance(keys, every[members], predicted, engine=engine, settings=settings)
        tasks.append(SliceTask(planned, every[members], guidance, keys))
        everyone.append(every)
    shared = encodings_of(everyone[0], settings)
    encoded, turns = np.unique(np.arange(unit.first, unit.last) % shared, return_inverse=True)
    member_targets = MemberTargets(
        encoding=np.concatenate([k * len(encoded) + turns for k in range(len(tasks))]),
        target_change=np.concatenate([task.targets.change for task in tasks]).astype(np.float32),
        window=np.concatenate([task.guidance.window for task in tasks]),
    )
    encodings = _encodings(tasks, encoded, settings.seed)
    images = _sampled(engine, encodings, member_targets, settings)
    return {
        task.planned.name: reduce_members(
            task.targets.present,
            generated,
            task.guidance.probability,
            target_mm2=task.targets.target_mm2,
            engine=engine,
            settings=settings,
        )
        for task, generated in zip(tasks, np.split(images, len(tasks)), strict=True)
    }


def _sampled(engine: Engine, encodings: Encodings, members: MemberTargets, settings: ForecastSettings) -> Array:
    """(M, C, H, W) follow-ups, in boxes where settings and model allow it."""
    sampler, multiple = settings.sampler, engine.info.box_multiple
    if multiple is None or not sampler.in_boxes:
        return sample(engine, encodings, members, sampler, batch=settings.batch)
    return sample_in_boxes(engine, encodings, members, sampler, multiple=multiple, batch=settings.batch)


def encodings_of(targets: SliceTargets, settings: ForecastSettings) -> int:
    """How many encodings a slice gets; member m goes from encoding m modulo their number, in any ensemble and block.

    Members that aim at one size differ by their noise alone: each has its own. targets: of the whole ensemble.
    """
    shared = settings.sampler.encodings
    return settings.members if shared is None or np.ptp(targets.change) == 0 else min(shared, settings.members)


def _encodings(tasks: list[SliceTask], numbers: Indices, seed: int) -> Encodings:
    """Each slice once a number of `numbers`, with the noise of that number."""
    slices, count = [task.targets.present for task in tasks], len(numbers)
    noise = [
        member_noise(task.keys.patient_id, task.keys.source_slice, int(number), seed, present.image.shape)
        for task, present in zip(tasks, slices, strict=True)
        for number in numbers
    ]
    return Encodings(
        image=np.repeat(np.stack([present.image for present in slices]), count, axis=0),
        noise=np.stack(noise),
        present=np.repeat(np.array([present.brain_fraction for present in slices], np.float32), count),
        brain=np.repeat(np.stack([present.brain for present in slices]).astype(np.float32), count, axis=0),
        slice_number=np.repeat(np.arange(len(slices)), count),
    )


@dataclass(frozen=True)
class MemberMaps:
    """What M members of one slice say of each pixel, not yet cut to the brain: (M, H, W) each.

    tumour: the segmenter's probability in the generated image. changed: whether the image departs from the present one.
    growth: the growth probability; None where there is no prediction of progression to fuse with.
    """

    tumour: Array
    changed: npt.NDArray[np.bool_]
    growth: Array | None

    @classmethod
    def of(
        cls,
        present: CohortSlice,
        members: Array,
        predicted: Array | None,
        *,
        engine: Engine,
        settings: ForecastSettings,
    ) -> Self:
        """Of generated images (M, C, H, W), and (M, H, W) the probability that the progression network predicted."""
        tumour = segment_in_batches(engine, members, settings.batch)
        changed = np.abs(members - present.image).sum(axis=1) > settings.change_threshold
        growth = None if predicted is None else member_growth(present, predicted, tumour, settings.sampler)
        return cls(tumour, changed, growth)


def reduce_members(
    present: CohortSlice,
    members: Array,
    predicted: Array | None,
    *,
    target_mm2: npt.NDArray[np.float64],
    engine: Engine,
    settings: ForecastSettings,
) -> SliceForecast:
    """The forecast that generated images (M, C, H, W) of one slice stand for.

    predicted: (M, H, W) probability of tumour by the progression network; None where the model has none.
    target_mm2: (M,) the area that each member was to reach.
    """
    maps = MemberMaps.of(present, members, predicted, engine=engine, settings=settings)
    now = engine.segment(present.image[None])[0]
    mm2_per_pixel = present.brain_mm2 / max(present.brain.sum(), 1)
    return SliceForecast(
        image=present.image,
        labels=present.labels,
        brain=present.brain,
        affine=present.affine,
        mean=members.mean(axis=0),
        std=members.std(axis=0),
        changed=maps.changed.mean(axis=0, dtype=np.float32),
        tumour=maps.tumour.mean(axis=0) * present.brain,
        tumour_now=now * present.brain,
        aimed_mm2=target_mm2,
        reached_mm2=(maps.tumour * present.brain).sum(axis=(1, 2), dtype=np.float64) * mm2_per_pixel,
        present_mm2=present.area_mm2,
        present_segmented_mm2=float((now * present.brain).sum(dtype=np.float64) * mm2_per_pixel),
        source_slice=present.source_slice,
        members=members if settings.keep_members else None,
        growth=None if maps.growth is None else np.asarray(maps.growth.mean(axis=0) * present.brain),
    )


def member_growth(present: CohortSlice, predicted: Array, seen: Array, sampler: SamplerSettings) -> Array:
    """(M, H, W) the growth probability of members, less with the distance to the tumour where the settings say so.

    predicted: (M, H, W) by the progression network; seen: (M, H, W) by the segmenter in the generated images.
    """
    growth = fused(predicted, seen, sampler.seen_weight)
    if sampler.nearness_per_mm > 0:
        pixel_mm = pixel_size_mm(present.affine)
        away_mm = distance_transform_edt(present.labels == 0) * pixel_mm
        growth = np.asarray(expit(_logit(growth) - sampler.nearness_per_mm * away_mm), np.float32)
    return growth


def fused(predicted: Array, seen: Array, seen_weight: float) -> Array:
    """A weighted mean of the logits of two probabilities: a logarithmic opinion pool (Genest & Zidek 1986)."""
    logits = (1 - seen_weight) * _logit(predicted) + seen_weight * _logit(seen)
    return np.asarray(expit(logits), np.float32)


def _logit(probability: Array) -> Array:
    return np.asarray(logit(np.clip(probability, SURE, 1 - SURE)), np.float32)
