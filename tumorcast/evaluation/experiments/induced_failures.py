"""Failures induced on purpose: by forecasts under wrong settings, and by faults planted into a sound forecast.

Every case is of one slice whose later scan is known, claims to aim at the true later size, and keeps its members.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter

from tumorcast.archive.maps import SliceForecast
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.protocol import Engine, EngineWrapper
from tumorcast.evaluation.experiments.followup_source import forecast_ratios
from tumorcast.evaluation.failure_flags import Failure
from tumorcast.evaluation.followup import FollowUp
from tumorcast.evaluation.score import members_of
from tumorcast.forecasting.ensemble import reduce_members
from tumorcast.forecasting.progression import predict_progression
from tumorcast.random_keys import patient_key
from tumorcast.settings import ForecastSettings, Guidance

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.generic]
Rng = np.random.Generator

PLANTED_FAULT_KEY = 5  # a key of three numbers with the fault and its strength, which no other draw of a patient has
SHARE_FAINT = 0.75  # of the members that have a faint fault; all have a clear one
BLUR_PIXELS = 0.7  # of the edges of what is planted
FAR_MM = 25.0  # a patch from all tumour
RIM_MM = 12.0  # of the brain, where a patch would be taken for a change of the rim

STRONG_SCALE = 100_000_000.0  # s_R, a thousand times that above which the paper saw blobs
WRONG_GAIN = 2.0  # of the normalised guidance
STRAY_RATIO = 4.0  # of the true later area
LEVELS_BEYOND = 250  # of the noise levels that the model was trained for
LEAST_RATIO = 0.3  # of a tumour led to shrink


class WrongSetting(StrEnum):
    """A setting under which a forecast fails.

    STRONG: by the paper's guidance, far too strong and everywhere. STRAY: everywhere, to four times the true size.
    NOISY: encoded beyond the noise that the model knows. MIRRORED: strongly, to the mirrored place in the other half of
    the brain. BACKWARDS: to shrink where growth was asked for.
    """

    STRONG = "strong"
    STRAY = "stray"
    NOISY = "noisy"
    MIRRORED = "mirrored"
    BACKWARDS = "backwards"


class PlantedFault(StrEnum):
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
    def failure(self) -> Failure | None:
        """The failure it is for certain; a map that grows alike to all sides may be turned and still be right."""
        return {PlantedFault.RING: Failure.RIM_CHANGE, PlantedFault.BLOB: Failure.SEPARATE_BLOB}.get(self)


CONTROL = "control"
LABELS: dict[str, str] = {
    CONTROL: "not provoked",
    WrongSetting.STRONG: "guidance far too strong, everywhere",
    WrongSetting.STRAY: "guided everywhere to four times the size",
    WrongSetting.NOISY: "encoded beyond the noise known",
    WrongSetting.MIRRORED: "led to the other half of the brain",
    WrongSetting.BACKWARDS: "led to shrink where growth was asked for",
    PlantedFault.RING: "planted: a bright band at the rim",
    PlantedFault.BLOB: "planted: a patch of tumour far away",
    PlantedFault.TURNED: "planted: the growth map turned",
}


@dataclass(frozen=True)
class InducedCase:
    """A forecast, and how it was made: CONTROL, or the name of a WrongSetting or of a PlantedFault.

    planted: the failure it has for certain; None where failure_rules decide. clear: the stronger fault.
    """

    how: str
    forecast: SliceForecast
    planted: Failure | None = None
    clear: bool = False


class Everywhere(EngineWrapper):
    """An engine whose guidance acts in the whole brain, whatever window it is given, and so in no box."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.info = replace(engine.info, box_multiple=None)

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """With a window that is open in all the brain."""
        return super().guided_step(x, step, previous_eps, replace(guidance, window=guidance.brain))


def induce_failures(followup: FollowUp, engine: Engine, settings: ForecastSettings) -> Iterator[InducedCase]:
    """The control, and the cases induced from it. settings: of the control; the others have as many members."""
    control = _forecast(followup, engine, settings, followup.ratio)
    yield InducedCase(CONTROL, control)
    for how in WrongSetting:
        failed = _under_wrong_setting(how, followup, engine, settings)
        # As a reader would have it: the aim asked for, and the outline of the scan.
        yield InducedCase(how, replace(failed, aimed_mm2=control.aimed_mm2, labels=control.labels))
    for fault in PlantedFault:
        for clear in (False, True):
            forecast = plant(fault, followup, control, engine, settings, clear=clear)
            if forecast is not None:
                yield InducedCase(fault, forecast, fault.failure, clear)


def _forecast(followup: FollowUp, engine: Engine, settings: ForecastSettings, ratio: float) -> SliceForecast:
    return forecast_ratios(followup, np.full(settings.members, ratio), engine, settings)


def _under_wrong_setting(
    how: WrongSetting, followup: FollowUp, engine: Engine, settings: ForecastSettings
) -> SliceForecast:
    everywhere = Everywhere(engine)
    strong = _with(settings, guidance=Guidance.NORMALISED, gain=WRONG_GAIN)
    strongest = _with(settings, guidance=Guidance.PAPER, scale=STRONG_SCALE)
    match how:
        case WrongSetting.STRONG:
            return _forecast(followup, everywhere, strongest, followup.ratio)
        case WrongSetting.STRAY:
            return _forecast(followup, everywhere, strong, STRAY_RATIO * followup.ratio)
        case WrongSetting.NOISY:
            level = engine.info.noise_levels + LEVELS_BEYOND
            return _forecast(followup, engine, _with(settings, noise_level=level), followup.ratio)
        case WrongSetting.MIRRORED:
            now = followup.now
            labels = (mirrored(now.labels, now.brain) * now.brain).astype(np.uint8)
            moved = replace(followup, now=replace(now, labels=labels))
            return _forecast(moved, engine, strong, followup.ratio)
        case WrongSetting.BACKWARDS:
            return _forecast(followup, engine, settings, max(followup.ratio**-2, LEAST_RATIO))
        case _:
            assert_never(how)


