"""The sampler's loops over an engine's single steps, with x on the host between them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from tumorcast.diffusion.box import BoxGuidance, EncodedPath
from tumorcast.diffusion.sampler import Array, Indices, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step


class _Steps(Protocol):
    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]: ...

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]: ...


class _BoxSteps(Protocol):
    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]: ...


class HostLoops:
    """What an engine, or what stands before one, does with its steps alone."""

    def encode(self: _Steps, x: Array, steps: Sequence[Step]) -> list[Array]:
        """x after each of the steps."""
        eps, found = np.zeros_like(x), []
        for step in steps:
            x, eps = self.encode_step(x, step, eps)
            found.append(x)
        return found

    def decode(self: _Steps, x: Array, steps: Sequence[Step], guidance: StepGuidance, targets: Array) -> Array:
        """x after the last of the steps."""
        eps = np.zeros_like(x)
        for step, target in zip(steps, targets, strict=True):
            x, eps = self.guided_step(x, step, eps, replace(guidance, target=target))
        return x

    def decode_in_box(
        self: _BoxSteps,
        steps: Sequence[BoxStep],
        levels: Sequence[EncodedPath],
        starts: Indices,
        guidance: BoxGuidance,
        targets: Array,
    ) -> Array:
        """The departures after the last of the steps."""
        departure = previous = np.zeros_like(levels[0].x[starts])
        for step, level, target in zip(steps, levels, targets, strict=True):
            led = replace(guidance, target=target)
            departure, previous, _ = self.box_step(departure, step, previous, level[starts], led)
        return departure
