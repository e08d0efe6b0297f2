"""How near does a forecast come to the last scan, fitted without it? The paper's check of its ODE, beside others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.evaluation.experiments.experiment import Findings, Picture, Table
from tumorcast.evaluation.experiments.size_methods import SizeMethod, forecast_by
from tumorcast.evaluation.experiments.size_scores import SizeData, cell, column, compared, scored
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.paired import Estimate, difference, estimate, known, mean_of, median_of
from tumorcast.evaluation.size_metrics import nrmse, r_squared, relative_error
from tumorcast.forecasting.targets import growth_curve
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.population.history import to_log

Floats = npt.NDArray[np.float64]

CURVES = "curve.npz"
SHOWN = 8  # patients in the picture of curves
METHODS = tuple(method for method in SizeMethod if method is not SizeMethod.PAPER)
NEAR = {
    "r2": ("R² of size", 2),
    "r2_log": ("R² of log size", 2),
    "nrmse": ("nRMSE", 2),
    "median_relative_error": ("median relative error", 3),
    "error": ("mean error, log", 3),
}
SURE = {
    "coverage90": ("truth in the 90 % interval", 2),
    "width90": ("its median width, log", 2),
    "interval_score": ("interval score", 2),
    "crps": ("CRPS", 3),
}
COMPARED = {"error": "error, log", "interval_score": "interval score", "crps": "CRPS"}
NOTE = (
    "A patient is the unit. log: of size + 100 mm³, areas as the volumes of spheres of that section. nRMSE: root of "
    "the mean squared error over the mean true size. Relative error: of patients with tumour left. Interval score: "
    "width of the 90 % interval, and 20 times by how much the truth lies outside; of it and of CRPS less is better. A "
    "straight line has no interval, and its CRPS is its error."
)


@dataclass(frozen=True)
class LastScan:
    """Every patient's last scan, forecast by each method from all scans before it. model: its prior and settings."""

    data: SizeData
    model: GrowthModel
    methods: tuple[SizeMethod, ...] = METHODS
    name = "ode"

    def made_of(self) -> dict[str, Any]:
        """Sizes, settings, prior and methods."""
        settings = self.model.settings.model_dump(mode="json")
        return self.data.made_of | {"settings": settings, "methods": [str(one) for one in self.methods]}

    def units(self) -> Sequence[str]:
        """The patients with three scans or more."""
        return list(self.data.units())

    def measure(self, unit: str, pictures: Path) -> Figures:
        """What each method said of the last scan, and how good it was."""
        series = self.data.units()[unit]
        place = series.days.size - 1
        forecasts = forecast_by(self.methods, self.model, series, place)
        scan, before = forecasts.scan, series.part(0, place)
        curve: dict[str, Any] = growth_curve(self.model.forecast(before), scan.day)
        np.savez_compressed(pictures / CURVES, **curve)
        return {
            "patient_id": series.patient_id,
            "size_name": series.size_name,
            "scans": scan.scans_given,
            "day": scan.day,
            "days_ahead": scan.day - float(before.days[-1]),
            "last": scan.persistence,
            "observed": scan.observed,
            "status": str(scan.status),
            "methods": scored(forecasts),
        }

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """The methods side by side."""
        told = list(rows.values())
        summaries = {method: summary_of(told, method) for method in self.methods}
        pairs = {f"{a} minus {b}": _differences(told, a, b) for a, b in combinations(self.methods, 2)}
        return Findings(
            answer=_answer(told, summaries),
            figures={"methods": summaries, "paired": pairs},
            tables=[
                _table("How near", NEAR, summaries, NOTE),
                _table("How sure", SURE, summaries, ""),
                _paired(told, self.methods),
                *self.data.left_out_table(),
            ],
            pictures=_pictures(rows, self.methods, pictures),
        )


def summary_of(rows: Sequence[Figures], method: SizeMethod) -> dict[str, Estimate]:
    """Every figure of a method over patients, with its interval."""
    told, truth = _values(rows, method, "median"), column(rows, lambda row: row["observed"])
    both, name = np.stack([told, truth], axis=1), rows[0]["size_name"]
    return {
        "r2": estimate(both, r_squared),
        "r2_log": estimate(to_log(both, name), r_squared),
        "nrmse": estimate(both, nrmse),
        "median_relative_error": estimate(known(relative_error(told, truth)), np.median),
        "error": mean_of(_loss(rows, method, "error")),
        "coverage90": mean_of(_values(rows, method, "covered")),
        "width90": median_of(_values(rows, method, "width")),
        "interval_score": mean_of(_values(rows, method, "interval_score")),
        "crps": mean_of(_values(rows, method, "crps")),
    }


