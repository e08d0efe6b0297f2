"""Make follow-ups of slices: encode each by DDIM inversion, decode it under guidance (arXiv 2509.09610).

The loops run on the host over plain arrays; an engine does the steps. Shapes: x (N, C, H, W) float32. An encoding is
shared by all targets that start from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tumorcast.diffusion.plan import GuidanceLaw, Plan, Step, law_of, plan_steps
from tumorcast.diffusion.schedule import alpha_bars
from tumorcast.settings import Preset, SamplerSettings

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

PAPER_OVERSHOOT, PAPER_OVERSHOOT_ABOVE = 1.15, 20


class StepEngine(Protocol):
    """What the sampler asks of an engine; all arrays float32, one row an image.

    A step answers with x at the next noise level and with ε, the noise it saw in x. `last` is the ε of the step before,
    for steps that blend it in.
    """

    def encode_step(self, x: Array, step: Step, *, clamp: bool, last: Array | None = None) -> tuple[Array, Array]:
        """One step unguided."""

    def guided_step(
        self,
        x: Array,
        step: Step,
        law: GuidanceLaw,
        target: Array,
        *,
        brain: Array,
        window: Array,
        last: Array | None = None,
    ) -> tuple[Array, Array]:
        """One step to the next, lower noise level; target (N,), brain and window (N, H, W)."""

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """(N,) R(x, t): tumour over brain pixels as the guiding regressor sees it."""


@dataclass(frozen=True)
class Starts:
    """What is encoded, one row (of E) a slice and noise.

    image: (E, C, H, W). noise: (E, C, H, W) standard normal, the only randomness, scaled to σ = 0.01. present: (E,) the
    slice's tumour over brain pixels. brain: (E, H, W) in {0, 1}.
    """

    image: Array
    noise: Array
    present: Array
    brain: Array


@dataclass(frozen=True)
class Aims:
    """Where M members go.

    source: (M,) the row of `Starts` that each begins at. change: (M,) the wanted change of its tumour/brain fraction.
    window: (M, H, W) weight of the guidance, in [0, 1].
    """

    source: Indices
    change: Array
    window: Array

    def __getitem__(self, rows: slice) -> "Aims":
        """Some of them."""
        return Aims(self.source[rows], self.change[rows], self.window[rows])


def sample(engine: StepEngine, starts: Starts, aims: Aims, settings: SamplerSettings, *, batch: int) -> Array:
    """(M, C, H, W) follow-ups, in [-1, 1] (the paper's loop does not clip its last image).

    batch: images that go through a network together.
    """
    plan = plan_steps(settings)
    paper = settings.preset is Preset.PAPER
    encoded = [_encode(engine, starts, rows, plan, paper=paper) for rows in _blocks(len(starts.image), batch)]
    whole = Encoded(
        np.concatenate([part.x for part in encoded]), np.concatenate([part.sizes for part in encoded], axis=1)
    )
    return np.concatenate(
        [_decode(engine, starts, whole, aims[rows], settings) for rows in _blocks(len(aims.source), batch)]
    )


def _blocks(count: int, batch: int) -> Iterator[slice]:
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))


@dataclass(frozen=True)
class Encoded:
    """x (E, C, H, W) at the top, and the sizes (K, E) that the regressor read at each decoding level on the way up."""

    x: Array
    sizes: Array


def _encode(engine: StepEngine, starts: Starts, rows: slice, plan: Plan, *, paper: bool) -> Encoded:
    """Rows of `starts` at the top. The paper's loop aims at one size and needs none of the way."""
    abar, brain = alpha_bars()[0], starts.brain[rows]
    x = (np.sqrt(abar) * starts.image[rows] + np.sqrt(1 - abar) * starts.noise[rows]).astype(np.float32)
    last, path = None, [x]
    for step in plan.encode:
        x, last = engine.encode_step(x, step, clamp=paper, last=last)
        path.append(x)
    if paper:
        return Encoded(x, np.empty((len(plan.decode), len(x)), np.float32))
    sizes = [engine.sizes(at, step.t, brain) for at, step in zip(reversed(path), plan.decode, strict=True)]
    return Encoded(x, np.stack(sizes))


def _decode(engine: StepEngine, starts: Starts, encoded: Encoded, aims: Aims, settings: SamplerSettings) -> Array:
    """Down under guidance, from the encodings aimed from towards their sizes plus the change."""
    law, paper = law_of(settings), settings.preset is Preset.PAPER
    source, change = aims.source, aims.change
    x, brain, last = encoded.x[source], starts.brain[source], None
    for k, step in enumerate(plan_steps(settings).decode):
        target = _paper_target(starts.present[source] + change, step) if paper else encoded.sizes[k, source] + change
        x, last = engine.guided_step(
            x, step, law, target.astype(np.float32), brain=brain, window=aims.window, last=last
        )
    return x if paper else np.asarray(np.clip(x, -1.0, 1.0))


def _paper_target(fraction: Array, step: Step) -> Array:
    return np.asarray(fraction * (PAPER_OVERSHOOT if step.t > PAPER_OVERSHOOT_ABOVE else 1.0))
