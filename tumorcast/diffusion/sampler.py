"""Make follow-ups of a slice: encode it by DDIM inversion, decode it under guidance (arXiv 2509.09610).

The loops run on the host over plain arrays; an engine does the steps. Shapes: x (N, C, H, W) float32.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from tumorcast.config import Preset, SamplerSettings
from tumorcast.diffusion.plan import GuidanceLaw, Step, law_of, plan_steps
from tumorcast.diffusion.schedule import alpha_bars

Array = npt.NDArray[np.float32]

PAPER_OVERSHOOT, PAPER_OVERSHOOT_ABOVE = 1.15, 20


class StepEngine(Protocol):
    """What the sampler asks of an engine; all arrays float32, one row an image."""

    def encode_step(self, x: Array, step: Step, *, clamp: bool) -> Array:
        """x at the next, higher noise level, unguided."""

    def guided_step(
        self, x: Array, step: Step, law: GuidanceLaw, target: Array, *, brain: Array, window: Array
    ) -> Array:
        """x at the next, lower noise level; target (N,), brain and window (N, H, W)."""

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """(N,) R(x, t): tumour over brain pixels as the guiding regressor sees it."""


def sample(
    engine: StepEngine,
    image: Array,
    noise: Array,
    *,
    present: float,
    change: Array,
    brain: Array,
    window: Array,
    settings: SamplerSettings,
) -> Array:
    """(N, C, H, W) follow-ups of one slice, in [-1, 1] (the paper's loop does not clip its last image).

    image: (C, H, W). noise: (N, C, H, W) standard normal, the only randomness, scaled to σ = 0.01. present: the slice's
    tumour over brain pixels; change: (N,) the wanted change of that fraction. brain, window: (H, W) in [0, 1].
    """
    plan, law, n = plan_steps(settings), law_of(settings), len(noise)
    brains, windows = (np.broadcast_to(part, (n, *part.shape)) for part in (brain, window))
    abar = alpha_bars()[0]
    x = (np.sqrt(abar) * image + np.sqrt(1 - abar) * noise).astype(np.float32)
    paper = settings.preset is Preset.PAPER
    path = [x]
    for step in plan.encode:
        x = engine.encode_step(x, step, clamp=paper)
        path = [x] if paper else [*path, x]  # the paper's law aims at one size and needs no way back
    for k, step in enumerate(plan.decode):
        if paper:
            target = (present + change) * (PAPER_OVERSHOOT if step.t > PAPER_OVERSHOOT_ABOVE else 1.0)
        else:
            target = engine.sizes(path[len(path) - 1 - k], step.t, brains) + change
        x = engine.guided_step(x, step, law, target.astype(np.float32), brain=brains, window=windows)
    return x if paper else np.asarray(np.clip(x, -1.0, 1.0))
