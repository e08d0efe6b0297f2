"""Faults planted into the members or the growth map of a sound forecast, whose maps are then made again."""

from dataclasses import replace
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter

from tumorcast.archive.maps import SliceForecast
from tumorcast.diffusion.sampler import Array
from tumorcast.engines.protocol import Engine
from tumorcast.evaluation.failures import Failure
from tumorcast.evaluation.judging import members_of
from tumorcast.evaluation.pairs import Pair
from tumorcast.forecasting.ensemble import reduce_members
from tumorcast.forecasting.progression import predict_progression
from tumorcast.random_keys import patient_key
from tumorcast.settings import ForecastSettings

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.generic]
Rng = np.random.Generator

PLANTING_KEY = 5  # a key of three numbers with the plant and its strength, which no other draw of a patient has
SHARE_FAINT = 0.75  # of the members that have a faint fault; all have a clear one
BLUR_PIXELS = 0.7  # of the edges of what is planted
FAR_MM = 25.0  # a patch from all tumour
RIM_MM = 12.0  # of the brain, where a patch would be taken for a change of the rim


class Plant(StrEnum):
    """What is planted, each faint and clear.

    RING: a bright band along the brain's rim: 4 mm wide, over a third of it, 0.3 brighter (of a range of 2); or 6 mm,
    all of it, 0.6. BLOB: a disc of 4 or 8 mm radius, at 0.7 or 1 of the patient's median tumour, FAR_MM from all
    tumour. TURNED: the growth map alone, point-reflected at the tumour's centre; or mirrored to the other half of the
    brain.
    """

    RING = "ring"
    BLOB = "blob"
    TURNED = "turned"

    @property
    def fault(self) -> Failure | None:
        """What is wrong then for certain; a map that grows alike to all sides may be turned and still be right."""
        return {Plant.RING: Failure.RIM_CHANGE, Plant.BLOB: Failure.SEPARATE_BLOB}.get(self)


def planted(
    plant: Plant, pair: Pair, control: SliceForecast, engine: Engine, settings: ForecastSettings, *, clear: bool
) -> SliceForecast | None:
    """The control with a fault in it; None where it has no growth map to turn. Places are of the patient's own key."""
    match plant:
        case Plant.TURNED:
            return None if control.growth is None else replace(control, growth=_turned(control.growth, control, clear))
        case Plant.RING | Plant.BLOB:
            rng = _rng(plant, pair, settings.seed, clear)
            make = _with_band if plant is Plant.RING else _with_patch
            members = make(members_of(control), pair, rng, clear)
            kept = rng.permutation(len(members)) < (1.0 if clear else SHARE_FAINT) * len(members)
            members = np.where(kept[:, None, None, None], members, members_of(control)).astype(np.float32)
            return seen_again(pair, control, members, engine, settings)
        case _:
            assert_never(plant)


def _rng(plant: Plant, pair: Pair, seed: int, clear: bool) -> Rng:
    key = (patient_key(pair.patient_id), PLANTING_KEY, 2 * list(Plant).index(plant) + clear)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _with_band(members: Array, pair: Pair, rng: Rng, clear: bool) -> Array:
    """Brighter along the rim, in all contrasts; a faint band is about the middle of the far side of the tumour."""
    brain, width_mm, brighter = pair.now.brain, 6.0 if clear else 4.0, 0.6 if clear else 0.3
    band = brain & (distance_transform_edt(brain) * pair.pixel_mm <= width_mm)
    if not clear:
        rows, columns = np.mgrid[: brain.shape[0], : brain.shape[1]]
        middle = np.argwhere(brain).mean(axis=0)
        away = np.arctan2(*(middle - np.argwhere(pair.now.labels).mean(axis=0))) + rng.uniform(-0.5, 0.5)
        turn = np.angle(np.exp(1j * (np.arctan2(rows - middle[0], columns - middle[1]) - away)))
        band &= np.abs(turn) <= np.pi / 3
    return np.clip(members + brighter * _blurred(band) * brain, -1.0, 1.0)


def _with_patch(members: Array, pair: Pair, rng: Rng, clear: bool) -> Array:
    """A disc of the patient's own tumour where no tumour is near, or as far from it as the brain allows."""
    radius_mm, share = (8.0, 1.0) if clear else (4.0, 0.7)
    tumour = (pair.now.labels > 0) | (pair.later.labels > 0)
    depth = distance_transform_edt(pair.now.brain) * pair.pixel_mm
    away = distance_transform_edt(~tumour) * pair.pixel_mm
    deep = (away > FAR_MM / 2) & (depth > RIM_MM + radius_mm)
    away = away * (deep if deep.any() else depth > radius_mm)
    places = np.argwhere(away >= min(FAR_MM, float(away.max())))
    row, column = places[rng.integers(len(places))]
    rows, columns = np.mgrid[: tumour.shape[0], : tumour.shape[1]]
    disc = np.hypot(rows - row, columns - column) * pair.pixel_mm <= radius_mm
    bright = np.median(pair.now.image[:, pair.now.labels > 0], axis=1).astype(np.float32)
    weight = share * _blurred(disc & pair.now.brain)
    return np.asarray((1 - weight) * members + weight * bright[:, None, None])


def _blurred(mask: Mask) -> Array:
    return np.asarray(gaussian_filter(mask.astype(np.float32), BLUR_PIXELS))


def _turned(growth: Array, control: SliceForecast, clear: bool) -> Array:
    """The map with what grows outside the outline turned to another side."""
    outline = control.labels > 0
    outside = np.where(outline, 0.0, growth)
    moved = mirrored(outside, control.brain) if clear else _reflected(outside, outline)
    return np.asarray(np.maximum(np.where(outline, growth, 0.0), moved) * control.brain, np.float32)


def mirrored(values: Values, brain: Mask) -> npt.NDArray[Any]:
    """(H, W) with left and right exchanged about the middle of the brain; 0 where nothing comes from."""
    columns = np.flatnonzero(brain.any(axis=0))
    return _taken(values, np.arange(values.shape[0]), columns[0] + columns[-1] - np.arange(values.shape[1]))


def _reflected(values: Values, about: Mask) -> npt.NDArray[Any]:
    """(H, W) point-reflected about the centre of a mask."""
    row, column = (round(2 * axis.mean()) for axis in np.nonzero(about))
    return _taken(values, row - np.arange(values.shape[0]), column - np.arange(values.shape[1]))


def _taken(values: Values, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    height, width = values.shape
    there = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    return np.asarray(values[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))] * there)


def seen_again(
    pair: Pair, control: SliceForecast, members: Array, engine: Engine, settings: ForecastSettings
) -> SliceForecast:
    """The control with `members` (M, C, H, W) in place of its own, reduced as forecasts are."""
    predicted = None
    if control.growth is not None:
        predicted = predict_progression(pair.now, control.aimed_mm2 / control.present_mm2, engine, settings.batch)
    forecast = reduce_members(
        pair.now, members, predicted, target_mm2=control.aimed_mm2, engine=engine, settings=settings
    )
    return replace(forecast, members=members)
