"""Which steps a sampler takes, and by which law it is guided. Plain numbers, no torch."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from tumorcast.diffusion.schedule import alpha_bars, strided_times
from tumorcast.settings import Guidance, Preset, SamplerSettings


@dataclass(frozen=True)
class Normalised:
    """Gauss–Newton: move x so that the linearised R makes up `gain` of what is missing to the target."""

    gain: float

    @property
    def strength(self) -> tuple[float, float]:
        """(gain, s_R) of the step's two laws."""
        return self.gain, 0.0


@dataclass(frozen=True)
class Paper:
    """The paper's law: a constant scale s_R on (target - R)·∇R, entering through ε (arXiv 2509.09610)."""

    scale: float

    @property
    def strength(self) -> tuple[float, float]:
        """(gain, s_R) of the step's two laws."""
        return 0.0, self.scale


GuidanceLaw = Normalised | Paper


@dataclass(frozen=True)
class Step:
    """One DDIM step: the networks are asked at time t, x goes from noise level `abar` to `abar_next`.

    blend: how much of the noise's change since the step before is added to it: 0 is DDIM.
    """

    t: int
    abar: float
    abar_next: float
    blend: float = 0.0

    @property
    def length(self) -> float:
        """The step in σ/√ᾱ, the time of the probability flow."""
        return _flow_time(self.abar_next) - _flow_time(self.abar)


def _flow_time(abar: float) -> float:
    return math.sqrt((1 - abar) / abar)


def second_order(steps: Iterable[Step]) -> Iterator[Step]:
    """The same steps by the two-step Adams–Bashforth rule for uneven steps; the first is left as it is.

    DDIM is Euler's rule for dx̄ = ε dσ̄ with x̄ = x/√ᾱ and σ̄ = √((1 - ᾱ)/ᾱ) (Song et al. 2021, eq. 14); linear
    multistep rules for it are those of Liu et al. 2022 (PNDM). They ask the network as often as Euler's.
    """
    before = None
    for step in steps:
        yield step if before is None else replace(step, blend=step.length / (2 * before.length))
        before = step


@dataclass(frozen=True)
class Plan:
    """The steps up and down."""

    encode: tuple[Step, ...]
    decode: tuple[Step, ...]


def plan_steps(settings: SamplerSettings) -> Plan:
    """The steps that the settings ask for."""
    return _paper_plan(settings.noise_level) if settings.preset is Preset.PAPER else _default_plan(settings)


def _default_plan(settings: SamplerSettings) -> Plan:
    """Up through strided times, asking the network at the level x has; down the same way, and on to ᾱ = 1."""
    times = strided_times(settings.noise_level, settings.steps)
    abar = alpha_bars()
    up = [Step(int(a), abar[a], abar[b]) for a, b in itertools.pairwise(times)]
    down = [Step(int(b), abar[b], abar[a]) for a, b in itertools.pairwise(times)]
    ways = up, [*reversed(down), Step(0, abar[0], 1.0)]
    return Plan(*(tuple(second_order(way)) if settings.order == 2 else tuple(way) for way in ways))


def _paper_plan(noise_level: int) -> Plan:
    """The authors' loop, whose times lag by one: up at t = 1 … NL - 1 from ᾱ_t to ᾱ_(t+1), down at t = NL - 2 … 0."""
    abar = np.concatenate([alpha_bars(), [0.0]])
    up = [Step(t, abar[t], abar[t + 1]) for t in range(1, noise_level)]
    down = [Step(t, abar[t], abar[t - 1] if t else 1.0) for t in reversed(range(noise_level - 1))]
    return Plan(tuple(up), tuple(down))


def law_of(settings: SamplerSettings) -> GuidanceLaw:
    """The guidance law that the settings ask for."""
    match settings.guidance:
        case Guidance.NORMALISED:
            return Normalised(settings.gain)
        case Guidance.PAPER:
            return Paper(settings.scale)
        case _:
            assert_never(settings.guidance)