def _values(rows: Sequence[Figures], method: SizeMethod, name: str) -> Floats:
    return column(rows, lambda row: row["methods"][str(method)].get(name))


def _loss(rows: Sequence[Figures], method: SizeMethod, name: str) -> Floats:
    """(P,) a figure of which less is better."""
    return np.abs(_values(rows, method, name))


def _differences(rows: Sequence[Figures], ours: SizeMethod, other: SizeMethod) -> dict[str, Any]:
    return {name: difference(_loss(rows, ours, name), _loss(rows, other, name)) for name in COMPARED}


def _table(
    title: str, columns: dict[str, tuple[str, int]], summaries: dict[SizeMethod, dict[str, Estimate]], note: str
) -> Table:
    rows = [
        (method.told, *(cell(found[name], digits) for name, (_, digits) in columns.items()))
        for method, found in summaries.items()
    ]
    return Table(title, ("method", *(head for head, _ in columns.values())), rows, note)


def _paired(rows: Sequence[Figures], methods: Sequence[SizeMethod]) -> Table:
    lines = [
        (
            f"{ours.told} minus {other.told}",
            *(compared(_loss(rows, ours, name), _loss(rows, other, name), 3) for name in COMPARED),
        )
        for ours, other in combinations(methods, 2)
    ]
    note = "✔ the first is better, ✘ it is worse, and the 95 % interval over patients excludes zero; p: Wilcoxon's "
    return Table(
        "Paired differences", ("difference", *COMPARED.values()), lines, note + "signed-rank test, uncorrected."
    )


def _answer(rows: Sequence[Figures], summaries: dict[SizeMethod, dict[str, Estimate]]) -> str:
    best = min(summaries, key=lambda method: summaries[method]["crps"].value)
    ours, ahead = summaries[SizeMethod.POOLED], np.median(column(rows, lambda row: row["days_ahead"]))
    against = difference(_loss(rows, SizeMethod.POOLED, "crps"), _loss(rows, SizeMethod.PERSISTENCE, "crps"))
    return (
        f"How near does a forecast come to the last scan, {ahead:g} days ahead in the median, that was fitted without "
        f"it? In {len(rows)} patients the pooled forecast has R² {ours['r2'].told(2)} of size and "
        f"{ours['r2_log'].told(2)} of log size, a median relative error of "
        f"{ours['median_relative_error'].told(2)}, and its 90 % interval holds {ours['coverage90'].told(2)} of the "
        f"truths. Its CRPS less that of persistence is {against.estimate.told(3, signed=True)} (p {against.p:.2g}). "
        f"The lowest CRPS has: {best.told.replace('**', '')}."
    )


def _pictures(rows: dict[str, Figures], methods: Sequence[SizeMethod], folder: Path) -> list[Picture]:
    from tumorcast.evaluation.experiments import size_figures  # noqa: PLC0415 - matplotlib is slow

    errors = {unit: abs(row["methods"][str(SizeMethod.POOLED)]["error"]) for unit, row in rows.items()}
    order = sorted(errors, key=lambda unit: errors[unit])
    shown = [order[k] for k in np.unique(np.linspace(0, len(order) - 1, min(SHOWN, len(order))).astype(int))]
    chosen = {unit: (rows[unit], folder / unit / CURVES) for unit in shown}
    return [
        Picture(
            "told",
            "The last scan's size as forecast (median and 90 % interval) against the true one, a panel a method; what "
            "lies beyond the axes is not seen.",
            partial(size_figures.draw_told, list(rows.values()), methods),
        ),
        Picture(
            "curves",
            "Patients from the smallest to the largest error of the pooled forecast: scans given (black), the "
            "growth law up to the last of them (grey), the forecast's median and 90 % band, and what came (blue).",
            partial(size_figures.draw_curves, chosen),
        ),
    ]
