"""The loss curve of a training run, as a picture."""

from pathlib import Path

import numpy as np


def draw_loss_curve(losses: list[float], path: Path, title: str) -> None:
    """Draw the loss of every step and its running mean (logarithmic) into a PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that training itself does not need

    values = np.asarray(losses)
    window = max(1, len(values) // 50)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(values, color="0.8", linewidth=0.5)
    if len(values):
        axes.plot(np.arange(window - 1, len(values)), np.convolve(values, np.ones(window) / window, "valid"))
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss", title=title)
    figure.savefig(path, dpi=120)
