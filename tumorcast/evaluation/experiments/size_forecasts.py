"""Forecasts of each patient's last scan, fitted without it: the paper's check of its ODE, beside other methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tumorcast.counted import counted
from tumorcast.evaluation.experiments.base import Findings, ReportPicture, Row, Table, spread_by_value
from tumorcast.evaluation.experiments.plots import GrowthPanel, SizePanel, draw_against_truth, draw_growth
from tumorcast.evaluation.experiments.report_tables import estimate_cell, numbers
from tumorcast.evaluation.experiments.size_methods import (
    COVERED,
    CRPS,
    ERROR,
    INTERVAL_SCORE,
    WIDTH,
    SizeData,
    SizeMethod,
    forecast_by,
    of_method,
    scored,
)
from tumorcast.evaluation.metrics import MEDIAN_ERROR, NRMSE, R2, Floats, Metric, nrmse, r_squared, relative_error
from tumorcast.evaluation.statistics import Difference, Estimate, difference, estimate, mean_of, median_of, not_nan
from tumorcast.forecasting.targets import growth_curve
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.plot import GrowthCurve
from tumorcast.growth.population.history import to_log

CURVES = "curve.npz"
PATIENTS_SHOWN = 8  # in the picture of curves
METHODS = tuple(method for method in SizeMethod if method is not SizeMethod.PAPER)
ACCURACY = (
    R2.called("r2", "R² of size"),
    R2.called("r2_log", "R² of log size"),
    NRMSE,
    MEDIAN_ERROR.called("median_relative_error", "median relative error"),
    ERROR.called("error", "mean error, log"),
)
CALIBRATION = (
    COVERED.called("coverage90", "truth in the 90 % interval"),
    WIDTH.called("width90", "its median width, log"),
    INTERVAL_SCORE,
    CRPS,
)
COMPARED = (ERROR, INTERVAL_SCORE.rounded(3), CRPS)
NOTE = (
    "A patient is the unit. log: of size + 100 mm³, areas as the volumes of spheres of that section. nRMSE: root of "
    "the mean squared error over the mean true size. Relative error: of patients with tumour left. Interval score: "
    "width of the 90 % interval, and 20 times by how much the truth lies outside; of it and of CRPS less is better. A "
    "straight line has no interval, and its CRPS is its error."
)
PAIRED_NOTE = (
    "✔ the first is better, ✘ it is worse, and the 95 % interval over patients excludes zero; p: Wilcoxon's "
    "signed-rank test, uncorrected."
)

Summaries = Mapping[SizeMethod, Mapping[str, Estimate]]


@dataclass(frozen=True)
class SizeForecastExperiment:
    """Every patient's last scan, forecast by each method from all scans before it. model: its prior and settings."""

    data: SizeData
    model: GrowthModel
    methods: tuple[SizeMethod, ...] = METHODS
    name: ClassVar[str] = "ode"

    def provenance(self) -> dict[str, Any]:
        """Sizes, settings, prior and methods."""
        settings = self.model.settings.model_dump(mode="json")
        return self.data.provenance | {"settings": settings, "methods": [str(method) for method in self.methods]}

    def units(self) -> Sequence[str]:
        """The patients with three scans or more."""
        return list(self.data.units())

    def measure(self, unit: str, pictures: Path) -> Row:
        """Each method's forecast of the last scan, and its scores."""
        series = self.data.units()[unit]
        last = series.days.size - 1
        forecasts = forecast_by(self.methods, self.model, series, last)
        scan, before = forecasts.scan, series.part(0, last)
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

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """The methods side by side."""
        every = list(rows.values())
        summaries = {method: summary_of(every, method) for method in self.methods}
        pairs = {
            f"{a} minus {b}": {metric.name: _difference(every, a, b, metric) for metric in COMPARED}
            for a, b in combinations(self.methods, 2)
        }
        return Findings(
            answer=_answer(every, summaries),
            figures={"methods": summaries, "paired": pairs},
            tables=[
                _table("How near", ACCURACY, summaries, NOTE),
                _table("How sure", CALIBRATION, summaries, ""),
                _paired_table(every, self.methods),
                *self.data.left_out_table(),
            ],
            pictures=_pictures(rows, self.methods, pictures),
        )


