"""Make follow-ups of slices: encode each by DDIM inversion, decode it under guidance (arXiv 2509.09610).

An engine does the steps, and keeps x where it computes between them. Shapes: x (N, C, H, W) float32. An encoding is
shared by all members that start from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

import numpy as np
import numpy.typing as npt

from tumorcast.diffusion.schedule import Step, StepPlan, alpha_bars, plan_steps
from tumorcast.settings import Guidance, Preset, SamplerSettings

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

PAPER_OVERSHOOT, PAPER_OVERSHOOT_ABOVE = 1.15, 20


@dataclass(frozen=True)
class StepGuidance:
    """What one guided step of N images is led by.

    target: (N,) the tumour/brain fraction that the regressor is to see. brain: (N, H, W) in {0, 1}. window: (N, H, W)
    weight of the guidance, in [0, 1]. gain, scale: strength of the normalised and of the paper's law (see
    kernels.guided_step.steer); the law that is not in use has 0.
    """

    target: Array
    brain: Array
    window: Array
    gain: float = 0.0
    scale: float = 0.0


class StepEngine(Protocol):
    """What the sampler asks of an engine; all arrays float32, one row an image.

    A step answers with x at the next noise level and with ε, the noise that it saw in x. It is given the ε of the step
    before, for steps that blend it in (`step.blend`). `encode` and `decode` are many such steps, the first after none.
    """

    def encode(self, x: Array, steps: Sequence[Step]) -> list[Array]:
        """x after each of the steps, unguided."""

    def decode(self, x: Array, steps: Sequence[Step], guidance: StepGuidance, targets: Array) -> Array:
        """x after the last of K steps, all under one guidance but for its target: step k's is targets[k], (K, N)."""

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """One step unguided."""

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """One step to the next, lower noise level."""

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """(N,) R(x, t): tumour over brain pixels as the guiding regressor sees it."""


@dataclass(frozen=True)
class Encodings:
    """What is encoded, one row (of E) a slice and noise.

    image: (E, C, H, W). noise: (E, C, H, W) standard normal, the only randomness, scaled to σ = 0.01. present: (E,) the
    slice's tumour over brain pixels. brain: (E, H, W) in {0, 1}. slice_number: (E,) which slice
    it is of.
    """

    image: Array
    noise: Array
    present: Array
    brain: Array
    slice_number: Indices

    def __getitem__(self, rows: slice | Indices) -> "Encodings":
        """Some of them."""
        return Encodings(
            self.image[rows], self.noise[rows], self.present[rows], self.brain[rows], self.slice_number[rows]
        )


@dataclass(frozen=True)
class MemberTargets:
    """Where M members start and what they go to.

    encoding: (M,) the row of `Encodings` that each starts from. target_change: (M,) target less present tumour/brain
    fraction. window: (M, H, W) weight of the guidance, in [0, 1].
    """

    encoding: Indices
    target_change: Array
    window: Array

    def __getitem__(self, rows: slice) -> "MemberTargets":
        """Some of the members."""
        return MemberTargets(self.encoding[rows], self.target_change[rows], self.window[rows])


def sample(
    engine: StepEngine, encodings: Encodings, members: MemberTargets, settings: SamplerSettings, *, batch: int
) -> Array:
    """(M, C, H, W) follow-ups, in [-1, 1] (the paper's loop does not clip its last image).

    batch: images that go through a network together.
    """
    plan = plan_steps(settings)
    paper = settings.preset is Preset.PAPER
    parts = [_encode(engine, encodings, rows, plan, sized=not paper) for rows in blocks(len(encodings.image), batch)]
    x, sizes = np.concatenate([x for x, _ in parts]), np.concatenate([sizes for _, sizes in parts], axis=1)
    targets = _paper_targets(encodings, members, plan) if paper else sizes[:, members.encoding] + members.target_change
    strength = guidance_strength(settings)
    decoded = []
    for rows in blocks(len(members.encoding), batch):
        part = members[rows]
        wanted = np.asarray(targets[:, rows], np.float32)
        guidance = StepGuidance(wanted[0], encodings.brain[part.encoding], part.window, *strength)
        decoded.append(engine.decode(x[part.encoding], plan.decode, guidance, wanted))
    images = np.concatenate(decoded)
    return images if paper else np.asarray(np.clip(images, -1.0, 1.0))


def guidance_strength(settings: SamplerSettings) -> tuple[float, float]:
    """(gain, scale) of the two guidance laws; the one that the settings do not ask for is 0."""
    match settings.guidance:
        case Guidance.NORMALISED:
            return settings.gain, 0.0
        case Guidance.PAPER:
            return 0.0, settings.scale
        case _:
            assert_never(settings.guidance)


def blocks(count: int, batch: int) -> Iterator[slice]:
    """The numbers below `count` in blocks of `batch` at most."""
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))


def start_of(encodings: Encodings) -> Array:
    """(E, C, H, W) at t = 0, where encoding begins."""
    abar = alpha_bars()[0]
    return np.asarray(np.sqrt(abar) * encodings.image + np.sqrt(1 - abar) * encodings.noise, np.float32)


def _encode(
    engine: StepEngine, encodings: Encodings, rows: slice, plan: StepPlan, *, sized: bool
) -> tuple[Array, Array]:
    """x (N, C, H, W) at the top, and the sizes (K, N) that the regressor read at each decoding level on the way up.

    The paper's loop aims at one size and needs none of these: 0 where not `sized`.
    """
    start = start_of(encodings[rows])
    levels = [start, *engine.encode(start, plan.encode)]
    x = levels[-1]
    if not sized:
        return x, np.zeros((len(plan.decode), len(x)), np.float32)
    pairs = zip(reversed(levels), plan.decode, strict=True)
    return x, np.stack([engine.sizes(level, step.t, encodings.brain[rows]) for level, step in pairs])


def _paper_targets(encodings: Encodings, members: MemberTargets, plan: StepPlan) -> Array:
    """(K, M) the target fraction at each step down, overshot but for the last steps."""
    target = encodings.present[members.encoding] + members.target_change
    overshoots = [PAPER_OVERSHOOT if step.t > PAPER_OVERSHOOT_ABOVE else 1.0 for step in plan.decode]
    return np.stack([target * overshoot for overshoot in overshoots])
