"""The noise schedule (1000 steps, β linear from 1e-4 to 0.02; Ho et al. 2020) and the DDIM steps taken through it.

Plain numbers, no torch.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tumorcast.settings import Preset, SamplerSettings

TRAINING_STEPS = 1000
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def alpha_bars() -> FloatArray:
    """(1000,) ᾱ_t in float64: the share of the signal's variance left at diffusion time t.

    >>> alpha_bars()[[0, 199, 999]].round(4)
    array([0.9999, 0.659 , 0.    ])
    """
    betas = np.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=np.float64)
    return np.cumprod(1.0 - betas).astype(np.float64)


def strided_times(noise_level: int, steps: int | None) -> IntArray:
    """(K + 1,) increasing diffusion times 0 … noise_level - 1 to visit with K = `steps` steps; None visits all.

    >>> strided_times(200, 4)
    array([  0,  50, 100, 149, 199])
    >>> strided_times(4, None)
    array([0, 1, 2, 3])
    """
    last = noise_level - 1
    return np.linspace(0, last, (steps or last) + 1).round().astype(np.int64)


@dataclass(frozen=True)
class Step:
    """One DDIM step: the networks are asked at time t, x goes from noise level `abar` to `abar_next`.

    blend: how much of the noise's change since the step before is added to it; 0 is DDIM, and so is a first step.
    clip: whether the clean image seen in x is held in [-1, 1]; a guided step always does.
    """

    t: int
    abar: float
    abar_next: float
    blend: float = 0.0
    clip: bool = True

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
class StepPlan:
    """The steps up (encode) and down (decode)."""

    encode: tuple[Step, ...]
    decode: tuple[Step, ...]


def plan_steps(settings: SamplerSettings) -> StepPlan:
    """The steps that the settings ask for."""
    return _paper_plan(settings.noise_level) if settings.preset is Preset.PAPER else _default_plan(settings)


def _default_plan(settings: SamplerSettings) -> StepPlan:
    """Up through strided times, asking the network at the level x has; down the same way, and on to ᾱ = 1."""
    times = strided_times(settings.noise_level, settings.steps)
    abar = alpha_bars()
    up = [Step(int(a), abar[a], abar[b], clip=False) for a, b in itertools.pairwise(times)]
    down = [Step(int(b), abar[b], abar[a]) for a, b in itertools.pairwise(times)]
    down = [*reversed(down), Step(0, abar[0], 1.0)]
    if settings.order == 2:
        up, down = list(second_order(up)), list(second_order(down))
    return StepPlan(tuple(up), tuple(down))


@dataclass(frozen=True)
class BoxStep:
    """A step of a departure from an encoding: the networks are asked at time t and level `abar`.

    length: the step in σ/√ᾱ, negative on the way down; 0 is guidance alone. blend: as in `Step`.
    """

    t: int
    abar: float
    length: float
    blend: float = 0.0


@dataclass(frozen=True)
class BoxPlan:
    """The levels of the encoding, from the lowest to the top, and the steps of a departure from it, top first.

    The first level of the encoding, t = 0, is where no departure is computed; its last step leads nowhere. Of the
    departure, the first step is at the top and leads nowhere either: all members are still alike there, and guidance
    parts them before the networks are asked anew.
    """

    encode: tuple[Step, ...]
    decode: tuple[BoxStep, ...]


def plan_boxes(settings: SamplerSettings) -> BoxPlan:
    """The steps of decoding in boxes."""
    times, abar = strided_times(settings.noise_level, settings.levels), alpha_bars()
    up = [Step(int(a), abar[a], abar[b], clip=False) for a, b in itertools.pairwise(times)]
    if settings.order == 2:
        up = list(second_order(up))
    top = times[-1]
    up.append(Step(int(top), abar[top], abar[top], clip=False))
    ends = [*(_flow_time(abar[t]) for t in times[-2:0:-1]), 0.0]
    down = [BoxStep(int(top), abar[top], 0.0)]
    for t, end in zip(times[:0:-1], ends, strict=True):
        length, before = end - _flow_time(abar[t]), down[-1].length
        blend = length / (2 * before) if before and settings.order == 2 else 0.0
        down.append(BoxStep(int(t), abar[t], length, blend))
    return BoxPlan(tuple(up), tuple(down))


def _paper_plan(noise_level: int) -> StepPlan:
    """The authors' loop, whose times lag by one: up at t = 1 … NL - 1 from ᾱ_t to ᾱ_(t+1), down at t = NL - 2 … 0."""
    abar = np.concatenate([alpha_bars(), [0.0]])
    up = [Step(t, abar[t], abar[t + 1]) for t in range(1, noise_level)]
    down = [Step(t, abar[t], abar[t - 1] if t else 1.0) for t in reversed(range(noise_level - 1))]
    return StepPlan(tuple(up), tuple(down))
