"""Failures that are provoked on purpose: by forecasts that are led astray, and planted into a sound one.

Every case is of one slice whose later scan is known, claims to aim at the true later size, and keeps its members.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, assert_never

import numpy as np

from tumorcast.archive.maps import SliceForecast
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.protocol import Engine, EngineWrapper
from tumorcast.evaluation.experiments.cases import Case
from tumorcast.evaluation.experiments.planting import Plant, mirrored, planted
from tumorcast.evaluation.failures import Failure
from tumorcast.settings import ForecastSettings, Guidance

STRONG_SCALE = 100_000_000.0  # s_R, a thousand times that above which the paper saw blobs
ASTRAY_GAIN = 2.0  # of the normalised guidance
STRAY_RATIO = 4.0  # of the true later area
LEVELS_BEYOND = 250  # of the noise levels that the model was trained for
LEAST_RATIO = 0.3  # of a tumour led to shrink


class Astray(StrEnum):
    """How a forecast is led astray.

    STRONG: by the paper's guidance, far too strong and everywhere. STRAY: everywhere, to four times the true size.
    NOISY: encoded beyond the noise that the model knows. MIRRORED: strongly, to the mirrored place in the other half of
    the brain. BACKWARDS: to shrink where growth was asked for.
    """

    STRONG = "strong"
    STRAY = "stray"
    NOISY = "noisy"
    MIRRORED = "mirrored"
    BACKWARDS = "backwards"


CONTROL = "control"
TOLD: dict[str, str] = {
    CONTROL: "not provoked",
    Astray.STRONG: "guidance far too strong, everywhere",
    Astray.STRAY: "guided everywhere to four times the size",
    Astray.NOISY: "encoded beyond the noise known",
    Astray.MIRRORED: "led to the other half of the brain",
    Astray.BACKWARDS: "led to shrink where growth was asked for",
    Plant.RING: "planted: a bright band at the rim",
    Plant.BLOB: "planted: a patch of tumour far away",
    Plant.TURNED: "planted: the growth map turned",
}


@dataclass(frozen=True)
class Provoked:
    """A forecast, and how it was made: CONTROL, or the name of an Astray or a Plant.

    planted: what is wrong with it for certain; None where a rule has to tell. clear: of a plant, the stronger kind.
    """

    how: str
    forecast: SliceForecast
    planted: Failure | None = None
    clear: bool = False


class Everywhere(EngineWrapper):
    """An engine whose guidance acts in the whole brain, whatever window it is given."""

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """With a window that is open in all the brain."""
        return super().guided_step(x, step, previous_eps, replace(guidance, window=guidance.brain))


def provoke(case: Case, engine: Engine, settings: ForecastSettings) -> Iterator[Provoked]:
    """The control, and what is made of it. settings: of the control; the others have as many members."""
    control = _made(case, engine, settings, case.ratio)
    yield Provoked(CONTROL, control)
    for how in Astray:
        made = _led_astray(how, case, engine, settings)
        # As a reader would have it: the aim asked for, and the outline of the scan.
        yield Provoked(how, replace(made, aimed_mm2=control.aimed_mm2, labels=control.labels))
    for plant in Plant:
        for clear in (False, True):
            forecast = planted(plant, case.pair, control, engine, settings, clear=clear)
            if forecast is not None:
                yield Provoked(plant, forecast, plant.fault, clear)


def _made(case: Case, engine: Engine, settings: ForecastSettings, ratio: float) -> SliceForecast:
    return case.forecast(engine, settings, np.full(settings.members, ratio))


def _led_astray(how: Astray, case: Case, engine: Engine, settings: ForecastSettings) -> SliceForecast:
    everywhere: Any = Everywhere(engine)
    strong = _with(settings, guidance=Guidance.NORMALISED, gain=ASTRAY_GAIN)
    match how:
        case Astray.STRONG:
            return _made(case, everywhere, _with(settings, guidance=Guidance.PAPER, scale=STRONG_SCALE), case.ratio)
        case Astray.STRAY:
            return _made(case, everywhere, strong, STRAY_RATIO * case.ratio)
        case Astray.NOISY:
            level = engine.info.noise_levels + LEVELS_BEYOND
            return _made(case, engine, _with(settings, noise_level=level), case.ratio)
        case Astray.MIRRORED:
            now = case.pair.now
            labels = (mirrored(now.labels, now.brain) * now.brain).astype(np.uint8)
            moved = replace(case.pair, now=replace(now, labels=labels))
            return _made(replace(case, pair=moved), engine, strong, case.ratio)
        case Astray.BACKWARDS:
            return _made(case, engine, settings, max(case.ratio**-2, LEAST_RATIO))
        case _:
            assert_never(how)


def _with(settings: ForecastSettings, **sampler: Any) -> ForecastSettings:
    return settings.model_copy(update={"sampler": settings.sampler.model_copy(update=sampler)})
