"""Tables of several variants of one thing, by the same figures of the same patients: a patient is the unit."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tumorcast.evaluation.experiments.base import Row, Table
from tumorcast.evaluation.metrics import Floats, Metric
from tumorcast.evaluation.statistics import Estimate, difference, mean_of

ByVariant = Mapping[str, Mapping[str, Floats]]
"""(P,) values by variant and metric."""

DIFFERENCE_NOTE = "Paired over the patients that have both; p of Wilcoxon's signed-rank test, not corrected."


def numbers(values: Iterable[Any]) -> Floats:
    """(P,) values as JSON holds them: null is NaN."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def values_of(rows: Sequence[Row | None], metrics: Sequence[Metric]) -> dict[str, Floats]:
    """(P,) by metric, of one variant; a patient without a row, or a row without the metric, has NaN."""
    return {metric.name: numbers((row or {}).get(metric.name) for row in rows) for metric in metrics}


def means_table(title: str, values: ByVariant, metrics: Sequence[Metric], note: str) -> Table:
    """A row a metric that some patient has, a column a variant: the mean over patients, with its interval."""
    rows = [
        (metric.label, *(mean_of(of_variant[metric.name]).text(metric.digits) for of_variant in values.values()))
        for metric in _measured(values, metrics)
    ]
    counts = ("patients", *(str(_patients(of_variant)) for of_variant in values.values()))
    return Table(title, ("", *values), [*rows, counts], note)


def differences_table(title: str, values: ByVariant, reference: str, metrics: Sequence[Metric]) -> Table:
    """A row a metric, a column a variant but the reference: the variant less it, with its interval and p."""
    others = {name: of_variant for name, of_variant in values.items() if name != reference}
    rows = [
        (
            metric.label,
            *(
                difference(of_variant[metric.name], values[reference][metric.name]).text(metric.digits)
                for of_variant in others.values()
            ),
        )
        for metric in _measured(values, metrics)
    ]
    return Table(title, (f"less {reference}", *others), rows, DIFFERENCE_NOTE)


def as_figures(values: ByVariant, reference: str, metrics: Sequence[Metric]) -> dict[str, Any]:
    """The content of both tables: by variant and metric the mean, and the difference to the reference."""
    return {
        name: {
            metric.name: {
                "mean": mean_of(of_variant[metric.name]),
                "less_reference": difference(of_variant[metric.name], values[reference][metric.name]),
            }
            for metric in metrics
        }
        for name, of_variant in values.items()
    }


def _measured(values: ByVariant, metrics: Sequence[Metric]) -> list[Metric]:
    return [
        metric
        for metric in metrics
        if any(not np.isnan(of_variant[metric.name]).all() for of_variant in values.values())
    ]


def _patients(of_variant: Mapping[str, Floats]) -> int:
    return int(np.any([~np.isnan(values) for values in of_variant.values()], axis=0).sum())


def estimate_cell(estimate: Estimate, digits: int) -> str:
    """A figure with its interval; a dash where it is NaN, of some patients or of none."""
    return "–" if np.isnan(estimate.value) else estimate.text(digits)