def summary_of(rows: Sequence[Row], method: SizeMethod) -> dict[str, Estimate]:
    """Every figure of a method over patients, with its interval."""
    median, truth = of_method(rows, method, "median"), numbers(row["observed"] for row in rows)
    both, size_name = np.stack([median, truth], axis=1), rows[0]["size_name"]
    return {
        "r2": estimate(both, r_squared),
        "r2_log": estimate(to_log(both, size_name), r_squared),
        "nrmse": estimate(both, nrmse),
        "median_relative_error": estimate(not_nan(relative_error(median, truth)), np.median),
        "error": mean_of(_loss(rows, method, "error")),
        "coverage90": mean_of(of_method(rows, method, "covered")),
        "width90": median_of(of_method(rows, method, "width")),
        "interval_score": mean_of(of_method(rows, method, "interval_score")),
        "crps": mean_of(of_method(rows, method, "crps")),
    }


def _loss(rows: Sequence[Row], method: SizeMethod, name: str) -> Floats:
    """(P,) a figure of which less is better."""
    return np.abs(of_method(rows, method, name))


def _difference(rows: Sequence[Row], ours: SizeMethod, other: SizeMethod, metric: Metric) -> Difference:
    return difference(_loss(rows, ours, metric.name), _loss(rows, other, metric.name))


def _table(title: str, metrics: Sequence[Metric], summaries: Summaries, note: str) -> Table:
    rows = [
        (method.label, *(estimate_cell(summary[metric.name], metric.digits) for metric in metrics))
        for method, summary in summaries.items()
    ]
    return Table(title, ("method", *(metric.label for metric in metrics)), rows, note)


def _paired_table(rows: Sequence[Row], methods: Sequence[SizeMethod]) -> Table:
    lines = [
        (
            f"{ours.label} minus {other.label}",
            *(
                _difference(rows, ours, other, metric).text(metric.digits, higher_is_better=metric.higher_is_better)
                for metric in COMPARED
            ),
        )
        for ours, other in combinations(methods, 2)
    ]
    return Table("Paired differences", ("difference", *(metric.label for metric in COMPARED)), lines, PAIRED_NOTE)


def _answer(rows: Sequence[Row], summaries: Summaries) -> str:
    best = min(summaries, key=lambda method: summaries[method]["crps"].value)
    ours, ahead = summaries[SizeMethod.COMBINED], np.median([row["days_ahead"] for row in rows])
    against = difference(_loss(rows, SizeMethod.COMBINED, "crps"), _loss(rows, SizeMethod.PERSISTENCE, "crps"))
    return (
        f"How near does a forecast come to the last scan, {counted(ahead, 'day')} ahead in the median, that was "
        "fitted without "
        f"it? In {counted(len(rows), 'patient')} the combined forecast has R² {ours['r2'].text(2)} of size and "
        f"{ours['r2_log'].text(2)} of log size, a median relative error of "
        f"{ours['median_relative_error'].text(2)}, and its 90 % interval holds {ours['coverage90'].text(2)} of the "
        f"truths. Its CRPS less that of persistence is {against.estimate.text(3, signed=True)} (p {against.p:.2g}). "
        f"The lowest CRPS has: {best.plain_label}."
    )


def _pictures(rows: dict[str, Row], methods: Sequence[SizeMethod], folder: Path) -> list[ReportPicture]:
    every = list(rows.values())
    shown = spread_by_value(list(rows), _loss(every, SizeMethod.COMBINED, "error"), PATIENTS_SHOWN)
    return [
        ReportPicture(
            "told",
            "The last scan's size as forecast (median and 90 % interval) against the true one, a panel a method; what "
            "lies beyond the axes is not seen.",
            _draw_against_truth(every, methods),
        ),
        ReportPicture(
            "curves",
            "Patients from the smallest to the largest error of the combined forecast: scans given (black), the "
            "growth law up to the last of them (grey), the forecast's median and 90 % band, and what came (blue).",
            partial(_draw_growth, {folder / unit / CURVES: rows[unit] for unit in shown}),
        ),
    ]


def _draw_against_truth(rows: Sequence[Row], methods: Sequence[SizeMethod]) -> Callable[[Path], None]:
    panels = [
        SizePanel(method.plain_label, *(of_method(rows, method, name) for name in ("median", "low", "high")))
        for method in methods
    ]
    return partial(draw_against_truth, numbers(row["observed"] for row in rows), panels, rows[0]["size_name"])


def _draw_growth(rows: Mapping[Path, Row], path: Path) -> None:
    panels = []
    for file, row in rows.items():
        with np.load(file) as columns:
            curve = GrowthCurve.from_columns(dict(columns), row["size_name"])
        error = row["methods"][str(SizeMethod.COMBINED)]["error"]
        title = f"{row['patient_id']}: error {error:+.2f} (log)"
        panels.append(GrowthPanel(title, curve, row["day"], row["observed"]))
    draw_growth(panels, path)