def _with(settings: ForecastSettings, **sampler: Any) -> ForecastSettings:
    return settings.model_copy(update={"sampler": settings.sampler.model_copy(update=sampler)})


def plant(
    fault: PlantedFault,
    followup: FollowUp,
    control: SliceForecast,
    engine: Engine,
    settings: ForecastSettings,
    *,
    clear: bool,
) -> SliceForecast | None:
    """The control with a fault in it; None where it has no growth map to turn. Places are of the patient's own key."""
    match fault:
        case PlantedFault.TURNED:
            return (
                None if control.growth is None else replace(control, growth=_turned_map(control.growth, control, clear))
            )
        case PlantedFault.RING | PlantedFault.BLOB:
            rng = _rng(fault, followup, settings.seed, clear)
            make = _with_band if fault is PlantedFault.RING else _with_patch
            members = make(members_of(control), followup, rng, clear)
            kept = rng.permutation(len(members)) < (1.0 if clear else SHARE_FAINT) * len(members)
            members = np.where(kept[:, None, None, None], members, members_of(control)).astype(np.float32)
            return reduce_again(followup, control, members, engine, settings)
        case _:
            assert_never(fault)


def _rng(fault: PlantedFault, followup: FollowUp, seed: int, clear: bool) -> Rng:
    key = (patient_key(followup.patient_id), PLANTED_FAULT_KEY, 2 * list(PlantedFault).index(fault) + clear)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _with_band(members: Array, followup: FollowUp, rng: Rng, clear: bool) -> Array:
    """Brighter along the rim, in all contrasts; a faint band is about the middle of the far side of the tumour."""
    brain, width_mm, brighter = followup.now.brain, 6.0 if clear else 4.0, 0.6 if clear else 0.3
    band = brain & (distance_transform_edt(brain) * followup.pixel_mm <= width_mm)
    if not clear:
        rows, columns = np.mgrid[: brain.shape[0], : brain.shape[1]]
        middle = np.argwhere(brain).mean(axis=0)
        away = np.arctan2(*(middle - np.argwhere(followup.now.labels).mean(axis=0))) + rng.uniform(-0.5, 0.5)
        turn = np.angle(np.exp(1j * (np.arctan2(rows - middle[0], columns - middle[1]) - away)))
        band &= np.abs(turn) <= np.pi / 3
    return np.clip(members + brighter * _blurred(band) * brain, -1.0, 1.0)


def _with_patch(members: Array, followup: FollowUp, rng: Rng, clear: bool) -> Array:
    """A disc of the patient's own tumour where no tumour is near, or as far from it as the brain allows."""
    radius_mm, share = (8.0, 1.0) if clear else (4.0, 0.7)
    tumour = (followup.now.labels > 0) | (followup.later.labels > 0)
    depth = distance_transform_edt(followup.now.brain) * followup.pixel_mm
    away = distance_transform_edt(~tumour) * followup.pixel_mm
    deep = (away > FAR_MM / 2) & (depth > RIM_MM + radius_mm)
    away = away * (deep if deep.any() else depth > radius_mm)
    places = np.argwhere(away >= min(FAR_MM, float(away.max())))
    row, column = places[rng.integers(len(places))]
    rows, columns = np.mgrid[: tumour.shape[0], : tumour.shape[1]]
    disc = np.hypot(rows - row, columns - column) * followup.pixel_mm <= radius_mm
    bright = np.median(followup.now.image[:, followup.now.labels > 0], axis=1).astype(np.float32)
    weight = share * _blurred(disc & followup.now.brain)
    return np.asarray((1 - weight) * members + weight * bright[:, None, None])


def _blurred(mask: Mask) -> Array:
    return np.asarray(gaussian_filter(mask.astype(np.float32), BLUR_PIXELS))


def _turned_map(growth: Array, control: SliceForecast, clear: bool) -> Array:
    """The map with what grows outside the outline turned to another side."""
    outline = control.labels > 0
    outside = np.where(outline, 0.0, growth)
    moved = mirrored(outside, control.brain) if clear else _reflected(outside, outline)
    return np.asarray(np.maximum(np.where(outline, growth, 0.0), moved) * control.brain, np.float32)


def mirrored(values: Values, brain: Mask) -> npt.NDArray[Any]:
    """(H, W) with left and right exchanged about the middle of the brain; 0 where nothing comes from."""
    columns = np.flatnonzero(brain.any(axis=0))
    return _gather(values, np.arange(values.shape[0]), columns[0] + columns[-1] - np.arange(values.shape[1]))


def _reflected(values: Values, about: Mask) -> npt.NDArray[Any]:
    """(H, W) point-reflected about the centre of a mask."""
    row, column = (round(2 * axis.mean()) for axis in np.nonzero(about))
    return _gather(values, row - np.arange(values.shape[0]), column - np.arange(values.shape[1]))


def _gather(values: Values, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    height, width = values.shape
    there = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    return np.asarray(values[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))] * there)


def reduce_again(
    followup: FollowUp, control: SliceForecast, members: Array, engine: Engine, settings: ForecastSettings
) -> SliceForecast:
    """The control with `members` (M, C, H, W) in place of its own, reduced as forecasts are."""
    predicted = None
    if control.growth is not None:
        predicted = predict_progression(followup.now, control.aimed_mm2 / control.present_mm2, engine, settings.batch)
    forecast = reduce_members(
        followup.now, members, predicted, target_mm2=control.aimed_mm2, engine=engine, settings=settings
    )
    return replace(forecast, members=members)
