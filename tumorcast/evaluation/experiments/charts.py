"""Charts of several variants over patients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tumorcast.evaluation.figures import DISCLAIMER
from tumorcast.evaluation.metrics import Floats

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito 2008
MARKS = "os^Dv*P"


def draw_by_patient(units: Sequence[str], values: Mapping[str, Floats], what: str, path: Path) -> None:
    """A column a patient, a mark a variant, in the order of the first variant. values: (P,) by variant."""
    figure = Figure(figsize=(max(5.0, 0.22 * len(units) + 3.5), 4.5), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(next(iter(values.values())), kind="stable")
    for place, (name, found) in enumerate(values.items()):
        look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "marker": MARKS[place % len(MARKS)]}
        axes.plot(np.arange(len(order)), found[order], linestyle="", markersize=5, alpha=0.8, label=name, **look)
    axes.set_xticks(np.arange(len(order)), [units[k] for k in order], rotation=90, fontsize=6)
    axes.set_ylabel(what)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    figure.legend(loc="outside right upper", fontsize=7)
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=110)


def draw_centred(before: Floats, after: Floats, names: tuple[str, str], path: Path) -> None:
    """A dot a patient and point, each patient's mean taken off. before, after: (P, G)."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    for first, second in zip(before, after, strict=True):
        axes.plot(first - first.mean(), second - second.mean(), "o", markersize=4, alpha=0.5)
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.set(xlabel=f"{names[0]}, less the patient's mean", ylabel=f"{names[1]}, less the patient's mean")
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=110)
