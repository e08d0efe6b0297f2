"""Early warning of a run that goes astray: a stop where nothing can be saved, a word where something may be."""

import math
from collections import deque
from pathlib import Path

from tumorcast.errors import EngineError
from tumorcast.training.log import Row

WINDOW = 100  # steps over which the loss is averaged
ALARMING = 2.0  # times the least such average
RISES = 5  # of a validation loss, in a row


def check_finite(row: Row, out: Path, saved: int | None) -> None:
    """Raises EngineError if loss or gradient of a step is no number. saved: the step of the last checkpoint."""
    if math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]):
        return
    kept = "there is no checkpoint yet" if saved is None else f"the last good checkpoint, of step {saved}, is kept"
    raise EngineError(
        f"{out}: step {row['step']}: the loss is {row['loss']}, the gradient's norm {row['gradient_norm']}; {kept}. "
        f"Train anew with a lower learning_rate (it is {row['learning_rate']:.3g}), longer warmup_steps or without "
        "bfloat16, into another --out"
    )


class Watch:
    """Sees every row of the log in turn and says once what is alarming."""

    def __init__(self, warmup_steps: int) -> None:
        self._warmup = warmup_steps
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._least = math.inf
        self._before: dict[str, float] = {}
        self._rises: dict[str, int] = {}
        self._said: set[str] = set()

    def look(self, row: Row) -> str | None:
        """A warning, where this row gives the first cause for it."""
        if "loss" in row and row["step"] > self._warmup:
            return self._look_at_loss(row["loss"])
        return self._look_at_validation(row.get("validation", {}))

    def _look_at_loss(self, loss: float) -> str | None:
        self._recent.append(loss)
        if len(self._recent) < WINDOW:
            return None
        mean = math.fsum(self._recent) / WINDOW
        self._least = min(self._least, mean)
        if mean <= ALARMING * self._least:
            return None
        return self._once(
            "loss",
            f"the mean loss of {WINDOW} steps is {mean:.4g}, over {ALARMING:g} times its least, {self._least:.4g}; if "
            "it stays there, train anew with a lower learning_rate",
        )

    def _look_at_validation(self, losses: dict[str, float]) -> str | None:
        for band, loss in losses.items():
            rising = loss > self._before.get(band, math.inf)
            self._rises[band] = self._rises.get(band, 0) + 1 if rising else 0
            self._before[band] = loss
        worst = max(self._rises, key=self._rises.__getitem__, default="")
        if not losses or self._rises[worst] < RISES:
            return None
        return self._once(
            "validation",
            f"the validation loss ({worst}) rose {RISES} times in a row, to {losses[worst]:.4g}; the network may have "
            "begun to learn the training patients by heart: fewer steps or more patients help",
        )

    def _once(self, what: str, text: str) -> str | None:
        if what in self._said:
            return None
        self._said.add(what)
        return text
