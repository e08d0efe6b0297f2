"""The learning rate of every step."""

import math
from typing import assert_never

from tumorcast.settings import RateSchedule, TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of a step: a linear rise over `warmup_steps`, then as the schedule says.

    >>> settings = TrainSettings(steps=10, warmup_steps=2, learning_rate=1.0)
    >>> [round(learning_rate(k, settings), 2) for k in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    warmup = min(settings.warmup_steps, settings.steps - 1)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    match settings.schedule:
        case RateSchedule.CONSTANT:
            return settings.learning_rate
        case RateSchedule.COSINE:
            share = (step - warmup) / (settings.steps - warmup)
            return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        case _:
            assert_never(settings.schedule)
