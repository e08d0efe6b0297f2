"""The loss curve of a training run, as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tumorcast.training.log import Row


def draw_curve(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the rows of a log into a PNG: every step's loss, its running mean, and the validation loss by band."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that training itself does not need

    steps, losses = _series([(row["step"], row["loss"]) for row in rows if "loss" in row])
    looks = [row for row in rows if "validation" in row]
    window = max(1, len(losses) // 50)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="0.8", linewidth=0.5)
    if len(losses):
        axes.plot(steps[window - 1 :], np.convolve(losses, np.ones(window) / window, "valid"), label="training")
        axes.set_yscale("log")
    for band in looks[0]["validation"] if looks else ():
        axes.plot(*_series([(row["step"], row["validation"][band]) for row in looks]), ".-", label=f"validation {band}")
    if looks:
        axes.legend()
    axes.set(xlabel="step", ylabel="loss", title=title)
    figure.savefig(path, dpi=120)


def _series(points: list[tuple[int, float]]) -> tuple["np.ndarray", "np.ndarray"]:
    """Steps and values, each (N,)."""
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values
