"""The figures of an evaluation: reliability curves, and forecast sizes against the true ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tumorcast.evaluation.aggregate import PatientSizes, patient_reliability
from tumorcast.evaluation.baselines import Method
from tumorcast.evaluation.evaluate import PatientScores
from tumorcast.evaluation.metrics import INTERVAL, NEAR_MM, Reliability
from tumorcast.evaluation.score import NEAR_RELIABILITY, RELIABILITY
from tumorcast.growth.plot import DISCLAIMER

PANELS = {RELIABILITY: "brain outside the present outline", NEAR_RELIABILITY: f"within {NEAR_MM:g} mm of it"}


def draw_reliability(patients: Sequence[PatientScores], path: Path) -> None:
    """Share of true pixels against the probability, patients weighted equally, a panel a region."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        for method in Method:
            bins = patient_reliability([patient.slices for patient in patients], method, name)
            if len(bins):
                probability, true = Reliability(*bins.mean(axis=0)).curve()
                axes.plot(probability, true, "o-", markersize=4, label=method.plain_label)
        axes.set(xlabel="probability said", ylabel="share of pixels that became tumour", title=title)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", fontsize=7, ncols=2)
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=120)


def draw_sizes(sizes: PatientSizes, path: Path) -> None:
    """A point a patient: the true area against the members' target, with their range, and against the present."""
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.subplots()
    aimed = sizes.medians["aimed"]
    low, high = np.array([np.quantile(members, INTERVAL) for members in sizes.aimed]).T
    axes.errorbar(
        aimed,
        sizes.truth,
        xerr=np.maximum([aimed - low, high - aimed], 0),
        fmt="o",
        label="aimed at, 5–95 % of members",
    )
    axes.plot(sizes.present, sizes.truth, "x", color="0.5", label="present area: no change")
    _diagonal(axes, float(max(sizes.truth.max(), high.max(), sizes.present.max())))
    axes.set(xlabel="area told, mm²", ylabel="true later area, mm²", title="judged slices of each patient, summed")
    axes.legend(fontsize=8)
    figure.supxlabel(DISCLAIMER, x=0.01, ha="left", fontsize=8, color="0.4")
    figure.savefig(path, dpi=120)


def _diagonal(axes: Axes, largest: float) -> None:
    axes.plot([0, largest], [0, largest], color="0.7", linewidth=0.8, zorder=0)
